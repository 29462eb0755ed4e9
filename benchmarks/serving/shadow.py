"""How much longer does somebody wait for an image while a candidate version sees copies of a share?

    python -m benchmarks.serving.shadow [--share 0.1] [--rate 30] [--seconds 20] [--rounds 5]

Images come on a timetable, in turn without a shadow and with one, which of two goes
first taking turns; the candidate is the same graph under another version, as costly as what
answers. The images are JPEGs of 640x427, so many that the share of them is whole. The figure is the
median over the rounds of the difference between their 99th percentiles, in milliseconds; copies
that were shed, or not compared by the end of a round, are told beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import secrets
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.figures import summary
from benchmarks.serving.media import PHOTOGRAPHS, photograph
from benchmarks.serving.running import ROOT, Running, add_options, run_load, serving
from benchmarks.serving.swaps import rewrite
from models.bundle import read_bundle
from service.engine.shadow.copies import fraction

IMAGES = 100
VERSIONS = ("1", "2")
#: Until the copies of a round are compared.
PATIENCE = 10.0


def main() -> None:
    """Print the figure, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("--bundle", type=Path, default=ROOT / "bundles" / "cifar10-liere8")
    add("--share", type=float, default=0.1, help="of the images that are copied")
    add("--rate", type=float, default=30.0, help="images a second")
    add("--seconds", type=float, default=20.0, help="of images, without and with")
    add("--rounds", type=int, default=5)
    add_options(parser)
    options = parser.parse_args()
    name, key = read_bundle(options.bundle).manifest.name, secrets.token_urlsafe()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for version in VERSIONS:
            shutil.copytree(options.bundle, folder / name / version)
            rewrite(folder / name / version, version=version)
        serving_json = {"schema": 1, "version": VERSIONS[0], "previous": None}
        (folder / name / "serving.json").write_text(json.dumps(serving_json))
        digest = hashlib.sha256(key.encode()).hexdigest()
        (folder / "keys.txt").write_text(f"{digest} benchmark scopes=classify,metrics,admin\n")
        images = numbered_photographs(folder, options.share)
        arguments = ("--keys-file", str(folder / "keys.txt"), "--open-metrics")
        with serving([folder / name], options, *arguments) as server:
            phases = f"{options.rate}x{options.seconds * options.scale}"
            site = Site(server, name, key, images, phases)
            run_load(server.url(), images, "--phases", f"{options.rate}x1", "--key", key)  # warms
            rounds = [
                site.one_round(options.share, first=bool(number % 2))
                for number in range(options.rounds)
            ]
    added = statistics.median(one["added_ms"] for one in rounds)
    for one in rounds:
        without, beside = one["without"], one["with"]
        print(f"p99 without {without['p99_ms']} ms, with {beside['p99_ms']} ms; right a second "
              f"{without['right_per_second']} and {beside['right_per_second']}; "
              f"{one['compared']} of {one['copies']} copies compared")  # fmt: skip
    print(f"a shadow of {options.share:g} adds {added:.1f} ms to the p99")
    sums = {name: sum(one[name] for one in rounds) for name in ("copies", "compared")}
    line = {"benchmark": "serving.shadow", "bundle": name, "added_ms": added, **sums}
    print(json.dumps(line | {"rounds": rounds, "phases": phases, "share": options.share}))


def numbered_photographs(folder: Path, share: float) -> list[Path]:
    """JPEGs that differ by a comment, evenly mixed, of which just a share is copied.

    Whether a file is copied is decided by its bytes.
    """
    photographs = [photograph(seed) for seed in range(PHOTOGRAPHS)]
    wanted, kept = round(share * IMAGES), dict[bool, list[bytes]]({True: [], False: []})
    number = 0
    while len(kept[True]) < wanted or len(kept[False]) < IMAGES - wanted:
        whole, comment = photographs[number % PHOTOGRAPHS], f"{number:08}".encode()
        # A comment is a segment of its own, right behind the mark that begins the file.
        file = whole[:2] + b"\xff\xfe" + (2 + len(comment)).to_bytes(2, "big") + comment + whole[2:]
        is_copied = fraction(file) < share
        if len(kept[is_copied]) < (wanted if is_copied else IMAGES - wanted):
            kept[is_copied].append(file)
        number += 1
    paths = []
    for place in range(IMAGES):
        is_copied = (place + 1) * wanted // IMAGES > place * wanted // IMAGES
        path = folder / f"{place:03}.jpg"
        path.write_bytes(kept[is_copied].pop())
        paths.append(path)
    return paths


class Site:
    """A server with two versions of a bundle, its images and its admin."""

    def __init__(
        self, server: Running, name: str, key: str, images: Sequence[Path], phases: str
    ) -> None:
        self.server, self.name, self.key = server, name, key
        self.images, self.phases = images, phases

    def one_round(self, share: float, *, first: bool) -> dict[str, Any]:
        """Both spans, that with the shadow ``first`` or last; and what it found."""
        found: dict[str, Any] = {}
        for is_beside in (first, not first):
            if is_beside:
                self.ask("POST", f"versions/{VERSIONS[1]}/shadow?share={share:g}")
                found["with"] = self.load()
                report = self.wait_for_copies()
                self.ask("DELETE", "shadow")
            else:
                found["without"] = self.load()
        left_out = sum(report["shed"].values()) + sum(report["failed"].values())
        copies = report["compared"] + left_out + report["waiting"]
        if not copies:
            raise SystemExit("expected copies, got none: --seconds or --share is too small")
        added = found["with"]["p99_ms"] - found["without"]["p99_ms"]
        return found | {"added_ms": added, "compared": report["compared"], "copies": copies}

    def load(self) -> dict[str, Any]:
        """Images on a timetable to an idle server; SystemExit where none is answered."""
        self.server.settle()
        sent = ("--phases", self.phases, "--patience", "60", "--key", self.key)
        records = run_load(self.server.url(), self.images, *sent).records
        told = summary(records, float(self.phases.partition("x")[2]))
        if told["p99_ms"] is None:
            raise SystemExit(f"expected answers, got {told['outcomes']}")
        return told

    def wait_for_copies(self) -> dict[str, Any]:
        """The report, once nothing waits; as it is when that lasts too long."""
        end = time.monotonic() + PATIENCE
        self.server.settle()
        while (report := self.ask("GET", "shadow"))["waiting"] and time.monotonic() < end:
            time.sleep(0.1)
        return report

    def ask(self, method: str, path: str) -> dict[str, Any]:
        """What an admin is told; SystemExit where that is a problem."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=300)
        headers = {"Authorization": f"Bearer {self.key}"}
        try:
            connection.request(method, f"/admin/bundles/{self.name}/{path}", headers=headers)
            answer = connection.getresponse()
            document: dict[str, Any] = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise SystemExit(f"expected a report, got {answer.status}: {document.get('detail')}")
        return document


if __name__ == "__main__":
    main()
