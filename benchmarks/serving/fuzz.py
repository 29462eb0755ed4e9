"""Does any spoilt file end the server, or get an answer that names no fault of the file?

    python -m benchmarks.serving.fuzz [--files 10000] [--decoders image/PNG video/mov ...]

Every type that is read has small seeds, made here; --data adds the files of a folder, told by their
endings. Each spoilt file is a seed with one to four damages: bits, lengths, chunks repeated,
swapped or left out, ends cut off or taken from another seed; of packed types also inside the
checksum. It goes through the decode workers of the service as a request would, and every tenth to
a whole server over HTTP as well. The same --seed and --data spoil the same files.

Printed are, for each type, the answers by the type of problem, how many workers died (each is
replaced; a file that takes too long kills one too), the slowest file, and how many broken ones the
reader had not foreseen: an exception of a library, or of ours, stopped them. A fault is what no
file may cause: an answer of 5xx, none at all, an exception that is no failure of the engine. With
one the exit status is 1, as where the server ended. --keep saves the files at fault, those that
killed workers or took too long and the unforeseen ones.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.serving.mutations import Seed, spoil
from benchmarks.serving.running import ROOT, Running, add_options, serving
from benchmarks.serving.seeds import BY_NAME, seeds_of
from media.files import write_atomic
from models.bundle import read_manifest
from service.cpus import usable_cpus
from service.engine.decode.pool import DecodePool
from service.engine.decode.wire import Preparation
from service.engine.failures import Failure
from service.engine.model import Choice, Model, Target
from service.http.problems import problem_of
from service.settings import make_settings

#: Every so many-th file goes over HTTP as well.
HTTP_EVERY = 10
ANSWER_SECONDS = 60.0
#: What files are told that ended all of their workers, and that no reader foresaw.
KILLER, UNFORESEEN = "the file breaks its decoder", "the file cannot be decoded within the limits"
TOO_LONG = "/problems/decode-timeout"
RESTARTS = "liere_decode_worker_restarts_total"


@dataclass
class Found:
    """What became of the spoilt files of one type."""

    answers: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    deaths: int = 0  # of workers
    unforeseen: int = 0
    slowest: tuple[float, int] = (0.0, 0)  # seconds, number of the file
    kept: set[int] = field(default_factory=set)  # numbers

    def note(self, number: int, answer: str, seconds: float = 0.0, fault: bool = False) -> None:
        self.answers[answer] += 1
        self.slowest = max(self.slowest, (round(seconds, 3), number))
        if fault:
            self.faults.append(f"{number}: {answer}")
        if fault or answer == TOO_LONG:
            self.kept.add(number)


def main() -> None:
    """Print a line for each type, then one JSON line; exit 1 where there was a fault."""
    options = parse()
    manifests = [
        read_manifest(path.parent) for path in sorted(options.bundles.glob("*/manifest.json"))
    ]
    preparations = {
        one.modality: Choice.of(
            Target.make(Model(one, 0), grid.grid, one.input.views,
                        make_settings().limits(one.modality).decode_seconds)
            for grid in one.grids
        ).preparation
        for one in manifests
    }  # fmt: skip
    chosen = [name for name in options.decoders if BY_NAME[name].modality in preparations]
    bundles = [options.bundles / one.name for one in manifests]
    rows: dict[str, dict[str, Any]] = {}
    with serving(bundles, options) as server:
        for name in chosen:
            modality = BY_NAME[name].modality
            files = Spoilt(name, seeds_of(BY_NAME[name], options.data), options)
            inside = uvloop.run(decode(files, preparations[modality], usable_cpus()))
            over_http = send(files, server, modality)
            rows[name] = row = {"files": options.files, "seeds": len(files.seeds)} | {
                "answers": dict(inside.answers.most_common()),
                "http_answers": dict(over_http.answers.most_common()),
                "worker_deaths": inside.deaths,
                "unforeseen": inside.unforeseen,
                "slowest_s_and_file": inside.slowest,
                "faults": inside.faults + over_http.faults,
            }
            files.keep(inside.kept | over_http.kept)
            print(f"{name}: {json.dumps(row)}", flush=True)
        server_deaths = deaths_of_workers(server)
    faults = sum(len(row["faults"]) for row in rows.values())
    deaths = sum(row["worker_deaths"] for row in rows.values())
    count = options.files * len(rows)
    print(f"{count} files: {faults} faults, {deaths} workers died; {server_deaths} of the server's")
    line = {"benchmark": "serving.fuzz", "files": options.files, "seed": options.seed}
    print(json.dumps(line | {"faults": faults, "worker_deaths": deaths, "decoders": rows}))
    raise SystemExit(1 if faults else 0)


class Spoilt:
    """The spoilt files of one type by number, each the same whenever it is asked for."""

    def __init__(self, name: str, seeds: list[Seed], options: argparse.Namespace) -> None:
        self.name, self.seeds, self.count = name, seeds, options.files
        self._seed, self._folder = options.seed, options.keep

    def __getitem__(self, number: int) -> bytes:
        return spoil(random.Random(f"{self._seed} {self.name} {number}"), self.seeds)

    def keep(self, numbers: set[int]) -> None:
        """Into the folder of --keep."""
        for number in numbers if self._folder else ():
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"{self.name}-{number}".replace("/", "-").replace(" ", "-")
            write_atomic(self._folder / name, self[number])


async def decode(files: Spoilt, preparation: Preparation, workers: int) -> Found:
    """All of them through a pool of decode workers, one at a time in each."""
    found = Found()

    def died() -> None:
        found.deaths += 1

    async def one_after_another(numbers: Iterator[int]) -> None:
        for number in numbers:
            media, began = files[number], time.monotonic()
            answer, fault = "ok", False
            try:
                await pool.prepare(preparation, media)
            except Failure as failure:
                answer, fault = problem_of(failure).type, problem_of(failure).status >= 500
                found.unforeseen += failure.detail == UNFORESEEN
                if failure.detail in (KILLER, UNFORESEEN):
                    found.kept.add(number)
            except Exception as error:
                answer, fault = type(error).__name__, True
            found.note(number, answer, time.monotonic() - began, fault)

    pool = DecodePool(workers, on_restart=died)
    await pool.start([preparation.modality])
    try:
        numbers = iter(range(files.count))
        await asyncio.gather(*(one_after_another(numbers) for _ in range(pool.staff.workers)))
    finally:
        await pool.close()
    return found


def send(files: Spoilt, server: Running, modality: str) -> Found:
    """Every tenth to the server, over connections that are kept."""
    found = Found()
    numbers = range(0, files.count, HTTP_EVERY)
    connections = 2 * usable_cpus()

    def one_after_another(own: Iterator[int]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_SECONDS)
        for number in own:
            try:
                connection.request("POST", f"/v1/classify/{modality}?grid=auto", files[number])
                answer, fault = judge(connection.getresponse())
            except (OSError, http.client.HTTPException) as error:
                answer, fault = type(error).__name__, True
                connection.close()  # it opens itself again
            found.note(number, answer, fault=fault)
        connection.close()

    with ThreadPoolExecutor(connections) as threads:
        shares = [
            itertools.islice(numbers, place, None, connections) for place in range(connections)
        ]
        list(threads.map(one_after_another, shares))
    if server.process.poll() is not None:
        found.faults.append("the server ended")
    return found


def judge(response: http.client.HTTPResponse) -> tuple[str, bool]:
    """What was said, and whether that is a fault: a 5xx, or no answer that the API knows."""
    body = response.read()
    try:
        document = json.loads(body)
        answer = "ok" if response.status == 200 else str(document["type"])
    except (ValueError, KeyError, TypeError):
        return f"{response.status} without a problem", True
    return answer, response.status >= 500


def deaths_of_workers(server: Running) -> int:
    """As the server counts them."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_SECONDS)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    (line,) = (one for one in text.splitlines() if one.startswith(RESTARTS + " "))
    return int(float(line.split()[1]))


def parse() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("--files", type=int, default=10_000, help="of each type (default: 10000)")
    add("--decoders", nargs="+", choices=BY_NAME, default=list(BY_NAME), metavar="TYPE",
        help=f"of {', '.join(BY_NAME)}; default: all")  # fmt: skip
    add("--data", type=Path, help="a folder whose files of up to 256 kB are seeds too")
    add("--seed", type=int, default=0, help="of all damage")
    add("--keep", type=Path, help="a folder for files at fault")
    add("--bundles", type=Path, default=ROOT / "bundles", help="a folder with one per modality")
    add_options(parser)
    options = parser.parse_args()
    options.files = max(HTTP_EVERY, int(options.files * options.scale))
    if options.data and not options.data.is_dir():
        parser.error(f"--data: expected a folder, got {options.data}")
    return options


if __name__ == "__main__":
    main()
