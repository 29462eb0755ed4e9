"""What the metrics tell of requests that end without an answer, and of what was predicted."""

from __future__ import annotations

from contextlib import ExitStack

from tests.helpers.service_fixtures import (
    RawConnection,
    RunningServer,
    picture,
    wait_until,
)
from tests.http.conftest import Start

GOOD = picture(1)


def dropped(server: RunningServer, stage: str, reason: str) -> float:
    labels = {"modality": "image", "stage": stage, "reason": reason}
    return server.metric("liere_dropped_total", **labels)


def test_client_that_leaves_is_counted_where_it_left(start: Start) -> None:
    """One before its body is whole, one whose rows wait for the device."""
    server, session = start()
    session.gate.clear()
    with ExitStack() as stack:
        first, half, queued = (stack.enter_context(RawConnection(server.port)) for _ in range(3))
        for connection in (first, queued):
            connection.send_head(f"Content-Length: {len(GOOD)}")
            connection.send(GOOD)
            wait_until(lambda: session.batches, "the first batch to run")
        wait_until(lambda: server.engine.devices.depth == 1, "the second to be queued")
        half.send_head("Content-Length: 1000")
        half.send(GOOD[:10])
        for connection in (half, queued):
            connection.socket.close()
        wait_until(lambda: dropped(server, "upload", "left") == 1, "the half upload")
        wait_until(lambda: dropped(server, "device", "left") == 1, "the one in the queue")
        session.gate.set()
        assert first.answer()[0] == 200
    labels = {"modality": "image", "bundle": "tiny", "outcome": "left"}
    assert server.metric("liere_request_seconds_count", **labels) == 1


def test_time_that_is_over_is_told_apart(start: Start) -> None:
    """504 is expired, also in the requests' outcome."""
    server, session = start(deadline_seconds=0.3, upload_seconds=0.3)
    session.gate.clear()
    with RawConnection(server.port) as first:
        first.send_head(f"Content-Length: {len(GOOD)}")
        first.send(GOOD)
        assert first.answer()[0] == 504
    assert dropped(server, "device", "expired") == 1
    labels = {"modality": "image", "bundle": "tiny", "outcome": "expired"}
    assert server.metric("liere_request_seconds_count", **labels) == 1


def test_predicted_and_actual_seconds_are_of_the_same_items(start: Start) -> None:
    """Of decoding and running both are there after an answer, and positive."""
    server, _ = start()
    assert server.classify(content=GOOD).status_code == 200
    for part in ("decode", "run"):
        for which in ("predicted", "actual"):
            name = f"liere_{which}_seconds_total"
            assert server.metric(name, modality="image", part=part) > 0


def test_unknown_names_make_no_series(start: Start) -> None:
    """What clients write is no label: memory would grow with every name."""
    server, _ = start()
    for name in ("nope", "tiny@9", "x" * 60):
        assert server.classify(f"/v1/classify/image?bundle={name}", content=GOOD).status_code == 404
    text = server.get("/metrics").text
    assert "nope" not in text and "xxx" not in text and "tiny@" not in text
