"""The long runs of the server, short: each row finds what it looks for, and ``soak`` tells it."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.serving import soak
from benchmarks.serving.lag import late_ms, loop_lag
from benchmarks.serving.memory import BOUND, memory_of, slope, student
from benchmarks.serving.mixture import GOOD, Item, mixed
from benchmarks.serving.soak import Row, least, most
from tests.conftest import ROOT
from tests.helpers.effort import alone
from tests.helpers.service_fixtures import CLEAN, write_tiny_bundle


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one tiny bundle, for images."""
    folder = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(folder)
    return folder


def row(module: str, *arguments: str | Path) -> dict[str, Any]:
    """What a row that ends well says last."""
    command = [sys.executable, "-m", f"benchmarks.serving.{module}", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env=CLEAN, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert soak.LAG.search(done.stdout)
    return json.loads(done.stdout.splitlines()[-1])


@alone
def test_good_requests_end_well_beside_broken_ones(bundles: Path) -> None:
    """Cut, flipped, empty; logits that are no numbers; dead decoders: each fails for itself."""
    found = row("beside_broken", "--bundles", bundles, "--requests", "40", "--rate", "60")
    assert (found["good"], found["lost"], found["bad"]) == (40, 0, {})
    assert found["worker_restarts"] >= 2
    kinds = {"cut", "zeros", "flipped", "empty", "text", "not_finite", "fails", "kills", "holds"}
    assert found["ended"].keys() == {GOOD, *kinds}


@alone
def test_killed_workers_cost_nobody_an_answer(bundles: Path) -> None:
    """Whatever a worker was at when it was killed."""
    found = row("killed_workers", "--bundles", bundles, "--kills", "1", "--rate", "50")
    assert (found["kills"], found["lost"], found["bad"]) == (1, 0, {})
    assert found["good"] == 100


# --- figures ---------------------------------------------------------------------------------


def test_memory_is_what_a_process_has_made() -> None:
    """Pages that were written to count, and those that were given back do not."""
    before = memory_of(os.getpid())
    # Not the allocator's, which may have kept as much to use again.
    made = mmap.mmap(-1, 40_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    np.frombuffer(made, np.uint8)[:] = 1
    assert memory_of(os.getpid()) - before == pytest.approx(len(made), rel=0.1)
    assert memory_of(2**22 + 1) == 0  # no such process


#: In a process of its own: in this one other tests have left room that a leak would fill first.
LEAKING = """
import asyncio, os, sys
import numpy as np
from benchmarks.serving.memory import memory_of, slope
from benchmarks.serving.planted import Leak

async def served(*_): ...

async def requests(size):
    leaking, points = Leak(served, size), []
    for _ in range(10):
        for _ in range(2000):
            await leaking({}, None, None)
        points.append(memory_of(os.getpid()))
    return slope(2000 * np.arange(10.0), np.array(points, float))

found, half = asyncio.run(requests(int(sys.argv[1])))
print(found - half)
"""


def test_planted_leak_is_found() -> None:
    """256 bytes of every request show in the memory of the process."""
    command = [sys.executable, "-c", LEAKING, "256"]
    done = subprocess.run(
        command, cwd=ROOT, env=CLEAN, capture_output=True, text=True, timeout=60, check=True
    )
    assert float(done.stdout) > BOUND


def test_slope_has_its_interval() -> None:
    """Nineteen of twenty intervals hold the slope of a line with noise, whatever the noise."""
    generator, x = np.random.default_rng(1), np.arange(12.0)
    held = 0
    for _ in range(1000):
        found, half = slope(x, 5 + 3 * x + generator.normal(0, 7, len(x)))
        held += abs(found - 3) <= half
    assert held == pytest.approx(950, abs=25)
    assert student(10) == pytest.approx(2.228, abs=0.002)


def test_lag_is_the_end_of_a_bucket() -> None:
    """Of the looks 99.9 % are within it; one in a thousand may be later."""
    assert late_ms(Counter({0.001: 998, 0.025: 1, 5.0: 1})) == 25
    assert late_ms(Counter({0.001: 997, 0.025: 1, 5.0: 2})) == 5000
    assert late_ms(Counter()) is None
    said = loop_lag(Counter({0.015: 2000}), Counter({0.001: 1}))
    assert soak.LAG.findall(said) == [("15.0", "1.0")]


def test_mixture_spreads_its_hostile_files() -> None:
    """Each comes once in a round, never much more often than it should."""
    good = [Item(Path(f"good{number}"), GOOD) for number in range(3)]
    hostile = [Item(Path(f"bad{number}"), "cut") for number in range(30)]
    items = mixed(good, hostile, 0.3)
    kinds = [item.kind for item in items]
    assert len(items) == 100
    assert [item for item in items if item.kind == "cut"] == hostile
    assert all(kinds[at : at + 4].count("cut") <= 2 for at in range(97))


# --- soak ------------------------------------------------------------------------------------


def test_soak_tells_what_was_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A figure out of bounds fails the run, and those within are told beside it."""
    (tmp_path / "tiny-absolute").mkdir()  # which is all that this row looks for
    arguments = ("--folder", str(tmp_path), "--models", "tiny-absolute")
    bounds = [
        least("made", lambda it: len(it["bundles"]), 1),
        most("too many", lambda it: len(it["bundles"]), 0),
    ]
    monkeypatch.setattr(soak, "ROWS", (Row("bundles", arguments, bounds),))
    monkeypatch.setattr(sys, "argv", ["soak"])
    assert soak.main() == 1
    lines = json.loads(capfd.readouterr().out.splitlines()[-1])["lines"]
    assert [(line["figure"], line["value"], line["reached"]) for line in lines] == [
        ("made", 1, True),
        ("too many", 1, False),
    ]


def test_soak_tells_a_row_that_fails(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It has no figure, which fails a short run too."""
    failing = Row("bundles", ("--models", "none"), [most("made", lambda it: 0, 0)])
    monkeypatch.setattr(soak, "ROWS", (failing,))
    monkeypatch.setattr(sys, "argv", ["soak", "--quick"])
    assert soak.main() == 1
    lines = json.loads(capfd.readouterr().out.splitlines()[-1])["lines"]
    assert [(line["value"], line["reached"]) for line in lines] == [(None, False)]
