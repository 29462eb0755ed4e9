"""An opened data set: its columns, and how the bytes of its items are read."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, overload

import numpy as np

from media import reader
from media.files import atomic_directory
from media.index.columns import NONE, Columns
from media.limits import TRAINER
from media.sample import Media
from media.sources import SPLITS, Item, Source, SourceError
from media.sources.stores import Files, Held, Store, Tars, Where, Zips
from media.spec import InputSpec

DESCRIPTION = "dataset.json"
ON_DISK: dict[str, type[Files | Tars | Zips]] = {"files": Files, "tars": Tars, "zips": Zips}


class Changed(SourceError):
    """A file is not the one that was there when the data set was opened."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """How an item is to be decoded.

    Attributes:
        pixels: per axis.
        views: of a clip; None for as many as the InputSpec says.
    """

    spec: InputSpec
    pixels: tuple[int, ...]
    views: int | None = None


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Labelled media that are listed and not read. N items.

    Attributes:
        labels: class names; an item's label is an index into them.
        stamps: (bytes, time in ns) of every file of a store of archives, as they were listed.
        left_out, rule, made: as of ``Source``.
        folder: where the columns are mapped from; None while they are this process's own.
    """

    name: str
    labels: tuple[str, ...]
    columns: Columns
    store: Store
    stamps: tuple[tuple[int, int], ...]
    left_out: Mapping[str, int]
    rule: int
    made: tuple[str, ...]
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.columns)

    def split(self, name: str) -> np.ndarray:
        """The places of a split's items, in order, int64; SourceError if there are none."""
        found = np.flatnonzero(self.columns.splits == SPLITS.index(name))
        if not len(found):
            own = self.columns.splits
            items = {split: int((own == place).sum()) for place, split in enumerate(SPLITS)}
            counts = {split: count for split, count in items.items() if count}
            raise SourceError(f"{self.name}: expected items in split {name!r}, got {counts}")
        return found

    def shards(self, split: str) -> np.ndarray | None:
        """The tar that each of a split's items lies in, int32 [items]; None without several."""
        if not isinstance(self.store, Tars) or len(self.store.files) == 1:
            return None
        return self.columns.files[self.split(split)]

    def present(self) -> list[str]:
        """The splits that have items."""
        return list(self.counts())

    def counts(self) -> dict[str, list[int]]:
        """Items of every class, by split, for the splits that have any."""
        return self.columns.counts(len(self.labels))

    def view(self, split: str, limit: int | None = None) -> Source:
        """A split, or its first items, as objects; SourceError if there are none."""
        columns, places = self.columns, self.split(split)[:limit].tolist()
        groups = dict(enumerate(columns.names)) | {NONE: ""}
        at = {columns.ids[place]: place for place in places}
        items = [
            Item(id_, int(columns.labels[place]), split, groups[int(columns.groups[place])])
            for id_, place in at.items()
        ]
        told = self.left_out, self.rule, self.made
        return Source(self.name, self.labels, tuple(items), lambda id_: self.read(at[id_]), *told)

    def without(self, places: np.ndarray) -> Dataset:
        """The same with some items, int64 [any number], in no split."""
        splits = self.columns.splits.copy()
        splits[places] = NONE
        columns = dataclasses.replace(self.columns, splits=splits)
        return dataclasses.replace(self, columns=columns, folder=None)

    @overload
    def read(self, item: int) -> Media: ...
    @overload
    def read(self, item: int, wanted: Wanted) -> np.ndarray: ...
    def read(self, item: int, wanted: Wanted | None = None) -> Media | np.ndarray:
        """One item: its encoded bytes or stored array, or decoded, [views, *pixels, channels].

        Raises:
            Changed: its file is another one by now.
            OSError: it cannot be read, or is not what was declared.
            MediaError: it cannot be decoded.
        """
        self.check_unchanged(item)
        media = self.store.read(self.where(item))
        if wanted is None:
            return media
        views = wanted.views or wanted.spec.views
        read = reader(wanted.spec.modality).read
        sample = read(media, wanted.spec, [wanted.pixels], views, limits=TRAINER)
        return sample.pixels  # [views, *pixels, C]

    def where(self, item: int) -> Where:
        """Where the bytes of an item lie."""
        columns = self.columns
        return Where(
            int(columns.files[item]),
            int(columns.starts[item]),
            int(columns.stored[item]),
            int(columns.sizes[item]),
            int(columns.crcs[item]),
            bool(columns.deflated[item]),
            columns.paths[item] if isinstance(self.store, Files) else "",
        )

    def stamp(self, item: int) -> tuple[int, int]:
        """(bytes, time in ns) of the file that holds an item, as it was listed."""
        if isinstance(self.store, Files):
            return int(self.columns.sizes[item]), int(self.columns.times[item])
        return self.stamps[self.columns.files[item]]

    def check_unchanged(self, item: int) -> None:
        """Changed names a file whose size or time is another one by now; OSError if it is gone."""
        path = self.store.holder(self.where(item))
        if path is None:
            return
        expected, found = self.stamp(item), stamp_of(path)
        if expected != found and expected[0] >= 0:
            what = "bytes, with its time at"
            raise Changed(
                f"{self.columns.ids[item]!r} changed while it is in use: {path} had {expected[0]} "
                f"{what} {expected[1]} ns, and has {found[0]} {what} {found[1]} ns; put it back, "
                "or begin anew with the new files"
            )

    def kept(self, folder: Path) -> Dataset:
        """The same with its columns, and what it held in memory, mapped from a new folder."""
        with atomic_directory(folder) as part:
            self.columns.write(part)
            if isinstance(self.store, Held):
                for number, array in enumerate(self.store.arrays):
                    np.save(part / f"held-{number}.npy", array)
            (part / DESCRIPTION).write_text(json.dumps(self._described()))
        return open_kept(folder)

    def _described(self) -> dict[str, Any]:
        kinds = {kind: name for name, kind in ON_DISK.items()}
        files: Any = getattr(self.store, "files", ())
        return {
            "name": self.name,
            "labels": self.labels,
            "store": "held" if isinstance(self.store, Held) else kinds[type(self.store)],  # type: ignore[index]
            "files": [os.fspath(path.absolute()) for path in files],
            "held": len(getattr(self.store, "arrays", ())),
            "stamps": self.stamps,
            "left_out": dict(self.left_out),
            "rule": self.rule,
            "made": self.made,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """A process is given the folder's path: columns are never copied."""
        if self.folder is None:
            raise TypeError(f"{self.name}: expected a data set that is kept in a folder, to share")
        return open_kept, (self.folder,)


def open_kept(folder: Path) -> Dataset:
    """What ``Dataset.kept`` wrote."""
    kept = json.loads((folder / DESCRIPTION).read_bytes())
    store: Store
    if kept["store"] == "held":
        held = (folder / f"held-{number}.npy" for number in range(kept["held"]))
        store = Held(tuple(np.load(path, mmap_mode="r").view(np.ndarray) for path in held))
    else:
        store = ON_DISK[kept["store"]](tuple(map(Path, kept["files"])))
    return Dataset(
        kept["name"],
        tuple(kept["labels"]),
        Columns.mapped(folder),
        store,
        tuple((size, time) for size, time in kept["stamps"]),
        kept["left_out"],
        kept["rule"],
        tuple(kept["made"]),
        folder,
    )


def stamp_of(path: Path) -> tuple[int, int]:
    """(bytes, time in ns) of a file; OSError where it cannot be looked at."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns
