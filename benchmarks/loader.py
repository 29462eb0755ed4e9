"""What does reading in each step cost, and do processes that read ahead hide it?

Three questions, of pictures that are made here, each answered by a ratio of medians of rounds that
take turns:

    reading   processor time an image of the loader, a JPEG of 500x375 -> its file is checked and
              read, a random resized crop of the full picture at 224x224, flipped, in a batch;
              over Pillow's own decode and bicubic resize of the same crop boxes
    workers   images a second of the same loader with 2 workers, over 0
    step      wall time of training steps of the shipped image model (the preset cifar10-liere8,
              one thread) with a loader of one worker that reads JPEGs of 64x64, over the same
              steps on a batch that is ready

    python -m benchmarks.loader [--questions reading,workers,step] [--rounds 7] [--images 512]
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import operator
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from media.index import Dataset, Wanted, open_dataset
from media.part import of_shape
from media.spec import InputSpec
from models.vit import VisionTransformer
from training.augment.draws import Draws
from training.augment.moving import draw_parts
from training.batches import Batches
from training.config import Augment, TrainConfig
from training.data import wanted
from training.listed import Listed
from training.loader import AHEAD, Loader
from training.optim import make_optimiser
from training.presets import cifar10_liere8
from training.run import State
from training.step import Setup, make_batch, train_step

CPU = torch.device("cpu")
BATCH, SIDE = 64, 224
PARTS = Augment(crop_from="picture", crop_scale=(0.08, 1.0), flip=True)


def main() -> None:
    """Print a line a question, then one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", default=",".join(QUESTIONS), help="some of them")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=512, help="of a round; steps hold 128 each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for name in options.questions.split(","):
        with tempfile.TemporaryDirectory() as folder:
            results[name] = QUESTIONS[name](Path(folder), options.images, options.rounds)
        print(name, results[name], flush=True)
    print(json.dumps({"benchmark": "loader", "rounds": options.rounds, "results": results}))


def reading(folder: Path, images: int, rounds: int) -> dict[str, Any]:
    batches = make_batches(make_data(folder, (375, 500), images), workers=0)
    times = take_turns(
        {"loader": lambda step: batches[step], "pillow": lambda step: by_pillow(batches, step)},
        rounds,
        images // BATCH,
        time.process_time,
    )
    each = {f"{name}_ms": 1000 * statistics.median(t) / images for name, t in times.items()}
    return each | {"ratio": ratio(times["loader"], times["pillow"])}


def by_pillow(batches: Batches, step: int) -> None:
    """Decodes and resizes the parts of a step."""
    training, samples = batches.training, batches.samples(step)
    columns, draws = training.dataset.columns, Draws(batches.config.seed, step, samples)
    for sample, part in zip(samples, draw_parts(draws, PARTS, InputSpec()), strict=True):
        (top, bottom), (left, right) = part.spans((375, 500), of_shape((375, 500), (SIDE, SIDE)))
        path = training.dataset.store.files[0] / columns.paths[int(training.places[sample])]  # type: ignore[attr-defined]
        with Image.open(path) as image:
            image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, right, bottom))


def workers(folder: Path, images: int, rounds: int) -> dict[str, Any]:
    data, steps = make_data(folder, (375, 500), images), images // BATCH
    takes: dict[str, Callable[[int], object]] = {}
    for count in (0, 2):
        batches = make_batches(data, workers=count)
        loader = Loader(batches, 0, (steps + 2 * AHEAD) * (rounds + 1), CPU)
        takes[str(count)] = partial(take, loader, batches)
    times = take_turns(takes, rounds, steps, time.perf_counter, lead=2 * AHEAD)
    speeds = {f"images_per_second_{n}": images / statistics.median(t) for n, t in times.items()}
    return speeds | {"ratio": ratio(times["0"], times["2"])}


def take(loader: Loader, batches: Batches, step: int) -> None:
    loader.take(step, batches.samples(step))


def step(folder: Path, images: int, rounds: int) -> dict[str, Any]:
    config = dataclasses.replace(cifar10_liere8(str(folder)), workers=1, read="each-step")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, classes=2))
    data = make_data(folder, (64, 64), max(images, 2 * config.batch))
    batches = Batches(Listed(data, "train", wanted(config, "train")), config)
    setup = make_setup(config, batches)
    steps = images // config.batch
    loader = Loader(batches, 0, (steps + AHEAD) * (rounds + 1), CPU)
    setup = dataclasses.replace(setup, loader=loader)
    ready = make_batch(dataclasses.replace(setup, loader=None), batches.samples(0), 0)

    def bare(step: int) -> None:
        with mock.patch("training.step.make_batch", return_value=ready):
            train_step(setup, batches.samples(step), step, 1e-3)

    def loaded(step: int) -> None:
        train_step(setup, batches.samples(step), step, 1e-3)

    ways: dict[str, Callable[[int], Any]] = {"loader": loaded, "bare": bare}
    times = take_turns(ways, rounds, steps, time.perf_counter, lead=AHEAD)
    each = {f"{name}_ms": 1000 * statistics.median(t) / steps for name, t in times.items()}
    return each | {"ratio": ratio(times["loader"], times["bare"])}


QUESTIONS: dict[str, Callable[[Path, int, int], dict[str, Any]]] = {
    "reading": reading,
    "workers": workers,
    "step": step,
}


def take_turns(
    ways: dict[str, Callable[[int], Any]],
    rounds: int,
    steps: int,
    clock: Callable[[], float],
    lead: int = 0,
) -> dict[str, list[float]]:
    """Seconds of as many steps in every round, by way; the first round is not counted.

    Args:
        lead: steps before them that are taken and not timed: those that were read ahead while the
            other way had its turn.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for begin in range(0, (rounds + 1) * (lead + steps), lead + steps):
        for name, take in ways.items():
            for step in range(begin, begin + lead + steps):
                if step == begin + lead:
                    began = clock()
                take(step)
            times[name].append(clock() - began)
    return {name: taken[1:] for name, taken in times.items()}


def ratio(over: list[float], under: list[float]) -> float:
    return statistics.median(map(operator.truediv, over, under))


def make_batches(data: Dataset, **changes: Any) -> Batches:
    config = dataclasses.replace(
        cifar10_liere8("data"),
        batch=BATCH,
        epochs=1000,
        augment=PARTS,
        input=InputSpec(),
        **changes,
    )
    return Batches(Listed(data, "train", Wanted(InputSpec(), (SIDE, SIDE))), config)


def make_setup(config: TrainConfig, batches: Batches) -> Setup:
    torch.manual_seed(0)
    model = VisionTransformer(config.model, config.input)
    state = State(model, make_optimiser(model, config))
    nobody: Any = None  # is measured
    return Setup(config, state, batches.training, nobody, batches.training.dataset.labels, None)


def make_data(folder: Path, size: tuple[int, int], images: int) -> Dataset:
    """JPEGs of two classes, of 32 pictures with the spectrum of photographs."""
    random = np.random.default_rng(0)
    files = [photograph(random, size) for _ in range(32)]
    for split, count in (("train", images), ("val", 2)):
        for index in range(count):
            path = folder / "data" / split / "ab"[index % 2] / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[index % len(files)])
    return open_dataset(folder / "data").kept(folder / "index")


def photograph(random: np.random.Generator, size: tuple[int, int]) -> bytes:
    """Noise whose amplitudes fall with frequency, as a JPEG of quality 90."""
    down, across = (np.fft.fftfreq(side)[:, None] for side in size)
    falling = 1 / np.maximum(np.hypot(down, across.T), 1 / max(size))[..., None]
    spectrum = np.fft.fft2(random.normal(size=(*size, 3)), axes=(0, 1)) * falling
    noise = np.fft.ifft2(spectrum, axes=(0, 1)).real  # [height, width, 3]
    values = noise / noise.std() * 50 + 127
    stream = io.BytesIO()
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


if __name__ == "__main__":
    main()
