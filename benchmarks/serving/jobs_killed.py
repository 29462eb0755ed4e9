"""Does a server that is killed, again and again, lose an item of a job or answer one twice?

    python -m benchmarks.serving.jobs_killed [--kills 100]

A real server gets a job of pictures in a tar and is killed by SIGKILL at a moment that is drawn at
random, started again with the same folder, and so on; while it runs the lines that are there are
read, and those that were read once must stay the first ones. A job that is done is followed by the
next, so every kill but those between two jobs hits one at work. In the end every item of every job
must have exactly one line. The figure is the items without a line, and those with another number
than one or whose line has changed.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

START_SECONDS, END_SECONDS = 120.0, 600.0
#: After the server answers, until it is killed.
LIFE_SECONDS = (0.0, 1.5)


def main() -> None:
    """Print the figure, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--items", type=int, default=1000, help="of one job")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/cifar10-liere8"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    tally = Tally(options.items)
    packed = pack(options.bundle, options.items)
    with tempfile.TemporaryDirectory() as folder:
        command = serve(options.bundle, Path(folder))
        for _ in range(options.kills):
            with Server(command) as server:
                tally.look(server.client)
                if tally.working == 0:
                    tally.begin(server.client, packed)
                time.sleep(draw.uniform(*LIFE_SECONDS))
                tally.look(server.client)
                tally.at_work += tally.working > 0
        with Server(command) as server:
            end = time.monotonic() + END_SECONDS
            while tally.working and time.monotonic() < end:
                time.sleep(0.2)
                tally.look(server.client)
            lost, twice = tally.judge()
    print(f"{options.kills} kills, {tally.at_work} of them while a job was at work")
    print(f"{len(tally.lines)} jobs: {lost} items lost, {twice} answered twice or changed")
    line = {"benchmark": "serving.jobs_killed", "kills": options.kills, "at_work": tally.at_work}
    jobs = {"jobs": len(tally.lines), "items": options.items}
    print(json.dumps(line | jobs | {"lost": lost, "twice": twice}))


def serve(bundle: Path, folder: Path) -> list[str]:
    """The command of a server of one bundle, with its jobs in a folder."""
    (folder / "bundles").mkdir()
    shutil.copytree(bundle, folder / "bundles" / bundle.name)
    words = ["-m", "service", "--bundles", folder / "bundles", "--jobs", folder / "jobs"]
    words += ["--port", "0", "--lanes", "1", "--decode-workers", "1"]
    return [sys.executable, *map(str, words)]


def pack(bundle: Path, items: int) -> bytes:
    """A tar of the bundle's own goldens, again and again under other names."""
    media = [path for path in sorted((bundle / "golden").iterdir()) if path.suffix != ".json"]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for number in range(items):
            path = media[number % len(media)]
            data = path.read_bytes()
            entry = tarfile.TarInfo(f"{number}{path.suffix}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


class Server:
    """A server that is there until the block ends, by SIGKILL."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        told = self.process.stdout.readline()
        port = told.split("http://127.0.0.1:")[1].split()[0]
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=START_SECONDS, verify=False
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Tally:
    """Every line that was ever read of every job.

    Attributes:
        lines: address of a job -> its lines by now.
        working: jobs that are not done.
        changed: lines that were another one before.
    """

    def __init__(self, items: int) -> None:
        self.items = items
        self.lines: dict[str, list[str]] = {}
        self.working = self.changed = self.at_work = 0

    def begin(self, client: httpx.Client, packed: bytes) -> None:
        headers = {"Content-Type": "application/x-tar", "Idempotency-Key": str(len(self.lines))}
        made = client.post("/v1/jobs", content=packed, headers=headers)
        made.raise_for_status()
        self.lines[made.headers["location"]] = []

    def look(self, client: httpx.Client) -> None:
        """Read the newest job, the only one that may be at work."""
        self.working = 0
        for path in list(self.lines)[-1:]:
            state: dict[str, Any] = client.get(path).raise_for_status().json()
            now = client.get(f"{path}/results").raise_for_status().text.splitlines()
            known = self.lines[path]
            self.changed += sum(one != other for one, other in zip(known, now, strict=False))
            self.changed += max(0, len(known) - len(now))
            self.lines[path] = now
            self.working += state["state"] != "done"

    def judge(self) -> tuple[int, int]:
        """Items without a line, and those with several or another one than before."""
        lost, twice = 0, self.changed
        for lines in self.lines.values():
            counts = Counter(json.loads(line)["item"] for line in lines)
            lost += sum(number not in counts for number in range(1, self.items + 1))
            twice += sum(count - 1 for count in counts.values())
        return lost, twice


if __name__ == "__main__":
    main()
