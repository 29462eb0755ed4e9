"""How many files does a labelling run answer for a core's second, over ``classify`` on the same?

    python -m benchmarks.serving.label [--images 2000] [--rounds 3]

A folder of JPEGs of 640x427 is answered by ``python -m service classify --json`` and by
``python -m deploy.ray.label`` with a worker for each core, by the same bundle, in turn, round after
round. Of both the processor time of the whole process tree is taken, Ray's own processes in it, for
all images and for a tenth of them: their difference is what the other nine tenths cost, without the
start, which is told beside it. The figure is the median of the rounds' ratios of files a core
second, with its range. Takes the environment with Ray.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.serving.jobs_beside import many_photographs
from benchmarks.serving.running import ROOT, tree_cpu_seconds
from service.cpus import usable_cpus

LOOK_SECONDS = 0.1
PER_PART = 50


class Cost(NamedTuple):
    """Of one way to answer files."""

    per_file: float  # seconds of a core, without the start
    start: float  # seconds of a core, before and beside all files
    per_second: float  # files a second of the wall's clock, with the start


def main() -> None:
    """Print the figure, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "cifar10-liere8")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ways: list[Callable[[Path, Path, Path], list[str]]] = [classify, label]
    found = []
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / name for name in ("tenth", "all")]
        counts = [max(8, options.images // 10), max(16, options.images)]
        for folder, images in zip(folders, counts, strict=True):
            many_photographs(folder, images)
        for number in range(options.rounds):
            out = Path(place) / f"labels-{number}"
            found.append([cost(way, options.bundle, folders, counts, out) for way in ways])
            told = [f"{1000 * one.per_file:.2f} ms, {one.start:.1f} s" for one in found[-1]]
            print(f"of a core, a file and the start: classify {'; label '.join(told)}", flush=True)
    ratios = [classified.per_file / labelled.per_file for classified, labelled in found]
    middle, least, most = statistics.median(ratios), min(ratios), max(ratios)
    print(f"files a core second over classify: {middle:.3f} ({least:.3f} to {most:.3f})")
    line = {"benchmark": "serving.label", "bundle": options.bundle.name}
    medians = [
        Cost(*map(statistics.median, zip(*costs, strict=True)))._asdict()
        for costs in zip(*found, strict=True)
    ]
    costs = dict(zip(("classify", "label"), medians, strict=True))
    figures = {"ratio": [middle, least, most], "workers": usable_cpus(), **costs}
    print(json.dumps(line | figures | {"rounds": options.rounds, "images": options.images}))


def cost(
    way: Callable[[Path, Path, Path], list[str]],
    bundle: Path,
    folders: list[Path],
    counts: list[int],
    out: Path,
) -> Cost:
    """What few and all images cost one way; the difference belongs to images alone."""
    measured = []
    for folder, images in zip(folders, counts, strict=True):
        began = time.monotonic()
        spent = run(way(bundle, folder, out / folder.name), images)
        measured.append((spent, time.monotonic() - began))
    (few, _), (all_, seconds) = measured
    per_file = (all_ - few) / (counts[1] - counts[0])
    return Cost(per_file, few - per_file * counts[0], counts[1] / seconds)


def classify(bundle: Path, folder: Path, out: Path) -> list[str]:
    command = ["service", "classify", "--json", "--bundle", bundle.name]
    return [*command, "--bundles", str(bundle.parent), "--device", "cpu",
            *map(str, sorted(folder.iterdir()))]  # fmt: skip


def label(bundle: Path, folder: Path, out: Path) -> list[str]:
    command = ["deploy.ray.label", str(folder), "--model", bundle.name]
    return [*command, "--bundles", str(bundle.parent), "--out", str(out),
            "--per-part", str(PER_PART), "--workers", str(usable_cpus())]  # fmt: skip


def run(arguments: list[str], images: int) -> float:
    """Processor time of a command and all that it began; SystemExit unless it answered all."""
    command = [sys.executable, "-m", *arguments]
    spent = 0.0
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT) as process,
    ):
        while process.poll() is None:  # what nobody buries is not counted in the end
            spent = max(spent, tree_cpu_seconds(process.pid))
            time.sleep(LOOK_SECONDS)
        said.seek(0)
        if process.returncode:
            told = said.read()[-2000:]
            raise SystemExit(f"{arguments[0]} did not answer {images} images:\n{told}")
    return spent


if __name__ == "__main__":
    main()
