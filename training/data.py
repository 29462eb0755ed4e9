"""What a run is trained on: opened, checked, decoded, described."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from media.contents import Contents, split_contents
from media.dataset import Prepared, prepare_split
from media.duplicates import Duplicates
from media.index import Wanted
from media.sources import FIRST, RULE, Source, SourceError, open_source
from media.spec import AXES, Grid, InputSpec, SpecError
from models.spec import ModelSpec
from training.augment.draws import epoch_order, occurrences
from training.config import TrainConfig
from training.listed import Listed
from training.progress import Progress


def rule_of(data: Mapping[str, Any]) -> int:
    """The rule by which the splits of a run were made, from what it says of its data."""
    return int(data.get("rule", FIRST))


def open_data(config: TrainConfig, rule: int = RULE) -> Source:
    """The labelled media of a run; SourceError where a class can never be learned or measured.

    Args:
        rule: by which missing splits are made (``media.sources.rules``).
    """
    source = open_source(Path(config.data), rule)
    counts = Counter(item.label for item in source.items)
    trained = {item.label for item in source.split("train")}
    for index, label in enumerate(source.labels):
        if counts[index] < 2:
            raise SourceError(
                f"class {label!r} has {counts[index]} item: expected at least 2, "
                "one to train on and one to measure on"
            )
        if index not in trained:
            raise SourceError(
                f"class {label!r} has {counts[index]} items and none of them in split 'train'"
            )
    return source


def with_classes(model: ModelSpec, source: Source) -> ModelSpec:
    """The model with as many classes as there are labels; SpecError if it has others."""
    if model.classes in (0, len(source.labels)):
        return dataclasses.replace(model, classes=len(source.labels))
    raise SpecError(
        f"labels do not match the head: {source.name} has {len(source.labels)} classes, "
        f"model.classes is {model.classes}"
    )


def thin(source: Source, split: str, count: int) -> Source:
    """The source with at most ``count`` items of a split, as many of each class; 0 for all.

    Drawn by nothing but the split's labels: those of a smaller count are among a larger one's.
    Classes that run out of items leave their share to the others.
    """
    items = source.split(split)
    if not 0 < count < len(items):
        return source
    if count < len(source.labels):
        raise SpecError(
            f"expected at least one item of each of {len(source.labels)} classes in split "
            f"{split!r}, got {count} items"
        )
    labels = np.array([item.label for item in items])
    order = epoch_order(0, 0, len(items))
    rounds = occurrences(labels[order])  # every class gives one item a round
    chosen = order[np.argsort(rounds, kind="stable")[:count]]
    kept = {items[index].id for index in chosen}
    return dataclasses.replace(
        source, items=tuple(i for i in source.items if i.split != split or i.id in kept)
    )


def prepare(
    source: Source,
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
    with progress.decoding(split, len(source.split(split))) as advance:
        prepared = prepare_split(
            source,
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
    absent = sorted(set(range(len(source.labels))) - set(prepared.labels.tolist()))
    progress.absent(split, [source.labels[index] for index in absent])
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


def read_contents(source: Source) -> dict[str, Contents]:
    """What every split holds, by its name; decodes nothing."""
    return {split: split_contents(source, split) for split in source.present()}


def describe(
    source: Source,
    contents: Mapping[str, Contents],
    duplicates: Duplicates,
    training: Prepared | Listed,
    validation: Prepared | Listed,
) -> dict[str, Any]:
    """What was trained on, without saying where it lay.

    The hash of the training split is that of all of its items, whatever part of them was used:
    it tells which items were never in it.
    """
    return {
        "name": source.name,
        "labels": list(source.labels),
        "rule": source.rule,
        "made": list(source.made),
        "classes": source.counts(),
        "left_out": dict(source.left_out),
        "duplicates": duplicates.as_json(),
        "train": {"items": len(training.ids), "sha256": contents["train"].sha256},
        "val": {"items": len(validation.ids), "sha256": contents["val"].sha256},
        "skipped": [list(pair) for pair in training.skipped + validation.skipped],
    }


def check_labels(notes: dict[str, Any], source: Source) -> None:
    """Refuse to continue a run on data with other labels."""
    expected = notes["data"]["labels"]
    if expected != list(source.labels):
        raise SourceError(
            f"labels do not match the run: expected {expected}, got {list(source.labels)}"
        )


def check_contents(notes: dict[str, Any], contents: Mapping[str, Contents]) -> None:
    """Refuse to continue a run on items that changed, came or went since it began."""
    for split in ("train", "val"):
        old, new = notes["data"][split], contents[split]
        if old["sha256"] != new.sha256:
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
