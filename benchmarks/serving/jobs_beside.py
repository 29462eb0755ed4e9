"""How much longer does somebody wait for an image while a job of 10,000 images runs?

    python -m benchmarks.serving.jobs_beside [--seconds 20] [--rounds 3]

Images come 30 a second on a timetable, in turn alone and beside a job of 10,000 JPEGs of 640x427,
which the server reads from a folder, which was begun two seconds before and is at work still when
the last image was answered. The figure is the median over the rounds of the difference between
their 99th percentiles, in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.serving.figures import summary
from benchmarks.serving.media import photographs
from benchmarks.serving.running import ROOT, Running, add_options, run_load, serving

RATE, IMAGES = 30.0, 10_000
HEAD_START = 2.0  # of the job, seconds


def main() -> None:
    """Print the figure, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("--bundle", type=Path, default=ROOT / "bundles" / "cifar10-liere8")
    add("--seconds", type=float, default=20.0, help="of images, alone and beside")
    add("--rounds", type=int, default=3)
    add_options(parser)
    options = parser.parse_args()
    seconds = options.seconds * options.scale
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "images"
        images = many_photographs(folder, IMAGES)[:8]
        arguments = ("--jobs", f"{place}/jobs", "--jobs-paths", str(folder))
        with serving([options.bundle], options, *arguments) as server:
            run_load(server.url(), images, "--phases", f"{RATE}x1")  # warms up
            rounds = [one_round(server, images, seconds) for _ in range(options.rounds)]
    added = statistics.median(one["added_ms"] for one in rounds)
    for one in rounds:
        print(f"p99 alone {one['alone']['p99_ms']} ms, beside {one['beside']['p99_ms']} ms; "
              f"{one['answered']} images of the job meanwhile")  # fmt: skip
    print(f"the job adds {added:.1f} ms to the p99")
    line = {"benchmark": "serving.jobs_beside", "bundle": options.bundle.name, "added_ms": added}
    print(json.dumps(line | {"rounds": rounds, "seconds": seconds, "rate": RATE}))


def one_round(server: Running, images: Sequence[Path], seconds: float) -> dict[str, Any]:
    """Alone, then beside; SystemExit where the job was done too early to tell."""
    phases = ("--phases", f"{RATE}x{seconds}", "--patience", "60")
    server.settle()
    alone = summary(run_load(server.url(), images, *phases).records, seconds)
    with submit(server, ["."]) as job:
        time.sleep(HEAD_START)
        beside = summary(run_load(server.url(), images, *phases).records, seconds)
        document = job.look()
    if document["state"] != "running":
        raise SystemExit(f"the job was {document['state']} before the last image was answered")
    added = beside["p99_ms"] - alone["p99_ms"]
    return {"alone": alone, "beside": beside, "added_ms": added, "answered": document["answered"]}


def many_photographs(folder: Path, images: int) -> list[Path]:
    """So many names for eight JPEGs of 640x427, in a folder that is made."""
    folder.mkdir()
    made = photographs(folder)
    for number in range(images - len(made)):
        os.link(made[number % len(made)], folder / f"more-{number:05}.jpg")
    return sorted(folder.iterdir())[:images]


class SubmittedJob:
    """A job of a server, until ``submit`` ends it."""

    def __init__(self, client: httpx.Client, path: str) -> None:
        self.client, self.path = client, path

    def look(self) -> dict[str, Any]:
        document: dict[str, Any] = self.client.get(self.path).raise_for_status().json()
        return document


@contextmanager
def submit(server: Running, paths: Sequence[str]) -> Iterator[SubmittedJob]:
    """A job of files below ``--jobs-paths``; cancelled in the end."""
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60, verify=False) as http:
        made = http.post("/v1/jobs", json={"paths": list(paths)}).raise_for_status()
        job = SubmittedJob(http, made.headers["location"])
        yield job
        http.delete(job.path).raise_for_status()


if __name__ == "__main__":
    main()
