"""How many more images a second do two processes train than one, each with one thread?

Both train the same model on the same global batch: the shipped image model (the preset
cifar10-liere8, with all that it does to an image), on pictures that lie decoded in memory. Their
steps are the run's own: each process takes its half of the batch, computes the rotations for
itself, and adds up gradients over gloo. One process and two take turns; the ratio is the median of
those of the rounds.

    python -m benchmarks.processes [--rounds 7] [--steps 4] [--batch 128]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import operator
import os
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch.distributed import TCPStore

from media.dataset import Prepared
from models.vit import VisionTransformer
from training.data import wanted
from training.joining import joined
from training.optim import make_average, make_optimiser
from training.order import order_of
from training.presets import cifar10_liere8
from training.processes import Processes
from training.run import State
from training.step import Setup, train_step

CPU = torch.device("cpu")
CLASSES = 10


def main() -> None:
    """Print a line for each number of processes, then one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4, help="of a round")
    parser.add_argument("--batch", type=int, default=128, help="of all processes together")
    options = parser.parse_args()
    groups = {count: start(count, options.batch) for count in (1, 2)}
    speeds: dict[int, list[float]] = {count: [] for count in groups}
    for round_ in range(options.rounds + 1):  # the first one is not counted
        for count, pipes in groups.items():
            for pipe in pipes:
                pipe.send((round_ * options.steps, options.steps))
            seconds = max(pipe.recv() for pipe in pipes)
            speeds[count].append(options.steps * options.batch / seconds)
    for pipe in (pipe for pipes in groups.values() for pipe in pipes):
        pipe.send(None)
    for count, found in speeds.items():
        print(f"{count}: {statistics.median(found[1:]):.1f} images/s", flush=True)
    ratio = statistics.median(map(operator.truediv, speeds[2][1:], speeds[1][1:]))
    medians = {f"images_per_second_{n}": statistics.median(s[1:]) for n, s in speeds.items()}
    told = {"benchmark": "processes", "rounds": options.rounds, "batch": options.batch}
    print(json.dumps(told | medians | {"ratio": ratio}))


def start(count: int, batch: int) -> list[Connection]:
    """Processes that take steps together when they are told to; a pipe to each."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    stores.append(store)
    pipes = []
    for rank in range(count):
        here, there = context.Pipe()
        environment = launched(rank, count, store)
        context.Process(target=serve, args=(there, environment, batch), daemon=True).start()
        there.close()
        pipes.append(here)
    return pipes


def launched(rank: int, count: int, store: TCPStore) -> dict[str, str]:
    """What torchrun would tell one of ``count`` processes on this machine."""
    told = {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port,
        "TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0,
    }  # fmt: skip
    return {name: str(value) for name, value in told.items()}


stores: list[TCPStore] = []  # in which processes find each other, as in torchrun's


def serve(pipe: Connection, environment: dict[str, str], batch: int) -> None:
    """Steps from a first one on, as many as are asked for; the seconds that they took."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    with joined() as processes:
        setup = make_setup(batch, processes)
        order = order_of(setup, 0)
        while asked := pipe.recv():
            first, steps = asked
            processes.highest(0)  # all begin at once
            began = time.perf_counter()
            for step in range(first, first + steps):
                rows = range(step * batch, (step + 1) * batch)
                train_step(setup, order.take(rows, mode="wrap"), step, 1e-3)
            pipe.send(time.perf_counter() - began)
        processes.leave()


def make_setup(batch: int, processes: Processes) -> Setup:
    """The preset's model and recipe on random pictures, of which nobody asks what they show."""
    config = dataclasses.replace(cifar10_liere8("data"), batch=batch, device="cpu")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, classes=CLASSES))
    sides, random = wanted(config, "train").pixels, np.random.default_rng(0)
    pixels = random.integers(0, 256, (4 * batch, *sides, config.input.channels), dtype=np.uint8)
    labels = random.integers(0, CLASSES, len(pixels))
    items = Prepared(pixels, labels, tuple(map(str, range(len(pixels)))), "")
    torch.manual_seed(0)
    model = VisionTransformer(config.model, config.input)
    state = State(model, make_optimiser(model, config), make_average(model, config.ema))
    processes.begin(CPU, config.timeout)
    nobody: Any = None  # is measured
    return Setup(config, state, items, nobody, ("a",) * CLASSES, None, processes=processes)


if __name__ == "__main__":
    main()
