"""How many images a second are answered as a job, over the command on the same folder?

    python -m benchmarks.serving.jobs_throughput [--images 4000] [--rounds 5]

A folder of JPEGs of 640x427 is answered by ``python -m service classify --json``, which nothing is
kept of, and as a job of a server that reads the same folder, by the same bundle, lanes, threads and
decode workers. The command's time is that from its first line to its last, without its start; the
job's that from its entry to its end, as its document says, every line on the disk. The figure is
the median of the rounds' ratios, with its range.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from benchmarks.serving.jobs_beside import many_photographs, submit
from benchmarks.serving.running import ROOT, Running, add_options, serving


def main() -> None:
    """Print the figure, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "cifar10-liere8")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    add_options(parser)
    options = parser.parse_args()
    images, found = max(2, round(options.images * options.scale)), []
    with tempfile.TemporaryDirectory() as place:
        folder, jobs = Path(place) / "images", Path(place) / "jobs"
        files = many_photographs(folder, images)
        arguments = ["--jobs", str(jobs), "--jobs-paths", str(folder), "--lanes", "1"]
        with serving([options.bundle], options, *arguments) as server:
            for _ in range(options.rounds):
                found.append((through_job(server), through_command(options.bundle, files)))
                server.settle()
    ratios = [job / command for job, command in found]
    middle, least, most = statistics.median(ratios), min(ratios), max(ratios)
    print(f"images a second as a job over the command: {middle:.3f} ({least:.3f} to {most:.3f})")
    job, command = (statistics.median(way) for way in zip(*found, strict=True))
    print(f"{job:.1f} of {command:.1f} a second; {options.rounds} rounds of {images} images")
    line = {"benchmark": "serving.jobs_throughput", "bundle": options.bundle.name}
    figures = {"ratio": [middle, least, most], "per_second": [job, command]}
    print(json.dumps(line | figures | {"rounds": options.rounds, "images": images}))


def through_job(server: Running) -> float:
    """Images a second of a job of the whole folder."""
    with submit(server, ["."]) as job:
        while (document := job.look())["state"] != "done":
            time.sleep(0.25)
    if document["failed"]:
        raise SystemExit(f"{document['failed']} of {document['total']} images were not answered")
    created, ended = (datetime.fromisoformat(document[name]) for name in ("created", "ended"))
    return float(document["total"]) / (ended - created).total_seconds()


def through_command(bundle: Path, files: list[Path]) -> float:
    """Images a second from the first line to the last."""
    command = [sys.executable, "-m", "service", "classify", "--json", "--bundles", bundle.parent]
    command += ["--bundle", bundle.name, "--device", "cpu", *files]
    times, words = [], [str(word) for word in command]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in process.stdout:
            times.append(time.monotonic())
    if process.returncode or len(times) != len(files):
        raise SystemExit(f"the command answered {len(times)} of {len(files)} images")
    return (len(times) - 1) / (times[-1] - times[0])


if __name__ == "__main__":
    main()
