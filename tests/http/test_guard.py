"""The gate and the flow behind it: permits, deadlines, departures, poison, readiness."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.admission import Admission
from service.engine.costs import RunCosts
from service.engine.failures import Failure, Overloaded
from service.engine.schedule import CPU, Backlog
from service.http.problems import PROBLEMS
from tests.helpers.effort import alone
from tests.helpers.service_fixtures import (
    GRIDS,
    RawConnection,
    RunningServer,
    TinySession,
    picture,
    poison,
    serving,
    wait_until,
)
from tests.http.conftest import Start

GOOD = picture(1)


def queue_up(server: RunningServer, connections: int, stack: ExitStack) -> list[RawConnection]:
    """Clients that have sent a whole request each and wait for the answer."""
    waiting = []
    for _ in range(connections):
        connection = stack.enter_context(RawConnection(server.port))
        connection.send_head(f"Content-Length: {len(GOOD)}")
        connection.send(GOOD)
        waiting.append(connection)
    wait_until(lambda: server.engine.admission.requests >= connections, "the requests to enter")
    return waiting


# --- the addressee ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("bundle=nope", 404),
        ("bundle=tiny@9", 404),
        ("bundle=tiny&grid=99x99", 422),
        ("grid=99x99", 422),
        ("top_k=0", 422),
        ("bundle=tiny&top_k=99", 422),
    ],
)
@pytest.mark.parametrize("media_type", ["image/png", "multipart/form-data; boundary=x"])
def test_addressee_is_refused_before_the_body(
    start: Start, query: str, status: int, media_type: str
) -> None:
    """Of a form only what its parts cannot change any more: they may still name the bundle."""
    server, _ = start()
    with RawConnection(server.port) as connection:
        path = f"/v1/classify/image?{query}"
        connection.send_head("Content-Length: 1000", f"Content-Type: {media_type}", path=path)
        if media_type.startswith("multipart") and "bundle" not in query:
            connection.send(b"--x--\r\n".ljust(1000))
            assert b"/problems/no-file" in connection.answer()[2]  # which is found first
        else:
            assert connection.answer()[0] == status


# --- permits ---------------------------------------------------------------------------------


def test_request_without_a_permit_is_shed_before_its_body(start: Start) -> None:
    """With every permit taken the next request is 429 by its head alone; the others are served."""
    server, session = start(max_in_flight=3)
    session.gate.clear()
    with ExitStack() as stack:
        waiting = queue_up(server, 3, stack)
        with RawConnection(server.port) as late:
            late.send_head("Content-Length: 1000")  # and no body
            status, headers, body = late.answer()
        assert (status, json.loads(body)["type"]) == (429, "/problems/overloaded")
        assert headers["retry-after"] in {"1", "2"}
        assert server.get("/health/live").status_code == 200
        assert server.metric("liere_in_flight") == 3
        session.gate.set()
        assert [connection.answer()[0] for connection in waiting] == [200] * 3
    wait_until(lambda: server.engine.admission.requests == 0, "the permits to come back")
    assert server.classify(content=GOOD).status_code == 200
    assert server.metric("liere_requests_total", modality="image", code="429") == 1


def test_bodies_in_memory_are_bounded_in_bytes(start: Start) -> None:
    """Bytes held by requests inside count too: one body too many is 429, and all are given back."""
    server, session = start(max_in_flight_mib=1.5 * len(GOOD) / 2**20)
    session.gate.clear()
    with ExitStack() as stack:
        (first,) = queue_up(server, 1, stack)
        wait_until(lambda: server.engine.admission.bytes > 0, "the body to be counted")
        assert server.classify(content=GOOD).status_code == 429
        session.gate.set()
        assert first.answer()[0] == 200
    assert server.classify(content=GOOD).status_code == 200
    assert server.engine.admission.bytes == 0


def test_one_modality_leaves_room_for_the_others() -> None:
    """Idle uploads of scans take three quarters of the permits and of the bytes, no more."""
    admission = Admission(max_requests=40, max_bytes=1000, backlog=Backlog({CPU: 2}))
    admission.kinds = 2
    for _ in range(30):
        admission.enter("volume")
    admission.hold("volume", 700)
    with pytest.raises(Overloaded):
        admission.enter("volume")
    with pytest.raises(Overloaded):
        admission.hold("volume", 100)
    admission.enter("image")
    admission.hold("image", 300)


def test_one_client_leaves_room_for_the_others() -> None:
    """Three quarters of both, as far as clients are told apart; what it gives back counts again."""
    admission = Admission(max_requests=40, max_bytes=1000, backlog=Backlog({CPU: 2}))
    for _ in range(30):
        admission.enter("image", "greedy")
    admission.hold("image", 700, "greedy")
    with pytest.raises(Overloaded, match="30 requests with this key are inside"):
        admission.enter("image", "greedy")
    with pytest.raises(Overloaded, match="requests with this key hold 700 bytes"):
        admission.hold("image", 100, "greedy")
    admission.enter("image", "other")
    admission.hold("image", 300, "other")
    admission.leave("image", 700, "greedy")
    admission.enter("image", "greedy")
    admission.hold("image", 100, "greedy")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=60))
def test_permits_never_exceed_their_bounds_and_all_come_back(
    steps: list[tuple[bool, int]],
) -> None:
    """For any order of comings and goings the counts stay within bounds and end at zero."""
    admission = Admission(max_requests=4, max_bytes=100, backlog=Backlog({CPU: 2}))
    inside: list[int] = []
    for comes, size in steps:
        if comes:
            try:
                admission.enter("image")
            except Overloaded:
                assert len(inside) == 4
                continue
            try:
                admission.hold("image", size)
                inside.append(size)
            except Overloaded:
                assert sum(inside) + size > 100
                admission.leave("image", 0)
        elif inside:
            admission.leave("image", inside.pop())
        assert (admission.requests, admission.bytes) == (len(inside), sum(inside))
    for size in inside:
        admission.leave("image", size)
    assert admission.requests == admission.bytes == 0


# --- work in seconds -------------------------------------------------------------------------


def test_work_beyond_max_wait_is_refused_by_the_head_alone(start: Start) -> None:
    """0.6 seconds of work inside and 0.5 allowed: 429 before a body, and when to come back."""
    server, session = start(max_wait=0.5)
    server.engine.backlog.rates[CPU] = 1
    costs = RunCosts()
    costs.learn(1, 0.3)
    (station,) = server.engine.devices.stations
    station.add_queue((1, GRIDS[0]), session, "image", costs)
    session.gate.clear()
    with ExitStack() as stack:
        waiting = queue_up(server, 2, stack)
        wait_until(lambda: server.engine.backlog.wait("image") > 0.5, "the work to enter")
        with RawConnection(server.port) as late:
            late.send_head("Content-Length: 1000")  # and no body
            status, headers, body = late.answer()
        assert (status, json.loads(body)["type"]) == (429, "/problems/overloaded")
        assert int(headers["retry-after"]) >= 1
        session.gate.set()
        assert [connection.answer()[0] for connection in waiting] == [200, 200]
    wait_until(lambda: server.engine.backlog.wait("image") == 0, "the work to be done")
    assert server.classify(content=GOOD).status_code == 200
    assert server.metric("liere_refused_total", modality="image", reason="wait") == 1


def test_files_of_one_request_do_not_refuse_one_another(bundles: Path) -> None:
    """Sixteen files of 0.3 seconds each, sent to an idle server: all are answered."""
    session = TinySession()
    costs = RunCosts()
    costs.learn(1, 0.3)
    with serving(bundles, lambda *_: session, max_wait=0.5) as server:
        (station,) = server.engine.devices.stations
        station.add_queue((1, GRIDS[0]), session, "image", costs)
        files = [("file", (f"{number}.png", picture(number))) for number in range(16)]
        answer = server.classify(files=files)
    assert answer.status_code == 200
    assert len(answer.json()["results"]) == 16


def test_modality_that_nobody_serves_is_refused_before_a_body(start: Start) -> None:
    """Its bytes would be held for nothing."""
    server, _ = start()
    with RawConnection(server.port) as connection:
        connection.send_head("Content-Length: 200000000", path="/v1/classify/volume")
        status, _, body = connection.answer()
    assert (status, json.loads(body)["type"]) == (404, "/problems/unknown-bundle")


# --- deadlines -------------------------------------------------------------------------------


def test_queue_beyond_the_deadline_is_504_and_never_run(start: Start) -> None:
    """Whoever waits too long is told so, and no graph runs for them afterwards."""
    server, session = start(deadline_seconds=0.3, upload_seconds=0.3)
    session.gate.clear()
    with ExitStack() as stack:
        waiting = queue_up(server, 3, stack)
        for connection in waiting:
            status, _, body = connection.answer()
            assert (status, json.loads(body)["type"]) == (504, "/problems/deadline-passed")
    runs = len(session.batches)
    session.gate.set()
    assert server.classify(content=GOOD).status_code == 200
    assert sum(session.batches[runs:]) == 1


def test_body_that_trickles_is_408_and_its_connection_closes(start: Start) -> None:
    """Bytes that keep coming buy no time: after upload_seconds the permit is free again."""
    server, _ = start(upload_seconds=0.4, deadline_seconds=30)
    with RawConnection(server.port) as slow:
        slow.send_head("Content-Length: 1000")
        entered = time.monotonic()
        with ThreadPoolExecutor(1) as threads:
            trickling = threads.submit(trickle, slow)
            status, headers, body = slow.answer()
            assert server.engine.admission.requests == 0
            assert server.engine.admission.bytes == 0
            assert trickling.result() >= 4
    assert (status, json.loads(body)["type"]) == (408, "/problems/body-timeout")
    assert headers["connection"] == "close"
    assert time.monotonic() - entered >= 0.4
    assert server.metric("liere_requests_total", modality="image", code="408") == 1
    assert server.classify(content=GOOD).status_code == 200


def trickle(connection: RawConnection) -> int:
    """A byte now and then until the connection is closed; how many went out."""
    sent = 0
    with suppress(ConnectionError):
        for sent in range(600):  # noqa: B007 (its last value is the answer)
            connection.send("x")
            time.sleep(0.05)
    assert sent < 599, "the connection was not closed"
    return sent


def test_time_of_the_upload_ends_with_the_body(start: Start) -> None:
    """Waiting for the device may take longer than an upload: the two times are independent."""
    server, session = start(upload_seconds=0.2, deadline_seconds=30)
    session.gate.clear()
    with ExitStack() as stack:
        (slow,) = queue_up(server, 1, stack)
        (whole,) = queue_up(server, 1, stack)
        time.sleep(0.6)
        session.gate.set()
        assert slow.answer()[0] == whole.answer()[0] == 200


def test_chunked_body_that_never_ends_is_408(start: Start) -> None:
    """Without a length the last chunk has to come in time; pieces alone do not count."""
    server, _ = start(upload_seconds=0.3)
    with RawConnection(server.port) as slow:
        slow.send_head("Transfer-Encoding: chunked")
        slow.send("3\r\nabc\r\n")
        assert slow.answer()[0] == 408
        assert slow.closed()
    assert server.engine.admission.bytes == 0


# --- departures ------------------------------------------------------------------------------


def test_client_that_leaves_the_queue_is_never_run(start: Start) -> None:
    """Requests whose client closed the connection are dropped before they are batched."""
    server, session = start(max_batch=8)
    session.gate.clear()
    with ExitStack() as stack:
        (first,) = queue_up(server, 1, stack)
        wait_until(lambda: len(session.batches) == 1, "the first batch to run")
        gone = queue_up(server, 6, stack)
        wait_until(lambda: server.engine.devices.depth == 6, "the others to be queued")
        for connection in gone[1:]:
            connection.socket.close()
        counted = {"modality": "image", "code": "499"}
        wait_until(lambda: server.metric("liere_requests_total", **counted) == 5, "the 499s")
        session.gate.set()
        assert first.answer()[0] == gone[0].answer()[0] == 200
    assert sum(session.batches) == 2
    assert server.engine.admission.requests == 0


# --- poison ----------------------------------------------------------------------------------


def test_input_that_breaks_the_graph_fails_alone(start: Start) -> None:
    """In a batch with a poisoned input every neighbour gets its answer; only that one gets 500."""
    server, session = start(max_batch=16)
    session.gate.clear()
    media = [picture(seed) for seed in range(8)]
    media[3] = poison()
    with ThreadPoolExecutor(9) as threads:
        first = threads.submit(server.classify, content=GOOD)
        wait_until(lambda: len(session.batches) == 1, "the first batch to run")
        answers = [threads.submit(server.classify, content=one) for one in media]
        wait_until(lambda: server.engine.devices.depth == 8, "the batch to gather")
        session.gate.set()
        statuses = [answer.result().status_code for answer in answers]
        assert first.result().status_code == 200
    assert session.batches[1] == 8
    assert statuses == [500 if one == poison() else 200 for one in media]
    problem = server.classify(content=poison())
    assert problem.json()["type"] == "/problems/inference-failed"
    assert "0x" not in problem.text
    assert "/some/path" not in problem.text


def test_mistake_of_the_server_is_a_bland_500(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected exception is explained in the log alone, under the id of the request."""
    server, _ = start()

    def broken(*_: object) -> None:
        raise KeyError("secret at /some/path")

    server.engine.catalog.select = broken
    response = server.classify(content=GOOD, headers={"X-Request-ID": "find-me"})
    assert response.status_code == 500
    assert response.json()["type"] == "/problems/internal-error"
    assert "secret" not in response.text
    (record,) = [record for record in caplog.records if "find-me" in record.getMessage()]
    assert record.exc_info is not None


# --- readiness -------------------------------------------------------------------------------


def test_server_is_alive_but_not_ready_while_it_examines(bundles: Path) -> None:
    """Until every bundle was examined: live 200, ready 503, work 503; then all 200."""
    gate = threading.Event()

    def opener(*_: object) -> TinySession:
        assert gate.wait(20)
        return TinySession()

    with serving(bundles, opener, ready=False) as server:
        assert server.get("/health/live").json() == {"status": "live"}
        for response in (server.get("/health/ready"), server.classify(content=GOOD)):
            assert response.status_code == 503
            assert response.json()["type"] == "/problems/not-ready"
        gate.set()
        wait_until(lambda: server.engine.catalog.examined, "the bundles to be examined")
        assert server.get("/health/ready").json() == {"status": "ready"}
        assert server.classify(content=GOOD).status_code == 200


def test_draining_server_refuses_work_and_stays_alive(start: Start) -> None:
    """Once it shall end: live 200, ready 503, new work 503, running work 200."""
    server, session = start()
    session.gate.clear()
    with ExitStack() as stack:
        (inside,) = queue_up(server, 1, stack)
        server.engine.draining = True
        assert server.get("/health/live").status_code == 200
        for response in (server.get("/health/ready"), server.classify(content=GOOD)):
            assert response.status_code == 503
            assert response.json()["type"] == "/problems/draining"
        session.gate.set()
        assert inside.answer()[0] == 200


# --- metrics ---------------------------------------------------------------------------------


def test_metrics_count_what_happened(start: Start) -> None:
    """Requests by code, stages, batches and the bundle are there, in the text format."""
    server, _ = start()
    for body in (GOOD, GOOD, b"text"):
        server.classify(content=body)
    text = server.get("/metrics").text
    for line in (
        'liere_requests_total{code="200",modality="image",outcome="ok"} 2.0',
        'liere_requests_total{code="415",modality="image",outcome="bad"} 1.0',
        *(
            f'liere_stage_seconds_count{{bundle="tiny",modality="image",stage="{stage}"}} {count}'
            for stage, count in (
                ("upload", 3.0), ("decode_wait", 2.0), ("decode", 2.0), ("device_wait", 2.0),
                ("run", 2.0),
            )
        ),
        'liere_request_seconds_count{bundle="tiny",modality="image",outcome="ok"} 2.0',
        'liere_request_seconds_count{bundle="tiny",modality="image",outcome="bad"} 1.0',
        *(
            f'liere_{which}_seconds_total{{modality="image",part="{part}"}}'
            for which in ("predicted", "actual") for part in ("decode", "run", "wait")
        ),
        'liere_grid_info{bundle="tiny",grid="2x3",version="1"} 1.0',
        "liere_decode_workers 1.0",
        'liere_limit{name="max_batch"} 32.0',
        'liere_backlog_seconds{resource="cpu"} 0.0',
        "liere_in_flight_bytes 0.0",
        'liere_batch_size_count{modality="image"} 2.0',
        'liere_queue_depth{queue="device"} 0.0',
        'liere_queue_depth{queue="decode"} 0.0',
        "liere_in_flight 0.0",
        'liere_bundle_info{bundle="tiny",state="ready",version="1"} 1.0',
        "liere_decode_worker_restarts_total 0.0",
    ):
        assert line in text
    assert "process_resident_memory_bytes" in text


@alone
def test_killed_worker_is_counted_and_replaced(start: Start) -> None:
    """A decode worker that dies is seen in the metrics, and requests go on."""
    server, _ = start()
    os.kill(server.engine.pool.process_ids[0], signal.SIGKILL)
    wait_until(lambda: server.metric("liere_decode_worker_restarts_total") == 1, "the restart")
    assert server.classify(content=GOOD).status_code == 200


@alone
def test_server_without_a_decode_worker_is_not_ready(start: Start) -> None:
    """While no worker can be replaced nothing should be sent here; with the next one it heals."""
    server, _ = start()
    pool = server.engine.pool
    staff = pool.staff
    working, staff._command = staff._command, (sys.executable, "-c", "raise SystemExit(3)")
    os.kill(pool.process_ids[0], signal.SIGKILL)
    wait_until(lambda: server.get("/health/ready").status_code == 503, "the worker to be missed")
    problem = server.get("/health/ready").json()
    assert problem["type"] == "/problems/not-ready"
    assert problem["detail"] == "no decode worker is running"
    assert server.get("/health/live").status_code == 200
    staff._command = working
    wait_until(lambda: server.get("/health/ready").status_code == 200, "another worker")


def test_request_leaves_no_garbage_for_the_collector(start: Start) -> None:
    """Requests leave no reference cycles: memory is freed at once and the collector rests."""
    server, _ = start()
    with RawConnection(server.port) as connection:

        def once() -> None:
            connection.send_head(f"Content-Length: {len(GOOD)}")
            connection.send(GOOD)
            assert connection.answer()[0] == 200

        for _ in range(5):
            once()
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                once()
            assert gc.collect() < 20
        finally:
            gc.enable()


def test_every_problem_has_a_type_of_its_own() -> None:
    """Types are stable identifiers: unique, lower case, under /problems/; no failure lacks one."""
    assert set(PROBLEMS) == set(Failure.__subclasses__())
    types = [problem.type for problem in PROBLEMS.values()]
    assert len(set(types)) == len(types)
    assert all(name.startswith("/problems/") and name == name.lower() for name in types)
    assert all(400 <= problem.status < 600 for problem in PROBLEMS.values())


def test_many_clients_at_once_each_get_their_own_answer(start: Start) -> None:
    """Under concurrency no answer is swapped: each picture gets the labels it gets alone."""
    server, session = start()
    media = [picture(seed) for seed in range(60)]
    with httpx.Client(timeout=30) as client:
        url = f"{server.url}/v1/classify/image"
        alone = [client.post(url, content=one).json()["results"][0] for one in media]
        session.batches.clear()
        with ThreadPoolExecutor(16) as threads:
            together = list(threads.map(lambda one: client.post(url, content=one).json(), media))
    for one, other in zip(alone, together, strict=True):
        predictions = other["results"][0]["predictions"]
        assert [p["label"] for p in predictions] == [p["label"] for p in one["predictions"]]
        expected = [p["probability"] for p in one["predictions"]]
        assert [p["probability"] for p in predictions] == pytest.approx(expected, abs=1e-5)
    assert sum(session.batches) == 60
