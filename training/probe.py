"""python -m training linear-probe, and knn: what do a checkpoint's features know of your labels?

The network stays as it is. Its features of every item are computed once, without augmentation, and
kept beside the checkpoint's run by digest: the same items under the same weights are never decoded
again.

  python -m training linear-probe --init-from runs/dinov3 --data labels.csv --out runs/probe
  python -m training knn --init-from runs/dinov3 --data labels.csv

linear-probe fits a linear head, by logistic regression (scikit-learn, on features of mean 0 and
standard deviation 1), for a path of penalties, the strongest first; each fit begins where the one
before it ended. The validation split chooses: of the heads that are within a standard error of the
best one that with the strongest penalty is kept (with --choose loss the best one). The run in
--out is like any other: report, predict and export take it, and --init-from goes on from it with
all layers.

knn asks the nearest training items instead (cosine similarity, votes weighed by exp(s / 0.07) as in
arXiv 1805.01978), and writes nothing: a check that needs no fit, of features and of labels. The
number of neighbours is chosen on the validation split.

Exit status: 0; 1 where it failed; 2 for bad input; 143 and 130 for SIGTERM and SIGINT.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from media.contents import Contents
from media.duplicates import find_duplicates
from media.index import Dataset, Digests, fingerprint
from media.sources import SourceError
from media.spec import Grid, SpecError
from media.strict_json import to_json
from models.checkpoint import Description, checkpoint_folder, load_checkpoint
from models.vit import VisionTransformer
from training import data, finetune
from training.about_data import about_duplicates, about_source, how_split
from training.batches import NoBatch
from training.checks import pick_device
from training.config import Augment, TrainConfig
from training.evaluate import measured
from training.failures import BAD_INPUT, FAILED
from training.features import Extractor, Features, without_head
from training.identity import USED
from training.optim import make_optimiser
from training.progress import Progress
from training.report.report import make_report
from training.run import Run, State
from training.stopping import Stop, Stopped

#: Folder of kept features, beside the run of the checkpoint.
KEPT = ".features"
#: Penalties of an item, times half the squared length of the head's weights: the strongest first.
PENALTIES = tuple(10.0**power for power in np.linspace(0, -4.5, 10))
#: Steps of one fit at most, and the length of its gradient at which it ends.
STEPS, TOLERANCE = 200, 1e-5
#: Products of a fit's step below which one thread computes it: more would wait for one another, on
#: a busy machine eighty times as long as they compute.
FEW_PRODUCTS = 2**29
#: Neighbours that are tried; how much nearer ones count more.
NEIGHBOURS, TEMPERATURE = (1, 5, 10, 20, 50), 0.07


def main_linear_probe(arguments: list[str]) -> int:
    """Fit a head and write a run; the exit status as the head of this module has it."""
    options = _parser("linear-probe", "Fit a linear head on a checkpoint's features.").parse_args(
        arguments
    )
    return _ended(lambda: linear_probe(options))


def main_knn(arguments: list[str]) -> int:
    """Print what the nearest neighbours say; the exit status as the head of this module has it."""
    options = _parser("knn", "Ask the nearest training items.").parse_args(arguments)
    return _ended(lambda: nearest(options))


def linear_probe(options: argparse.Namespace) -> None:
    """Everything from labelled data to a run whose ``best`` is the checkpoint with its new head.

    Raises:
        SpecError, SourceError, CheckpointError, FileExistsError: bad input.
        OSError, FloatingPointError, MemoryError: it failed; nothing is left behind.
    """
    run = Run(options.out)
    run.check(resume=False)
    with Probe(options) as probe:
        training, validation = (probe.features(split) for split in USED)
        heads = fitted(training, validation, probe.dataset.labels, probe.progress)
        best = chosen(heads, options.choose, len(validation.labels))
        for head in heads:
            probe.progress.say([f"{head}{'  <- kept' if head is best else ''}"])
        probe.write(run, best, heads, training, validation)
    if not options.no_report:
        make_report(
            options.out, options.data, options.skip_unreadable, options.allow_duplicates
        )
    print(f"best: val top-1 {best.record['top1']:.4f}, in {options.out}/best")


def nearest(options: argparse.Namespace) -> None:
    """Print the share of right answers of every split that was not searched, by neighbours."""
    with Probe(options) as probe:
        splits = [split for split in ("val", "test") if split in probe.contents]
        training = probe.features("train")
        held = {split: probe.features(split) for split in splits}
    counts = [count for count in NEIGHBOURS if count <= len(training.labels)]
    table = Table("neighbours", *(f"{split} top-1" for split in splits))
    right = {count: [votes(training, held[split], count) for split in splits] for count in counts}
    best = max(counts, key=lambda count: (right[count][0], count))
    for count, shares in right.items():
        shown = [f"{share:.4f}" for share in shares]
        table.add_row(f"{count}{'  <- best on val' if count == best else ''}", *shown)
    Console().print(table)


class Probe:
    """What both ask of a checkpoint and labelled data; a context, within which a stop ends it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        folder = checkpoint_folder(options.init_from)
        self.model, self.description = load_checkpoint(folder)
        spec = self.model.spec
        grid = Grid.parse(options.grid) if options.grid else spec.training_grid
        if grid.axes != len(spec.patch):
            raise SpecError(f"grid {grid} has {grid.axes} axes, the model {len(spec.patch)}")
        self.config = _config(options, self.description, grid)
        beside = options.init_from.absolute().parent
        self.features_folder = options.features or beside / KEPT
        self.progress = Progress()
        self._until_end = contextlib.ExitStack()

    def __enter__(self) -> Probe:
        with self._until_end as entered:
            entered.enter_context(Stop())
            entered.enter_context(self.progress)
            self._open(entered)
            self._until_end = entered.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._until_end.__exit__(*error)

    def _open(self, until_end: contextlib.ExitStack) -> None:
        """The data, read for their digests, and the network where it shall run."""
        options, config = self.options, self.config
        digests_folder = Run(options.init_from).digests(None)
        dataset = data.open_data(config, indexing=self.progress.indexing, kept=digests_folder)
        self.progress.say([how_split(dataset.rule, dataset.made), *about_source(dataset)])
        dataset.split("val")
        self.contents = self._read(dataset, digests_folder)
        if config.workers:
            place = until_end.enter_context(tempfile.TemporaryDirectory(prefix="liere-index-"))
            dataset = dataset.kept(Path(place) / "index")
        self.dataset = dataset
        body = without_head(self.model, self.description.input)
        self.extractor = Extractor(
            body.to(pick_device(config.device)), self.description, config.model.training_grid,
            self.features_folder, config.batch, config.workers, self.progress,
        )  # fmt: skip

    def _read(self, dataset: Dataset, folder: Path) -> Mapping[str, Contents]:
        """What every split holds; SourceError where bytes lie in two of them and may not."""
        digests = Digests(dataset, folder)
        if missing := len(digests.missing()):
            with self.progress.reading(missing) as advance:
                digests.complete(advance, workers=max(1, self.config.workers))
        contents = digests.contents()
        self.duplicates = find_duplicates({split: contents[split] for split in USED})
        if not self.config.allow_duplicates:
            self.duplicates.check(dataset)
        self.progress.say(about_duplicates(self.duplicates.as_json()))
        return contents

    def features(self, split: str) -> Features:
        """Of a split, N items."""
        contents, skips = self.contents[split], self.config.skip_unreadable
        return self.extractor.split(self.dataset, split, contents, skips)

    def write(
        self, run: Run, best: Head, heads: Sequence[Head], training: Features, validation: Features
    ) -> None:
        """A run of one epoch, whose only checkpoint has the head."""
        config = dataclasses.replace(
            self.config,
            model=dataclasses.replace(self.config.model, classes=len(self.dataset.labels)),
            allow_duplicates=self.config.allow_duplicates or bool(self.duplicates.across),
        )
        model = VisionTransformer(config.model, config.input)
        notes: dict[str, Any] = {
            "init": finetune.adopt(model, config, self.dataset.labels),
            "config": to_json(config),
            "data": data.describe(
                self.dataset, self.contents, self.duplicates, training, validation
            ),
            "fingerprint": {split: fingerprint(self.dataset, split) for split in USED},
            "probe": {
                "penalty": best.penalty, "penalties": [head.as_json() for head in heads],
            },
            "history": [],
        }
        with torch.no_grad():
            model.head.weight.copy_(torch.from_numpy(best.weight))
            model.head.bias.copy_(torch.from_numpy(best.bias))
        record = {"step": 1, "epoch": 1, "loss": best.loss, "rate": 0.0}
        record |= {f"val_{name}": value for name, value in best.record.items()}
        notes |= {"step": 1, "measured": 1, "losses": 0.0, "best": record}
        run.begin()
        run.log(record)
        run.save(
            State(model, make_optimiser(model, config)), config.input, self.dataset.labels, notes
        )


@dataclasses.dataclass(frozen=True)
class Head:
    """What was fitted under one penalty.

    Attributes:
        weight: float32 [classes, F], of features as they are.
        bias: float32 [classes].
        loss: of the training items, nats.
        record: what ``training.evaluate.measured`` says of the validation split.
        steps: of the fit; where they are STEPS it was not done.
    """

    penalty: float
    weight: np.ndarray
    bias: np.ndarray
    loss: float
    record: dict[str, float]
    steps: int

    def as_json(self) -> dict[str, Any]:
        """Without the weights."""
        kept = {name: getattr(self, name) for name in ("penalty", "loss", "steps")}
        return kept | {f"val_{name}": value for name, value in self.record.items()}

    def __str__(self) -> str:
        unfinished = f", ended after {self.steps} steps" * (self.steps >= STEPS)
        return (
            f"penalty {self.penalty:.2g}: train loss {self.loss:.3f}, val top-1 "
            f"{self.record['top1']:.4f}, val loss {self.record['loss']:.3f}{unfinished}"
        )


def fitted(
    training: Features, validation: Features, labels: tuple[str, ...], progress: Progress
) -> list[Head]:
    """A head for each penalty, the strongest first.

    Features are centred and scaled for the fit, and the head takes that over: it reads features as
    they are. One that is the same for all items counts nothing.

    Raises:
        SourceError: a class has no training items, as all of them were left out.
    """
    if absent := np.flatnonzero(np.bincount(training.labels, minlength=len(labels)) == 0).tolist():
        raise SourceError(f"no item of class {labels[absent[0]]!r} to train on can be read")
    mean = training.rows.mean(axis=0, dtype=np.float64)  # [F]
    deviation = training.rows.std(axis=0, dtype=np.float64)  # [F]
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 1e-6)
    inputs = ((training.rows - mean) * scale).astype(np.float32)  # [N, F]
    held = ((validation.rows - mean) * scale).astype(np.float32)
    heads, regression = [], LogisticRegression(warm_start=True, max_iter=STEPS, tol=TOLERANCE)
    threads = 1 if inputs.size * len(labels) < FEW_PRODUCTS else None
    with (
        progress.fitting(len(PENALTIES)) as advance,
        threadpool_limits(threads),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)  # a head tells how many steps it had
        for penalty in PENALTIES:
            regression.C = 1 / (penalty * len(inputs))
            regression.fit(inputs, training.labels)
            weight, bias = regression.coef_, regression.intercept_  # [classes, F], [classes]
            if len(labels) == 2:  # scikit-learn fits the difference alone, [1, F] and [1]
                weight, bias = np.concatenate([-weight, weight]) / 2, np.append(-bias, bias) / 2
            loss = measured(inputs @ weight.T + bias, training.labels)["loss"]
            record = measured(held @ weight.T + bias, validation.labels)
            plain = weight * scale  # [classes, F]
            heads.append(
                Head(
                    penalty, plain.astype(np.float32), (bias - plain @ mean).astype(np.float32),
                    loss, record, int(regression.n_iter_.max()),
                )
            )  # fmt: skip
            advance(1)
    return heads


def chosen(heads: Sequence[Head], choose: str, items: int) -> Head:
    """By the validation split, of so many items.

    Of shares the strongest penalty within a standard error of the best (Breiman et al., 1984,
    Classification and Regression Trees, section 3.4.3): a weaker one would win by chance, and its
    large weights also multiply every rounding of a feature.
    """
    if choose == "loss":
        return min(heads, key=lambda head: head.record["loss"])
    best = max(head.record[choose] for head in heads)
    error = (best * (1 - best) / items) ** 0.5
    return next(head for head in heads if head.record[choose] >= best - error)


def votes(training: Features, held: Features, neighbours: int) -> float:
    """The share of held-out items whose nearest training items vote for their label."""

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / TEMPERATURE)

    search = KNeighborsClassifier(neighbours, weights=weights, metric="cosine", algorithm="brute")
    search.fit(training.rows, training.labels)
    return float((search.predict(held.rows) == held.labels).mean())


def _config(options: argparse.Namespace, description: Description, grid: Grid) -> TrainConfig:
    """As a run of one epoch, in which nothing but the head learns, would have it."""
    model = dataclasses.replace(
        description.model, classes=0, grid=grid.size, dropout=0.0, drop_path=0.0
    )
    return TrainConfig(
        str(options.data), model, description.input, init_from=str(options.init_from), head="new",
        freeze=model.depth, epochs=1, batch=options.batch, augment=Augment(flip=False),
        choose=getattr(options, "choose", "top1"), device=options.device,
        workers=options.workers, skip_unreadable=options.skip_unreadable,
        allow_duplicates=options.allow_duplicates,
    )  # fmt: skip


def _ended(work: Callable[[], None]) -> int:
    try:
        work()
    except BAD_INPUT as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FAILED as error:
        settings = error.settings if isinstance(error, NoBatch) else ()
        ways = " or ".join(f"--{setting.replace('=', ' ')}" for setting in settings)
        print(f"error: {error}{ways and f'; try {ways}'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Stopped as stopped:
        print(f"stopped by {stopped}", file=sys.stderr)
        return stopped.status
    return 0


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    _, *rest = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(
        prog=f"python -m training {name}",
        description=description,
        epilog="\n\n".join(rest),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--init-from", type=Path, required=True, metavar="CHECKPOINT",
        help="a run (its best checkpoint) or a checkpoint; its head is not used")  # fmt: skip
    add("--data", type=Path, required=True, help="labelled media, as training takes them")
    if name == "linear-probe":
        add("--out", type=Path, required=True, help="folder of the run")
        add("--choose", choices=("top1", "balanced_accuracy", "loss"), default="top1",
            help="what the penalty is chosen by, on validation (default: top1)")  # fmt: skip
        add("--no-report", action="store_true", help="end without the report")
    add("--grid", metavar="16x16", help="tokens per axis (default: those of the checkpoint)")
    add("--features", type=Path, metavar="FOLDER",
        help=f"that keeps features (default: {KEPT} beside the checkpoint's run)")  # fmt: skip
    add("--batch", type=int, default=64, metavar="N", help="items at a time (default: 64)")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N",
        help="processes that read ahead, 0 for none (default: one for each processor)")  # fmt: skip
    add("--device", choices=("auto", "cpu", "cuda"), default="auto",
        help="(default: a GPU where there is one)")  # fmt: skip
    add("--skip-unreadable", action="store_true", help="leave broken items out, named")
    add("--allow-duplicates", action="store_true",
        help="go on where the same bytes lie in two splits")  # fmt: skip
    return parser
