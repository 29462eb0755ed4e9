"""A run in order: what it needs, its steps, what is measured and kept."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from media.contents import Contents
from media.dataset import Prepared
from media.index import Dataset, Digests
from media.sources import RULE
from media.strict_json import to_json
from models.vit import VisionTransformer
from training import data, finetune, history, memory
from training.about_data import about_source, how_split
from training.batches import Batches, NoBatch
from training.checks import (
    check_compiler,
    check_modality,
    check_precision,
    check_processes,
    check_skipped,
    check_steps,
    pick_device,
)
from training.config import TrainConfig
from training.curves import Curves
from training.evaluate import evaluate, validating
from training.identity import Identity
from training.listed import Listed, is_too_large, reads_each_step
from training.loader import Loader
from training.optim import (
    freeze,
    learning_rate,
    make_average,
    make_loss_scale,
    make_optimiser,
)
from training.order import order_of
from training.processes import ALONE, Processes
from training.progress import Progress
from training.report.report import make_report
from training.run import Run, State
from training.shared_run import SharedRun, agree, find_device, share_state, told_of
from training.shared_stop import SharedStop
from training.step import NotFinite, Setup, Taken, check, train_step
from training.stopping import Stop, Stopped

#: Training losses drawn for an epoch, besides the figures at its end.
CURVE_POINTS = 20


def train(
    config: TrainConfig,
    root: Path,
    resume: bool = False,
    report: bool = True,
    rule: int = RULE,
    *,
    verify_data: bool = False,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Train, or continue, one run; returns the metrics of its best checkpoint.

    Args:
        report: measure the best checkpoint and write the report page at the end.
        rule: by which a new run makes missing splits; one that is resumed keeps its own.
        verify_data: read all items before the first step, however long that takes, also those
            whose digests are kept.
        processes: that take its steps together; each of them makes this call.

    Raises:
        SpecError, SourceError, CheckpointError: bad input, with what was expected and what came.
        FileExistsError: the folder is in use and ``resume`` was not asked for.
        FloatingPointError: the loss, a gradient or a weight is not finite.
        OutOfMemory: with what to lower.
        Stopped: SIGTERM or SIGINT came; the last whole step is saved.
        Ended: another process of the run has ended.
    """
    several = processes.size > 1
    run = SharedRun(root, processes) if several else Run(root)
    run.check(resume)
    with SharedStop(processes) if several else Stop() as stop:
        with Progress(processes.writer) as progress:
            setup, notes = set_up(
                config, run, resume, progress, rule, verify_data=verify_data, processes=processes
            )
            fit(setup, run, notes, stop, progress)
            del setup  # the report decodes its own splits
        if report:  # the checkpoint may know an older place of the data
            allowed = config.skip_unreadable, config.allow_duplicates
            make_report(root, Path(config.data), *allowed, processes)
    return notes["best"]


def set_up(
    config: TrainConfig,
    run: Run,
    resume: bool,
    progress: Progress,
    rule: int = RULE,
    *,
    verify_data: bool = False,
    processes: Processes = ALONE,
) -> tuple[Setup, dict[str, Any]]:
    """Everything that the steps need, and what the run remembers.

    Whatever can be known without decoding is checked first.
    """
    device = _begin(config, processes)
    rule = data.rule_of(run.notes()["data"]) if resume else rule
    dataset = _open(config, rule, run.digests(config.cache), progress, processes)
    config = dataclasses.replace(config, model=data.with_classes(config.model, dataset))
    notes: dict[str, Any] = {"step": 0, "measured": 0, "losses": 0.0, "best": None, "history": []}
    if resume:
        notes = run.notes()
        data.check_labels(notes, dataset)
        if change := history.change_to(config, notes):
            notes["history"] = [*notes.get("history", []), to_json(change)]
        finetune.check_origin(notes, config)
    used = data.thin(dataset, "train", config.items)
    used.split("val")
    check_steps(config, len(used.split("train")), notes["step"])
    check_skipped(config, dataset, used)
    torch.manual_seed(config.seed)  # initial weights only; every later draw names its step
    model = VisionTransformer(config.model, config.input)
    if config.init_from and not resume and processes.writer:
        notes["init"] = finetune.adopt(model, config, dataset.labels)
        progress.begins(notes["init"])
    freeze(model.to(device), config.freeze)
    state = State(
        model,
        make_optimiser(model, config),
        make_average(model, config.ema),
        make_loss_scale(config, device),
    )
    if resume:
        run.restore(state)
    share_state(state, processes)
    if not config.skip_unreadable:
        check_modality(config, used)
    begun, cached = dict(notes) if resume else None, config.cache is not None
    with processes.leader_first():  # others find what it has read beside the run
        digests = Digests(dataset, run.digests(config.cache))
        if verify_data and processes.writer:
            digests.forget()  # a file may change and keep its size and time
        identity = Identity(dataset, digests, config, begun, progress)
        known = identity.begin if processes.writer else identity.follow
        known(cached or processes.writer and verify_data)  # a cache's names are hashes of contents
    cache, contents = run.cache(config.cache), identity.contents
    training, validation = _splits(used, config, contents, progress, cache, processes)
    check_steps(config, len(training.ids), notes["step"])  # unreadable items may be left out
    described = identity.kept(
        data.describe(dataset, contents, identity.duplicates, training, validation)
    )
    if (described["duplicates"] or {}).get("across"):  # also to whoever goes on with this run
        config = dataclasses.replace(config, allow_duplicates=True)
    if resume:
        data.check_read(notes, described)
        if change:  # said once nothing refuses it
            progress.goes_on(change)
    notes |= {"config": to_json(config), "data": described, "fingerprint": identity.fingerprint}
    weights = loss_weights(config, training.labels, len(dataset.labels), device)
    pending = identity.pending() if processes.writer else None
    splits = training, validation, dataset.labels
    return Setup(config, state, *splits, weights, pending, processes=processes), notes


def _begin(config: TrainConfig, processes: Processes) -> torch.device:
    """The device of this process, which the settings fit, as the processes do."""
    check_processes(config, processes)  # which all of them know alike

    def find() -> torch.device:
        device = pick_device(config.device, processes)
        check_compiler(config, device)
        check_precision(config, device)
        return device

    device = find_device(processes, find)
    processes.begin(device, config.timeout)
    return device


def _open(
    config: TrainConfig, rule: int, kept: Path, progress: Progress, processes: Processes
) -> Dataset:
    """The data, which are the same to all processes."""
    with processes.leader_first():  # indexes of shards are made once
        dataset = data.open_data(config, rule, progress.indexing, kept)
    agree(processes, "the data", lambda: told_of(dataset))
    progress.say([how_split(dataset.rule, dataset.made), *about_source(dataset)])
    return dataset


def _splits(
    dataset: Dataset,
    config: TrainConfig,
    contents: Mapping[str, Contents] | None,
    progress: Progress,
    cache: Path | None,
    processes: Processes,
) -> list[Prepared | Listed]:
    """What is trained on and what is measured on, decoded or listed.

    Without a cache every process holds what it has decoded.
    """
    splits: list[Prepared | Listed] = []
    with memory.told("while decoding", memory.smaller_decoding(config)):
        for split, listed in (("train", reads_each_step), ("val", is_too_large)):
            how, found = data.wanted(config, split), contents[split] if contents else None
            items = len(dataset.split(split)) * processes.local_size
            if processes.highest(listed(config, items, how)):
                splits.append(Listed(dataset, split, how))
                continue
            first = processes.leader_first() if cache else contextlib.nullcontext()
            with first:
                splits.append(
                    data.prepare(dataset, split, config, progress, cache, contents=found)
                )
    return splits


def loss_weights(
    config: TrainConfig, labels: np.ndarray, classes: int, device: torch.device
) -> torch.Tensor | None:
    """What an item of each class counts in the loss, [classes]; None where all count alike."""
    if config.class_weights != "balanced":
        return None
    return torch.from_numpy(data.class_weights(labels, classes)).to(device)


def fit(setup: Setup, run: Run, notes: dict[str, Any], stop: Stop, progress: Progress) -> None:
    """Every step from ``notes["step"]`` to the last; ``notes`` follows along."""
    with stop.deferred():
        if run.exists():
            run.keep_history(history.read_changes(notes.get("history", [])))
        else:
            run.begin()
            run.save(setup.state, setup.config.input, setup.labels, notes)
        if setup.config.compile:
            setup.model.compile(dynamic=False)
        first, reading = notes["step"], setup.pending or contextlib.nullcontext()
        writer = setup.processes.writer
        with (
            reading,
            Curves(run.curves, first) if writer else contextlib.nullcontext() as curves,
            read_ahead(setup, run, first, stop) as ready,
        ):
            Fit(ready, run, notes, stop, progress, curves).steps()


@contextlib.contextmanager
def read_ahead(setup: Setup, run: Run, first: int, stop: Stop) -> Iterator[Setup]:
    """With a loader of the steps from ``first`` on, where items are read in each step."""
    config = setup.config
    training, validation = setup.training, setup.validation
    listed = [split for split in (training, validation) if isinstance(split, Listed)]
    with contextlib.ExitStack() as until_end:
        if listed and config.workers:
            until_end.callback(run.drop_arrays)
            kept = run.keep_index(listed[0].dataset)
            training, validation = (
                dataclasses.replace(split, dataset=kept) if isinstance(split, Listed) else split
                for split in (training, validation)
            )
            setup = dataclasses.replace(setup, training=training, validation=validation)
        if isinstance(training, Listed):
            total = len(training.ids) // config.batch * config.epochs
            device = setup.model.device
            batches = Batches(training, config, setup.processes.rows(config.batch))
            with stop.together():
                loader = Loader(batches, first, total, device, stop.check)
            until_end.callback(loader.close)
            setup = dataclasses.replace(setup, loader=loader)
        yield setup


class Step(NamedTuple):
    """One step that was taken; what it came to may still be computed."""

    step: int
    samples: np.ndarray  # [B], indices into the training split
    rate: float
    taken: Taken


class Fit:
    """The steps of one run, and what is kept of them."""

    def __init__(
        self,
        setup: Setup,
        run: Run,
        notes: dict[str, Any],
        stop: Stop,
        progress: Progress,
        curves: Curves | None,
    ) -> None:
        self.setup, self.run, self.notes = setup, run, notes
        self.stop, self.progress, self.curves = stop, progress, curves
        self.per_epoch = len(setup.training.ids) // setup.config.batch
        self.total = self.per_epoch * setup.config.epochs
        self.saved = notes["step"]
        self.seconds: list[float] = []  # a step, at every look of this process
        self.taken: list[Step] = []  # and not looked at

    def steps(self) -> None:
        """To the end of the run.

        A stop saves first, and so does a batch that cannot be read; what is not finite leaves its
        evidence.
        """
        self.progress.start(self.total, self.notes["step"], self.setup.config.batch)
        try:
            try:
                self._steps()
            except (Stopped, NoBatch):
                if self.saved < self.notes["step"]:
                    self._save()
                raise
        except NotFinite as error:
            self._keep_evidence(error)
            if error.step == self.saved:
                raise self._from_before(error) from error
            raise

    def _steps(self) -> None:
        """Measure where an epoch has ended, stop where asked, else take a step."""
        config, notes = self.setup.config, self.notes
        while True:
            step = notes["step"]
            if step % self.per_epoch == 0 and notes["measured"] < step:
                self._end_epoch()
                self._save()
            elif step % config.save_every == 0 and self.saved < step:
                self._save()
            if ended := self._ended():
                self.progress.say([f"ends after epoch {step // self.per_epoch}: {ended}"])
            if step == self.total or ended:
                self.run.prove()  # by its validation: no step follows
                return
            self.stop.check()
            self._step(step)

    def _step(self, step: int) -> None:
        setup, config = self.setup, self.setup.config
        epoch, position = divmod(step, self.per_epoch)
        if position == 0 or step == self.saved:  # also the first of a resumed run
            self.order = order_of(setup, epoch)
        if position == 0:
            self.notes["losses"] = 0.0
        samples = self.order[position * config.batch : (position + 1) * config.batch]
        rate = learning_rate(config, step, self.total)
        if not self.taken:
            self.since = time.perf_counter()
        processes = setup.processes.size
        doing = f"in step {step}, {config.items_at_a_time // processes} items at a time"
        with (
            self.stop.at_once(step == self.saved),  # torch.compile may take minutes in there
            memory.told(doing, memory.smaller_steps(config, processes)),
        ):
            taken = train_step(setup, samples, step, rate, self.stop)
        self.taken.append(Step(step, samples, rate, taken))
        self.notes["step"] = step + 1
        if step == self.saved:
            self._look()
            self.run.prove()
        elif (step + 1) % setup.log_every == 0:
            self._look()

    def _look(self) -> None:
        """At what the steps since the last look came to; here a GPU is waited for.

        Raises:
            NotFinite: the first of them that is not; nothing is known of those after it.
        """
        self._settle()
        if not self.taken:
            return
        taken, self.taken = self.taken, []
        pairs = [torch.stack([one.taken.loss, one.taken.gradient_norm]) for one in taken]
        values = torch.stack(pairs).tolist()  # [steps, 2]
        self.seconds.append((time.perf_counter() - self.since) / len(taken))
        for one, (loss, norm) in zip(taken, values, strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                check(self.setup, one.samples, one.step, one.taken)
            self._note(one, loss, norm)

    def _settle(self, wait: bool = False) -> None:
        """What has become known of the data beside the steps; it may end the run."""
        if self.setup.pending:
            self.setup.pending.settle(self.notes, self.stop, wait)

    def _note(self, one: Step, loss: float, norm: float) -> None:
        self.notes["losses"] += loss
        self.progress.step(loss)
        every = max(1, self.per_epoch // CURVE_POINTS)
        if self.curves and (one.step % self.per_epoch + 1) % every == 0:
            values = {"loss": loss, "rate": one.rate, "gradient_norm": norm}
            self.curves.add(
                one.step + 1, {f"train/{name}": value for name, value in values.items()}
            )

    def _end_epoch(self) -> None:
        """Measure on the validation split, and remember the result if it is the best so far."""
        setup, notes = self.setup, self.notes
        self._look()
        with self.stop.together():
            self._settle(wait=True)  # no measured checkpoint lacks the hashes of its data
        check_finite(setup.model, notes["step"])
        processes = setup.processes
        items = setup.config.items_at_a_time // processes.size
        doing = f"while measuring after step {notes['step']}, {items} items at a time"
        device = setup.model.device
        with (
            memory.told(doing, memory.smaller_passes(setup.config, processes.size)),
            validating(setup.config.precision, device),
        ):
            measured = evaluate(
                setup.state.measured(), setup.validation, items, self.stop,
                setup.config.workers, processes,
            )  # fmt: skip
        measured = processes.from_writer(lambda: measured)  # nobody differs by a last bit
        if not math.isfinite(measured["loss"]):
            what = f"the validation loss is {measured['loss']} after step {notes['step']}"
            raise NotFinite(what, notes["step"], [])
        rate = learning_rate(setup.config, notes["step"] - 1, self.total)
        record = {
            "step": notes["step"],
            "epoch": notes["step"] // self.per_epoch,
            "loss": notes["losses"] / self.per_epoch,
            "rate": rate,
        } | {f"val_{name}": value for name, value in measured.items()}
        self.run.log(record | {"time": time.time()})
        if self.curves:
            self.curves.add(
                notes["step"], {f"val/{name}": value for name, value in measured.items()}
            )
            self.curves.flush()
        self.progress.epoch(record)
        if is_better(record, notes["best"], setup.config.choose):
            notes["best"] = record
        notes["measured"] = notes["step"]
        if self.seconds:  # none where a run was resumed at the end of an epoch
            notes["step_seconds"] = statistics.median(self.seconds)

    def _ended(self) -> str:
        """Why no step follows although there are some left, in words; empty where one does."""
        config, notes = self.setup.config, self.notes
        if not config.patience or not notes["best"] or notes["measured"] < notes["step"]:
            return ""
        waited = notes["step"] // self.per_epoch - notes["best"]["epoch"]
        if notes["step"] == self.total or waited < config.patience:
            return ""
        return f"no better val_{config.choose} for {waited} epochs (patience {config.patience})"

    def _keep_evidence(self, error: NotFinite) -> None:
        """Write down what came and from where; a full disk does not hide it."""
        try:
            self.run.keep_evidence(error.step, str(error), error.samples)
        except OSError as unwritten:
            raise FloatingPointError(f"{error} (not written down: {unwritten})") from error

    def _from_before(self, error: NotFinite) -> NotFinite:
        """Nothing finite came from ``last``, whose weights may be to blame: put it back by one."""
        before = self.run.go_back()
        then = f"; step {self.saved}'s weights gave no finite step: "
        then += (
            "no checkpoint is kept from before it; where no other setting helps, start anew"
            if before is None
            else f"went back to step {before}"
        )
        return NotFinite(error.what, error.step, error.samples, then)

    def _save(self) -> None:
        """A checkpoint of finite weights; anything else would replace the last good one."""
        self._look()
        check_finite(self.setup.model, self.notes["step"])
        self.notes["ended"] = self._ended()
        self.run.save(self.setup.state, self.setup.config.input, self.setup.labels, self.notes)
        self.saved = self.notes["step"]


def check_finite(model: VisionTransformer, step: int) -> None:
    """NotFinite names a weight that is not finite."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise NotFinite(f"{name} is not finite after step {step}", step, [])


def is_better(record: dict[str, Any], best: dict[str, Any] | None, choose: str) -> bool:
    """Whether an epoch's record is above the best one (below it, for the loss)."""
    if best is None or choose == "last":
        return True
    key = f"val_{choose}"
    return record[key] < best[key] if choose == "loss" else record[key] > best[key]
