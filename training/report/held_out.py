"""What judges a checkpoint: the splits that it was not trained on."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from media.contents import Contents
from media.dataset import Prepared, prepare_split
from media.duplicates import Duplicates, find_duplicates, let_through
from media.index import Dataset, Wanted, open_dataset
from media.sources import SourceError
from media.sources.shards import find_shards
from media.unread import Unread, fits, list_split
from models.checkpoint import Description
from models.vit import Encoded, VisionTransformer
from training.data import Bars, check_labels, read_contents, rule_of
from training.evaluate import encode_for, logits_of, rows_of
from training.memory import told
from training.processes import ALONE, Processes
from training.report.predictions import Predictions
from training.report.thumbnails import thumbnails

#: The split that had no say in anything comes first: ``val`` chose the checkpoint.
SPLITS = ("test", "val")
#: Items measured between two moves of the bar.
PIECE = 1024


def predict(
    model: VisionTransformer,
    description: Description,
    data: Path | None,
    bar: Bars,
    *,
    skip_unreadable: bool = False,
    cache: Path | None = None,
    digests: Path | None = None,
    allow_duplicates: bool = False,
    processes: Processes = ALONE,
) -> tuple[dict[str, Predictions], Duplicates]:
    """The model's answers to every held-out split that has items, at its training grid.

    As many items at a time go through the network as in training. Beside the answers: what these
    splits and the training split have in common.

    Args:
        data: where the data lie; None for where training found them.
        allow_duplicates: go on where the same bytes lie in two splits.
        cache: folder that keeps decoded splits (``media.cache``).
        digests: folder that keeps digests of what was read (``media.index.Digests``).
        processes: that share the items; all get all answers.

    Raises:
        SourceError: the data are not those of the run, items cannot be read, or are in two splits.
        FloatingPointError: a logit is not finite; the message names the item.
    """
    with processes.leader_first():
        dataset = open_held_out(description, data, digests)
    device = description.notes["config"].get("device")
    model = model.to("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    encoded = encode_for(model, model.spec.training_grid)
    dataset.split("val")  # which is an error where there is none
    with processes.leader_first():  # others find what it has read beside the run
        contents = read_contents(dataset, digests, bar)
    if {"train", "test"} <= contents.keys():  # unseen only while train is what it was
        _check_split(description, "train", len(contents["train"].ids), contents["train"].sha256)
    duplicates = find_duplicates(contents)
    if not (allow_duplicates or let_through(description.notes)):
        duplicates.check(dataset)
    options: dict[str, Any] = {"skip_unreadable": skip_unreadable, "cache": cache}
    options |= {"encoded": encoded, "processes": processes}
    return {
        split: _predict_split(
            model, description, dataset, split, bar, contents=contents[split], **options
        )
        for split in SPLITS
        if split in contents
    }, duplicates


def open_held_out(
    description: Description, data: Path | None, kept: Path | None = None
) -> Dataset:
    """The data of the run, split by its rule; SourceError if their labels are others.

    Args:
        kept: a folder for indexes of shards, where nothing can be written beside these.
    """
    path = data or Path(description.notes["config"]["data"])
    if not (find_shards(path) or path.exists()):
        raise SourceError(f"the data of the run are not at {path}: say where with --data")
    dataset = open_dataset(path, rule_of(description.notes["data"]), cache=kept)
    check_labels(description.notes, dataset)
    return dataset


def _predict_split(
    model: VisionTransformer,
    description: Description,
    dataset: Dataset,
    split: str,
    bar: Bars,
    *,
    encoded: Encoded,
    skip_unreadable: bool,
    cache: Path | None,
    contents: Contents,
    processes: Processes,
) -> Predictions:
    config, places = description.notes["config"], dataset.split(split)
    grid, patch = model.spec.training_grid, model.spec.patch
    workers = max(1, config.get("workers", 1))
    skip = skip_unreadable or config.get("skip_unreadable", False)
    how = Wanted(description.input, grid.pixels(patch))
    large = not fits(len(places) * processes.local_size, how)
    decoded_anyway = cache or config.get("read") == "once"  # as validation is
    prepared: Prepared | Unread
    if processes.highest(large and not decoded_anyway):
        prepared = list_split(
            dataset, split, how, workers=workers, skip_unreadable=skip, contents=contents
        )
    else:
        first = processes.leader_first() if cache else contextlib.nullcontext()
        with told(f"while decoding split {split}"), first:
            prepared = prepare_split(
                dataset,
                split,
                description.input,
                grid,
                patch,
                workers=workers,
                skip_unreadable=skip,
                advance=bar(f"decoding {split}", len(places)),
                cache=cache,
                contents=contents,
            )
    _check_split(description, split, len(places), prepared.sha256)
    group_of = {item.id: item.group for item in dataset.view(split).items}
    batch = config.get("batch", 256) // config.get("accumulate", 1) // processes.size
    with told(f"while measuring split {split}, {batch} items at a time"):
        advance = bar(f"measuring {split}", len(places) // processes.size)
        logits = _logits(model, encoded, prepared, batch, advance, processes)
    answers = Predictions(
        logits=logits,
        labels=prepared.labels,
        ids=np.array(prepared.ids),
        groups=np.array([group_of[id_] for id_ in prepared.ids]),
        skipped=np.array([id_ for id_, _ in prepared.skipped], dtype=np.str_),
        strips=np.empty(0),
        weights_sha256=description.weights_sha256,
        data_sha256=prepared.sha256,
    )
    shown = thumbnails(prepared, answers.mistakes(), description.input.modality)
    return dataclasses.replace(answers, strips=shown)


def _logits(
    model: VisionTransformer,
    encoded: Encoded,
    prepared: Prepared | Unread,
    batch: int,
    advance: Callable[[int], None],
    processes: Processes,
) -> np.ndarray:
    """Finite ones of the items, means over their views; float32 [N, classes]."""
    pieces, own = [], processes.rows(len(prepared.ids))
    for start in range(own.start, max(own.start + 1, own.stop), PIECE):
        piece = rows_of(prepared, slice(start, min(start + PIECE, own.stop)))
        pieces.append(logits_of(model, piece, batch, encoded=encoded).float())
        advance(len(pieces[-1]) // prepared.views)
    views = processes.gather_rows(torch.cat(pieces))  # [N * V, classes]
    logits = prepared.of_items(views.numpy())  # [N, classes]
    broken = np.flatnonzero(~np.isfinite(logits).all(1))
    if len(broken):
        raise FloatingPointError(f"the logits of {prepared.ids[broken[0]]!r} are not finite")
    return logits


def _check_split(description: Description, split: str, items: int, sha256: str) -> None:
    """Refuse a split that training used and that has other items now."""
    trained = description.notes["data"].get(split)
    if trained and trained["sha256"] != sha256:
        raise SourceError(
            f"split {split!r} is not the one of the run: expected {trained['items']} items "
            f"(sha256 {trained['sha256'][:12]}...), got {items} ({sha256[:12]}...)"
        )
