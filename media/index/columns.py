"""The columns of an index, in memory or mapped from a folder: no object for an item."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Self

import numpy as np

from media.sources import SPLITS
from media.sources.texts import Texts

#: Split of an item that has none yet; group of one that belongs to no other.
NONE = -1


@dataclasses.dataclass(frozen=True)
class Columns:
    """What is known of N items.

    Attributes:
        ids: unique.
        paths: of items that are files of their own, where they lie; else those of ``ids``.
        labels: classes, int32 [N].
        splits: places in ``SPLITS``, or ``NONE``, int8 [N].
        groups: places in ``names``, or ``NONE``, int32 [N].
        names: of the groups.
        sizes: bytes of each item, once unpacked; -1 where it cannot be looked at; int64 [N].
        times: when an item's own file changed, in ns since 1970; 0 of members; int64 [N].
        files, starts, stored, crcs, deflated: as ``media.sources.stores.Where`` has them: int32,
            int64, int64, uint32, bool [N].
    """

    ids: Texts
    paths: Texts
    labels: np.ndarray
    splits: np.ndarray
    groups: np.ndarray
    names: Texts
    sizes: np.ndarray
    times: np.ndarray
    files: np.ndarray
    starts: np.ndarray
    stored: np.ndarray
    crcs: np.ndarray
    deflated: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def write(self, folder: Path) -> None:
        """One .npy for an array, two for texts; paths that are the ids are not written again."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Texts):
                if field.name != "paths" or value is not self.ids:
                    np.save(folder / f"{field.name}.npy", value.data)
                    np.save(folder / f"{field.name}-offsets.npy", value.offsets)
            else:
                np.save(folder / f"{field.name}.npy", value)

    @classmethod
    def mapped(cls, folder: Path) -> Self:
        """What ``write`` wrote, mapped: its pages are shared by all processes that map them."""
        columns: dict[str, np.ndarray | Texts] = {}
        for field in dataclasses.fields(cls):
            path, offsets = (folder / f"{field.name}{end}.npy" for end in ("", "-offsets"))
            if not path.exists():
                columns[field.name] = columns["ids"]
            elif offsets.exists():
                columns[field.name] = Texts(_mapped(path), _mapped(offsets))
            else:
                columns[field.name] = _mapped(path)
        return cls(**columns)  # type: ignore[arg-type]

    def counts(self, classes: int) -> dict[str, list[int]]:
        """Items of every class, by split, for the splits that have any."""
        counts = {
            split: np.bincount(self.labels[self.splits == place], minlength=classes).tolist()
            for place, split in enumerate(SPLITS)
        }
        return {split: found for split, found in counts.items() if any(found)}


def _mapped(path: Path) -> np.ndarray:
    """A plain array: numpy's own class for mapped ones is slow to index."""
    return np.load(path, mmap_mode="r").view(np.ndarray)
