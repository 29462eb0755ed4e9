"""Does a server that is killed, again and again, lose an item of a job or answer one twice?

    python -m benchmarks.serving.jobs_killed [--kills 100]

A real server gets a job of pictures in a tar and is killed by SIGKILL at a moment that is drawn at
random, started again with the same folder, and so on. A client goes on meanwhile: it reads the
lines that are there, of which those that were read once must stay the first ones, and sends the
next job when one is done, again with the same idempotency key where the kill came in between. So a
kill hits an upload, a read, or the work itself. In the end every item of every job must have
exactly one line, and no job may be there twice. The figure is the items without a line, and those
with another number than one or whose line has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
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
                killing = threading.Timer(draw.uniform(*LIFE_SECONDS), server.process.kill)
                killing.start()
                with contextlib.suppress(httpx.TransportError):
                    while True:
                        tally.go_on(server.client, packed)
                killing.join()
                tally.at_work += tally.working
        with Server(command) as server:
            end = time.monotonic() + END_SECONDS
            while tally.look(server.client) and time.monotonic() < end:
                time.sleep(0.2)
            lost, twice = tally.judge(server.client)
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
        working: whether there is a job that was not seen to be done.
        changed: lines that were another one before.
        at_work: kills while that was so.
    """

    def __init__(self, items: int) -> None:
        self.items = items
        self.lines: dict[str, list[str]] = {}
        self.working = False
        self.changed = self.at_work = 0

    def go_on(self, client: httpx.Client, packed: bytes) -> None:
        """Look at the newest job, or send the next one; httpx.TransportError where a kill came."""
        if not self.look(client):
            headers = {"Content-Type": "application/x-tar", "Idempotency-Key": f"{len(self.lines)}"}
            made = client.post("/v1/jobs", content=packed, headers=headers).raise_for_status()
            self.lines[made.headers["location"]] = []
            self.working = True
        time.sleep(0.05)

    def look(self, client: httpx.Client) -> bool:
        """Read the newest job, the only one that may be at work; whether it is."""
        for path in list(self.lines)[-1:]:
            state: dict[str, Any] = client.get(path).raise_for_status().json()
            now = client.get(f"{path}/results").raise_for_status().text.splitlines()
            known = self.lines[path]
            self.changed += sum(one != other for one, other in zip(known, now, strict=False))
            self.changed += max(0, len(known) - len(now))
            self.lines[path] = now
            self.working = state["state"] != "done"
        return self.working

    def judge(self, client: httpx.Client) -> tuple[int, int]:
        """Items without a line, and those with several or another one than before.

        A job that is there twice has all of its items twice.
        """
        jobs = client.get("/v1/jobs", params={"limit": "1000"}).raise_for_status().json()["jobs"]
        lost, twice = 0, self.changed + self.items * (len(jobs) - len(self.lines))
        for lines in self.lines.values():
            counts = Counter(json.loads(line)["item"] for line in lines)
            lost += sum(number not in counts for number in range(1, self.items + 1))
            twice += sum(count - 1 for count in counts.values())
        return lost, twice


if __name__ == "__main__":
    main()
