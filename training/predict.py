"""python -m training predict RUN DATA --out predictions.csv: what a checkpoint says of each item.

DATA is whatever training takes (a folder, a CSV, an npz, a zip or tar, shards), or one file. Here
items need no label: a folder may hold nothing but pictures, a CSV no column but path. Where
folders, tables or shards say labels, these stand beside the answers. An archive is one of items: a
scan that is itself a zip or an npz lies in a folder. Nothing is decoded but what is answered for
next, so DATA may be larger than the memory, but for an npz and a tar.gz, which lie in it; nothing
is written there, save for the index beside shards.

  python -m training predict runs/mine photos --out predictions.csv
  python -m training predict runs/mine labels.csv --split test --grid 10x10 --out test.csv

A row of the CSV is one item:

  id           its path in DATA, or the name it has there
  label        its true label; empty where the data say none
  predicted    the most probable label
  probability  how probable that is
  problem      why there is no answer: the item cannot be read, or the model gives no finite one
  p(LABEL)     the probability of every label, in the order of the model

Probabilities are the softmax of the checkpoint's logits, means over the views of a clip, as they
are: a checkpoint is not calibrated. A bundle is (python -m export), and a report says how well
probabilities fit. Answers are those of validation, in fp32.

Exit status: 0; 1 where an item has a problem (all rows are written), or nothing could be written;
2 for bad input; 143 and 130 for SIGTERM and SIGINT.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import sys
import tempfile
from pathlib import Path

import numpy as np

from media.files import atomic_file
from media.index import Dataset, Wanted, open_media
from media.index.columns import NONE
from media.sources import RULE, SPLITS
from media.spec import Grid, SpecError
from models.checkpoint import Description, checkpoint_folder, load_checkpoint
from training.answers import Count, answers_of, write_table
from training.batches import NoBatch, Rows
from training.checks import pick_device
from training.data import rule_of
from training.evaluate import VALUES
from training.failures import BAD_INPUT, FAILED
from training.listed import Listed
from training.progress import Progress
from training.stopping import Stop, Stopped

#: The split that items which are asked for are put into, whatever they are in.
ASKED = "test"


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked for besides the checkpoint and the data.

    Attributes:
        split: whose items alone; None for all.
        grid: tokens per axis; None for that of the training.
        batch, workers: items at a time, processes that read ahead; None for those of the run.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    split: str | None = None
    grid: Grid | None = None
    batch: int | None = None
    workers: int | None = None
    device: str = "auto"


def main(arguments: list[str]) -> int:
    """Write the CSV; the exit status as the head of this module has it."""
    given = _parser().parse_args(arguments)
    try:
        grid = Grid.parse(given.grid) if given.grid else None
        options = Options(given.split, grid, given.batch, given.workers, given.device)
        with Stop():  # nothing stays behind
            count = predict(given.run, given.data, given.out, options)
    except BAD_INPUT as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FAILED as error:
        settings = error.settings if isinstance(error, NoBatch) else ()
        ways = " or ".join(f"--{setting.replace('=', ' ')}" for setting in settings)
        print(f"error: {error}{ways and f'; try {ways}'}\nnothing was written", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted\nnothing was written", file=sys.stderr)
        return 130
    except Stopped as stopped:
        print(f"stopped by {stopped}\nnothing was written", file=sys.stderr)
        return stopped.status
    print(f"wrote {given.out}: {count}")
    return 1 if count.problems else 0


def predict(run: Path, data: Path, out: Path, options: Options) -> Count:
    """Answer for every item and write a CSV, whole or not at all.

    Args:
        run: a run, which stands for its best checkpoint, or a checkpoint.

    Raises:
        CheckpointError, SourceError, SpecError: what cannot be used.
        FileExistsError, FileNotFoundError: ``out`` is there, or its folder is not.
        NoBatch, OutOfMemory: too little memory, or no worker can be started.
        OSError: the CSV cannot be written.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already and is never overwritten")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent} is no folder: make it first")
    device = pick_device(options.device)
    model, description = load_checkpoint(checkpoint_folder(run))
    if not description.labels:
        raise SpecError(
            "the checkpoint has no head: expected one with labels, got features alone; give it a "
            "head by --init-from"
        )
    grid, patch = options.grid or model.spec.training_grid, model.spec.patch
    if grid.axes != len(patch):
        raise SpecError(f"grid {grid} has {grid.axes} axes, the model {len(patch)}")
    wanted = Wanted(description.input, grid.pixels(patch))
    with Progress() as progress, contextlib.ExitStack() as until_end:
        dataset = _open(data, description, options.split, progress)
        items = len(dataset.split(ASKED))
        batch, workers = _how(options, description, wanted, items)
        if workers:  # they map the index
            folder = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
            dataset = dataset.kept(Path(until_end.enter_context(folder)) / "index")
        listed = Listed(dataset, ASKED, wanted)
        rows = Rows(listed, workers, batch * listed.views, tolerant=True)
        advance = until_end.enter_context(progress.predicting(items))
        answers = until_end.enter_context(contextlib.closing(answers_of(model.to(device), rows)))
        with atomic_file(out) as stream:
            return write_table(stream, answers, listed, description.labels, advance)


def _open(data: Path, description: Description, split: str | None, progress: Progress) -> Dataset:
    """The data, with the items that are asked for in the split ``ASKED`` and no others in any."""
    trained = description.notes.get("data")
    rule = rule_of(trained) if trained else RULE
    dataset = open_media(data, rule, bool(split), indexing=progress.indexing)
    places = dataset.split(split) if split else np.arange(len(dataset))
    splits = np.full(len(dataset), NONE, np.int8)
    splits[places] = SPLITS.index(ASKED)
    columns = dataclasses.replace(dataset.columns, splits=splits)
    return dataclasses.replace(dataset, columns=columns)


def _how(
    options: Options, description: Description, wanted: Wanted, items: int
) -> tuple[int, int]:
    """Items at a time, and processes that read ahead; none where one batch is all."""
    config = description.notes.get("config", {})
    batch = options.batch or config.get("batch", 256) // config.get("accumulate", 1)
    values = wanted.spec.views * math.prod(wanted.pixels) * wanted.spec.channels
    batch = max(1, min(batch, VALUES // values))
    workers = config.get("workers", 2) if options.workers is None else options.workers
    return batch, workers if items > batch else 0


def _parser() -> argparse.ArgumentParser:
    _, *rest = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m training predict",
        description="Write what a checkpoint says of each item as a CSV.",
        epilog="\n\n".join(rest),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run, whose best checkpoint it is, or a checkpoint")
    add("data", type=Path, metavar="DATA", help="what training takes, or one file; see below")
    add("--out", type=Path, required=True, metavar="CSV", help="never overwritten")
    add(
        "--split", choices=SPLITS, help="its items alone, as training splits the data (default: "
        "all items, whatever their split)",
    )  # fmt: skip
    add("--grid", metavar="10x10", help="tokens per axis (default: those of the training)")
    add("--batch", type=_one_or_more, metavar="N", help="items at a time (default: the run's)")
    add(
        "--workers", type=_none_or_more, metavar="N", help="processes that read ahead, 0 for none "
        "(default: the run's; none where one batch is all)",
    )  # fmt: skip
    add(
        "--device", choices=("auto", "cpu", "cuda"), default="auto",
        help="(default: a GPU where there is one)",
    )  # fmt: skip
    return parser


def _one_or_more(text: str) -> int:
    return _whole(text, 1)


def _none_or_more(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least} on, got {text!r}")
    return int(text)
