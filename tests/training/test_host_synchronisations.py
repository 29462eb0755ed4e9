"""A training step makes nobody wait for the device, and skips by itself what is not finite."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import training.loop
import training.step
from benchmarks.host_synchronisations import (
    OURS,
    RECIPES,
    Synchronisations,
    make_setup,
    take_steps,
)
from models.rotations.exponential import CACHEFUL
from models.transfer import send
from tests.helpers import training_runs
from tests.helpers.training_runs import command
from training.__main__ import main
from training.optim import make_optimiser

pictures = training_runs.pictures

#: One of every kind of encoding beside learned positions, mixed RoPE and LieRE.
KINDS = (
    "sinusoidal", "dinov3_rope", "masa", "masa:basis=exponential", "masa:basis=householder",
    "string_cayley", "string_circulant", "published_axial", "spherical_rope",
)  # fmt: skip
WAITING: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x[0].item(),
    "float": lambda x: float(x[0]),
    "bool": lambda x: bool(x[0] > 0),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "cpu": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "filled by a mask": lambda x: x.__setitem__(x > 0, 0.0),
    "inverse": lambda x: torch.linalg.inv(torch.eye(2)),
    "solution": lambda x: torch.linalg.solve(torch.eye(2), torch.eye(2)),
    "planes": lambda x: torch.ops.liere.skew_planes(torch.zeros(2, 2)),
    "norms of an operator": lambda x: torch.ops.liere.exponentials(
        x[:, None], x.view(1, 1, 1, 1), CACHEFUL
    ),
}


@pytest.mark.parametrize("name", WAITING)
def test_whatever_waits_is_counted(name: str) -> None:
    """Each by itself, inside this project's operators too."""
    with Synchronisations() as count:
        WAITING[name](torch.ones(1))
    assert count.places.total() >= 1
    with Synchronisations() as count:
        torch.where(torch.ones(3) > 0, torch.eye(3)[torch.tensor([2, 0, 1])], 0).sum()
    assert not count.places


@pytest.mark.parametrize(
    ("recipe", "encoding"),
    [
        *((recipe, "liere_8") for recipe in RECIPES),
        *(("fp32", kind) for kind in ("absolute", "rope_mixed", *KINDS)),
    ],
)
def test_step_waits_for_nothing(recipe: str, encoding: str) -> None:
    """With everything that a recipe may ask for: parts, clipping, averages, scaled losses."""
    setup = make_setup(encoding, **RECIPES[recipe])
    take_steps(setup, range(1))
    before = setup.model.head.weight.clone()
    with Synchronisations() as count:
        take_steps(setup, range(1, 2))
    assert not count.places
    assert not torch.equal(setup.model.head.weight, before)


def test_run_waits_only_when_it_looks(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two looks, what the loop keeps of a step is read from no tensor."""
    fit, looks = training.loop.Fit, []
    step, look = fit._step, fit._look
    count = Synchronisations()

    def stepping(self: Any, number: int) -> None:
        with count:
            step(self, number)

    def looking(self: Any) -> None:
        before = count.places.copy()
        looks.append(self.notes["step"])
        look(self)
        count.places = before

    monkeypatch.setattr(fit, "_step", stepping)
    monkeypatch.setattr(fit, "_look", looking)
    fused = functools.partial(make_optimiser, fused=True)
    monkeypatch.setattr(training.loop, "make_optimiser", fused)
    settings = ("log_every=4", "save_every=100", "epochs=2", "ema=0.9", "clip_norm=1")
    assert main([*command(pictures, tmp_path / "run", *settings), "--no-report"]) == 0
    assert not count.places
    assert sorted(set(looks)) == [1, 4, 5, 6, 8, 10]  # after a save the next step too


class Copies(TorchDispatchMode):
    """Counts copies from here to a device of which nobody can read, where they are waited for.

    From memory that is not pinned, which this device does not know, asynchronous ones are too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[Any] = []
        self.made = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        if function.namespace == OURS:  # which read positions on the host
            assert name.startswith("skew_planes") or arguments[0].is_cpu
        source: Any = arguments[1 if name == "copy_" else 0] if arguments else None
        result = function(*arguments, **options or {})
        if name in ("_to_copy", "copy_") and source.device != result.device:
            self.made += 1
            if not called_by(send):
                self.waited.append((name, tuple(source.shape)))
        return result


def called_by(function: Callable[..., Any]) -> bool:
    """Whether whoever asks this is below a call of the function."""
    frame = sys._getframe(1)
    while frame and frame.f_code is not function.__code__:
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None


def test_what_is_sent_to_a_gpu_comes_from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its new type, and asynchronously; what is on its way or on a CPU already is not copied."""
    done: list[Any] = []
    to = Tensor.to

    def moved(tensor: Tensor, *where: Any, **how: Any) -> Tensor:
        if torch.device("cuda") not in where:
            return to(tensor, *where, **how)
        done.append((tensor.dtype, *where, how))
        return tensor

    def pinned(tensor: Tensor) -> Tensor:
        done.append("pinned")
        return tensor

    monkeypatch.setattr(Tensor, "to", moved)
    monkeypatch.setattr(Tensor, "pin_memory", pinned)
    send(torch.ones(2, 3, dtype=torch.float64), torch.device("cuda"), torch.float32)
    assert done == ["pinned", (torch.float32, torch.device("cuda"), {"non_blocking": True})]
    here = torch.ones(2, 3)
    assert send(here, torch.device("cpu")) is here


@pytest.mark.parametrize(
    ("recipe", "encoding"),
    [
        *((name, "absolute") for name in RECIPES if "RandAugment" not in name),
        *(("fp32", kind) for kind in ("liere_8", "rope_mixed", "comrope_ld_4", *KINDS)),
    ],
)
def test_step_sends_everything_ahead(
    recipe: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device without values: nothing can be read of it, and every copy goes by ``send``."""
    setup = make_setup(encoding, **RECIPES[recipe] | {"ema": 0.0, "precision": "fp32"})
    setup.model.to("meta")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(training.step, "step_unless", lambda *_: None)  # has no kernel there
    with Copies() as copies:
        take_steps(setup, range(2))
    assert copies.made >= 4
    assert copies.waited == []
