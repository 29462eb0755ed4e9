"""What a training step costs with every encoding that can be trained, side by side.

Runs that train at the same time slow each other down, each by another amount. So in the end all
encodings take steps in turn, round by round, inside one process: whatever else the machine does
slows all of them alike, and ratios of medians can be compared.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Any

import numpy as np
import torch

from media.strict_json import read_json
from training.batches import Batch, Batches
from training.compare.comparison import Comparison, write_json
from training.listed import Listed
from training.loop import set_up
from training.order import order_of
from training.progress import Progress
from training.run import Run
from training.step import Setup, train_step

STEP_TIME = "step-time.json"


def step_times(comparison: Comparison) -> dict[str, Any] | None:
    """What was measured of all encodings together; None where one is missing."""
    path = comparison.root / STEP_TIME
    times = read_json(path) if path.exists() else None
    return times if times and not set(_trainable(comparison)) - set(times["seconds"]) else None


def _trainable(comparison: Comparison) -> list[str]:
    """Encodings that a run was finished with: what ran out of memory alone would do so here."""
    finished = {encoding for encoding, _ in comparison.finished()}
    return [name for name in comparison.encodings if name in finished]


def measure_steps(comparison: Comparison, rounds: int, progress: Progress) -> None:
    """Write step-time.json: of each encoding the median of so many steps of training."""
    setups = {name: _setup(comparison, name, progress) for name in _trainable(comparison)}
    taken: dict[str, list[float]] = {name: [] for name in setups}
    for index in range(rounds + 1):
        for name, setup in setups.items():
            seconds = _step(setup, index)
            if index:  # the first one warms up
                taken[name].append(seconds)
    device = next(iter(setups.values())).model.device
    times = {
        "seconds": {name: statistics.median(values) for name, values in taken.items()},
        "rounds": rounds,
        "batch": comparison.recipe.config.batch,
        "device": device.type,
        "threads": torch.get_num_threads(),
    }
    write_json(comparison.root / STEP_TIME, times)


def _setup(comparison: Comparison, encoding: str, progress: Progress) -> Setup:
    """As a run of that encoding begins."""
    entry = comparison.entry(encoding, comparison.seeds[0])
    setup, _ = set_up(entry.config, Run(entry.root), False, progress, comparison.recipe.rule)
    if setup.config.compile:
        setup.model.compile(dynamic=False)
    if isinstance(setup.training, Listed):
        samples = order_of(setup, 0)[: setup.config.batch]
        ready = Ready(Batches(setup.training, setup.config).read(0, samples))
        setup = dataclasses.replace(setup, loader=ready)
    return setup


@dataclasses.dataclass(frozen=True)
class Ready:
    """A batch that has been read, for every step: reading is not what is compared."""

    batch: Batch

    def take(self, step: int, samples: np.ndarray) -> Batch:
        """The one batch."""
        return self.batch


def _step(setup: Setup, index: int) -> float:
    """Seconds of one step that leaves the weights as they are."""
    samples = order_of(setup, 0)[: setup.config.batch]
    began = time.perf_counter()
    train_step(setup, samples, index, rate=0.0)
    if setup.model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began
