"""python -m training report RUN: figures and pictures of a run's best checkpoint, as a page.

Layout::

    RUN/report -> reports/3      a link, moved when a new report is whole; the old one goes then
        index.html               the page, with its pictures inside
        report.json              every figure with its interval, definitions, counts, hashes
        predictions-SPLIT.npz    logits, labels, ids and groups (training/report/predictions.py)
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from media.files import atomic_directory, sync_directory
from media.strict_json import to_json
from models.bootstrap import DRAWS
from models.checkpoint import CheckpointError, Description
from models.measures import BINS, DEFINITIONS, Measures, measure
from training.about_data import about_duplicates, how_split
from training.data import Bars, rule_of
from training.failures import BAD_INPUT, FAILED
from training.history import read_changes, shown
from training.processes import ALONE, Processes
from training.report.held_out import predict
from training.report.html import page
from training.report.predictions import Predictions, PredictionsError, load_predictions
from training.run import Run
from training.shared_run import shared_checkpoint

SCHEMA = 1
LINK, FOLDERS = "report", "reports"
#: Settings that are paths, and nobody else's business.
PRIVATE = ("data", "init_from", "cache")


class ReportError(CheckpointError):
    """A run that no report can be made of. The message says what was expected and what came."""


def main(arguments: list[str]) -> int:
    """Make the report of a run; the exit status is 0, 1 (it cannot be made) or 2 (bad input)."""
    options = _parser().parse_args(arguments)
    try:
        made = make_report(
            options.run, options.data, options.skip_unreadable, options.allow_duplicates
        )
    except BAD_INPUT as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FAILED as error:
        print(f"error: {error}\nno report was written", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted\nno report was written", file=sys.stderr)
        return 130
    print(f"wrote {made}")
    return 0


def make_report(
    root: Path,
    data: Path | None = None,
    skip_unreadable: bool = False,
    allow_duplicates: bool = False,
    processes: Processes = ALONE,
) -> Path:
    """Measure the best checkpoint of a run and write its report; returns the page.

    Predictions of an earlier report of the same checkpoint are used again, and no data are needed
    then, unless ``data`` names some.

    Args:
        skip_unreadable: leave items that cannot be read out, and name them in the report.
        allow_duplicates: go on where the same bytes lie in two splits, and say so in the report.
        processes: that measure together; each of them makes this call, one writes.

    Raises:
        CheckpointError: the run, its metrics or its checkpoint cannot be used.
        SourceError: the data cannot be used, or are not those of the run.
        FloatingPointError: the model gives an answer that is no number.
        OSError: a full disk, for one; an earlier report is kept.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not processes.writer)
    processes.from_writer(lambda: _check(root))
    model, description = shared_checkpoint(root / "best", processes)
    if missing := sorted({"config", "data", "best", "step"} - set(description.notes)):
        raise ReportError(f"{root}/best does not say its {missing[0]}: training did not write it")
    records = processes.from_writer(lambda: read_metrics(root / "metrics.jsonl"))
    predictions = {} if data else _kept(root / LINK, description, console)
    duplicates = _kept_duplicates(root / LINK) if predictions else {}
    with _bars(console) as bar:
        if not predictions:
            cache = description.notes["config"].get("cache")
            predictions, found = predict(
                model,
                description,
                data,
                bar,
                skip_unreadable=skip_unreadable,
                cache=Run(root).cache(cache),
                digests=Run(root).digests(cache),
                allow_duplicates=allow_duplicates,
                processes=processes,
            )
            duplicates = found.as_json()
            for line in about_duplicates(duplicates):
                console.print(line, markup=False)
        if not processes.writer:
            return root / LINK / "index.html"
        measured = {}
        for split, answers in predictions.items():
            advance = bar(f"intervals {split}", 1)
            measured[split] = measure(
                answers.probabilities(), answers.labels, answers.groups.tolist()
            )
            advance(1)
    report = summary(root.resolve().name, description, predictions, measured, duplicates)
    known = read_changes(description.notes.get("history", []))  # up to that checkpoint
    report["ended"] = Run(root).notes().get("ended", "") if Run(root).exists() else ""
    report["history"] = [to_json(change.shown()) for change in Run(root).history() or known]
    publish(root, page(report, records, predictions, measured), report, predictions)
    return root / LINK / "index.html"


# --- what goes in -----------------------------------------------------------------------------


def _check(root: Path) -> None:
    """What can be known before any work is done."""
    if not (root / "best").exists():
        raise ReportError(f"expected a run with a best checkpoint, got {root}: no epoch has ended")
    link = root / LINK
    if link.exists() and not link.is_symlink():
        raise FileExistsError(f"expected {link} to be a link to a report: move it away")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl, one an epoch.

    A last line without an end is one that a kill cut short: it was never part of the run.

    Raises:
        ReportError: any other line that is no record.
        FileNotFoundError: there is no such file.
    """
    *lines, _ = path.read_bytes().split(b"\n")
    return [_record(line, f"{path} line {number}") for number, line in enumerate(lines, 1)]


def _record(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("epoch"), int):
        raise ReportError(f"{place}: expected a JSON object with an epoch, got {line[:60]!r}")
    for key in ("loss", "rate", "val_loss", "val_top1"):
        if not isinstance(record.get(key, 0), int | float):
            raise ReportError(f"{place}: expected a number as {key}, got {record[key]!r}")
    return record


def _kept(folder: Path, description: Description, console: Console) -> dict[str, Predictions]:
    """The predictions of an earlier report; empty, with a word why, where they are of no use."""
    if not folder.exists():
        return {}
    try:
        classes = len(description.labels)
        return load_predictions(folder, description.weights_sha256, classes)
    except PredictionsError as error:
        console.print(f"measuring again: {error}", markup=False)
        return {}


def _kept_duplicates(folder: Path) -> dict[str, Any]:
    """What an earlier report found in its data; nothing in one from before it looked."""
    kept: dict[str, Any] = json.loads((folder / "report.json").read_bytes())["data"]
    return kept.get("duplicates", {})


# --- what comes out ---------------------------------------------------------------------------


def summary(
    name: str,
    description: Description,
    predictions: dict[str, Predictions],
    measured: dict[str, Measures],
    duplicates: dict[str, Any],
) -> dict[str, Any]:
    """report.json. Numbers are finite or null."""
    notes, data = description.notes, description.notes["data"]
    return {
        "schema": SCHEMA,
        "run": name,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "checkpoint": {
            "step": notes["step"],
            "epoch": notes["best"]["epoch"],
            "weights_sha256": description.weights_sha256,
            "init": notes.get("init"),
        },
        "labels": list(description.labels),
        "config": {k: shown(k, v) for k, v in notes["config"].items() if k not in PRIVATE},
        "data": {split: data[split] for split in ("train", "val")}
        | {"name": data["name"], "skipped": len(data.get("skipped", ()))}
        | {
            "how_split": how_split(rule_of(data), data.get("made", ())) if "rule" in data else "",
            "classes": data.get("classes", {}),
            "left_out": data.get("left_out", {}),
            "duplicates": duplicates,
        },
        "definitions": DEFINITIONS,
        "draws": DRAWS,
        "splits": {
            split: _split(predictions[split], measured[split], description.labels)
            for split in predictions
        },
    }


def _split(
    predictions: Predictions, measured: Measures, labels: tuple[str, ...]
) -> dict[str, Any]:
    bins = [
        {"above": index / BINS, "to": (index + 1) / BINS, "items": int(count)}
        | ({"probability": probability, "right": right} if count else {})
        for index, (count, probability, right) in enumerate(measured.calibration.tolist())
    ]
    return {
        "items": measured.items,
        "sha256": predictions.data_sha256,
        "skipped": predictions.skipped.tolist(),
        "drawn": measured.drawn,
        "units": measured.units,
        "absent": [labels[index] for index in measured.absent],
        "figures": {name: dataclasses.asdict(f) for name, f in measured.figures.items()},
        "confusion": measured.confusion.tolist(),
        "calibration": bins,
        "coverage": to_json(measured.coverage),
    }


def publish(
    root: Path, html: str, report: dict[str, Any], predictions: dict[str, Predictions]
) -> None:
    """Write a whole folder, then move the link; at every instant it names a whole report."""
    folders = root / FOLDERS
    numbers = [int(path.name) for path in folders.glob("*") if path.name.isdecimal()]
    folder = folders / str(1 + max(numbers, default=0))
    with atomic_directory(folder) as temporary:
        (temporary / "index.html").write_bytes(html.encode(errors="backslashreplace"))
        (temporary / "report.json").write_text(json.dumps(report, allow_nan=False) + "\n")
        for split, answers in predictions.items():
            answers.save(temporary, split)
    new = root / f".{LINK}.new"
    new.unlink(missing_ok=True)
    new.symlink_to(folder.relative_to(root))
    new.replace(root / LINK)
    sync_directory(root)
    for old in folders.iterdir():  # what the link no longer names, and what kills left
        if old != folder:
            shutil.rmtree(old)


@contextlib.contextmanager
def _bars(console: Console) -> Iterator[Bars]:
    """A live bar for each piece of work; nothing where there is no terminal."""
    disable = console.quiet or not console.is_terminal
    with Progress(console=console, transient=True, disable=disable) as progress:

        def begin(text: str, items: int) -> Callable[[int], None]:
            task = progress.add_task(text, total=items)
            return lambda done: progress.advance(task, done)

        yield begin


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training report",
        description="Measure the best checkpoint of a run and write RUN/report/index.html.",
        epilog="The predictions of an earlier report of the same checkpoint are used again; "
        "the data are needed only where there are none, or with --data.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--data", type=Path, help="where its data lie now (default: where training found them)"
    )
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave items that cannot be read out, named, instead of stopping",
    )
    parser.add_argument(
        "--allow-duplicates",
        action="store_true",
        help="go on where the same bytes lie in two splits; the report says so",
    )
    return parser
