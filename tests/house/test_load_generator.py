"""The load generator tells the truth: outcomes, latency from the due instant, patience."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from benchmarks.serving.bare import Bare
from benchmarks.serving.figures import Record, ended_between, recovery_seconds, summary
from benchmarks.serving.generator import Load, Plan, parse_answer
from benchmarks.serving.load import timetable
from benchmarks.serving.running import tree_cpu_seconds
from models.bundle import read_bundle
from tests.conftest import ROOT
from tests.helpers.effort import alone
from tests.helpers.service_fixtures import CLEAN, picture, write_tiny_bundle

MESSAGES = [f"POST /{number} HTTP/1.1\r\nContent-Length: 0\r\n\r\n".encode() for number in range(3)]

#: What the scripted server does with one request: (its number in the path, writer).
Script = Callable[[int, asyncio.StreamWriter], Awaitable[None]]


def answer(status: int = 200, label: str = "ant", close: bool = False) -> bytes:
    body = json.dumps({"results": [{"predictions": [{"label": label}]}]}).encode()
    head = f"HTTP/1.1 {status} Word\r\nContent-Length: {len(body)}\r\n"
    return (head + "Connection: close\r\n" * close + "\r\n").encode() + body


async def _perform(script: Script, plan: Plan, connections: list[int]) -> Load:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(0)
        me = len(connections) - 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                connections[me] += 1
                await script(int(head[6:7]), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        load = Load("127.0.0.1", server.sockets[0].getsockname()[1], plan)
        await load.run()
    return load


def perform(script: Script, plan: Plan) -> tuple[Load, list[int]]:
    """The plan against a scripted server: what came of it, and requests per connection."""
    connections: list[int] = []
    return uvloop.run(_perform(script, plan, connections)), connections


def test_outcomes_are_counted_as_what_they_are() -> None:
    """Right, wrong, refused, closed, half answered and never answered are told apart."""

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        served[number] += 1
        turn = served[number]
        if number == 0:
            writer.write(answer(label="ant" if turn == 1 else "bee"))
        elif number == 1:
            writer.write(answer(429 if turn == 1 else 503, close=turn == 1))
        elif turn == 1:
            writer.write(answer()[:-1])
            writer.close()

    served: Counter[int] = Counter()
    plan = Plan(MESSAGES, ["ant", None, None], [0.03 * n for n in range(6)], patience=1.0)
    load, _ = perform(script, plan)
    outcomes = Counter(one.outcome for one in load.records)
    assert outcomes == {"200": 1, "wrong": 1, "429": 1, "503": 1, "lost": 1, "timeout": 1}


def test_latency_counts_from_the_due_instant() -> None:
    """A server that stalls once makes all that were due meanwhile late, not only the first."""

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 0:
            await asyncio.sleep(0.3)
            gate.set()
        await gate.wait()
        writer.write(answer())

    gate = asyncio.Event()
    load, _ = perform(script, Plan(MESSAGES, [None] * 3, [0.0, 0.1, 0.2]))
    for one in load.records:
        assert one.outcome == "200"
        assert one.due + one.seconds >= 0.29  # clocks tick in milliseconds


def test_a_late_generator_blames_no_one_else() -> None:
    """Requests that the generator itself sends late have waited since they were due."""

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer())

    load, _ = perform(script, Plan(MESSAGES, [None] * 3, [-0.5, -0.4]))
    assert [one.seconds >= 0.4 for one in load.records] == [True, True]
    assert min(load.lags) >= 0.4


def test_patience_ends_at_its_time_and_closes_the_connection() -> None:
    """Clients leave after their patience, those that are to leave sooner after theirs."""

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    due = [0.0, 0.0, 0.0, 0.0]
    plan = Plan(MESSAGES, [None] * 3, due, patience=0.3, leaving=2, leaving_patience=0.1)
    load, connections = perform(script, plan)
    assert Counter(one.outcome for one in load.records) == {"left": 2, "timeout": 2}
    for one in load.records:
        assert one.seconds >= (0.1 if one.outcome == "left" else 0.3)
    assert connections == [1, 1, 1, 1]


def test_connections_are_kept_alive() -> None:
    """Answered requests leave their connection to the next; one that is closed is replaced."""

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(close=number == 2))

    _, connections = perform(script, Plan(MESSAGES, [None] * 3, connections=1, seconds=0.1))
    assert set(connections[:-1]) == {3}


def test_closed_loop_keeps_its_connections_busy() -> None:
    """So many requests are inside at any time, and none begins after the span."""

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        inside.append(inside[-1] + 1)
        await asyncio.sleep(0.02)
        inside.append(inside[-1] - 1)
        writer.write(answer(429 if number == 2 else 200))

    inside = [0]
    load, connections = perform(script, Plan(MESSAGES, [None] * 3, connections=4, seconds=0.4))
    assert max(inside) == 4
    assert sum(connections) == len(load.records) > 4
    assert all(one.due < 0.4 for one in load.records)
    assert {one.outcome for one in load.records} == {"200", "429"}


def test_nobody_there_is_unreached() -> None:
    """Where nobody listens nothing is sent, so nothing is lost, and the load ends."""

    async def nobody() -> Load:
        async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
        load = Load("127.0.0.1", port, Plan(MESSAGES, [None] * 3, [0.0, 0.0]))
        await load.run()
        return load

    assert [one.outcome for one in uvloop.run(nobody()).records] == ["unreached", "unreached"]


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("Transfer-Encoding: chunked\r\n\r\n", "expected an answer with a Content-Length"),
        ("Content-Length: 2\r\n\r\n{}", "expected results with predictions"),
        ("Content-Length: 2\r\n\r\n{{", "Expecting property name"),
    ],
)
def test_an_answer_that_cannot_be_judged_ends_the_load(said: str, complaint: str) -> None:
    """What the generator cannot measure is an error, not a number."""

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\n{said}".encode())

    with pytest.raises(ValueError, match=complaint):
        perform(script, Plan(MESSAGES, ["ant"] * 3, [0.0]))


def test_answers_are_read_in_pieces() -> None:
    """No cut through an answer changes it."""
    whole = answer(429, close=True)
    assert all(parse_answer(whole[:cut]) is None for cut in range(len(whole)))
    parsed = parse_answer(whole)
    assert parsed is not None
    assert (parsed.status, parsed.closes) == (429, True)


def test_timetable_is_constant_within_a_phase() -> None:
    """Phases follow one another at their own rates."""
    due, spans = timetable([(10, 0.5), (4, 1)])
    assert due == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.25])
    assert spans == [(0.0, 0.5), (0.5, 1.5)]


def test_figures_of_records() -> None:
    """Spans count by the end of requests; recovery is when slow ones have become rare for good."""
    records = [Record(n / 10, 0.01, "200") for n in range(100)]
    assert recovery_seconds(records, 5, 0.02) == 0
    records[70] = Record(7.0, 0.5, "200")
    records[80] = Record(8.0, 0.01, "429")
    assert recovery_seconds(records, 5, 0.02) == pytest.approx(3.1)
    assert recovery_seconds([*records, Record(10.0, 5.0, "timeout")], 5, 0.02) is None
    assert [one.due for one in ended_between(records, 7.15, 7.55)] == [7.0, 7.2, 7.3, 7.4, 7.5]
    found = summary(records, 10)
    assert found["outcomes"] == {"200": 99, "429": 1}
    assert found["right_per_second"] == 9.9
    assert found["refusal_p99_ms"] == 10.0


def test_processor_time_includes_buried_children() -> None:
    """What a child that has ended spent is its parent's."""
    before = tree_cpu_seconds(os.getpid())
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert tree_cpu_seconds(os.getpid()) - before >= 0.2  # ticks of 10 ms, four counts


@alone
def test_rows_run_against_a_real_server(tmp_path: Path) -> None:
    """A row starts a server, loads it, stops it, and ends with one JSON line."""
    bundle = write_tiny_bundle(tmp_path)
    command = [sys.executable, "-m", "benchmarks.serving.goodput", "--bundle", str(bundle)]
    command += ["--quick", "--factors", "1.5", "--server-arguments", "--decode-workers 1"]
    done = subprocess.run(
        command, cwd=ROOT, env=CLEAN, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["benchmark"] == "serving.goodput"
    (row,) = line["rows"]
    assert row["capacity"] > 0
    assert set(row["outcomes"]) <= {"200", "429"}


@alone
def test_front_limit_is_measured() -> None:
    """A server with stubs for graphs answers rightly, and its profile names our own functions."""
    command = [sys.executable, "-m", "benchmarks.serving.front_limit"]
    done = subprocess.run(
        [*command, "--seconds", "0.2", "--rounds", "1"],
        cwd=ROOT, env=CLEAN, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["requests"] > 0
    assert line["cpu_ms"] > 0
    assert len(line["top"]) == 5
    assert list(line["top"].values()) == sorted(line["top"].values(), reverse=True)


def test_bare_graph_answers_as_the_bundle_does(tmp_path: Path) -> None:
    """The labels that answers are checked against are those of the bundle's own goldens."""
    bundle = read_bundle(write_tiny_bundle(tmp_path))
    golden = bundle.manifest.goldens[0]
    logits = golden.logits[bundle.manifest.grids[0].grid]
    best = bundle.manifest.labels[max(range(len(logits)), key=logits.__getitem__)]
    assert Bare(bundle, 1).best_labels([bundle.path(golden.file)]) == [best]
    other = tmp_path / "other.png"
    other.write_bytes(picture(41))
    assert len(Bare(bundle, 1).best_labels([other, other])) == 2
