"""Spans of calls: as those of requests over HTTP, by the conventions for servers of RPC."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from service.grpc.inference_pb2 import ServerLiveRequest, ServerLiveResponse
from tests.helpers.grpc_serving import SERVICE, GrpcServer, of_files, serving_grpc
from tests.helpers.service_fixtures import TinySession, picture, poison
from tests.http.test_otel import PARENT, STAGES, TRACE, Receiver, values

CAME = (("traceparent", f"00-{TRACE}-{PARENT}-01"), ("x-request-id", "mine"))


@pytest.fixture
def told(bundles: Path) -> Iterator[tuple[GrpcServer, Receiver]]:
    """A server that tells its spans, and who gets them."""
    with Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever)
        thread.start()
        opener = lambda *_: TinySession()  # noqa: E731
        with serving_grpc(bundles, opener, otel_endpoint=receiver.url) as server:
            yield server, receiver
        receiver.shutdown()
        thread.join()


def test_call_is_told_from_guard_to_run(told: tuple[GrpcServer, Receiver]) -> None:
    """In the trace that it came with: one span for it, with its code, and one for each stage."""
    server, receiver = told
    asked = of_files("tiny", picture(1))
    call = server.channel.unary_unary(SERVICE + "ModelInfer")
    _, done = call.with_call(asked.SerializeToString(), metadata=CAME, timeout=30)
    *stages, whole = receiver.take(server)
    assert {span.trace_id.hex() for span in (*stages, whole)} == {TRACE}
    assert (whole.parent_span_id.hex(), whole.kind) == (PARENT, Span.SPAN_KIND_SERVER)
    header = dict(done.trailing_metadata())["traceparent"]
    assert header == f"00-{TRACE}-{whole.span_id.hex()}-01"
    assert whole.name == "inference.GRPCInferenceService/ModelInfer"
    assert values(whole.attributes) == {
        "rpc.system": "grpc",
        "rpc.service": "inference.GRPCInferenceService",
        "rpc.method": "ModelInfer",
        "rpc.grpc.status_code": 0,
        "liere.request.id": "mine",
        "liere.modality": "image",
        "liere.bundle": "tiny",
        "liere.grid": "2x3",
    }
    assert sorted(span.name for span in stages) == sorted(STAGES)
    assert {span.parent_span_id for span in stages} == {whole.span_id}
    (upload,) = (values(span.attributes) for span in stages if span.name == "upload")
    assert upload == {"liere.message.bytes": asked.ByteSize()}


def test_failure_is_told_by_its_code_and_probes_are_not(
    told: tuple[GrpcServer, Receiver],
) -> None:
    """INTERNAL is an error of the span, a wrong model is none; who asks after health is no span."""
    server, receiver = told
    assert server.call("ServerLive", ServerLiveRequest(), ServerLiveResponse).live
    for model, file, code, status in (
        ("tiny", poison(), grpc.StatusCode.INTERNAL, Status.STATUS_CODE_ERROR),
        ("nope", picture(1), grpc.StatusCode.NOT_FOUND, Status.STATUS_CODE_UNSET),
    ):
        assert server.refusal(of_files(model, file)).code() == code
        *_, whole = receiver.take(server)
        assert values(whole.attributes)["rpc.grpc.status_code"] == code.value[0]
        assert whole.status.code == status
    assert receiver.take(server) == []
