"""How long an export decodes the split that it measures on, by its number of threads (--workers).

    python -m benchmarks.export_decoding  # 64 JPEGs of 1600x1200, made for it
    python -m benchmarks.export_decoding --data sign_digits.zip [--split test] [--size 64]
    python -m benchmarks.export_decoding --data adrenal.npz --modality volume --size 64

The numbers of threads take turns within each round, so that a change of the machine's speed meets
all. Times are those of the fastest round: other programs only ever add to them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from media.dataset import prepare_split
from media.sources import open_source
from media.spec import AXES, Grid, InputSpec, VideoSpec, VolumeSpec

SPECS = {
    "image": InputSpec(),
    "video": InputSpec(modality="video", video=VideoSpec()),
    "volume": InputSpec(
        modality="volume", channels=1, fit="stretch", mean=(0.5,), std=(0.5,), volume=VolumeSpec()
    ),
}


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, help="labelled data, as an export takes them; else large pictures")
    add("--modality", choices=SPECS, default="image")
    add("--split", default="test")
    add("--size", type=int, default=64, help="pixels or voxels a side (8 frames of a clip)")
    add("--items", type=int, default=None, help="the first so many items (default: all)")
    add("--workers", type=int, nargs="+", default=[1, 2, 4], help="numbers of threads, one first")
    add("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.data is not None:
        return measure(options)
    with tempfile.TemporaryDirectory() as folder:
        options.data = write_pictures(Path(folder) / "1600x1200")
        return measure(options)


def write_pictures(root: Path) -> Path:
    """64 JPEGs of 1600x1200, as a camera's: smooth colours, quality 90."""
    generator = np.random.default_rng(0)
    for number in range(64):
        coarse = generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((1600, 1200), Image.Resampling.BICUBIC)
        folder = root / "test" / ("even", "odd")[number % 2]  # an export needs two classes
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{number}.jpg", quality=90)
    return root


def measure(options: argparse.Namespace) -> None:
    """Decode with each number of threads in turn."""
    source, spec = open_source(options.data), SPECS[options.modality]
    sides = [options.size] * len(AXES[options.modality])
    if options.modality == "video":
        sides[0] = 8
    items = len(source.split(options.split)[: options.items])
    seconds: dict[int, list[float]] = {workers: [] for workers in options.workers}
    for _ in range(options.rounds):
        for workers in options.workers:
            start = time.perf_counter()
            prepare_split(
                source, options.split, spec, Grid(tuple(sides)), (1,) * len(sides),
                workers=workers, limit=options.items,
            )  # fmt: skip
            seconds[workers].append(time.perf_counter() - start)
    rows = {workers: round(min(taken), 3) for workers, taken in seconds.items()}
    for workers, fastest in rows.items():
        print(f"{workers} threads: {fastest:.3f} s for {items} items")
    cpus = len(os.sched_getaffinity(0))
    print(json.dumps({"data": options.data.name, "items": items, "cpus": cpus, "seconds": rows}))


if __name__ == "__main__":
    main()
