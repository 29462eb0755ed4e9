"""Who answers a job: decided when it comes, written down, and found again after any restart.

A job is answered by the versions that answered when it came, whatever is promoted meanwhile; while
it has not ended they cannot be retired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from models.bundle import BundleError
from service.engine.candidates import Candidate, Candidates, RefusedDefault
from service.engine.engine import Engine
from service.engine.failures import BundleRefused, UnknownBundle
from service.engine.model import AUTO, Choice, ExaminedBundle
from service.engine.parameters import Asked
from service.jobs.store import FILE, Job, Store

#: As they are written down: one JSON object each.
Written = list[dict[str, Any]]


def write_down(candidates: Candidates) -> Written:
    """What ``find_again`` needs, as JSON."""
    return [_written(one) for one in candidates]


def _written(one: Candidate | RefusedDefault) -> dict[str, Any]:
    if isinstance(one, RefusedDefault):
        return {"modality": one.modality, "refused": one.reason}
    first = next(iter(one.choice.targets.values()))
    return {
        "modality": one.choice.manifest.modality,
        "bundle": one.choice.manifest.name,
        "version": one.choice.manifest.version,
        "grid": one.choice.grid,
        "views": first.views,
        "top_k": one.top_k,
    }


def pinned(written: Written) -> list[tuple[str, str]]:
    """Bundle and version of each."""
    return [(one["bundle"], one["version"]) for one in written if "bundle" in one]


def is_needed(folder: Path, name: str, version: str) -> bool:
    """Whether a folder has a job that a version shall answer, and that has not ended.

    Raises:
        StoreError, OSError, sqlite3.Error: that cannot be read.
    """
    if not (folder / FILE).is_file():
        return False
    with closing(Store(folder)) as store:
        return any((name, version) in pinned(job.candidates) for job in store.open())


async def find_again(engine: Engine, job: Job) -> Candidates:
    """Who answers a job; a version that answers no more is opened for this.

    Raises:
        UnknownBundle, BundleRefused: one of them cannot be had now.
    """
    asked = Asked.parse(job.parameters)
    return [await _candidate(engine, one, asked) for one in job.candidates]


async def _candidate(
    engine: Engine, one: Mapping[str, Any], asked: Asked
) -> Candidate | RefusedDefault:
    file_bytes = engine.settings.limits(one["modality"]).file_bytes
    if "refused" in one:
        return RefusedDefault(one["refused"], one["modality"], file_bytes)
    targets = (await _examined(engine, one["bundle"], one["version"])).targets
    choice = Choice.of(targets.values() if one["grid"] == AUTO else [targets[one["grid"]]])
    if one["modality"] == "video":
        choice = choice.with_views(one["views"])
    return Candidate(choice, one["top_k"], file_bytes, asked)


async def _examined(engine: Engine, name: str, version: str) -> ExaminedBundle:
    """A version that is ready: the one that answers, or opened beside it."""
    one = engine.catalog.bundles.get(name)
    if one is None or one.home is None:
        raise UnknownBundle(f"bundle {name} is not served any more")
    if one.manifest is None or one.manifest.version != version:
        try:
            one = await engine.catalog.examine_version(name, one.home, version)
        except BundleError as error:
            raise BundleRefused(str(error)) from error
    if one.state != "ready" or one.manifest is None or one.manifest.version != version:
        raise BundleRefused(f"bundle {name}: version {version} cannot answer: {one.reason}")
    return one


class Pins:
    """Versions that jobs need, counted."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, written: Written) -> None:
        self._counts.update(pinned(written))

    def drop(self, written: Iterable[dict[str, Any]]) -> None:
        self._counts.subtract(pinned(list(written)))

    def hold(self, name: str, version: str) -> bool:
        """Whether a job needs it."""
        return self._counts[name, version] > 0
