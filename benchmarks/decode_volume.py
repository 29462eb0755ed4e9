"""Scans: how long from the file to the tensor, and how much memory the largest of them takes.

    python -m benchmarks.decode_volume [--rounds 7] [--pixels 64]

Each scan is written to a file, plane by plane, and decoded in a process of its own under the
limits and with the environment of a decode worker (one thread). "first" is the first scan of that
process after it has loaded the readers; the medians are of the scans after it, by the clock on the
wall and in time of the processor, which a busy machine changes less. The peak is what the kernel
saw (VmHWM), the file's own bytes included; the limit is on address space (VmPeak).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import nibabel
import numpy as np

from media import read
from media.spec import Grid, InputSpec, VolumeSpec
from service.engine.decode.process import ENVIRONMENT
from service.engine.decode.worker import ADDRESS_SPACE_BYTES

SPEC = InputSpec(
    modality="volume", channels=1, fit="stretch", mean=(0.5,), std=(0.5,), volume=VolumeSpec()
)
PATCH = (8, 8, 8)
AFFINE = np.diag([-0.7, 0.7, 1.2, 1.0])


class Case(NamedTuple):
    """A scan to write: width, height, depth; large ones are decoded once."""

    shape: tuple[int, int, int]
    dtype: type
    packed: bool
    large: bool = False


CASES = {
    "64x64x64 uint8 gz": Case((64, 64, 64), np.uint8, packed=True),
    "128x128x128 int16 gz": Case((128, 128, 128), np.int16, packed=True),
    "256x256x160 int16 gz": Case((256, 256, 160), np.int16, packed=True),
    "512x512x120 int16": Case((512, 512, 120), np.int16, packed=False),
    "512x512x511 int16": Case((512, 512, 511), np.int16, packed=False, large=True),
    "512x512x512 int16 gz": Case((512, 512, 512), np.int16, packed=True, large=True),
    "512x512x255 float64 gz": Case((512, 512, 255), np.float64, packed=True, large=True),
}


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pixels", type=int, default=64, help="per axis; a multiple of 8")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(decode(options.child, options.rounds, options.pixels)))
        return
    columns = ("first_ms", "median_ms", "cpu_ms", "file_mb", "idle_mb", "peak_mb", "address_mb")
    print(f"{'':>22} " + " ".join(f"{name:>10}" for name in columns))
    rows = {}
    for name, case in CASES.items():
        rows[name] = row = in_fresh_process(case, options.rounds, options.pixels)
        print(f"{name:>22} " + " ".join(f"{row[column]:>10.1f}" for column in columns))
    limit = ADDRESS_SPACE_BYTES / 1e6
    print(f"limit on address space: {limit:.0f} MB")
    line = {"benchmark": "decode_volume", "pixels": options.pixels, "limit_mb": limit}
    print(json.dumps(line | {"scans": rows}))


def write_scan(stream: BinaryIO, case: Case) -> None:
    """A NIfTI file of soft shapes with noise on them, one plane at a time."""
    header = nibabel.Nifti1Header()
    header.set_data_shape(case.shape)
    header.set_data_dtype(case.dtype)
    header.set_sform(AFFINE, code=1)
    header["vox_offset"] = 352
    stream.write(header.binaryblock + bytes(4))
    width, height, depth = case.shape
    rows, columns = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    noise = np.random.default_rng(0).normal(0, 12, (8, height, width))
    for plane in range(depth):
        soft = 100 + 90 * np.sin(9 * rows + plane / 40) * np.sin(7 * columns)
        stream.write(np.clip(soft + noise[plane % 8], 0, 255).round().astype(case.dtype).tobytes())


def in_fresh_process(case: Case, rounds: int, pixels: int) -> dict[str, float]:
    """Write a scan and decode it in a child."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan"
        with gzip.open(path, "wb", 1) if case.packed else path.open("wb") as stream:
            write_scan(cast(BinaryIO, stream), case)
        command = [sys.executable, "-m", "benchmarks.decode_volume", "--child", str(path)]
        command += ["--pixels", str(pixels), "--rounds", str(1 if case.large else rounds)]
        environment = os.environ | ENVIRONMENT
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=environment
        )
    return json.loads(done.stdout.splitlines()[-1])


def decode(path: Path, rounds: int, pixels: int) -> dict[str, float]:
    """Time and memory of decoding a file, under a worker's limit."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    grid = Grid((pixels // PATCH[0],) * 3)
    read(np.zeros((8, 8, 8), np.uint8), SPEC, grid, PATCH)  # loads the readers
    idle, data = status_mb("VmRSS"), path.read_bytes()
    times, processor = [], []
    for _ in range(rounds + 1):
        start, spent = time.perf_counter(), time.process_time()
        read(data, SPEC, grid, PATCH)
        times.append(1e3 * (time.perf_counter() - start))
        processor.append(1e3 * (time.process_time() - spent))
    return {
        "first_ms": times[0],
        "median_ms": statistics.median(times[1:]),
        "cpu_ms": statistics.median(processor[1:]),
        "file_mb": len(data) / 1e6,
        "idle_mb": idle,
        "peak_mb": status_mb("VmHWM"),
        "address_mb": status_mb("VmPeak"),
    }


def status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
