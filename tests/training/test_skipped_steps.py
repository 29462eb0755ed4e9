"""A step that is not finite moves nothing, on the device, and is named at the next look."""

from __future__ import annotations

import copy
import json
import math
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.host_synchronisations import make_setup
from benchmarks.kill_training import outcome
from models.checkpoint import load_tensors, read_description
from tests.helpers import training_runs
from tests.helpers.training_runs import Chatter, before, check_refused, command
from tests.training.test_not_finite import STEP, break_pixels, watch
from training.__main__ import main
from training.optim import Average, LossScale, learning_rate, make_average
from training.settings import override
from training.step import NotFinite, Setup, Taken, check, train_step

pictures = training_runs.pictures

SAMPLES = np.arange(16)


def take(setup: Setup, step: int, factor: float = 1.0) -> Taken:
    """A step whose gradient is multiplied by a factor; its loss is not."""
    hook = setup.model.head.weight.register_hook(lambda gradient: gradient * factor)
    taken = train_step(setup, SAMPLES, step, 1e-2)
    hook.remove()
    return taken


def everything(setup: Setup) -> dict[str, torch.Tensor]:
    state = setup.state
    weights = {f"measured.{k}": v for k, v in state.measured().state_dict().items()}
    assert state.average is not None
    return copy.deepcopy(state.tensors() | weights | {"updates": state.average.updates})


def updates_in(tensors: dict[str, torch.Tensor]) -> int:
    """That the optimiser has made: of its parameters, those that have a gradient count them."""
    counts = [int(t) for name, t in tensors.items() if re.match(r"optimiser\.\d+\.step", name)]
    return max(counts, default=0)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("broken", [math.inf, math.nan])
def test_skipped_step_is_as_if_never_taken(fused: bool, broken: float) -> None:
    """Weights, means, counters and average: the first step of all or a later one."""
    setups = [make_setup(fused=fused, ema=0.9, clip_norm=0.5) for _ in range(2)]
    for step in range(3):
        with pytest.raises(NotFinite, match=f"the length of the gradient is .* at step {step}"):
            check(setups[0], SAMPLES, step, take(setups[0], step, broken))
        for setup in setups:
            check(setup, SAMPLES, step, take(setup, step))
        one, other = map(everything, setups)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert one["updates"] == updates_in(one) == 3


def test_overflow_of_a_scaled_loss_is_no_error() -> None:
    """The step is left out and the scale halved; a scale that no longer helps is one."""
    setup = make_setup(precision="fp16", ema=0.9)
    scale = setup.state.loss_scale
    assert scale is not None
    scale.factor.fill_(2.0**10)
    check(setup, SAMPLES, 0, take(setup, 0))
    weights = everything(setup)
    check(setup, SAMPLES, 1, take(setup, 1, math.inf))
    now = everything(setup)
    assert (scale.factor, scale.steps) == (2.0**9, 0)
    assert {n for n in now if not torch.equal(now[n], weights[n])} == {
        "loss_scale.factor", "loss_scale.steps"
    }  # fmt: skip
    scale.factor.fill_(1.0)
    with pytest.raises(NotFinite, match="the length of the gradient is inf at step 2"):
        check(setup, SAMPLES, 2, take(setup, 2, math.inf))


def test_scaled_loss_gives_the_gradient_that_it_would_have_unscaled() -> None:
    """Clipping sees it unscaled too: its length does not depend on the scale."""
    lengths = []
    for factor in (1.0, 2.0**10):
        setup = make_setup(precision="fp16", clip_norm=0.01)
        assert setup.state.loss_scale is not None
        setup.state.loss_scale.factor.fill_(factor)
        norm = take(setup, 0).gradient_norm.item()
        gradients = [p.grad for p in setup.model.parameters() if p.grad is not None]
        clipped = torch.nn.utils.get_total_norm(gradients).item()
        assert clipped == pytest.approx(0.01, rel=1e-3)
        lengths.append(norm)
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-2)


def test_average_is_that_of_torch() -> None:
    """Bit for bit, as runs so far have it: the first is taken over, then ever slower."""
    model = make_setup().model

    def follow(average: Any, current: Any, updates: Any) -> None:
        share = min(0.4, (1 + float(updates)) / (10 + float(updates)))
        torch._foreach_lerp_(average, current, 1 - share)

    mine, theirs = make_average(model, 0.4), AveragedModel(model, multi_avg_fn=follow)
    assert mine is not None
    for _ in range(9):
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter))
        mine.update_parameters(model)
        theirs.update_parameters(model)
        pairs = zip(mine.module.parameters(), theirs.module.parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)


class Calls(TorchDispatchMode):
    """Names of the operations that get lists of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        if str(function).startswith("aten._foreach"):
            self.names.append(str(function))
        return function(*arguments, **options or {})


def test_average_on_a_gpu_is_that_of_a_cpu() -> None:
    """By operations that take all parameters at once, with one weight for them; to rounding."""
    model = make_setup().model
    averages = [Average(model, 0.4) for _ in range(2)]
    averages[1].fused = True
    for step in range(9):
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter))
        skipped = torch.tensor(float(step == 5))
        before = [one.clone() for one in averages[1].module.parameters()]
        for average in averages:
            with Calls() as calls:
                average.update_parameters(model, skipped)
        names = [f"aten._foreach_{name}" for name in ("sub.List", "mul_.Tensor", "add_.List")]
        assert calls.names == names
        lists = [[*average.module.parameters()] for average in averages]
        for here, there, old in zip(*lists, before, strict=True):
            torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-6)
            assert not old.numel() or torch.equal(there, old) == (step == 5)


def test_step_is_named_at_the_next_look(
    pictures: Path, tmp_path: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own items, although others were taken since; what is saved is from before it."""
    spy = watch(monkeypatch)
    break_pixels(monkeypatch, spy)
    out = tmp_path / "run"
    arguments = command(pictures, out, "log_every=100", "save_every=5", "ema=0.9")
    check_refused(arguments, capsys, f"the loss is nan at step {STEP}; from 2 items", status=1)
    assert spy.step == 4
    evidence = json.loads((out / "not-finite.json").read_text())
    assert (evidence["step"], evidence["samples"]) == (STEP, [spy.ids[row] for row in (1, 6)])
    assert read_description(out / "last").notes["step"] == 0


def test_run_of_fp16_is_resumed_bit_for_bit(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after steps that were skipped: scale, average and weights are those of one run."""
    monkeypatch.setattr(LossScale, "FIRST", 2.0**19)
    settings = ("precision=fp16", "ema=0.9", "log_every=3")
    whole, parts = ([*command(pictures, tmp_path / name, *settings), "--no-report"]
                    for name in ("whole", "parts"))  # fmt: skip
    assert main(whole) == 0
    with pytest.MonkeyPatch.context() as patched:
        stop = before("training.loop.train_step", 8, lambda *_: signal.raise_signal(signal.SIGTERM))
        patched.setattr(*stop)
        assert main(parts) == 143
    assert main([*parts, "--resume"]) == 0
    assert outcome(tmp_path / "whole")["hashes"] == outcome(tmp_path / "parts")["hashes"]
    state = load_tensors(tmp_path / "parts" / "last" / "training.safetensors")
    assert 1 <= state["loss_scale.factor"] < LossScale.FIRST
    assert 0 < updates_in(state) < 15
    capped = [*parts, "--resume", "--set", "precision=fp32", "--set", "epochs=4"]
    assert main(capped) == 0
    assert not any("loss_scale" in name for name in
                   load_tensors(tmp_path / "parts" / "last" / "training.safetensors"))  # fmt: skip


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("cosine", [1.0, 0.5 + 0.5 * math.cos(math.pi * 0.5), 0.5 + 0.5 * math.cos(math.pi * 0.9)]),
        ("linear", [1.0, 0.5, 0.1]),
        ("constant", [1.0, 1.0, 1.0]),
        ("wsd", [1.0, 1.0, 10 / 22]),
    ],
)
def test_rate_follows_its_schedule(schedule: str, rates: list[float]) -> None:
    """After the warm-up, half-way and near the end: of 110 steps, 10 of them to warm up."""
    config = override(make_setup().config, [f"schedule={schedule}", "warmup_steps=10"])
    config = override(config, ["learning_rate=1"])
    assert learning_rate(config, 4, 110) == 0.5
    assert [learning_rate(config, step, 110) for step in (10, 60, 100)] == pytest.approx(rates)


def test_betas_reach_the_optimiser() -> None:
    """Written as numbers of any kind."""
    config = override(make_setup().config, ["betas=[0,0.95]"])
    (group, *_) = make_setup(betas=config.betas).state.optimiser.param_groups
    assert group["betas"] == (0.0, 0.95)


def test_run_ends_when_its_patience_does(
    pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """It has ended: a resume takes no step, until it is asked for more patience."""
    out = tmp_path / "run"
    arguments = command(pictures, out, "patience=1", "epochs=6", "learning_rate=1e-9")
    assert main(arguments) == 0
    said = "no better val_top1 for 1 epochs (patience 1)"
    assert said in capsys.readouterr().err
    notes = read_description(out / "last").notes
    assert (notes["step"], notes["ended"]) == (10, said)
    assert said in (out / "report" / "index.html").read_text()
    assert json.loads((out / "report" / "report.json").read_text())["ended"] == said
    assert main([*arguments, "--resume"]) == 0
    assert read_description(out / "last").notes["step"] == 10
    assert main([*arguments, "--resume", "--set", "patience=0", "--no-report"]) == 0
    notes = read_description(out / "last").notes
    assert (notes["step"], notes["ended"]) == (30, "")
