"""Rows of the benchmarks of serving, small: what they count, and that they run on real things."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import random
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import numpy as np
import pytest
import uvloop

from benchmarks.serving import (
    fuzz,
    jobs_beside,
    jobs_throughput,
    lanes,
    mixed_grids,
    ray_scaling,
    shadow,
    v2_tensors,
)
from benchmarks.serving.jobs_killed import Tally, pack
from benchmarks.serving.mixed_grids import Loop, Measured, Shape, interleaved, one_round
from benchmarks.serving.mutations import DAMAGES, Seed, mend_png, spoil
from benchmarks.serving.running import Running
from benchmarks.serving.seeds import BY_NAME, seeds_of
from media import read
from media.spec import Grid
from service.engine.decode.pool import DecodePool
from service.engine.decode.wire import Preparation
from service.engine.shadow.copies import fraction
from tests.helpers.effort import alone, effort
from tests.helpers.service_fixtures import (
    GRIDS,
    MEDIA,
    TINY,
    RunningServer,
    picture,
    serving,
    wait_until,
    weights,
    write_tiny_bundle,
    write_tiny_versions,
)

HELLO_THEN_DEATH = """
import json, struct, sys
hello = json.dumps({"status": "hello"}).encode()
sys.stdout.buffer.write(struct.pack(">II", len(hello), 0) + hello)
sys.stdout.buffer.flush()
sys.stdin.buffer.read(1)
"""


def preparation(modality: str) -> Preparation:
    tiny = TINY[modality]
    grids = [Grid.parse(grid) for grid in tiny.grids]
    return Preparation.make(tiny.input, grids, tiny.patch, tiny.input.views, 20.0)


def spoilt(name: str, files: int, keep: Path | None = None) -> fuzz.Spoilt:
    options: Any = SimpleNamespace(files=files, seed=0, keep=keep)
    return fuzz.Spoilt(name, seeds_of(BY_NAME[name]), options)


def as_process(server: RunningServer) -> Running:
    """A server of this process, as rows know theirs."""
    process: Any = SimpleNamespace(pid=0, poll=lambda: None)
    running = Running(process, server.port)
    running.cpu_seconds = lambda: 0.0  # type: ignore[method-assign]
    return running


# --- lanes -----------------------------------------------------------------------------------


def test_lanes_are_measured_through_the_station_and_bare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real sessions, whole batches, both ways; the last line is JSON."""
    bundle = str(write_tiny_bundle(tmp_path))
    arguments = ["--bundle", bundle, "--rounds", "1", "--seconds", "0.05", "--batches", "4"]
    monkeypatch.setattr(sys, "argv", ["lanes", *arguments])
    monkeypatch.setattr(lanes, "usable_cpus", lambda: 2)
    lanes.main()
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    (row,) = line["rows"]
    assert (line["cpus"], row["batch"], row["rounds"]) == (2, 4, 1)
    for way in ("station", "bare"):
        one, several = row["per_second_cpu_ms_batch"][way]
        # of numbers that were rounded to three places
        assert row[way][0] == pytest.approx(several[0] / one[0], rel=0.01, abs=0.002)
        assert 2 < one[2] <= 4  # lanes found whole batches, but for the last ones
        assert 2 < several[2] <= 4


# --- mixed grids -----------------------------------------------------------------------------


def test_a_mix_is_spread_evenly() -> None:
    """No shape comes in bursts of its own."""
    assert interleaved([2, 1]) == [0, 1, 0]
    cycle = interleaved([10, 5, 1])
    assert Counter(cycle) == {0: 10, 1: 5, 2: 1}
    assert "1 1" not in " ".join(map(str, cycle))


def test_a_mix_that_costs_nothing_is_one() -> None:
    """Shapes at 100 and at 10 a second, half of the time each, are 50 and 5 together."""

    class Ideal:
        shapes, seconds = ("a", "b"), 2.0

        def run(self, counts: list[int]) -> Measured:
            answers = {"[1, 0]": [200, 0], "[0, 1]": [0, 20], "[10, 1]": [100, 10]}
            return Measured(answers[str(counts)], 4.0)

    found = one_round(cast(Loop, Ideal()), [[1, 0], [0, 1]], [10, 1])
    assert (found.rates, found.cpu) == (pytest.approx(1.0), pytest.approx(1.0))
    assert (found.alone_per_second, found.mixed_per_second) == ([100.0, 10.0], [50.0, 5.0])


@alone
def test_a_loop_sends_every_shape_to_its_address(tmp_path: Path) -> None:
    """Grids and clips from the same connections, each counted as what it is."""
    image, film = tmp_path / "image.png", tmp_path / "film.gif"
    image.write_bytes(picture())
    film.write_bytes(MEDIA["video"]())
    for modality in ("image", "video"):
        write_tiny_bundle(tmp_path / "bundles", modality, modality)
    shapes = [Shape(f"/v1/classify/image?grid={grid}", [image]) for grid in GRIDS]
    shapes.append(Shape("/v1/classify/video", [film]))
    with serving(tmp_path / "bundles", max_wait=600.0) as server:
        loop = Loop(as_process(server), shapes, settling=0.1, seconds=0.4)
        measured = loop.run([2, 1, 1])
    first, second, clips = measured.answers
    assert 0 < second <= first
    assert abs(clips - second) <= mixed_grids.CONNECTIONS


# --- fuzz ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_NAME)
def test_every_seed_is_read_before_it_is_spoilt(name: str) -> None:
    """Else only refusals would be tested."""
    kind = BY_NAME[name]
    tiny = TINY[kind.modality]
    for seed in seeds_of(kind):
        assert read(seed.file, tiny.input, Grid.parse(tiny.grids[0]), tiny.patch).pixels.size


def test_files_are_spoilt_the_same_way_again() -> None:
    """A number is all that it takes to see a file again, and most files are changed."""
    first, again = spoilt("image/PNG", 30), spoilt("image/PNG", 30)
    whole = {seed.file for seed in first.seeds}
    files = [first[number] for number in range(30)]
    assert files == [again[number] for number in range(30)]
    assert len(set(files) - whole) > 25


def test_damage_stays_within_bounds() -> None:
    """Of files down to a byte, by every kind of it; a checksum holds where it is put right."""
    for number in range(300):
        for damage in DAMAGES:
            data = bytearray(range(1, 2 + number % 40))
            damage(random.Random(number), data, b"other")
            assert len(data) <= 17 * 41
        assert len(spoil(random.Random(number), [Seed(b"\1" * 9)])) <= 4 * 9
    png = picture()
    assert mend_png(png) == png
    turned = bytearray(png)
    turned[20] ^= 1  # of the width, which a checksum covers
    assert mend_png(bytes(turned))[20] == turned[20]
    assert mend_png(bytes(turned))[29:33] != png[29:33]


@pytest.mark.parametrize("name", ["image/TIFF", "video/mov", "volume/DICOM"])
def test_spoilt_files_are_the_fault_of_nobody_else(name: str) -> None:
    """Through real workers: every file has its answer, and none is an error of the server."""
    files = spoilt(name, effort(25, 300))
    found = uvloop.run(fuzz.decode(files, preparation(BY_NAME[name].modality), 1))
    assert found.faults == []
    assert found.answers.total() == files.count
    assert set(found.answers) > {"ok", "/problems/broken-media"}


@alone
def test_spoilt_files_over_http_are_told_what_is_wrong(tmp_path: Path) -> None:
    """Every tenth goes to a server, which is still there afterwards."""
    write_tiny_bundle(tmp_path)
    with serving(tmp_path) as server:
        found = fuzz.send(spoilt("image/PNG", 150), as_process(server), "image")
        assert fuzz.deaths_of_workers(as_process(server)) == 0
    assert found.faults == []
    assert found.answers.total() == 15


@alone
def test_workers_that_die_are_counted_and_their_files_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that ends every worker that it meets is no fault, and worth looking at."""
    command = (sys.executable, "-c", HELLO_THEN_DEATH)
    monkeypatch.setattr(fuzz, "DecodePool", partial(DecodePool, command=command))
    files = spoilt("image/BMP", 2, keep=tmp_path)
    found = uvloop.run(fuzz.decode(files, preparation("image"), 1))
    assert found.deaths >= 3
    assert (found.answers, found.faults) == ({"/problems/broken-media": 2}, [])
    files.keep(found.kept)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert kept == {f"image-BMP-{number}": files[number] for number in (0, 1)}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b'{"results": []}', ("ok", False)),
        (422, b'{"type": "/problems/broken-media"}', ("/problems/broken-media", False)),
        (500, b'{"type": "/problems/internal-error"}', ("/problems/internal-error", True)),
        (502, b"Bad Gateway", ("502 without a problem", True)),
        (404, b"[]", ("404 without a problem", True)),
    ],
)
def test_what_is_a_fault(status: int, body: bytes, expected: tuple[str, bool]) -> None:
    """A 5xx, and what is no answer of this API."""
    said: Any = SimpleNamespace(status=status, read=io.BytesIO(body).read)
    assert fuzz.judge(cast(http.client.HTTPResponse, said)) == expected


def test_tensors_over_http_have_the_logits_of_the_bare_session(tmp_path: Path) -> None:
    """The row counts rows that were answered, and ends where an answer is another."""
    write_tiny_bundle(tmp_path)
    rows = np.arange(2 * 8 * 12 * 3, dtype=np.uint8).reshape(2, 8, 12, 3)
    expected = rows.reshape(2, -1) / 255 @ weights()
    request = v2_tensors.Request("tiny", rows)
    with serving(tmp_path) as server:
        process = as_process(server)
        assert v2_tensors.through_http(process, request, expected, 0.1, 2) > 0
        with pytest.raises(SystemExit, match="from that of the bare session"):
            v2_tensors.through_http(process, request, expected + 1, 0.1, 1)


# --- jobs ------------------------------------------------------------------------------------


def test_jobs_rows_run_on_a_real_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of many names for few pictures, answered as a job; and images beside one that was
    done too early, however slow the machine is.
    """
    look = jobs_beside.SubmittedJob.look

    def look_in_the_end(job: jobs_beside.SubmittedJob) -> dict[str, Any]:
        wait_until(lambda: look(job)["state"] not in ("queued", "running"), "the job to end", 60)
        return look(job)

    monkeypatch.setattr(jobs_beside.SubmittedJob, "look", look_in_the_end)
    write_tiny_bundle(tmp_path / "bundles")
    images = jobs_beside.many_photographs(tmp_path / "images", 20)
    assert len(images) == 20
    settings: Any = {"jobs": tmp_path / "jobs", "jobs_paths": tmp_path / "images"}
    with serving(tmp_path / "bundles", **settings) as server:
        process = as_process(server)
        assert jobs_throughput.through_job(process) > 0
        with pytest.raises(SystemExit, match="was done before the last image"):
            jobs_beside.one_round(process, images[:2], 0.2)


def test_shadow_row_compares_the_copies_of_its_share(tmp_path: Path) -> None:
    """The images hold just the share that is said; a round with a shadow tells what it found."""
    home = write_tiny_versions(tmp_path / "bundles", "tiny", "1", "2")
    (home / "serving.json").write_text('{"schema": 1, "version": "1"}')
    keys = tmp_path / "keys.txt"
    keys.write_text(f"{hashlib.sha256(b'key').hexdigest()} row scopes=classify,metrics,admin\n")
    images = shadow.numbered_photographs(tmp_path, 0.3)
    copied = [fraction(image.read_bytes()) < 0.3 for image in images]
    assert (len(images), sum(copied), sum(copied[:10])) == (100, 30, 3)
    with serving(home.parent, keys_file=keys, open_metrics=True) as server:
        site = shadow.Site(as_process(server), "tiny", "key", images[:10], "20x0.5")
        found = site.one_round(0.3, first=True)
    assert (found["copies"], found["compared"]) == (3, 3)
    assert found["with"]["outcomes"] == found["without"]["outcomes"] == {"200": 10}


def test_lost_and_repeated_items_are_found(tmp_path: Path) -> None:
    """Nothing where all is well; then a line that is missing, one twice, one that changed."""
    bundle = write_tiny_bundle(tmp_path / "bundles")
    tally, packed = Tally(5), pack(bundle, 5)
    with (
        serving(tmp_path / "bundles", jobs=tmp_path / "jobs") as server,
        httpx.Client(base_url=server.url, verify=False) as client,
    ):
        while len(tally.lines) < 2:
            tally.go_on(client, packed)
        wait_until(lambda: not tally.look(client), "the second job")
        assert tally.judge(client) == (0, 0)
        first, second = tally.lines.values()
        first.append(first[1])
        assert tally.judge(client) == (0, 1)
        second[0] = second[1]
        assert tally.judge(client) == (1, 2)
        tally.look(client)
        assert tally.judge(client) == (0, 2)
        tally.lines.popitem()
        assert tally.judge(client) == (0, 2 + 5)


def test_replica_seconds_are_counted_between_looks() -> None:
    """Of every replica that is there, from a look to the next; one that comes again began again."""
    watch = ray_scaling.Watch()
    watch.looks = [(10, 1, 1), (12, 2, 1), (15, 2, 2), (16, 1, 1), (19, 2, 1), (20, 1, 1)]
    assert watch.replica_seconds(10, 20) == 2 + 2 * 3 + 2 * 1 + 3 + 2
    assert watch.replica_seconds(11, 15.5) == 1 + 2 * 3 + 2 * 0.5
    assert (watch.second(11), watch.started()) == (4, 2)
    watch.looks = watch.looks[:2]
    assert watch.second(11) is None


def test_ways_of_scaling_differ_in_their_signal_alone() -> None:
    """Whatever the config says; each has the delays of the benchmark."""
    ways = [ray_scaling.scaling(one, (1.0, 2.0, 3.0)) for one in ("ongoing-4", "predicted")]
    signals = [
        {name: one.pop(name, None) for name in ("target_ongoing_requests", "policy")}
        for one in ways
    ]
    assert ways[0] == ways[1]
    assert (ways[0]["min_replicas"], ways[0]["look_back_period_s"]) == (1, 3.0)
    assert signals[0] == {"target_ongoing_requests": 4, "policy": None}
    assert signals[1]["policy"] == ray_scaling.BY_SECONDS
