"""A loss or a gradient that is not finite stops the run on that step and names the items."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import training.augment.mixing
import training.loop
import training.step
from benchmarks.kill_training import is_readable, outcome
from models.checkpoint import load_checkpoint, read_description
from tests.helpers import training_runs
from tests.helpers.training_runs import Chatter, check_refused, command
from training.__main__ import main
from training.step import NotFinite, Setup, Taken, check_loss

pictures, finished = training_runs.pictures, training_runs.finished

#: The step at which something breaks, one after a checkpoint, and the items of its batch that do.
STEP, ROWS = 3, [1, 6]


class Spy:
    """What there was at the step that broke: the batch and everything that could have moved."""

    def __init__(self) -> None:
        self.step = -1
        self.partner = np.arange(8)

    def look(self, setup: Setup, samples: np.ndarray, step: int) -> None:
        self.step, self.setup = step, setup
        if step == STEP:
            self.ids = [setup.training.ids[sample] for sample in samples]
            self.before = copy.deepcopy(self.moving())

    def moving(self) -> list[Tensor]:
        return [*self.setup.state.tensors().values(), *self.setup.model.state_dict().values()]

    def unmoved(self) -> bool:
        return all(map(torch.equal, self.before, self.moving()))


def watch(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """Looks on while batches are made, and at who is mixed with whom."""
    spy = Spy()
    make_batch, partners = training.step.make_batch, training.augment.mixing.partners

    def made(setup: Setup, samples: np.ndarray, step: int) -> tuple[Tensor, Tensor]:
        spy.look(setup, samples, step)
        return make_batch(setup, samples, step)

    def paired(draws: np.ndarray, circle: int | None) -> np.ndarray:
        spy.partner = partners(draws, circle)
        return spy.partner

    monkeypatch.setattr(training.step, "make_batch", made)
    monkeypatch.setattr(training.augment.mixing, "partners", paired)
    return spy


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return watch(monkeypatch)


def break_pixels(monkeypatch: pytest.MonkeyPatch, spy: Spy) -> None:
    """Some items of one step lose a pixel to a nan, before items are mixed."""
    original = training.step.augment

    def augment(*arguments: Any) -> Tensor:
        images = original(*arguments).float()
        if spy.step == STEP:
            images[ROWS, 2, 3] = math.nan
        return images

    monkeypatch.setattr(training.step, "augment", augment)


def break_gradient(monkeypatch: pytest.MonkeyPatch, spy: Spy) -> None:
    """The gradient of one weight overflows in one step; the loss does not."""
    original = training.step.autocast

    def autocast(*arguments: Any) -> Any:
        weight = spy.setup.model.head.weight
        if spy.step == STEP and not weight._backward_hooks:
            weight.register_hook(lambda gradient: gradient * math.inf)
        return original(*arguments)

    monkeypatch.setattr(training.step, "autocast", autocast)


def check_stopped(out: Path, spy: Spy, samples: list[str]) -> None:
    """Nothing moved, nothing was lost, and the items are written down."""
    evidence = json.loads((out / "not-finite.json").read_text())
    assert (evidence["step"], evidence["samples"]) == (STEP, samples)
    assert spy.unmoved()
    assert is_readable(out)
    assert read_description(out / "last").notes["step"] == 2
    model, _ = load_checkpoint(out / "last")
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("mixed", [(), ("augment.mixup=0.4", "augment.cutmix=1.0")])
def test_loss_that_is_not_finite_names_the_guilty(
    pictures: Path,
    tmp_path: Path,
    capsys: Chatter,
    monkeypatch: pytest.MonkeyPatch,
    spy: Spy,
    parts: int,
    mixed: tuple[str, ...],
) -> None:
    """Of a batch in parts too: the broken items, those that they were mixed into, and no other."""
    break_pixels(monkeypatch, spy)
    arguments = command(pictures, tmp_path / "run", f"accumulate={parts}", "ema=0.9", *mixed)
    message = rf"the loss is nan at step {STEP}; from \d items: train/"
    check_refused(arguments, capsys, message, "the last good checkpoint is kept in", status=1)
    touched = [row in ROWS or (bool(mixed) and spy.partner[row] in ROWS) for row in range(8)]
    check_stopped(tmp_path / "run", spy, [spy.ids[row] for row in np.flatnonzero(touched)])


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("clip", [0, 0.5])
def test_gradient_that_is_not_finite_names_the_batch(
    pictures: Path,
    tmp_path: Path,
    capsys: Chatter,
    monkeypatch: pytest.MonkeyPatch,
    spy: Spy,
    parts: int,
    clip: float,
) -> None:
    """A finite loss may have a gradient that is none; clipped or not, no weight takes it."""
    break_gradient(monkeypatch, spy)
    settings = (f"accumulate={parts}", f"clip_norm={clip}", "ema=0.9")
    arguments = command(pictures, tmp_path / "run", *settings)
    message = rf"the length of the gradient is (nan|inf) at step {STEP}; from 8 items: train/"
    check_refused(arguments, capsys, message, "the last good checkpoint is kept in", status=1)
    check_stopped(tmp_path / "run", spy, spy.ids)


def test_run_that_was_not_finite_goes_on_when_it_is(
    finished: Path, pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """What a faulty memory broke once is not broken for good, nor does the evidence stay."""
    with pytest.MonkeyPatch.context() as patched:
        break_pixels(patched, watch(patched))
        check_refused(command(pictures, tmp_path / "run"), capsys, "the loss is nan", status=1)
    assert main(command(pictures, tmp_path / "run", resume=True)) == 0
    assert outcome(tmp_path / "run") == outcome(finished)


def test_rate_that_is_too_high_stops_the_run(
    pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """Without any fault put in: weights explode, the next loss is nan, the first ones are kept."""
    arguments = command(pictures, tmp_path / "run", "learning_rate=1e30")
    check_refused(arguments, capsys, r"the loss is nan at step 1; from 8 items: train/", status=1)
    assert read_description(tmp_path / "run" / "last").notes["step"] == 0
    assert is_readable(tmp_path / "run")


def test_weights_that_are_not_finite_are_never_saved(
    pictures: Path, tmp_path: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However they came to be: such weights do not replace good ones."""
    original = training.loop.train_step

    def poisoned(setup: Setup, samples: np.ndarray, step: int, *arguments: Any) -> Taken:
        taken = original(setup, samples, step, *arguments)
        if step == STEP:
            setup.model.head.bias.data[1] = math.nan
        return taken

    monkeypatch.setattr(training.loop, "train_step", poisoned)
    message = r"head\.bias is not finite after step 4"
    check_refused(command(pictures, tmp_path / "run"), capsys, message, status=1)
    assert read_description(tmp_path / "run" / "last").notes["step"] == 2


def test_losses_that_only_together_are_too_large_name_the_batch() -> None:
    """Each is finite and their sum is not: nobody is guilty alone."""
    setup: Any = SimpleNamespace(training=SimpleNamespace(ids=("a", "b", "c")))
    with pytest.raises(NotFinite, match="the loss is inf at step 7; from 2 items: c, a") as caught:
        check_loss(torch.tensor([3e38, 3e38]), setup, np.array([2, 0]), 7)
    assert (caught.value.step, caught.value.samples) == (7, ["c", "a"])
