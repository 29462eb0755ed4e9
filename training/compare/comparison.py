"""A comparison on disk: one recipe, and a run for every encoding and seed.

Layout::

    FOLDER/compare.json              the recipe, the encodings and the seeds
           runs/ENCODING-seedN/      a run (training/run.py)
               measured.json         what was measured of it; a run that has one is finished
           failed/ENCODING-seedN.json    why a run cannot go on; nobody takes it until it is retried
           cache/                    decoded splits, shared by all runs
           step-time.json            training steps side by side (training/compare/step_times.py)
           compare.md .csv           the table; compare-*.png its pictures
           results.json              the table and every run's figures, for programs
           .locks/                   a file for every run, held by the process that is at it

Every file but those of a run is written whole or not at all. Any number of processes may work on
one folder: each takes what nobody is at, and the lock of a process that dies is free again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from media.files import write_atomic
from media.sources import FIRST
from media.spec import SpecError
from media.strict_json import from_json, read_json, to_json
from models.encodings import parse_encoding, short_name
from models.spec import EncodingSpec, encoding_from_schema_1, of_known_schema
from training.config import TrainConfig
from training.settings import WITHOUT_EFFECT, differences

RECIPE, MEASURED, FAILED, LOCKS = "compare.json", "measured.json", "failed", ".locks"
SCHEMA = 2
#: Settings in which processes that share a comparison may differ: a batch that is computed in
#: parts is the same batch.
MAY_DIFFER = (*WITHOUT_EFFECT, "accumulate")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What all runs share.

    Attributes:
        config: of every run but for its encoding and seed.
        scales: of the training grid, at which accuracy is measured; rising, 1 among them.
        split: that it is measured on.
        items: of that split at most; 0 for all.
        data: SHA-256 of every split used, by its name.
        rule: by which missing splits are made (``media.sources.rules``).
    """

    config: TrainConfig
    scales: tuple[float, ...]
    split: str
    items: int
    data: dict[str, str]
    rule: int = FIRST  # of comparisons that do not say

    def __post_init__(self) -> None:
        if not all(0 < scale <= 8 for scale in self.scales):
            raise SpecError(f"scales must be above 0 and up to 8, got {list(self.scales)}")
        if self.items < 0:
            raise SpecError(f"the items to measure must be 0 or more, got {self.items}")
        neutral = dataclasses.replace(self.config.model, encoding=EncodingSpec("absolute"))
        config = dataclasses.replace(self.config, model=neutral, seed=0)
        object.__setattr__(self, "config", config)
        object.__setattr__(self, "scales", tuple(sorted({1.0, *map(float, self.scales)})))

    def changes(self, other: Recipe) -> list[str]:
        """Names of the fields in which two recipes differ."""
        names = [f.name for f in dataclasses.fields(self) if f.name != "config"]
        changed = [name for name in names if getattr(self, name) != getattr(other, name)]
        settings = differences(self.config, other.config)
        return [name for name in settings if name not in MAY_DIFFER] + changed


@dataclasses.dataclass(frozen=True)
class Entry:
    """One run of a comparison.

    Attributes:
        root: folder of the run.
        encoding: its name as it was given, which ``parse_encoding`` reads.
    """

    root: Path
    encoding: str
    seed: int
    config: TrainConfig

    @property
    def name(self) -> str:
        return self.root.name

    def measured(self) -> dict[str, Any] | None:
        """What was measured of the finished run; None while there is nothing."""
        path = self.root / MEASURED
        return read_json(path) if path.exists() else None

    def failed(self) -> str | None:
        """Why the run cannot go on; None where nothing says so."""
        try:
            return read_json(self._failure)["reason"]
        except FileNotFoundError:  # another process may be retrying it
            return None

    def mark_failed(self, reason: str) -> None:
        """For this process and all others."""
        self._failure.parent.mkdir(exist_ok=True)
        write_json(self._failure, {"reason": reason})

    def forget_failure(self) -> None:
        """Before it is tried again."""
        self._failure.unlink(missing_ok=True)

    @property
    def _failure(self) -> Path:
        """Not in the run's own folder, which need not have begun."""
        return self.root.parent.parent / FAILED / f"{self.name}.json"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The recipe and everything that is, or shall be, trained by it."""

    root: Path
    recipe: Recipe
    encodings: tuple[str, ...]
    seeds: tuple[int, ...]

    def entries(self) -> list[Entry]:
        """All runs, seed by seed: what is finished first is a whole, smaller comparison."""
        return [self.entry(name, seed) for seed in self.seeds for name in self.encodings]

    def entry(self, encoding: str, seed: int) -> Entry:
        """The run of one encoding and seed."""
        root = self.root / "runs" / f"{encoding}-seed{seed}"
        return Entry(root, encoding, seed, self.config(encoding, seed))

    def config(self, encoding: str, seed: int = 0) -> TrainConfig:
        """The config of a run. Decoded splits are kept for all of them unless it says where."""
        config = self.recipe.config
        model = dataclasses.replace(config.model, encoding=parse_encoding(encoding))
        cache = config.cache or "../cache"  # beside runs/
        return dataclasses.replace(config, model=model, seed=seed, cache=cache)

    def finished(self) -> dict[tuple[str, int], dict[str, Any]]:
        """What was measured, by encoding and seed."""
        measured = {(e.encoding, e.seed): e.measured() for e in self.entries()}
        return {key: value for key, value in measured.items() if value is not None}

    def failures(self) -> dict[tuple[str, int], str]:
        """Why runs failed, by encoding and seed."""
        reasons = {(e.encoding, e.seed): e.failed() for e in self.entries()}
        return {key: reason for key, reason in reasons.items() if reason is not None}


def join(root: Path, recipe: Recipe, encodings: Sequence[str], seeds: Sequence[int]) -> Comparison:
    """Begin a comparison, or take part in one; what was not in it yet is added.

    Raises:
        SpecError: the folder holds a comparison by another recipe, or a broken one.
        FileExistsError: it holds anything else.
    """
    if _visible(root) and not (root / RECIPE).exists():  # in this order: others may begin it now
        raise FileExistsError(f"{root} exists and is not empty; choose another folder")
    with held(root, "recipe"):
        if (root / RECIPE).exists():
            old = load(root)
            if changed := old.recipe.changes(recipe):
                raise SpecError(
                    f"{root} holds a comparison with other values of: {', '.join(changed)}; "
                    "choose another folder"
                )
            known = {short_name(parse_encoding(name)) for name in old.encodings}
            new = [name for name in encodings if name not in known]
            encodings = [*old.encodings, *new]
            seeds = sorted({*old.seeds, *seeds})
        joined = Comparison(root, recipe, tuple(encodings), tuple(seeds))
        _write(joined)
    return joined


def drop(root: Path, names: Sequence[str]) -> Comparison:
    """Take encodings out of a comparison; their runs stay, should they be asked for again.

    Raises:
        SpecError: it has no such encoding, or would have none left.
    """
    with held(root, "recipe"):
        comparison = load(root)
        known = comparison.encodings
        if strange := [name for name in names if name not in known]:
            raise SpecError(f"--drop {strange[0]}: the comparison has {', '.join(known)}")
        left = tuple(name for name in known if name not in names)
        if not left:
            raise SpecError(f"--drop {','.join(names)}: expected to leave an encoding")
        comparison = dataclasses.replace(comparison, encodings=left)
        _write(comparison)
    return comparison


def _write(comparison: Comparison) -> None:
    """compare.json."""
    content = {
        "schema": SCHEMA,
        "recipe": to_json(comparison.recipe),
        "encodings": list(comparison.encodings),
        "seeds": list(comparison.seeds),
    }
    write_json(comparison.root / RECIPE, content)


def load(root: Path) -> Comparison:
    """The comparison that a folder holds; SpecError or FileNotFoundError where it holds none."""
    path = root / RECIPE
    if not path.is_file():
        raise FileNotFoundError(f"{root} holds no comparison: expected {RECIPE}")
    data = of_known_schema(read_json(path), SCHEMA, RECIPE)
    if data["schema"] == 1:
        where = ("recipe", "config", "model", "encoding")
        data = encoding_from_schema_1(data, *where) | {"schema": 2}
    stored = from_json(_Stored, data, RECIPE)
    return Comparison(root, stored.recipe, stored.encodings, stored.seeds)


@dataclasses.dataclass(frozen=True)
class _Stored:
    """compare.json, field by field."""

    schema: int
    recipe: Recipe
    encodings: tuple[str, ...]
    seeds: tuple[int, ...]


def write_json(path: Path, value: Any) -> None:
    """Plain JSON types, whole or not at all; ValueError for a number that is none."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


@contextlib.contextmanager
def claimed(root: Path, name: str) -> Iterator[bool]:
    """Whether something is ours alone until the block ends; nobody waits."""
    with _lock_file(root, name).open("wb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextlib.contextmanager
def held(root: Path, name: str) -> Iterator[None]:
    """Ours alone until the block ends, for moments; others wait."""
    with _lock_file(root, name).open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _lock_file(root: Path, name: str) -> Path:
    """Never removed: two processes could otherwise hold locks of one name."""
    (root / LOCKS).mkdir(parents=True, exist_ok=True)
    return root / LOCKS / name


def _visible(folder: Path) -> bool:
    """Whether a folder holds more than locks and what killed writers left."""
    return folder.exists() and any(path.name[0] != "." for path in folder.iterdir())
