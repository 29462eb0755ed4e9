r"""python -m training compare: encodings of position under one recipe, and one table.

Example, a few minutes on a CPU:

    python -m training compare --preset smoke --data labels.csv --out runs/compare \
        --encodings absolute,axial_rope,liere_8 --seeds 3 --set epochs=10

trains 3 x 3 models by the preset's recipe, each under runs/compare/runs, measures them on the test
split at several sizes of the picture and with shuffled patches, lets all of them take training
steps side by side, and writes compare.md, compare.csv and pictures into runs/compare. The same
command goes on after a stop or a kill. Started several times at once, on one folder, it shares the
work. More encodings or seeds may be asked for later; another recipe needs another folder. With one
seed all encodings begin with the same weights outside the encoding and see the same batches.

A run whose loss is not finite, or that finds too little memory, is marked as failed, with the
reason, and the others go on. The same command leaves it at that; --retry takes it up again where it
was, which helps after memory ran out (with a larger --set accumulate=N). A loss that is not finite
would be so again: --drop takes an encoding out, another recipe needs a new folder.

An encoding is written like liere_8 (its block) or masa:basis=givens,factors=8 (its options).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from media.duplicates import find_duplicates
from media.index import Dataset, Digests
from media.sources import RULE, SPLITS
from media.spec import SpecError
from models.encodings import options_help, parse_encoding, short_name
from models.spec import EncodingSpec
from models.vit import VisionTransformer
from training import data
from training.checks import check_skipped, check_steps
from training.compare import table as compare_table
from training.compare.comparison import (
    MEASURED,
    RECIPE,
    Comparison,
    Entry,
    Recipe,
    claimed,
    drop,
    join,
    load,
    write_json,
)
from training.compare.resolutions import measure, scaled
from training.compare.step_times import measure_steps, step_times
from training.config import TrainConfig
from training.failures import BAD_INPUT, FAILED
from training.loop import train
from training.memory import OUT_OF_MEMORY, OutOfMemory, told
from training.presets import PRESETS
from training.progress import Progress
from training.run import Run
from training.settings import override
from training.stopping import Stop, Stopped

SCALES = (0.75, 1.0, 1.5, 2.0)
#: Settings that are not the recipe's.
GIVEN = ("model.encoding", "seed", "init_from")


def main(arguments: list[str]) -> int:
    """Run the command; the exit status is the same as of a training.

    1 also where a run failed, now or before, and all others are finished.
    """
    options = _parser().parse_args(arguments)
    try:
        with Stop():  # a signal ends the work at once; a training keeps its last step
            dropped = split_names(options.drop, "--drop") if options.drop else []
            if not options.table_only:
                work(options, dropped)
            elif dropped:
                drop(options.out, dropped)
            comparison = load(options.out)
            print(compare_table.write(comparison))
    except BAD_INPUT as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FAILED as error:
        print(
            f"error: {error}\nwhat is finished is kept; the same command goes on", file=sys.stderr
        )
        return 1
    except Stopped as stopped:
        print(f"stopped by {stopped}; the same command goes on", file=sys.stderr)
        return stopped.status
    failures = {} if options.table_only else comparison.failures()
    for (name, seed), reason in failures.items():
        print(f"error: {name}-seed{seed}: {reason}", file=sys.stderr)
    if failures:
        print(_ways_on(failures.values()), file=sys.stderr)
    return 1 if failures else 0


def _ways_on(reasons: Iterable[str]) -> str:
    """What helps after runs failed; the same steps of the same recipe come to the same NaN."""
    short = [reason.startswith(OUT_OF_MEMORY) for reason in reasons]
    ways = ["--drop NAME leaves an encoding out that failed"]
    if any(short):
        ways.append("--retry takes up again what ran out of memory: --set accumulate=N, larger "
                    "than before, makes it need less")  # fmt: skip
    if not all(short):
        ways.append("what is not finite would be so again with --retry: it takes another recipe, "
                    "such as a lower learning_rate, in a new --out folder")  # fmt: skip
    return "\n".join(ways)


def work(options: argparse.Namespace, dropped: list[str]) -> None:
    """Train and measure what is left."""
    if not (options.preset and options.data and options.encodings):
        raise SpecError("expected --preset, --data and --encodings, or --table-only")
    if options.seeds < 1 or options.rounds < 1:
        raise SpecError(
            f"expected 1 or more, got --seeds {options.seeds} --rounds {options.rounds}"
        )
    encodings = split_names(options.encodings)
    if both := set(encodings) & set(dropped):
        raise SpecError(f"--drop {min(both)}: expected it not to be among --encodings too")
    config = _config(options)
    begun = (options.out / RECIPE).exists()
    rule = load(options.out).recipe.rule if begun else RULE
    with Progress() as progress:
        dataset = data.open_data(config, rule, progress.indexing)
    dataset.split(options.split)  # which is an error where there is none
    used = data.thin(dataset, "train", config.items)
    check_steps(config, len(used.split("train")), 0)  # refused here rather than in every run
    check_skipped(config, dataset, used)
    kept = options.out / ".digests"  # beside the cache of all runs
    known = Digests(dataset, kept if begun else None)  # else the folder may be anybody's
    with Progress() as progress, progress.reading(len(known.missing())) as advance:
        known.complete(advance, workers=max(1, config.workers))
    contents = known.contents()
    if not config.allow_duplicates:
        find_duplicates(contents).check(dataset)
    digests = {split: contents[split].sha256 for split in ("train", "val", options.split)}
    recipe = Recipe(config, tuple(options.scales), options.split, options.test_items, digests, rule)
    data.thin(dataset, options.split, options.test_items)
    check_encodings(recipe, encodings, dataset)
    comparison = join(options.out, recipe, encodings, range(options.seeds))
    known.keep(kept)
    if dropped:
        comparison = drop(options.out, dropped)
    share(comparison, dataset, options.retry)
    if len({*comparison.finished(), *comparison.failures()}) == len(comparison.entries()):
        time_steps(comparison, options.rounds)


def split_names(text: str, option: str = "--encodings") -> list[str]:
    """``a,masa:basis=givens,factors=8,b`` -> three: what only sets a value belongs to its left.

    Each as ``short_name`` writes it, so that no encoding is trained twice under two spellings.
    """
    names: list[str] = []
    for part in text.split(","):
        if names and ":" in names[-1] and "=" in part and ":" not in part:
            names[-1] += f",{part}"
        else:
            names.append(part)
    short = [short_name(_parse(name, option)) for name in names]
    if len(set(short)) < len(short):
        raise SpecError(f"{option}: expected each one once, got {text}")
    return short


def _parse(name: str, option: str) -> EncodingSpec:
    try:
        return parse_encoding(name)
    except SpecError as error:
        raise SpecError(f"{option} {name}: {error}") from error


def check_encodings(recipe: Recipe, encodings: list[str], dataset: Dataset) -> None:
    """Build every model once: a wrong encoding is named before any training."""
    grids = [scaled(recipe.config.model.training_grid, scale) for scale in recipe.scales]
    for name in encodings:
        try:
            model = dataclasses.replace(recipe.config.model, encoding=parse_encoding(name))
            built = VisionTransformer(data.with_classes(model, dataset), recipe.config.input)
            for grid in grids:
                built.encoding.positions(grid)
        except SpecError as error:
            raise SpecError(f"--encodings {name}: {error}") from error


def share(comparison: Comparison, dataset: Dataset, retry: bool = False) -> None:
    """Train and measure runs that nobody is at, until there are none.

    Args:
        retry: take up again, once, what had failed before.
    """
    entries, say = comparison.entries(), _console()
    again = {entry.name for entry in entries if retry and entry.failed()}
    busy = True
    while busy:  # again: another process may have died meanwhile
        busy = False
        for number, entry in enumerate(entries, 1):
            if entry.measured() or (entry.failed() and entry.name not in again):
                continue
            with claimed(comparison.root, entry.name) as ours:
                if not ours or entry.measured() or (entry.failed() and entry.name not in again):
                    continue
                busy = True
                again.discard(entry.name)
                say.print(f"{entry.name} (run {number} of {len(entries)})")
                _try(comparison, entry, dataset)
    done, failed = len(comparison.finished()), len(comparison.failures())
    taken = len(entries) - done - failed
    others = f"; {failed} failed" if failed else ""
    others += f"; {taken} are with other processes" if taken else ""
    say.print(f"{done} of {len(entries)} runs are finished{others}; nothing is left to take")


def _try(comparison: Comparison, entry: Entry, dataset: Dataset) -> None:
    """Complete a run, or mark it: what is one encoding's own does not stop the others."""
    entry.forget_failure()
    try:
        with told("in the run"):
            _complete(comparison, entry, dataset)
    except FloatingPointError as error:
        entry.mark_failed(str(error))
    except OutOfMemory as error:
        entry.mark_failed(error.reason)


def _complete(comparison: Comparison, entry: Entry, dataset: Dataset) -> None:
    """One run to its end, from wherever it is."""
    resume, rule = Run(entry.root).exists(), comparison.recipe.rule
    train(entry.config, entry.root, resume=resume, report=False, rule=rule)
    with Progress() as progress:
        measured = measure(entry.root, comparison.recipe, dataset, progress)
    write_json(entry.root / MEASURED, measured)


def time_steps(comparison: Comparison, rounds: int) -> None:
    """Once all runs are done; one process does it."""
    with claimed(comparison.root, "steps") as ours, Progress() as progress:
        if not ours or step_times(comparison) or not comparison.finished():
            return
        _console().print("training steps side by side")
        try:
            with told("with all encodings side by side"):
                measure_steps(comparison, rounds, progress)
        except (OutOfMemory, FloatingPointError) as error:  # each was trained, by itself
            _console().print(f"their times stay unknown: {error}")


def _config(options: argparse.Namespace) -> TrainConfig:
    for setting in options.set:
        if setting.split("=")[0].startswith(GIVEN):
            raise SpecError(
                f"--set {setting}: a comparison trains every encoding from scratch; "
                "expected --encodings and --seeds for these"
            )
    config = PRESETS[options.preset](str(options.data))
    config = dataclasses.replace(config, allow_duplicates=options.allow_duplicates)
    return override(config, options.set)


def _console() -> Console:
    return Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training compare",
        description=__doc__,
        epilog=f"encodings and their options:\n{options_help()}\npresets and settings: "
        "python -m training --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    presets = sorted(set(PRESETS) - {"finetune"})
    add = parser.add_argument
    add("--preset", choices=presets, metavar="NAME", help=f"the recipe: {', '.join(presets)}")
    add("--data", type=Path, help="as of a training; --split says where accuracy is measured")
    add("--encodings", metavar="A,B,...", help="the first one is what the others are held against")
    add("--seeds", type=int, default=3, help="runs of every encoding, seeds 0, 1, ... (default 3)")
    add("--out", type=Path, required=True, metavar="FOLDER", help="folder of the comparison")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of the "
        "recipe, e.g. epochs=3 or items=5000 (training items); repeatable")  # fmt: skip
    add("--scales", type=float, nargs="+", default=SCALES, metavar="S", help="measure at so many "
        "times the tokens per axis of the training grid (default 0.75 1 1.5 2)")  # fmt: skip
    add("--split", choices=SPLITS, default="test", help="to measure on (default test)")
    add("--test-items", type=int, default=0, metavar="N", help="measure on N items of that split "
        "at most, drawn alike from every class (default 0: all)")  # fmt: skip
    add("--retry", action="store_true", help="take up again what failed, where it was; after "
        "memory ran out, with a larger --set accumulate=N")  # fmt: skip
    add("--drop", metavar="A,B,...", help="take these encodings out of the comparison; their runs "
        "stay in the folder")  # fmt: skip
    add("--allow-duplicates", action="store_true", help="go on where the same bytes lie in two "
        "splits")  # fmt: skip
    add("--rounds", type=int, default=20, help="training steps of every encoding when they are "
        "timed side by side at the end (default 20)")  # fmt: skip
    add("--table-only", action="store_true", help="make table and pictures of what is finished so "
        "far; of the other options only --out counts")  # fmt: skip
    return parser
