"""Who answers a file of which nobody said what it is: the reader that knows its type decides."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from media.spec import AXES, Grid, InputSpec, VideoSpec, VolumeSpec
from service.engine.decode.wire import Preparation
from service.engine.engine import Engine
from service.engine.explain.explanation import Explain, parse_explain
from service.engine.failures import (
    BadParameter,
    BundleRefused,
    Failure,
    FileTooLarge,
    NoAttention,
    NoEmbedding,
    NoLabels,
    UnknownBundle,
    UnknownGrid,
    UnsupportedMedia,
)
from service.engine.job import Job, Outcome
from service.engine.model import Choice
from service.engine.parameters import Asked, choose
from service.engine.schedule import BATCH

log = logging.getLogger(__name__)

#: In this order: images and scans begin with a signature, videos are found by looking further in.
OFFERED = ("image", "volume", "video")
#: What a default is told where it is another's that is meant.
UNFIT = (UnknownGrid, BadParameter)
#: Why a default may be unable to answer and stay so; of whatever else nothing is begun.
OF_GRAPH = (NoAttention, NoEmbedding, NoLabels)
UNABLE = (*UNFIT, BundleRefused, *OF_GRAPH)
#: The least that a reader can be asked for: only whether it knows the type of a file.
PROBES = {
    "image": InputSpec(),
    "video": InputSpec("video", video=VideoSpec()),
    "volume": InputSpec("volume", 1, fit="stretch", mean=(0.5,), std=(0.5,), volume=VolumeSpec()),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """Who may answer, how much and what with, and the largest file that it reads.

    ``embed``: see ``Job``.
    """

    choice: Choice
    top_k: int
    file_bytes: int
    asked: Asked = Asked()
    explain: Explain | None = None
    embed: bool = False

    async def answer(self, engine: Engine, media: bytes) -> Outcome:
        """What is wanted of a file; UnsupportedMedia where its type is another modality's."""
        asked = self.asked
        return await engine.submit(
            Job(
                media, self.choice, asked.want, self.top_k, job_class="batch", raw=asked.raw,
                abstain=asked.abstain, explain=self.explain, embed=self.embed,
            )
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class UnableDefault:
    """Keeps the place of a default that cannot answer: its files get the reason, nothing else."""

    kind: type[Failure]
    reason: str
    modality: str
    file_bytes: int

    async def answer(self, engine: Engine, media: bytes) -> Outcome:
        """Its reason for a file of its modality, UnsupportedMedia for others."""
        spec, one = PROBES[self.modality], (1,) * len(AXES[self.modality])
        seconds = engine.settings.limits(self.modality).decode_seconds
        asked = Preparation.make(spec, [Grid(one)], one, 1, seconds)
        try:
            await engine.pool.prepare(asked, media, kind=BATCH)
        except UnsupportedMedia:
            raise
        except Failure:
            log.debug("a file of modality %s is damaged too", self.modality)
        raise self.kind(self.reason)


Candidates = Sequence[Candidate | UnableDefault]


def largest(candidates: Candidates) -> int:
    """Bytes of the largest file that any of them reads."""
    return max(one.file_bytes for one in candidates)


def find_candidates(engine: Engine, parameters: Mapping[str, str]) -> Candidates:
    """The bundle that is named, else the default of every modality.

    Those that fit what is said come first: a GIF is a clip where only clips have such a grid.

    Args:
        parameters: as ``choose``, ``Asked.parse`` and ``parse_explain`` take them.

    Raises:
        Failure: none can answer, and what is wrong with the first one, or with the first whose
            graph alone is in the way; or bundles are still being checked.
    """
    candidates: list[Candidate | UnableDefault] = []
    unfit: list[UnableDefault] = []
    problems: list[Failure] = []
    of_clips, asked = "views" in parameters, Asked.parse(parameters)
    for modality in _modalities(engine, parameters.get("bundle")):
        file_bytes = engine.settings.limits(modality).file_bytes
        try:
            choice, top_k = choose(engine, modality, parameters)
            explain = parse_explain(parameters, choice, 1)
            engine.check_want(asked.want, choice)
            candidates.append(Candidate(choice, top_k, file_bytes, asked, explain))
        except UNABLE as problem:
            problems.append(problem)
            is_unfit = isinstance(problem, UNFIT) or (of_clips and modality != "video")
            unable = UnableDefault(type(problem), problem.detail, modality, file_bytes)
            (unfit if is_unfit else candidates).append(unable)
    if not any(isinstance(one, Candidate) for one in candidates):
        of_graph = (one for one in problems if isinstance(one, OF_GRAPH))
        raise next(of_graph, problems[0])
    return [*candidates, *unfit]


def _modalities(engine: Engine, bundle: str | None) -> Sequence[str]:
    """Of the bundle that is named; else all that have a default."""
    if bundle is not None:
        if (named := engine.catalog.find(bundle)) is None:
            known = ", ".join(sorted(engine.catalog.bundles))
            raise UnknownBundle(f"unknown bundle {bundle[:64]!a}; known: {known}")
        return [named.modality or OFFERED[0]]
    return [one for one in OFFERED if one in engine.catalog.defaults] or OFFERED


async def first_answer(engine: Engine, media: bytes, candidates: Candidates) -> Outcome:
    """The answer of the first candidate that knows the type of the file.

    Raises:
        Failure: none of them does, or the first that does cannot answer.
    """
    told = []
    for one in candidates:
        if len(media) > one.file_bytes:
            continue
        try:
            return await one.answer(engine, media)
        except UnsupportedMedia as problem:
            told.append(problem.detail)
    if not told:
        raise FileTooLarge(f"a file may have at most {largest(candidates)} bytes")
    raise UnsupportedMedia("; or ".join(told))
