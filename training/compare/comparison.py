"""A comparison on disk: one recipe, and a run for every encoding and seed.

Layout::

    FOLDER/compare.json              the recipe, the encodings and the seeds
           runs/ENCODING-seedN/      a run (training/run.py)
               measured.json         what was measured of it; a run that has one is finished
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
from media.spec import SpecError, from_json, read_json, to_json
from models.encodings import parse_encoding
from models.spec import EncodingSpec
from training.config import TrainConfig
from training.settings import differences

RECIPE, MEASURED, LOCKS = "compare.json", "measured.json", ".locks"
SCHEMA = 1


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
        return differences(self.config, other.config) + changed


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
            encodings = list(dict.fromkeys((*old.encodings, *encodings)))
            seeds = sorted({*old.seeds, *seeds})
        joined = Comparison(root, recipe, tuple(encodings), tuple(seeds))
        content = {
            "schema": SCHEMA,
            "recipe": to_json(recipe),
            "encodings": list(encodings),
            "seeds": list(seeds),
        }
        write_json(root / RECIPE, content)
    return joined


def load(root: Path) -> Comparison:
    """The comparison that a folder holds; SpecError or FileNotFoundError where it holds none."""
    path = root / RECIPE
    if not path.is_file():
        raise FileNotFoundError(f"{root} holds no comparison: expected {RECIPE}")
    data = read_json(path)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise SpecError(f"{path}: expected schema {SCHEMA}")
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
