"""How often does a training step wait for the device? Counted on a CPU, outside logging steps.

The device path is what a GPU runs: the fused optimiser, which skips a step by itself, and nothing
read between two looks. Every call is counted that would make the host wait if the tensors lay on
a GPU: a value read (item, float, bool, tolist, numpy, cpu), and operations whose result has a
size that only their values tell (nonzero, masks as indices, unique, and the checks of linear
algebra). Rotations are computed as on a GPU. Copies to a GPU wait too where they are not
asynchronous: a step on torch's meta device, whose values nobody can read, shows those
(tests/training/test_host_synchronisations.py).

A row is one recipe; ``places`` says from which lines it is waited.

    python -m benchmarks.host_synchronisations --steps 4
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Self
from unittest import mock

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode

from media.dataset import Prepared
from media.spec import InputSpec
from models.encodings import parse_encoding
from models.rotations import exponential
from models.spec import ModelSpec
from models.vit import VisionTransformer
from training.config import Augment, TrainConfig
from training.optim import make_average, make_loss_scale, make_optimiser
from training.run import State
from training.step import Setup, train_step

ROOT = Path(__file__).parent.parent
#: Operations of torch's dispatcher that wait.
WAITING = (
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim",
    "unique_consecutive", "equal", "_linalg_check_errors", "_linalg_eigh", "_linalg_svd",
    "repeat_interleave", "histc",
)  # fmt: skip
#: Methods that a CPU answers without its dispatcher.
READING = ("tolist", "cpu", "numpy", "__array__")
#: Namespace of this project's own operators, which are looked into.
OURS = "liere"
#: What reads tensors that lie on the host wherever the network is: positions.
HOST = ("models/rotations/rays.py",)
RECIPES: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16, accumulate, clip, ema": {
        "precision": "bf16", "accumulate": 2, "clip_norm": 1.0, "ema": 0.99,
    },
    "fp16, crops, colour, erase, mixing": {
        "precision": "fp16",
        "augment": Augment(
            crop_scale=(0.3, 1.0), colour=0.4, erase=0.25, mixup=0.2, cutmix=1.0,
        ),
    },
    "bf16, RandAugment, erase, mixup, ema, recompute": {
        "precision": "bf16", "ema": 0.99, "recompute": True,
        "augment": Augment(operations=2, erase=0.25, mixup=0.2),
    },
}  # fmt: skip
BATCH, ITEMS = 16, 64


class Synchronisations:
    """Counts, within its block, what would wait for a GPU; exponentials go the way of one.

    Attributes:
        places: of each place in this repository, ``file:line what``, how often.
    """

    def __init__(self) -> None:
        self.places: collections.Counter[str] = collections.Counter()

    def __enter__(self) -> Self:
        self._open = contextlib.ExitStack()
        whole = mock.patch.object(exponential, "default_chunk", lambda _: exponential.WHOLE)
        self._open.enter_context(whole)
        for name in READING:
            self._open.enter_context(mock.patch.object(torch.Tensor, name, self._counted(name)))
        self._open.enter_context(_Dispatches(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _counted(self, name: str) -> Callable[..., Any]:
        read = getattr(torch.Tensor, name)

        def reading(tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
            self.add(name)
            return read(tensor, *arguments, **options)

        return reading

    def add(self, what: str) -> None:
        """One more, from wherever this is called."""
        place = ""
        frame: FrameType | None = sys._getframe(1)
        while frame:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(ROOT) and path != Path(__file__):
                name = str(path.relative_to(ROOT))
                if not name.startswith("."):  # an environment may lie in here
                    place = place or f"{name}:{frame.f_lineno} {what}"
                    if name.startswith(HOST):
                        return
            frame = frame.f_back
        self.places[place or what] += 1


class _Dispatches(TorchDispatchMode):
    def __init__(self, count: Synchronisations) -> None:
        super().__init__()
        self.count = count

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8)
            for index in arguments[1]
        )
        if name in WAITING or masks:
            self.count.add(name)
        if function.namespace == OURS:
            with self:
                keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
                return function.redispatch(keys, *arguments, **options or {})
        if function._can_decompose():  # in there, where nothing else takes it apart
            with self:
                return function.decompose(*arguments, **options or {})
        return function(*arguments, **options or {})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=4, help="that are counted of each recipe")
    parser.add_argument("--encoding", default="liere_8", help="as the command line writes it")
    options = parser.parse_args()
    rows = [measure(name, options.encoding, options.steps) for name in RECIPES]
    table = Table("recipe", "a step", "places")
    for row in rows:
        table.add_row(row["recipe"], f"{row['per_step']:g}", "\n".join(row["places"]))
    Console(width=120).print(table)
    print(json.dumps({"benchmark": "host_synchronisations", "results": rows}))


def measure(recipe: str, encoding: str, steps: int) -> dict[str, Any]:
    """Of one recipe; the first step, after which a run looks anyway, is not counted."""
    setup = make_setup(encoding, **RECIPES[recipe])
    take_steps(setup, range(1))
    with Synchronisations() as count:
        take_steps(setup, range(1, 1 + steps))
    per_step = {place: number / steps for place, number in count.places.most_common()}
    return {"recipe": recipe, "per_step": sum(per_step.values()), "places": per_step}


def take_steps(setup: Setup, steps: range) -> None:
    """As a run takes them between two looks."""
    for step in steps:
        samples = np.arange(step, step + setup.config.batch) % len(setup.training.ids)
        train_step(setup, samples, step, rate=1e-3)


def make_setup(encoding: str = "liere_8", fused: bool = True, **changes: Any) -> Setup:
    """A small model on random pictures, none of them square, as a GPU would train it."""
    model = ModelSpec(
        patch=(4, 3), grid=(4, 6), classes=5, width=32, depth=2, heads=2, mlp_dim=48, dropout=0.1,
        drop_path=0.1, encoding=parse_encoding(encoding),
    )  # fmt: skip
    config = TrainConfig("data", model, InputSpec(), **({"batch": BATCH} | changes))
    random = np.random.default_rng(0)
    sides = model.training_grid.pixels(model.patch)
    pixels = random.integers(0, 256, (ITEMS, *sides, model.channels), dtype=np.uint8)
    names = tuple(map(str, range(ITEMS)))
    items = Prepared(pixels, random.integers(0, model.classes, ITEMS), names, "")
    torch.manual_seed(0)
    network = VisionTransformer(config.model, config.input)
    state = State(
        network,
        make_optimiser(network, config, fused),
        make_average(network, config.ema),
        make_loss_scale(config, torch.device("cpu")),
    )
    return Setup(config, state, items, dataclasses.replace(items), ("a",) * model.classes, None)


if __name__ == "__main__":
    main()
