"""What became of a request, beside its status: what is promised is told by it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.engine.schedule import CPU, Charge
from service.http.keys import digest
from tests.helpers.service_fixtures import (
    RunningServer,
    picture,
    serving,
    wait_until,
    write_tiny_bundle,
)
from tests.helpers.v2_requests import binary_files, infer
from tests.http.conftest import Start

GOOD = picture(1)


def outcomes(server: RunningServer) -> dict[tuple[str, str], float]:
    """Requests for images that were counted, by code and outcome, without those of none."""
    server.settle()
    samples = next(
        family.samples
        for family in server.engine.metrics.registry.collect()
        if family.name == "liere_requests"
    )
    return {
        (one.labels["code"], one.labels["outcome"]): one.value
        for one in samples
        if one.value and one.name.endswith("_total") and one.labels["modality"] == "image"
    }


def check(server: RunningServer, expected: dict[tuple[str, str], float]) -> None:
    """A request is counted a moment after its answer."""
    wait_until(lambda: outcomes(server) == expected, f"{expected}")


def test_what_can_fail_is_counted_as_none_before_it_does(start: Start) -> None:
    """Of every modality that is served: a rise from nothing is not seen."""
    server, _ = start()
    text = server.get("/metrics").text
    for code, outcome in (("200", "ok"), ("500", "failed"), ("503", "failed"), ("504", "expired")):
        labels = f'{{code="{code}",modality="image",outcome="{outcome}"}}'
        assert f"liere_requests_total{labels} 0.0" in text
    assert 'liere_requests_total{code="500",modality="video"' not in text


def test_explanations_are_told_from_answers(start: Start) -> None:
    """In the counts and in the times; one that is refused is no explanation."""
    server, _ = start()
    assert server.classify(content=GOOD).status_code == 200
    explain = {"explain": "occlusion"}
    assert server.classify(content=GOOD, params=explain).status_code == 200
    assert server.classify(content=b"text", params=explain).status_code == 415
    check(server, {("200", "ok"): 1, ("200", "explained"): 1, ("415", "bad"): 1})
    for outcome in ("ok", "explained"):
        labels = {"modality": "image", "bundle": "tiny", "outcome": outcome}
        assert server.metric("liere_request_seconds_count", **labels) == 1


@pytest.mark.parametrize("files", [1, 2])
def test_time_of_the_client_is_told_from_that_of_the_server(start: Start, files: int) -> None:
    """504 is expired where the server's own deadline was over, also beside a longer wish."""
    server, session = start(deadline_seconds=0.5, upload_seconds=0.5)
    session.gate.clear()
    sent: dict[str, Any] = {"files": [("file", (f"{one}", GOOD)) for one in range(files)]}
    assert server.classify(**sent, params={"timeout_ms": "100"}).status_code == 504
    check(server, {("504", "hurried"): 1})
    assert server.classify(**sent, params={"timeout_ms": "500"}).status_code == 504
    assert server.classify(**sent).status_code == 504
    check(server, {("504", "hurried"): 1, ("504", "expired"): 2})


def test_time_of_the_client_is_told_over_v2_as_well(start: Start) -> None:
    """``timeout`` in microseconds."""
    server, session = start()
    session.gate.clear()
    sent = binary_files(GOOD, parameters={"timeout": 100_000})
    assert infer(server, "tiny", **sent).status_code == 504
    check(server, {("504", "hurried"): 1})


def test_refusal_for_the_clients_own_time_is_no_lack_of_machines(start: Start) -> None:
    """Work stands before it that would leave another request enough."""
    server, _ = start(max_wait=600)  # nothing else refuses it
    charge = Charge("image", -math.inf, {"run": {CPU: 10.0}})
    server.engine.backlog.charge(charge)
    answer = server.classify(content=GOOD, params={"timeout_ms": "100"})
    assert answer.json()["type"] == "/problems/overloaded"
    server.engine.backlog.leave(charge)
    check(server, {("429", "hurried"): 1})


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[RunningServer]:
    """A server with a slow key, and one that may not ask."""
    keys = tmp_path / "keys"
    keys.write_text(
        f"{digest(b'slow').hex()} slow rate=0.01/s\n{digest(b'boss').hex()} boss scopes=admin\n"
    )
    write_tiny_bundle(tmp_path / "bundles")
    with serving(tmp_path / "bundles", keys_file=keys) as running:
        yield running


@pytest.mark.parametrize("origin", [{}, {"Origin": "https://app.example"}])
def test_whom_the_key_does_not_let_in_is_told_apart(
    locked: RunningServer, origin: dict[str, str]
) -> None:
    """No key, one that may not, and one over its own rate; turned away early or by the guard."""
    for key, status in (("none", 401), ("boss", 403), ("slow", 200), ("slow", 429)):
        headers = {"Authorization": f"Bearer {key}", **origin}
        assert locked.classify(content=GOOD, headers=headers).status_code == status
    denied = {(code, "denied"): 1.0 for code in ("401", "403", "429")}
    check(locked, {("200", "ok"): 1, **denied})
