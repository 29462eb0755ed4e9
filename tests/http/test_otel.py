"""Spans from guard to run, as a receiver of OpenTelemetry's protocol gets them; none unasked."""

from __future__ import annotations

import hashlib
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from service import spans
from service.engine.schedule import CPU, Charge
from service.settings import SettingsError, make_settings, read_settings
from service.tracing import open_tracing
from tests.helpers.service_fixtures import (
    RunningServer,
    TinySession,
    access_lines,
    complaint,
    picture,
    poison,
    run,
    serving,
    write_tiny_bundle,
)

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STAGES = ["upload", "room", "decode_wait", "decode", "device_wait", "run"]


class Receiver(ThreadingHTTPServer):
    """Takes OTLP over HTTP and keeps what came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1/traces"

    def take(self, server: RunningServer) -> list[Span]:
        """What the server tells of what is over, with the spans of each request last."""
        server.settle()
        server.app.state.tracing.flush()
        taken, self.spans = self.spans, []
        return taken


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.services.add(values(resource.resource.attributes)["service.name"])
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: Any) -> None:
        pass


def values(attributes: Any) -> dict[str, Any]:
    """Of key-value pairs of the protocol."""

    def value(pair: KeyValue) -> Any:
        return getattr(pair.value, pair.value.WhichOneof("value") or "string_value")

    return {pair.key: value(pair) for pair in attributes}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        yield one
        one.shutdown()
        thread.join()


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "bundles").parent


@pytest.fixture
def server(bundles: Path, receiver: Receiver) -> Iterator[RunningServer]:
    """One that tells its spans, with a tiny bundle in numpy."""
    with serving(bundles, lambda *_: TinySession(), otel_endpoint=receiver.url) as running:
        yield running


def test_a_request_is_told_from_guard_to_run(server: RunningServer, receiver: Receiver) -> None:
    """In the trace that it came with, below its caller's span: one span for it, one a stage."""
    answer = server.classify(
        content=picture(), headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "a"}
    )
    assert answer.status_code == 200
    *stages, request = receiver.take(server)
    assert receiver.services == {"liere"}
    assert {span.trace_id.hex() for span in (*stages, request)} == {TRACE}
    assert request.parent_span_id.hex() == PARENT
    assert answer.headers["traceparent"] == f"00-{TRACE}-{request.span_id.hex()}-01"
    assert (request.name, request.kind) == ("POST /v1/classify/image", Span.SPAN_KIND_SERVER)
    told = values(request.attributes)
    assert told == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/classify/image",
        "network.protocol.version": "1.1",
        "url.path": "/v1/classify/image",
        "url.scheme": "http",
        "liere.request.id": "a",
        "liere.modality": "image",
        "liere.bundle": "tiny",
        "liere.grid": told["liere.grid"],
    }
    assert request.status.code == Status.STATUS_CODE_UNSET
    assert sorted(span.name for span in stages) == sorted(STAGES)
    assert {span.parent_span_id for span in stages} == {request.span_id}
    by_name = {span.name: values(span.attributes) for span in stages}
    assert by_name["upload"] == {"http.request.body.size": len(picture())}
    assert by_name["decode"]["liere.file.bytes"] == len(picture())
    run_of = by_name["run"]
    assert run_of == {"liere.batch.rows": 1, "liere.rows": 1, "liere.device": "cpu"}


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=ours,a=b"}, "ours"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=ours", "OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "a=b"}, "liere"),
        ({"OTEL_SERVICE_NAME": ""}, "liere"),
    ],
)
def test_service_is_called_as_the_variables_say(
    bundles: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str], name: str,
) -> None:
    """By either of them; OpenTelemetry's own order holds where both do."""
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with serving(bundles, lambda *_: TinySession(), otel_endpoint=receiver.url) as server:
        assert server.get("/v1/bundles").status_code == 200
        assert receiver.take(server)
    assert receiver.services == {name}


def test_stages_lie_end_to_end_within_the_request(
    server: RunningServer, receiver: Receiver
) -> None:
    """From when the item was let in; what is told of times agrees with the answer's own."""
    answer = server.classify(content=picture())
    *stages, request = receiver.take(server)
    timing = answer.json()["results"][0]["timing_ms"]
    way = [next(span for span in stages if span.name == name) for name in STAGES[1:]]
    for before, after in zip(way, way[1:], strict=False):
        assert abs(before.end_time_unix_nano - after.start_time_unix_nano) < 1000
    for span in stages:
        assert request.start_time_unix_nano - 1000 <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= request.end_time_unix_nano + 1000
    milliseconds = {
        span.name: (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6 for span in way
    }
    assert milliseconds["run"] == pytest.approx(timing["inference"], abs=0.002)
    assert milliseconds["device_wait"] == pytest.approx(timing["queue"], abs=0.002)
    decoded = milliseconds["decode_wait"] + milliseconds["decode"]
    assert decoded == pytest.approx(timing["decode"], abs=0.002)


def test_a_trace_begins_here_where_none_came(
    server: RunningServer, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer and the log name it."""
    with caplog.at_level(logging.INFO, "service.access"):
        answer = server.classify(content=picture())
        (line,) = access_lines(caplog, answer.headers["x-request-id"])
    *_, request = receiver.take(server)
    assert request.parent_span_id == b""
    made = f"00-{request.trace_id.hex()}-{request.span_id.hex()}-01"
    assert answer.headers["traceparent"] == made
    assert line["trace_id"] == request.trace_id.hex()


def test_requests_after_one_another_share_nothing(
    server: RunningServer, receiver: Receiver
) -> None:
    """Of one connection too: each has a trace and a full set of stages of its own."""
    with httpx.Client(base_url=server.url, verify=False) as client:
        for _ in range(3):
            assert client.post("/v1/classify/image", content=picture()).status_code == 200
    taken = receiver.take(server)
    traces = {span.trace_id for span in taken}
    assert len(traces) == 3
    for one in traces:
        names = [span.name for span in taken if span.trace_id == one]
        assert sorted(names) == sorted([*STAGES, "POST /v1/classify/image"])


def test_files_of_a_request_have_stages_each(server: RunningServer, receiver: Receiver) -> None:
    """Below one request; the runs say how many rows shared the batch."""
    answer = server.classify(files=[("file", (f"{one}.png", picture(one))) for one in range(3)])
    assert answer.status_code == 200
    taken = receiver.take(server)
    runs = [values(span.attributes) for span in taken if span.name == "run"]
    assert len(runs) == 3
    assert all(1 <= one["liere.batch.rows"] <= 3 for one in runs)
    assert len({span.trace_id for span in taken}) == 1


@pytest.mark.parametrize(
    ("media", "status", "stage", "failure"),
    [(b"text", 415, "decode", "UnsupportedMedia"), (poison(), 500, "device", "InferenceFailed")],
)
def test_what_fails_is_told_where_it_failed(
    server: RunningServer, receiver: Receiver, media: bytes, status: int, stage: str, failure: str
) -> None:
    """The stage is an error in any case, the request only where the server is at fault."""
    assert server.classify(content=media).status_code == status
    *stages, request = receiver.take(server)
    failed = next(span for span in stages if span.name == stage)
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert values(failed.attributes)["error.type"] == failure
    told = values(request.attributes)
    assert told["http.response.status_code"] == status
    ours = status >= 500
    assert (request.status.code == Status.STATUS_CODE_ERROR) == ours
    assert told.get("error.type") == ("500" if ours else None)
    assert "run" not in {span.name for span in stages}


def test_refused_and_unknown_requests_are_spans_too(
    server: RunningServer, receiver: Receiver
) -> None:
    """Their names do not hold what a client made up, nor does anything hold its query."""
    assert server.get("/v1/nothing?secret=1").status_code == 404
    assert server.request("PROPFIND", "/v1/classify/image").status_code == 405
    unknown, brewed = receiver.take(server)
    assert (unknown.name, values(unknown.attributes)["url.path"]) == ("GET", "/v1/nothing")
    assert "secret" not in str(unknown)
    assert brewed.name == "HTTP /v1/classify/image"
    assert values(brewed.attributes)["http.request.method"] == "_OTHER"


def test_what_is_refused_by_its_head_alone_is_no_span(
    server: RunningServer, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted and not told, but where it has to be looked at again: as the guide says."""
    server.engine.backlog.charge(Charge("image", 1e9, {"run": {CPU: 1e3}}))

    def refuse(path: str = "/v1/classify/image", **headers: str) -> list[str]:
        answer = server.request("POST", path, content=picture(), headers=headers)
        assert answer.status_code == 429
        return [span.name for span in receiver.take(server)[-1:]]

    assert refuse() == []
    assert server.metric("liere_requests_total", code="429", outcome="refused") == 1
    assert server.metric("liere_refused_total", reason="wait") == 1
    told = ["POST"]  # nobody has looked yet for what
    assert refuse(traceparent=f"00-{TRACE}-{PARENT}-01") == told
    assert refuse(origin="http://x") == told
    assert refuse("/v1/prepare/image")
    with caplog.at_level(logging.INFO, "service.access"):
        assert refuse() == told


def test_key_that_may_no_more_is_told_by_its_head_alone(
    bundles: Path, receiver: Receiver, tmp_path: Path
) -> None:
    """It is counted as denied, is no span, and is no lack of room."""
    digest = hashlib.sha256(b"slow").hexdigest()
    (tmp_path / "keys").write_text(f"{digest} slow rate=0.01/s\n")
    with serving(
        bundles, lambda *_: TinySession(), otel_endpoint=receiver.url, keys_file=tmp_path / "keys"
    ) as server:
        told = {"Authorization": "Bearer slow"}
        assert server.classify(content=picture(), headers=told).status_code == 200
        assert receiver.take(server)
        assert server.classify(content=picture(), headers=told).status_code == 429
        assert receiver.take(server) == []
        assert server.metric("liere_requests_total", code="429", outcome="denied") == 1
        assert server.metric("liere_refused_total") == 0


def test_what_is_asked_for_ever_is_not_told(server: RunningServer, receiver: Receiver) -> None:
    """Health and metrics: a probe asks every few seconds; and the pages."""
    for path in ("/health/ready", "/health/live", "/metrics", "/", "/docs"):
        assert server.get(path).status_code == 200
    assert server.request("HEAD", "/health/live").status_code == 200
    assert receiver.take(server) == []


@pytest.mark.parametrize("flags", ["00", "01"])
def test_caller_decides_whether_its_trace_is_told(
    bundles: Path, receiver: Receiver, flags: str
) -> None:
    """By its flag, whatever the share of traces that begin here."""
    share = 1.0 if flags == "00" else 0.0
    with serving(
        bundles, lambda *_: TinySession(), otel_endpoint=receiver.url, otel_share=share
    ) as server:
        came = {"traceparent": f"00-{TRACE}-{PARENT}-{flags}"}
        answer = server.classify(content=picture(), headers=came)
        version, trace, span, given = answer.headers["traceparent"].split("-")
        assert (version, trace, given) == ("00", TRACE, flags)
        assert span != PARENT
        taken = receiver.take(server)
        assert bool(taken) == (flags == "01")
        if share == 0:  # and of its own it tells none, nor names a trace that nobody will know
            assert "traceparent" not in server.classify(content=picture()).headers
            assert receiver.take(server) == []


def test_the_last_spans_are_sent_when_the_server_ends(bundles: Path, receiver: Receiver) -> None:
    """Nobody asked for them before."""
    with serving(bundles, lambda *_: TinySession(), otel_endpoint=receiver.url) as server:
        assert server.classify(content=picture()).status_code == 200
    assert [span.name for span in receiver.spans][-1] == "POST /v1/classify/image"


def test_a_receiver_that_is_away_delays_no_answer_and_no_end(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is told is lost, after a moment; requests do not know of it."""
    monkeypatch.setattr(spans, "LAST_SECONDS", 0.2)
    endpoint = "http://127.0.0.1:9/v1/traces"
    with serving(bundles, lambda *_: TinySession(), otel_endpoint=endpoint) as server:
        assert server.classify(content=picture()).status_code == 200
    assert not server._thread.is_alive()


def test_nothing_is_traced_or_loaded_unasked(bundles: Path) -> None:
    """Without an endpoint the SDK is never imported, and an answer has no trace of its own."""
    with serving(bundles, lambda *_: TinySession()) as server:
        assert server.app.state.tracing is None
        assert "traceparent" not in server.classify(content=picture()).headers
    code = (
        "import sys\nfrom service.http.app import create_app\nfrom service.settings import Settings"
        "\ncreate_app(Settings())\n"
        "print([one for one in sys.modules if one.startswith(('opentelemetry.sdk', 'requests'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_without_its_packages_the_server_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before it begins, and how to get it."""
    monkeypatch.delitem(sys.modules, "service.spans")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match=r"opentelemetry.sdk.trace is not installed.*\[otel\]"):
        open_tracing(make_settings(otel_endpoint="http://127.0.0.1:4318/v1/traces"))


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://x/v1", "http://", "http://a b/"])
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    """By the setting's name, with an example."""
    with pytest.raises(SettingsError, match="otel_endpoint: expected a URL like http"):
        make_settings(otel_endpoint=endpoint)
    assert "otel_endpoint" in complaint(run("--otel-endpoint", endpoint), 2)


def test_guide_names_the_spans_and_its_command_runs(repo_root: Path) -> None:
    """Every stage, in order, and flags that exist."""
    page = (repo_root / "docs" / "traces.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == [*STAGES, "explain"]
    (command,) = re.findall(r"^python -m service (.*)$", page, re.MULTILINE)
    settings = read_settings(command.split())
    assert settings.otel_endpoint == "http://127.0.0.1:4318/v1/traces"
    assert spans.LAST_SECONDS == 3
