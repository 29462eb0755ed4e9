"""Do clients that send slowly, or never to the end, keep the others out?

    python -m benchmarks.serving.slow_clients [--uploads 500] [--heads 500]

Honest clients send JPEGs of 640x427 (100 kB) at half of the capacity (a closed loop of 16
connections), on a timetable, and wait 5 s: first alone, then while another process holds
500 uploads that go on by one byte a second and 500 heads of requests that are never finished.
What the server closes is opened again a second later. The figure is the share of the honest
requests that got their right answer, in the second half of either span.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import uvloop

from benchmarks.serving.bare import Bare
from benchmarks.serving.bundles import add_bundle_options, chosen_bundle
from benchmarks.serving.figures import due_between, summary
from benchmarks.serving.media import photographs
from benchmarks.serving.running import (
    ROOT,
    Running,
    add_options,
    measure_capacity,
    run_load,
    serving,
)

CONNECTIONS = 16
SHARE = 0.5  # of the capacity that honest clients ask for
SECONDS, HEAD_START = 20.0, 3.0
UPLOAD_BYTES = 100_000


def main() -> None:
    """Print both shares, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add_bundle_options(parser, "tiny-absolute")
    parser.add_argument("--uploads", type=int, default=500, help="at one byte a second")
    parser.add_argument("--heads", type=int, default=500, help="that are never finished")
    parser.add_argument("--hold", type=urlsplit, help=argparse.SUPPRESS)
    add_options(parser)
    options = parser.parse_args()
    if options.hold:
        print(json.dumps(uvloop.run(hold(options.hold, options.uploads, options.heads))))
        return
    bundle = chosen_bundle(options)
    seconds = SECONDS * options.scale
    with tempfile.TemporaryDirectory() as folder, serving([bundle.root], options) as server:
        files = photographs(Path(folder))
        expect = Bare(bundle, 1).best_labels(files)
        measure_capacity(server, files, CONNECTIONS, seconds / 10, expect)  # warms up
        rate = SHARE * measure_capacity(server, files, CONNECTIONS, seconds / 4, expect).per_second
        alone = honest(server, files, expect, rate, seconds)
        command = [sys.executable, "-m", "benchmarks.serving.slow_clients", "--hold", server.url()]
        command += ["--uploads", str(options.uploads), "--heads", str(options.heads)]
        with subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as holder:
            beside = honest(server, files, expect, rate, seconds)
            slow = json.loads(holder.communicate()[0])  # the end of its input is its end
    print(f"honest goodput {beside['share']:.1%} of {rate:.1f}/s, alone {alone['share']:.1%}")
    print(f"p99 {beside['p99_ms']} ms, alone {alone['p99_ms']} ms; the slow ones: {slow}")
    line = {"benchmark": "serving.slow_clients", "bundle": bundle.manifest.name}
    figures = {"rate": rate, "slow": slow, "alone": alone, "beside": beside}
    print(json.dumps(line | {"scale": options.scale} | figures))


def honest(
    server: Running, files: Sequence[Path], expect: Sequence[str], rate: float, seconds: float
) -> dict[str, Any]:
    """What came of the honest requests of the second half."""
    phases = f"{rate}x{HEAD_START},{rate}x{seconds}"
    result = run_load(server.url(), files, "--phases", phases, expect=expect)
    end = HEAD_START + seconds
    counted = summary(due_between(result.records, end - seconds / 2, end), seconds / 2)
    asked = sum(counted["outcomes"].values())
    return {"share": round(counted["outcomes"].get("200", 0) / asked, 4), **counted}


# --- the slow ones ---------------------------------------------------------------------------


async def hold(url: SplitResult, uploads: int, heads: int) -> dict[str, Any]:
    """Keep so many open until standard input ends; what was opened and answered."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    head = f"POST {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\n"
    body = f"{head}Content-Length: {UPLOAD_BYTES}\r\n\r\n".encode() + b"\xff\xd8"
    counts: Counter[str] = Counter()
    tasks = [asyncio.create_task(_hold_one(url, body, b"\xff", counts)) for _ in range(uploads)]
    tasks += [asyncio.create_task(_hold_one(url, head.encode(), b"", counts)) for _ in range(heads)]
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    failures = [repr(end) for end in ends if not isinstance(end, asyncio.CancelledError)]
    return {**counts, **({"failures": failures} if failures else {})}


async def _hold_one(url: SplitResult, start: bytes, drop: bytes, counts: Counter[str]) -> None:
    """One connection after another: ``start`` at once, then ``drop`` every second."""
    while True:
        try:
            reader, writer = await asyncio.open_connection(url.hostname, url.port)
            counts["opened"] += 1
            writer.write(start)
            answer = asyncio.create_task(reader.read(12))
            while not (await asyncio.wait([answer], timeout=1.0))[0]:
                writer.write(drop)
            counts[answer.result()[9:12].decode() or "closed"] += 1
            writer.close()
        except OSError:
            counts["reset"] += 1
        await asyncio.sleep(1.0)


if __name__ == "__main__":
    main()
