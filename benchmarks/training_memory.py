"""Does the memory of a training grow with the number of its pictures?

A run reads pictures when a step wants them, parts of 224x224 by two workers, without a cache; once
of few pictures and once of many. What counts is the proportional set size (PSS: pages that
processes share are counted once) of the run and all processes that it has started, at its peak
from its start to step 200. The files of many pictures are hard links to a thousand, so that
100,000 take no more disk; their bytes are read for digests as any others. Batches are so small
that neither run comes to the end of an epoch within its steps.

    python -m benchmarks.training_memory
    python -m benchmarks.training_memory --pictures 2000 --few 200 --steps 20
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kill_training import ROOT, below
from benchmarks.loader import photograph

CLASSES, VALIDATION = 10, 20
SIZE = (240, 320)
#: Pictures whose bytes differ; as many links to each as there have to be.
FILES = 1000
#: Seconds between two looks at the memory.
EVERY = 0.2
SETTINGS = (
    "read=each-step", "workers=2", "augment.crop_from=picture", "augment.crop_scale=[0.3,1]",
    "model.patch=[16,16]", "model.grid=[14,14]", "model.width=48", "model.mlp_dim=48",
    "epochs=2", "device=cpu",
)  # fmt: skip


def main() -> None:
    """Print a line for each number of pictures, then one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    batch = options.few // (options.steps + 1)  # an epoch of the few is longer than the steps
    if not batch:
        sys.exit(f"expected more than {options.steps} pictures, got --few {options.few}")
    peaks: dict[int, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(Path(folder) / "files", min(FILES, options.few))
        for count in (options.few, options.pictures):
            data = link(files, Path(folder) / f"data-{count}", count)
            out = Path(folder) / f"run-{count}"
            peaks[count] = peak(data, out, batch, options.steps)
            print(f"{count} pictures: {peaks[count] / 2**20:.0f} MiB at most", flush=True)
    result: dict[str, Any] = {f"pss_bytes_{count}": size for count, size in peaks.items()}
    result["ratio"] = peaks[options.pictures] / peaks[options.few]
    print(json.dumps({"benchmark": "training_memory", "steps": options.steps} | result))


def make_files(folder: Path, count: int) -> list[Path]:
    """JPEGs, the last ``VALIDATION`` of them to measure on."""
    random, files = np.random.default_rng(0), []
    folder.mkdir()
    for index in range(count + VALIDATION):
        files.append(folder / f"{index}.jpg")
        files[-1].write_bytes(photograph(random, SIZE))
    return files


def link(files: list[Path], data: Path, count: int) -> Path:
    """SPLIT/CLASS/file, ``count`` of them to train on."""
    for index in range(count + VALIDATION):
        split, place = ("train", index) if index < count else ("val", index - count)
        path = data / split / f"class-{place % CLASSES}" / f"{place}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        source = place % (len(files) - VALIDATION) if split == "train" else place - VALIDATION
        os.link(files[source], path)
    return data


def peak(data: Path, out: Path, batch: int, steps: int) -> int:
    """Bytes that a run and its processes have at most until it has taken the steps."""
    settings = (*SETTINGS, f"batch={batch}", f"save_every={steps}")
    command = [sys.executable, "-m", "training", "smoke", "--data", str(data), "--out", str(out)]
    command += ["--no-report", *(part for one in settings for part in ("--set", one))]
    log, most = out.with_suffix(".log"), 0
    with log.open("w") as stream:
        run = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream)
        try:
            while not (out / f"checkpoints/step-{steps:08d}").exists():
                if run.poll() is not None:
                    sys.exit(f"the run ended with {run.returncode}:\n{log.read_text()}")
                most = max(most, sum(map(pss, [run.pid, *below(run.pid)])))
                time.sleep(EVERY)
        finally:
            run.terminate()
            run.wait()
    return most


def pss(process: int) -> int:
    """Bytes; 0 of one that has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


if __name__ == "__main__":
    main()
