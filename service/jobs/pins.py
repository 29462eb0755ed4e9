"""Who answers a job: decided when it comes, written down, and found again after any restart.

A job is answered by the versions that answered when it came, whatever is promoted meanwhile; while
it has not ended they cannot be retired.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from models.bundle import BundleError
from service.engine.candidates import UNABLE, Candidate, Candidates, UnableDefault
from service.engine.decode.wire import Preparation
from service.engine.engine import Engine
from service.engine.failures import BundleRefused, UnknownBundle
from service.engine.model import AUTO, Choice, ExaminedBundle, Model, Target
from service.engine.parameters import Asked
from service.jobs.database import FILE
from service.jobs.store import Job, Store

#: Why a default cannot answer, as it is written down; jobs from before had but one reason.
KINDS = {one.__name__: one for one in UNABLE}
#: As they are written down: one JSON object each.
Written = list[dict[str, Any]]
Key = tuple[Path, str]  # of a version: where its bundle is, and its name


def write_down(candidates: Candidates) -> Written:
    """What ``find_again`` needs, as JSON."""
    return [_written(one) for one in candidates]


def _written(one: Candidate | UnableDefault) -> dict[str, Any]:
    if isinstance(one, UnableDefault):
        return {"modality": one.modality, "refused": one.reason, "kind": one.kind.__name__}
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


class Versions:
    """Those that jobs need; each that answers no more is opened once, as long as a job has it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._opened: WeakValueDictionary[Key, Model] = WeakValueDictionary()
        self._asked: WeakKeyDictionary[Model, dict[str, Preparation]] = WeakKeyDictionary()
        self._opening: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    async def find_again(self, job: Job) -> Candidates:
        """Who answers a job; a version that answers no more is opened for this.

        Raises:
            UnknownBundle, BundleRefused: one of them cannot be had now.
        """
        asked = Asked.parse(job.parameters)
        return [await self._candidate(one, asked) for one in job.candidates]

    async def _candidate(
        self, one: Mapping[str, Any], asked: Asked
    ) -> Candidate | UnableDefault:
        file_bytes = self._engine.settings.limits(one["modality"]).file_bytes
        if "refused" in one:
            kind = KINDS[one.get("kind", BundleRefused.__name__)]
            return UnableDefault(kind, one["refused"], one["modality"], file_bytes)
        targets = await self._targets(one["bundle"], one["version"])
        choice = Choice.of(targets.values() if one["grid"] == AUTO else [targets[one["grid"]]])
        if one["modality"] == "video":
            choice = choice.with_views(one["views"])
        return Candidate(choice, one["top_k"], file_bytes, asked)

    async def _targets(self, name: str, version: str) -> dict[str, Target]:
        """Of a version that is ready, by grid: the one that answers, or opened beside it."""
        one = self._engine.catalog.bundles.get(name)
        if one is None or one.home is None:
            raise UnknownBundle(f"bundle {name} is not served any more")
        if one.manifest is not None and one.manifest.version == version:
            return _ready(one, version)
        key = one.home, version
        async with self._opening.setdefault(key, asyncio.Lock()):
            if (model := self._opened.get(key)) is None:
                try:
                    old = await self._engine.catalog.examine_version(name, one.home, version)
                except BundleError as error:
                    raise BundleRefused(str(error)) from error
                targets = _ready(old, version)
                model = self._opened[key] = next(iter(targets.values())).model
                self._asked[model] = {grid: one.preparation for grid, one in targets.items()}
            return {grid: Target(model, grid, asked) for grid, asked in self._asked[model].items()}


def _ready(one: ExaminedBundle, version: str) -> dict[str, Target]:
    if one.state != "ready" or one.manifest is None or one.manifest.version != version:
        raise BundleRefused(f"bundle {one.name}: version {version} cannot answer: {one.reason}")
    return one.targets


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
