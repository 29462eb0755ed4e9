"""Does another version cost anybody an answer, or a bad candidate?

    python -m benchmarks.serving.swaps [--swaps 100] [--requests 20000]

Good images come on a timetable. Meanwhile, by the addresses under /admin, two versions of one
bundle take each other's place so often, and after every eighth swap a bad candidate is tried, of
twelve kinds in turn: a changed byte, a newer schema, an unknown key, a file missing, too many, a
link, another name, another version, no JSON, other logits, no tolerance, no graph. Each must be
refused (409), and the old version answer. The figures are the requests without their right answer,
of how many, the swaps that failed, the candidates that were let in, and the memory of the server
(USS) before and after.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.serving.bundles import add_bundle_options, chosen_bundle
from benchmarks.serving.memory import memory_of
from benchmarks.serving.running import Running, add_options, read_result, serving, start_load
from models.bundle import Bundle
from models.manifest import MANIFEST

GOOD = ("1", "2")
EVERY = 8  # swaps from one bad candidate to the next


def main() -> None:
    """Print the figures, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add_bundle_options(parser, "tiny-absolute")
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=60.0, help="requests a second")
    add_options(parser)
    options = parser.parse_args()
    bundle, key = chosen_bundle(options), secrets.token_urlsafe()
    swaps = max(len(GOOD), round(options.swaps * options.scale))
    seconds = options.requests * options.scale / options.rate
    with tempfile.TemporaryDirectory() as folder:
        home = write_versions(bundle, Path(folder) / bundle.manifest.name)
        keys = Path(folder) / "keys.txt"
        digest = hashlib.sha256(key.encode()).hexdigest()
        keys.write_text(f"{digest} benchmark scopes=classify,metrics,admin\n")
        arguments = ("--keys-file", str(keys), "--open-metrics")
        with serving([home], options, *arguments) as server:
            found = measure(server, bundle, key, swaps, seconds, options.rate)
    print(f"requests without their answer: {found['lost']} of {found['requests']}: "
          f"{found['outcomes']}")  # fmt: skip
    print(f"swaps that failed: {found['failed']} of {found['swaps']}, median {found['swap_s']} s; "
          f"bad candidates let in: {found['let_in']} of {found['candidates']}")  # fmt: skip
    before, after = found["mib"]
    print(f"memory of the server: {before} MiB after two swaps, {after} MiB at the end")
    line = {"benchmark": "serving.swaps", "bundle": bundle.manifest.name, "scale": options.scale}
    print(json.dumps(line | found))


def measure(
    server: Running, bundle: Bundle, key: str, swaps: int, seconds: float, rate: float
) -> dict[str, Any]:
    """The load, and the changes beside it until it is over and all of them are done."""
    admin, name = Admin(server.port, key), bundle.manifest.name
    golden = bundle.manifest.goldens[0]
    (grid, *_) = golden.logits
    logits = golden.logits[grid]
    expected = bundle.manifest.labels[logits.index(max(logits))]
    for version in reversed(GOOD):  # what is made once is made before it is measured
        admin.change(name, version)
    memory = [memory_of(server.pid)]
    load = start_load(
        server.url(), [bundle.path(golden.file)], "--phases", f"{rate}x{seconds}", "--patience",
        "10", "--key", key, expect=[expected],
    )  # fmt: skip
    failed, let_in, candidates, times = 0, Counter[str](), 0, []
    with load:
        for number in range(swaps):
            began = time.monotonic()
            failed += admin.change(name, GOOD[(number + 1) % 2]) != 200
            times.append(time.monotonic() - began)
            if number % EVERY == EVERY - 1 or swaps < EVERY:
                kind = list(BAD)[candidates % len(BAD)]
                candidates += 1
                let_in[kind] += admin.change(name, bad_version(kind)) != 409
        records = read_result(load).records
    memory.append(memory_of(server.pid))
    outcomes = Counter(one.outcome for one in records)
    return {
        "requests": len(records),
        "lost": len(records) - outcomes["200"],
        "outcomes": dict(outcomes),
        "swaps": swaps,
        "failed": failed,
        "swap_s": round(sorted(times)[len(times) // 2], 2),
        "candidates": candidates,
        "let_in": let_in.total(),
        "mib": [round(one / 2**20, 1) for one in memory],
    }


class Admin:
    """Who may change what answers."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._headers = {"Authorization": f"Bearer {key}"}

    def change(self, name: str, version: str) -> int:
        """Let a version answer; the status."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        path = f"/admin/bundles/{name}/versions/{version}/load"
        try:
            connection.request("POST", path, headers=self._headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()


# --- versions ----------------------------------------------------------------------------------


def write_versions(bundle: Bundle, home: Path) -> Path:
    """Two good ones, and one of every bad kind; the first one answers."""
    for version in (*GOOD, *map(bad_version, BAD)):
        shutil.copytree(bundle.root, home / version)
        rewrite(home / version, version=version)
    for kind, spoil in BAD.items():
        spoil(home / bad_version(kind))
    serving_json = {"schema": 1, "version": GOOD[0], "previous": None}
    (home / "serving.json").write_text(json.dumps(serving_json))
    return home


def bad_version(kind: str) -> str:
    return "bad-" + kind.replace(" ", "-")


def rewrite(folder: Path, **fields: object) -> None:
    """Other fields of its manifest."""
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | fields))


def change_a_byte(version: Path) -> None:
    (graph, *_) = sorted((version / "graphs").iterdir())
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)


def other_logits(version: Path) -> None:
    goldens = json.loads((version / MANIFEST).read_text())["goldens"]
    for golden in goldens:
        for row in golden["logits"].values():
            row[0] += 1
    rewrite(version, goldens=goldens)


def no_graph(version: Path) -> None:
    """Bytes that are none, with their own hash."""
    manifest = json.loads((version / MANIFEST).read_text())
    graph = manifest["grids"][0]["graph"]
    (version / graph).write_bytes(b"none")
    hashes = manifest["files"] | {graph: hashlib.sha256(b"none").hexdigest()}
    rewrite(version, files=hashes)


BAD: dict[str, Callable[[Path], object]] = {
    "changed byte": change_a_byte,
    "newer schema": lambda version: rewrite(version, schema=99),
    "unknown key": lambda version: rewrite(version, colour="red"),
    "missing file": lambda version: next((version / "golden").iterdir()).unlink(),
    "file too many": lambda version: (version / "note.txt").write_text("x"),
    "link": lambda version: (version / "link").symlink_to("note.txt"),
    "other name": lambda version: rewrite(version, name="other"),
    "other version": lambda version: rewrite(version, version="7"),
    "no json": lambda version: (version / MANIFEST).write_text("{"),
    "other logits": other_logits,
    "no tolerance": lambda version: rewrite(version, tolerances=[]),
    "no graph": no_graph,
}


if __name__ == "__main__":
    main()
