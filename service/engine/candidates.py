"""Who answers a file of which nobody said what it is: the reader that knows its type decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.engine.classify import Result, choose, classify
from service.engine.engine import Service
from service.engine.failures import FileTooLarge, Problem, UnknownBundle, UnsupportedMedia
from service.engine.model import Target

#: In this order: images and scans begin with a signature, videos are found by looking further in.
OFFERED = ("image", "volume", "video")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A target that may answer, with how many predictions, and the largest file that it reads."""

    target: Target
    top_k: int
    file_bytes: int


def largest(candidates: Sequence[Candidate]) -> int:
    """Bytes of the largest file that any of them reads."""
    return max(one.file_bytes for one in candidates)


def find_candidates(service: Service, parameters: Mapping[str, str]) -> list[Candidate]:
    """The bundle that is named, else the default of every modality that fits the parameters.

    Args:
        parameters: as ``choose`` takes them.

    Raises:
        Problem: there is none; what is wrong with the first one.
    """
    candidates, problems = [], []
    for modality in _modalities(service, parameters.get("bundle")):
        try:
            target, top_k = choose(service, modality, parameters)
        except Problem as problem:
            problems.append(problem)
        else:
            candidates.append(
                Candidate(target, top_k, service.settings.limits(modality).file_bytes)
            )
    if not candidates:
        raise problems[0]
    return candidates


def _modalities(service: Service, bundle: str | None) -> Sequence[str]:
    """Of the bundle that is named; else all that some bundle here is for."""
    bundles = service.catalog.bundles
    if bundle is not None:
        if bundle not in bundles:
            known = ", ".join(sorted(bundles))
            raise UnknownBundle(f"unknown bundle {bundle[:64]!a}; known: {known}")
        return [bundles[bundle].modality or OFFERED[0]]
    return [one for one in OFFERED if any(b.may_answer(one) for b in bundles.values())]


async def first_answer(service: Service, media: bytes, candidates: list[Candidate]) -> Result:
    """The answer of the first candidate that knows the type of the file.

    Raises:
        Problem: none of them does, or the first that does cannot answer.
    """
    told = []
    for one in candidates:
        if len(media) > one.file_bytes:
            continue
        try:
            return await classify(service, media, one.target, one.top_k)
        except UnsupportedMedia as problem:
            told.append(problem.detail)
    if not told:
        raise FileTooLarge(f"a file may have at most {largest(candidates)} bytes")
    raise UnsupportedMedia("; or ".join(told))
