"""``timeout_ms``: when an answer is due, and what becomes of work that cannot be in time."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.engine.schedule import CPU, Charge
from tests.helpers.service_fixtures import (
    MEDIA,
    RawConnection,
    RunningServer,
    TinySession,
    picture,
    serving,
    write_tiny_bundle,
)

GOOD = picture(1)
PATH = "/v1/classify/image"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle of images and one of scans."""
    root = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(root)
    write_tiny_bundle(root, "scans", "volume")
    return root


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[RunningServer]:
    """One with 30 s for images and 120 s for scans, where nothing but deadlines refuses work."""
    with serving(bundles, max_wait=600) as running:
        yield running


@contextmanager
def held(tmp_path: Path, **settings: Any) -> Iterator[tuple[RunningServer, TinySession]]:
    """A server whose device does not move."""
    write_tiny_bundle(tmp_path)
    session = TinySession()
    opener = lambda graph, device, threads: session  # noqa: E731
    with serving(tmp_path, opener, **settings) as running:
        session.gate.clear()
        try:
            yield running, session
        finally:
            session.gate.set()


def problem(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["type"].removeprefix("/problems/")


@pytest.mark.parametrize("where", ["params", "data"])
@pytest.mark.parametrize(("modality", "most"), [("image", 30_000), ("volume", 120_000)])
def test_range_is_that_of_the_modality(
    server: RunningServer, modality: str, most: int, where: str
) -> None:
    """Whole milliseconds from 1 to the deadline of the address; anything else is named."""
    path, media = f"/v1/classify/{modality}", {"file": MEDIA[modality]()}
    for wrong in ("0", "-1", "1.5", "soon", "", "1e3", " 5", str(most + 1), "9" * 30):
        sent: dict[str, Any] = {"files": media, where: {"timeout_ms": wrong}}
        response = server.classify(path, **sent)
        assert problem(response) == (422, "bad-parameter"), wrong
        expected = f"timeout_ms: expected a whole number from 1 to {most}, got {wrong[:20]!r}"
        assert response.json()["detail"] == expected
    sent = {"files": media, where: {"timeout_ms": str(most)}}
    assert server.classify(path, **sent).status_code == 200


def test_wrong_time_in_the_address_is_told_before_the_body(server: RunningServer) -> None:
    """Nothing of the body has to be sent."""
    with RawConnection(server.port) as connection:
        connection.send_head("Content-Length: 1000", path=f"{PATH}?timeout_ms=0")
        status, _, body = connection.answer()
    assert (status, json.loads(body)["type"]) == (422, "/problems/bad-parameter")


def test_answer_that_is_not_there_in_time_is_504(tmp_path: Path) -> None:
    """In the address or in a form: long before the server's own deadline; no row is run later."""
    with held(tmp_path) as (server, session):
        files, due = {"file": GOOD}, {"timeout_ms": "200"}
        began, runs = time.monotonic(), len(session.batches)
        first = server.classify(files=files, params=due)
        second = server.classify(files=files, data=due)
        assert time.monotonic() - began >= 0.4
        assert problem(first) == problem(second) == (504, "deadline-passed")
        assert first.json()["detail"] == second.json()["detail"]
        assert first.json()["detail"] == "there was no answer within 0.2 seconds"
        session.gate.set()
        assert server.classify(files=files).status_code == 200
        assert len(session.batches) - runs <= 2  # the first may have begun; the second did not


def test_time_counts_while_the_body_comes(server: RunningServer) -> None:
    """From the start of the request: a client that sends slowly is told in time as well."""
    with RawConnection(server.port) as connection:
        began = time.monotonic()
        connection.send_head("Content-Length: 1000", path=f"{PATH}?timeout_ms=150")
        connection.send(b"half")
        status, headers, body = connection.answer()
        assert time.monotonic() - began >= 0.15
    assert (status, json.loads(body)["type"]) == (504, "/problems/deadline-passed")
    assert json.loads(body)["detail"] == "there was no answer within 0.15 seconds"
    assert headers["connection"] == "close"
    assert server.engine.admission.bytes == 0


def test_work_that_cannot_be_in_time_is_refused_before_its_body(server: RunningServer) -> None:
    """By what is due earlier: told to come back, at once and without the body; a later one enters.

    Nothing else refuses it: this server lets in whatever has ten minutes before it.
    """
    ahead = Charge("image", -math.inf, {"run": {CPU: 60.0}})
    server.engine.backlog.charge(ahead)
    try:
        with RawConnection(server.port) as connection:
            connection.send_head("Content-Length: 1000", path=f"{PATH}?timeout_ms=5000")
            status, headers, body = connection.answer()
        assert (status, json.loads(body)["type"]) == (429, "/problems/overloaded")
        assert "within its time" in json.loads(body)["detail"]
        assert int(headers["retry-after"]) >= 1
        form: dict[str, Any] = {"files": {"file": GOOD}, "data": {"timeout_ms": "5000"}}
        assert problem(server.classify(**form)) == (429, "overloaded")
        for reason in ("wait", "requests", "bytes"):
            assert server.metric("liere_refused_total", modality="image", reason=reason) == 0
    finally:
        server.engine.backlog.leave(ahead)
    assert server.classify(content=GOOD, params={"timeout_ms": "5000"}).status_code == 200
