"""How many files does a labelling run answer for a core's second, over ``classify`` on the same?

    python -m benchmarks.serving.label [--images 2000] [--rounds 3]

A folder of JPEGs of 640x427 is answered by ``python -m service classify --json`` and by
``python -m deploy.ray.label`` with a worker for each core, by the same bundle, in turn, round after
round. Of both the processor time of the whole process tree is taken, with Ray's own processes,
from a quarter of the answers to nine tenths of them: as much is under way at both, and the start,
which is told beside it, is over. The figure is the median of the rounds' ratios of files a core
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
from typing import IO, NamedTuple

from benchmarks.serving.jobs_beside import many_photographs
from benchmarks.serving.running import ROOT, tree_cpu_seconds
from service.cpus import usable_cpus

LOOK_SECONDS = 0.1
PER_PART = 25
#: Shares of the answers between which is measured.
FROM, TO = 0.25, 0.9


class Cost(NamedTuple):
    """Of one way to answer files."""

    per_file: float  # seconds of a core, while files are answered
    start: float  # seconds of a core, before and beside all files
    seconds: float  # of the whole command, by the clock


def main() -> None:
    """Print the figure, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "cifar10-liere8")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "images"
        many_photographs(folder, options.images)
        for number in range(options.rounds):
            out = Path(place) / f"labels-{number}"
            found.append((classify(options.bundle, folder), label(options.bundle, folder, out)))
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


def classify(bundle: Path, folder: Path) -> Cost:
    """Of the command."""
    command = ["service", "classify", "--json", "--bundle", bundle.name, "--device", "cpu"]
    files = [str(path) for path in sorted(folder.iterdir())]
    with tempfile.NamedTemporaryFile() as lines:
        answered = lambda: Path(lines.name).read_bytes().count(b"\n")  # noqa: E731
        return run([*command, "--bundles", str(bundle.parent), *files], lines, answered, len(files))


def label(bundle: Path, folder: Path, out: Path) -> Cost:
    """Of a labelling run."""
    command = ["deploy.ray.label", str(folder), "--model", bundle.name, "--out", str(out)]
    command += ["--bundles", str(bundle.parent), "--per-part", str(PER_PART)]
    files = sum(1 for _ in folder.iterdir())
    with tempfile.TemporaryFile() as said:
        answered = lambda: PER_PART * len(list(out.glob("part-*.parquet")))  # noqa: E731
        return run([*command, "--workers", str(usable_cpus())], said, answered, files)


def run(
    arguments: list[str], stdout: IO[bytes], answered: Callable[[], int], files: int
) -> Cost:
    """What a command and all that it begins costs; SystemExit unless it answers all files."""
    looks, began = [], time.monotonic()  # (answered, seconds of a core)
    with subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, stdout=stdout) as process:
        while process.poll() is None:
            looks.append((answered(), tree_cpu_seconds(process.pid)))
            time.sleep(LOOK_SECONDS)
    if process.returncode:
        raise SystemExit(f"{arguments[0]} did not answer all of {files} images")
    within = [look for look in looks if FROM * files <= look[0] <= TO * files]
    if len(within) < 2 or within[0][0] == within[-1][0]:
        raise SystemExit(f"{files} images are too few: they were answered between two looks")
    (first, before), (last, after) = within[0], within[-1]
    per_file = (after - before) / (last - first)
    return Cost(per_file, before - per_file * first, time.monotonic() - began)


if __name__ == "__main__":
    main()
