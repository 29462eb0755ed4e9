"""What a run is trained on: opened, checked, decoded, described."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from media.contents import Contents
from media.dataset import Prepared, prepare_split
from media.duplicates import Duplicates
from media.index import Dataset, Digests, Wanted, open_dataset
from media.sources import FIRST, RULE, SourceError
from media.sources.shards import Indexing, quiet
from media.spec import AXES, Grid, InputSpec, SpecError
from models.spec import ModelSpec
from training.augment.draws import epoch_order, occurrences
from training.config import TrainConfig
from training.progress import Progress

#: Begins a bar for some work on so many items; returns the function that advances it.
Bars = Callable[[str, int], Callable[[int], None]]


class UsedItems(Protocol):
    """Of a split, however they are read."""

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """(id, reason) of unreadable ones."""


def no_bar(text: str, items: int) -> Callable[[int], None]:
    """Shows nothing."""
    return lambda done: None


def rule_of(data: Mapping[str, Any]) -> int:
    """The rule by which the splits of a run were made, from what it says of its data."""
    return int(data.get("rule", FIRST))


def open_data(
    config: TrainConfig, rule: int = RULE, indexing: Indexing = quiet, kept: Path | None = None
) -> Dataset:
    """The labelled media of a run; SourceError where a class can never be learned or measured.

    Args:
        rule: by which missing splits are made (``media.sources.rules``).
        indexing: shows how far shards without an index have been looked through.
        kept: a folder for their indexes, where nothing can be written beside them.
    """
    dataset = open_dataset(Path(config.data), rule, cache=kept, indexing=indexing)
    classes, labels = len(dataset.labels), dataset.columns.labels
    counts = np.bincount(labels, minlength=classes)
    trained = np.bincount(labels[dataset.split("train")], minlength=classes)
    for index, label in enumerate(dataset.labels):
        if counts[index] < 2:
            raise SourceError(
                f"class {label!r} has {counts[index]} item: expected at least 2, "
                "one to train on and one to measure on"
            )
        if not trained[index]:
            raise SourceError(
                f"class {label!r} has {counts[index]} items and none of them in split 'train'"
            )
    return dataset


def with_classes(model: ModelSpec, dataset: Dataset) -> ModelSpec:
    """The model with as many classes as there are labels; SpecError if it has others."""
    if model.classes in (0, len(dataset.labels)):
        return dataclasses.replace(model, classes=len(dataset.labels))
    raise SpecError(
        f"labels do not match the head: {dataset.name} has {len(dataset.labels)} classes, "
        f"model.classes is {model.classes}"
    )


def thin(dataset: Dataset, split: str, count: int) -> Dataset:
    """The data with at most ``count`` items of a split, as many of each class; 0 for all.

    Drawn by nothing but the split's labels: those of a smaller count are among a larger one's.
    Classes that run out of items leave their share to the others.
    """
    places = dataset.split(split)
    if not 0 < count < len(places):
        return dataset
    if count < len(dataset.labels):
        raise SpecError(
            f"expected at least one item of each of {len(dataset.labels)} classes in split "
            f"{split!r}, got {count} items"
        )
    labels = dataset.columns.labels[places]
    order = epoch_order(0, 0, len(places))
    rounds = occurrences(labels[order])  # every class gives one item a round
    chosen = order[np.argsort(rounds, kind="stable")[:count]]
    return dataset.without(np.delete(places, chosen))


def prepare(
    dataset: Dataset,
    split: str,
    config: TrainConfig,
    progress: Progress,
    cache: Path | None = None,
    grid: Grid | None = None,
    *,
    contents: Contents | None = None,
) -> Prepared:
    """One split decoded, or found in the cache, as ``wanted`` says.

    Args:
        contents: of the split, where it has been read already.
    """
    how = wanted(config, split, grid)
    one = (1,) * len(how.pixels)
    with progress.decoding(split, len(dataset.split(split))) as advance:
        prepared = prepare_split(
            dataset,
            split,
            how.spec,
            Grid(how.pixels),  # one pixel a token: any size can be asked for
            one,
            workers=max(1, config.workers),
            skip_unreadable=config.skip_unreadable,
            advance=advance,
            cache=cache,
            contents=contents,
        )
    progress.skipped(split, prepared.skipped)
    absent = sorted(set(range(len(dataset.labels))) - set(prepared.labels.tolist()))
    progress.absent(split, [dataset.labels[index] for index in absent])
    return prepared


def wanted(config: TrainConfig, split: str, grid: Grid | None = None) -> Wanted:
    """How the items of a split are decoded; those of training as large as their crops want them.

    Args:
        grid: another one than the model's; of scans it shows the same millimetres.
    """
    sides = config.model.training_grid.pixels(config.model.patch)
    pixels = grid.pixels(config.model.patch) if grid else sides
    if split == "train":
        axes = zip(AXES[config.input.modality], pixels, strict=True)
        oversize = config.augment.oversize
        pixels = tuple(side if axis == "time" else round(side * oversize) for axis, side in axes)
    return Wanted(_same_extent(config.input, sides, pixels), pixels)


def _same_extent(
    spec: InputSpec, sides: tuple[int, ...], pixels: tuple[int, ...]
) -> InputSpec:
    """For more pixels than the network's sides: smaller voxels, so that a scan keeps its extent."""
    if not (spec.volume and spec.volume.spacing):
        return spec  # all of an item, or of its centre, is stretched to any size
    steps = zip(spec.volume.spacing, sides, pixels, strict=True)
    spacing = tuple(step * side / more for step, side, more in steps)
    return dataclasses.replace(spec, volume=dataclasses.replace(spec.volume, spacing=spacing))


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """items / (classes * items of the class), float32 [classes]; 1 on average over the items."""
    counts = np.bincount(labels, minlength=classes)
    return (len(labels) / (classes * np.maximum(counts, 1))).astype(np.float32)


def read_contents(
    dataset: Dataset, folder: Path | None = None, bar: Bars = no_bar
) -> dict[str, Contents]:
    """What every split holds, by its name; decodes nothing.

    Args:
        folder: that keeps digests of what was read before (``media.index.Digests``).
        bar: for the items that have to be read.
    """
    digests = Digests(dataset, folder)
    if len(missing := digests.missing()):
        digests.complete(bar("reading for digests", len(missing)))
    return digests.contents()


def describe(
    dataset: Dataset,
    contents: Mapping[str, Contents] | None,
    duplicates: Duplicates | None,
    training: UsedItems,
    validation: UsedItems,
) -> dict[str, Any]:
    """What was trained on, without saying where it lay.

    The hash of the training split is that of all of its items, whatever part of them was used:
    it tells which items were never in it. Hashes are null where not all was read yet.
    """
    hashes = {split: contents[split].sha256 if contents else None for split in ("train", "val")}
    return {
        "name": dataset.name,
        "labels": list(dataset.labels),
        "rule": dataset.rule,
        "made": list(dataset.made),
        "classes": dataset.counts(),
        "left_out": dict(dataset.left_out),
        "duplicates": duplicates.as_json() if duplicates else None,
        "train": {"items": len(training.ids), "sha256": hashes["train"]},
        "val": {"items": len(validation.ids), "sha256": hashes["val"]},
        "skipped": [list(pair) for pair in training.skipped + validation.skipped],
    }


def check_labels(notes: dict[str, Any], dataset: Dataset) -> None:
    """Refuse to continue a run on data with other labels."""
    expected = notes["data"]["labels"]
    if expected != list(dataset.labels):
        raise SourceError(
            f"labels do not match the run: expected {expected}, got {list(dataset.labels)}"
        )


def check_contents(notes: dict[str, Any], contents: Mapping[str, Contents]) -> None:
    """Refuse to continue a run on items that changed, came or went since it began."""
    for split in ("train", "val"):
        old, new = notes["data"][split], contents[split]
        if old["sha256"] not in (None, new.sha256):
            raise SourceError(
                f"split {split!r} is not the one that the run began with: expected "
                f"{old['items']} items (sha256 {old['sha256'][:12]}...), "
                f"got {len(new.ids)} ({new.sha256[:12]}...)"
            )


def check_read(notes: dict[str, Any], data: dict[str, Any]) -> None:
    """Refuse to continue a run with more or fewer of its items: others can be read now."""
    for split in ("train", "val"):
        old, new = notes["data"][split]["items"], data[split]["items"]
        if old != new:
            raise SourceError(
                f"split {split!r} is not the one that the run began with: expected {old} items "
                f"that can be read, got {new}"
            )
