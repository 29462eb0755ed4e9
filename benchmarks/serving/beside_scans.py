"""How long does an image wait while scans of 99 MB are read and clips wait their turn?

    python -m benchmarks.serving.beside_scans [--seconds 20]

One server with a bundle of each modality. Images come 20 a second on a timetable, first alone, then
beside two connections that send a scan of 99 MB again and again and 16 that send a clip (MPEG-4,
320x240, 96 frames) again and again. Nobody leaves within a minute. Printed are the median and the
99th percentile of the images, alone and beside, and how many scans and clips were answered.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.serving.figures import due_between, summary
from benchmarks.serving.media import clip, photographs, scan
from benchmarks.serving.running import (
    ROOT,
    Running,
    add_options,
    read_result,
    run_load,
    serving,
    start_load,
)
from models.bundle import read_manifest

RATE = 20.0
SCANS, CLIPS = 2, 16
HEAD_START = 2.0  # of scans and clips, seconds


def main() -> None:
    """Print the figures, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("--bundles", type=Path, default=ROOT / "bundles", help="a folder with one per modality")
    add("--seconds", type=float, default=20.0, help="of images, alone and beside")
    add_options(parser)
    options = parser.parse_args()
    bundles = sorted(path.parent for path in options.bundles.glob("*/manifest.json"))
    found = {read_manifest(bundle).modality for bundle in bundles}
    if missing := {"image", "video", "volume"} - found:
        parser.error(f"--bundles: {options.bundles} has none for {', '.join(sorted(missing))}")
    seconds = options.seconds * options.scale
    with tempfile.TemporaryDirectory() as folder, serving(bundles, options) as server:
        row = measure(server, Path(folder), seconds)
    print(f"alone: p50 {row['alone']['p50_ms']} ms, p99 {row['alone']['p99_ms']} ms")
    print(f"beside: p50 {row['beside']['p50_ms']} ms, p99 {row['beside']['p99_ms']} ms")
    print(f"images beside: {row['beside']['outcomes']}; scans {row['scans']}, clips {row['clips']}")
    print(json.dumps({"benchmark": "serving.beside_scans", "scale": options.scale} | row))


def measure(server: Running, folder: Path, seconds: float) -> dict[str, Any]:
    """Images alone, then with company that was there before and stays until after them."""
    images, film, body = photographs(folder), clip(folder / "clip.mp4"), scan(folder / "scan.nii")
    patience = ("--patience", "60")
    run_load(server.url(), images, "--phases", f"{RATE}x1", *patience)  # warms up
    alone = run_load(server.url(), images, "--phases", f"{RATE}x{seconds}", *patience)
    long = HEAD_START + seconds + 1
    with (
        start_load(server.url("volume"), [body], "--closed", f"{SCANS}x{long}", *patience) as scans,
        start_load(server.url("video"), [film], "--closed", f"{CLIPS}x{long}", *patience) as clips,
    ):
        phases = f"{RATE}x{HEAD_START},{RATE}x{seconds}"
        beside = run_load(server.url(), images, "--phases", phases, *patience)
        company = {"scans": read_result(scans).records, "clips": read_result(clips).records}
    late = due_between(beside.records, HEAD_START, HEAD_START + seconds)
    counts = {name: dict(Counter(one.outcome for one in of)) for name, of in company.items()}
    return {
        "alone": summary(alone.records, seconds),
        "beside": summary(late, seconds),
        "seconds": seconds,
        **counts,
    }


if __name__ == "__main__":
    main()
