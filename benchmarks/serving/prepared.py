"""What does the engine cost over bare sessions? Prepared pixels through ``Engine.submit``.

    python -m benchmarks.serving.prepared [--model vit_s-absolute] [--batch 8] [--rounds 6]

No HTTP and no decoding: jobs with pixels of noise, twice as many inside as all lanes hold, each
sent again when it is answered. Beside it, in turn, the same graph in sessions of the same lanes is
run bare, whole batches by threads that do nothing else. The figure is the median of the rounds'
ratios of images a second, with its range.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import uvloop

from benchmarks.serving.bundles import add_bundle_options, chosen_bundle
from service.cpus import usable_cpus
from service.engine.device.lanes import Lanes, rate
from service.engine.device.session import Session, open_session
from service.engine.engine import Engine
from service.engine.job import Job
from service.settings import Settings, make_settings


def main() -> None:
    """Print the figure, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add_bundle_options(parser, "vit_s-absolute")
    parser.add_argument("--batch", type=int, default=8, help="most rows of one run")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each way in each round")
    options = parser.parse_args()
    bundle, cpus = chosen_bundle(options), usable_cpus()
    session = open_session(bundle.path(bundle.manifest.grids[0].graph), "cpu", 1)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / bundle.root.name).symlink_to(bundle.root.resolve())
        settings = make_settings(
            bundles=Path(folder), lanes=cpus, threads=1, max_batch=options.batch, max_wait=60,
            batch_seconds=60, decode_workers=1, device="cpu",
        )  # fmt: skip
        found = uvloop.run(measure(settings, bundle.root, session, options))
    ratios = [ours / bare for ours, bare in found]
    middle, least, most = statistics.median(ratios), min(ratios), max(ratios)
    print(f"images a second over bare sessions: {middle:.3f} ({least:.3f} to {most:.3f})")
    ours, bare = (statistics.median(way) for way in zip(*found, strict=True))
    print(f"{ours:.1f} of {bare:.1f} a second; {options.rounds} rounds, {cpus} lanes")
    line = {"benchmark": "serving.prepared", "bundle": bundle.manifest.name, "lanes": cpus}
    figures = {"batch": options.batch, "ratio": [middle, least, most], "per_second": [ours, bare]}
    print(json.dumps(line | figures | {"rounds": options.rounds, "seconds": options.seconds}))


async def measure(
    settings: Settings, root: Path, session: Session, options: argparse.Namespace
) -> list[tuple[float, float]]:
    """Images a second through the engine, and bare, of every round."""
    engine = Engine(settings)
    try:
        await engine.start([root])
        choice = engine.catalog.select("image", None, None)
        (target,) = choice.targets.values()
        dtype = target.preparation.dtype
        generator = np.random.default_rng(0)
        pixels = generator.integers(0, 256, target.shape).astype(dtype)  # [1, *pixels, channels]
        lanes = Lanes(settings.lanes, 1)
        rows = np.repeat(pixels, options.batch, axis=0)  # [batch, *pixels, channels]
        found = []
        for _ in range(options.rounds):
            ours = await through_engine(engine, Job(pixels, choice, want="logits"), options)
            bare = await asyncio.to_thread(rate, session, lanes, rows, options.seconds)
            found.append((ours, options.batch * bare))
        return found
    finally:
        await engine.close()


async def through_engine(engine: Engine, job: Job, options: argparse.Namespace) -> float:
    """Images a second, with a batch for every lane waiting."""
    end = time.monotonic() + options.seconds

    async def send_again() -> int:
        answered = 0
        while time.monotonic() < end:
            await engine.submit(job)
            answered += 1
        return answered

    started = time.monotonic()
    senders = [send_again() for _ in range(2 * usable_cpus() * options.batch)]
    return sum(await asyncio.gather(*senders)) / (time.monotonic() - started)


if __name__ == "__main__":
    main()
