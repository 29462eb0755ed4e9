"""What cannot be answered over gRPC: a status code, a sentence, the problem's type, and no more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from service.grpc.inference_pb2 import (
    InferParameter,
    ModelInferRequest,
    ModelMetadataRequest,
    ModelReadyRequest,
)
from service.grpc.messages import MAX_FIELDS, MAX_REST_BYTES
from service.grpc.statuses import CODES
from service.http.problems import PROBLEMS
from tests.grpc.conftest import Start
from tests.helpers.grpc_serving import (
    SERVICE,
    GrpcServer,
    arrays,
    of_files,
    of_pixels,
    serving_grpc,
)
from tests.helpers.service_fixtures import (
    picture,
    poison,
    tiny_logits,
    wait_until,
    write_tiny_bundle,
)

GOOD = picture(1)
PIXELS = np.zeros((2, 8, 12, 3), np.uint8)
INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED
#: Of jobs, of the admin's addresses, and of what is no call at all.
NEVER_HERE = {405, 409, 431, 499, 507}


def changed(asked: ModelInferRequest, change: Callable[[ModelInferRequest], object]) -> Any:
    change(asked)
    return asked


def with_parameter(name: str, **value: Any) -> ModelInferRequest:
    asked = of_files("image", GOOD)
    asked.parameters[name].CopyFrom(InferParameter(**value))
    return asked


def with_output(name: str, **parameters: int) -> ModelInferRequest:
    asked = of_files("image", GOOD)
    output = asked.outputs.add(name=name)
    for parameter, value in parameters.items():
        output.parameters[parameter].int64_param = value
    return asked


REFUSED: dict[str, tuple[ModelInferRequest | bytes, grpc.StatusCode, str, str]] = {
    "no message": (b"", INVALID, "bad-parameter", "inputs: expected one, got 0"),
    "no protobuf": (b"\xff\xff\xff", INVALID, "broken-tensors", "expected a ModelInferRequest"),
    "cut off": (
        of_files("image", GOOD).SerializeToString()[:-1], INVALID, "broken-tensors",
        "expected a ModelInferRequest; this one ends too early",
    ),
    "a field that is not one": (
        b"\x0f", INVALID, "broken-tensors", "expected a ModelInferRequest",
    ),
    "unknown model": (
        of_files("nope", GOOD), grpc.StatusCode.NOT_FOUND, "unknown-bundle",
        "unknown model 'nope'; known: image, image_tensor",
    ),
    "another version": (
        of_files("image", GOOD, model_version="7"), grpc.StatusCode.NOT_FOUND, "unknown-version",
        "",
    ),
    "two inputs": (
        changed(of_files("image", GOOD), lambda one: one.inputs.add(name="file")), INVALID,
        "bad-parameter", "inputs: expected one, got 2",
    ),
    "two raw contents": (
        changed(of_files("image", GOOD), lambda one: one.raw_input_contents.append(b"x")), INVALID,
        "bad-parameter", "raw_input_contents: expected one",
    ),
    "both ways": (
        changed(
            of_files("image", GOOD),
            lambda one: one.inputs[0].contents.bytes_contents.append(GOOD),
        ),
        INVALID, "bad-parameter", "inputs[0]: expected either contents or raw_input_contents",
    ),
    "neither way": (
        changed(of_files("image", GOOD), lambda one: one.raw_input_contents.pop()), INVALID,
        "bad-parameter", "inputs[0]: expected either contents or raw_input_contents",
    ),
    "priority": (
        with_parameter("priority", uint64_param=1), INVALID, "bad-parameter", "request.parameters",
    ),
    "a parameter of HTTP": (
        with_parameter("binary_data_output", bool_param=True), INVALID, "bad-parameter",
        "parameters: binary_data_output is of HTTP alone",
    ),
    "a parameter without a value": (
        with_parameter("grid"), INVALID, "bad-parameter", "parameters.'grid': expected a value",
    ),
    "a time of another type": (
        with_parameter("timeout", string_param="1"), INVALID, "bad-parameter",
        "request.parameters.timeout: expected",
    ),
    "a time of nothing": (
        with_parameter("timeout", int64_param=0), INVALID, "bad-parameter",
        "timeout: expected 1 to 30000000 microseconds, got 0",
    ),
    "unknown grid": (
        with_parameter("grid", string_param="9x9"), INVALID, "unknown-grid", "unknown grid '9x9'",
    ),
    "too many parameters": (
        changed(
            of_files("image", GOOD),
            lambda one: [one.parameters[str(number)].int64_param for number in range(17)],
        ),
        INVALID, "bad-parameter", "parameters: expected at most 16, got 17",
    ),
    "unknown output": (with_output("labels"), INVALID, "bad-parameter", "outputs: expected logits"),
    "no label": (
        with_output("logits", classification=0), INVALID, "bad-parameter",
        "classification: expected from 1 to 5, got 0",
    ),
    "an output of HTTP": (
        with_output("logits", binary_data=1), INVALID, "bad-parameter",
        "outputs.parameters: binary_data is of HTTP alone",
    ),
    "files by another name": (
        changed(of_files("image", GOOD), lambda one: setattr(one.inputs[0], "name", "picture")),
        INVALID, "bad-parameter", "inputs[0].name: expected file, got 'picture'",
    ),
    "lengths that disagree": (
        changed(
            of_files("image", GOOD),
            lambda one: one.raw_input_contents.__setitem__(0, b"\x05\0\0\0abc"),
        ),
        INVALID, "broken-tensors", "element 1 of 1: its length is 5, and 3 bytes follow",
    ),
    "no file": (of_files("image"), INVALID, "bad-parameter", "inputs[0].shape: expected [files]"),
    "an empty file": (of_files("image", b""), INVALID, "empty-file", "file 1 has no bytes"),
    "no picture": (of_files("image", b"text"), INVALID, "unsupported-media", ""),
    "files for pixels": (
        of_files("image_tensor", GOOD), INVALID, "bad-parameter", "inputs[0].name: expected pixels",
    ),
    "pixels of another shape": (
        of_pixels("image_tensor", PIXELS[:, 1:]), INVALID, "bad-parameter",
        "inputs[0].shape: expected [rows, 8, 12, 3] or [rows, 12, 8, 3], got rows of [7, 12, 3]",
    ),
    "pixels of another type": (
        of_pixels("image_tensor", PIXELS.astype(np.float32)), INVALID, "bad-parameter",
        "inputs[0].datatype: expected UINT8, got 'FP32'",
    ),
    "a type that nobody takes": (
        changed(
            of_pixels("image_tensor", PIXELS, is_raw=False),
            lambda one: setattr(one.inputs[0], "datatype", "INT64"),
        ),
        INVALID, "bad-parameter",
        "inputs[0].datatype: expected one of BYTES, UINT8, FP32; got 'INT64'",
    ),
    "numbers in the field of others": (
        changed(
            of_pixels("image_tensor", PIXELS, is_raw=False),
            lambda one: one.inputs[0].contents.int_contents.append(1),
        ),
        INVALID, "bad-parameter", "inputs[0].contents: expected uint_contents, got int_contents",
    ),
    "too few pixels": (
        changed(
            of_pixels("image_tensor", PIXELS, is_raw=False),
            lambda one: one.inputs[0].contents.uint_contents.pop(),
        ),
        INVALID, "bad-parameter",
        "inputs[0]: expected 576 bytes for UINT8 [2, 8, 12, 3], got 575",
    ),
    "no pixels": (
        changed(
            of_pixels("image_tensor", PIXELS, is_raw=False),
            lambda one: one.inputs[0].contents.uint_contents.__setitem__(0, 256),
        ),
        INVALID, "bad-parameter", "inputs[0].contents: expected 0 to 255 for UINT8, got 256",
    ),
    "too much of the typed": (
        of_files("image", bytes(MAX_REST_BYTES), is_raw=False), INVALID, "body-too-large",
        f"a request may have at most {MAX_REST_BYTES} bytes besides its raw_input_contents",
    ),
    "too many fields": (
        changed(
            of_files("image", GOOD),
            lambda one: [one.outputs.add() for _ in range(MAX_FIELDS)],
        ),
        INVALID, "broken-tensors", f"expected at most {MAX_FIELDS} fields",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcServer]:
    """A server with one bundle of images, called so."""
    root = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(root, "image", "image")
    with serving_grpc(root) as running:
        yield running


def problem_of(error: grpc.RpcError) -> str:
    """The end of the type that it tells."""
    told = dict(error.trailing_metadata())
    assert told["x-request-id"]
    return str(told["problem-type"]).removeprefix("/problems/")


def test_every_problem_of_a_request_has_a_status_code() -> None:
    """What HTTP has a status for, gRPC has one for, but for what is never asked here."""
    assert {one.status for one in PROBLEMS.values()} - NEVER_HERE == set(CODES)


@pytest.mark.parametrize("case", list(REFUSED))
def test_refusal_says_what_was_expected(images: GrpcServer, case: str) -> None:
    """Code, type and sentence; and the next request is answered."""
    asked, code, kind, detail = REFUSED[case]
    error = images.refusal(asked)
    assert (error.code(), problem_of(error)) == (code, kind), error.details()
    assert error.details().startswith(detail)
    answer = images.infer(of_files("image", GOOD))
    np.testing.assert_allclose(arrays(answer)["logits"], [tiny_logits(GOOD, "2x3")], atol=1e-4)


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata"])
def test_model_that_is_not_there_is_not_found(images: GrpcServer, method: str) -> None:
    """Asked after by name or by version; a name without end is refused unread."""
    kind = {"ModelReady": ModelReadyRequest, "ModelMetadata": ModelMetadataRequest}[method]
    for asked in (kind(name="nope"), kind(name="image", version="2")):
        assert images.refusal(asked, method).code() == grpc.StatusCode.NOT_FOUND
    error = images.refusal(kind(name="n" * 5000), method)
    assert (error.code(), problem_of(error)) == (INVALID, "body-too-large")


def test_methods_of_triton_that_are_not_here_are_unimplemented(images: GrpcServer) -> None:
    """Nothing is answered by half."""
    for method in ("ModelConfig", "ModelStatistics", "SystemSharedMemoryStatus"):
        assert images.refusal(b"", method).code() == grpc.StatusCode.UNIMPLEMENTED


def test_compressed_message_is_not_read(images: GrpcServer) -> None:
    """What it would become nobody knows; the identity is read."""
    asked = of_files("image", GOOD)
    error = images.refusal(asked, compression=grpc.Compression.Gzip)
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    assert images.infer(asked, compression=grpc.Compression.NoCompression).outputs


# --- limits ----------------------------------------------------------------------------------


def test_message_has_the_limit_of_a_body(start: Start) -> None:
    """One byte too much is refused by gRPC itself, as much as a body may have is read."""
    server, _ = start(max_body_mib=0.125)
    most, bare = 2**17, ModelInferRequest(raw_input_contents=[b""]).ByteSize()
    padding = most - bare - 2  # of a length that takes three bytes
    asked = ModelInferRequest(raw_input_contents=[bytes(padding)])
    assert asked.ByteSize() == most
    assert server.refusal(asked).details() == "inputs: expected one, got 0"
    error = server.refusal(ModelInferRequest(raw_input_contents=[bytes(padding + 1)]))
    assert error.code() == EXHAUSTED
    assert "larger than max" in error.details()


def test_body_may_be_larger_than_any_message(start: Start) -> None:
    """HTTP takes what it is told to; gRPC as much of that as a message can be."""
    server, _ = start(max_body_mib=3000, max_in_flight_mib=4000)
    assert server.infer(of_files("tiny", GOOD)).outputs


def test_message_for_images_has_their_limit_beside_scans(tmp_path: Path) -> None:
    """gRPC knows one limit, the largest; the model then has that of its own modality."""
    for modality in ("image", "volume"):
        write_tiny_bundle(tmp_path, modality, modality)
    with serving_grpc(tmp_path, modalities=("image", "volume"), max_body_mib=0.125) as server:
        error = server.refusal(of_files("image", bytes(2**17)))
        assert (error.code(), problem_of(error)) == (INVALID, "body-too-large")
        assert error.details() == "a request may have at most 131072 bytes"
        assert problem_of(server.refusal(of_files("volume", bytes(2**17)))) == "unsupported-media"


def test_too_many_files_and_too_large_ones(start: Start) -> None:
    """As over HTTP."""
    server, _ = start(max_files=2, max_file_mib=0.01)
    assert problem_of(server.refusal(of_files("tiny", GOOD, GOOD, GOOD))) == "too-many-files"
    assert problem_of(server.refusal(of_files("tiny", bytes(20_000)))) == "file-too-large"


def late(server: GrpcServer, wait: threading.Event, timeout: float = 30) -> Any:
    """A call whose message comes once that is set."""

    def messages() -> Iterator[bytes]:
        wait.wait(20)
        yield of_files("tiny", GOOD).SerializeToString()

    call = server.channel.stream_unary(SERVICE + "ModelInfer")
    return call.future(messages(), timeout=timeout)


def test_message_that_does_not_come_is_given_up(start: Start) -> None:
    """After the time of an upload, whatever the client's deadline is."""
    server, _ = start(upload_seconds=0.4)
    gate = threading.Event()
    try:
        error = late(server, gate).exception()
    finally:
        gate.set()
    assert (error.code(), problem_of(error)) == (
        grpc.StatusCode.DEADLINE_EXCEEDED, "body-timeout",
    )  # fmt: skip
    assert error.details() == "the message was not complete within 0.4 seconds"
    assert server.counted() == {("image", "408", "bad"): 1}
    assert server.metric("liere_dropped_total", stage="upload", reason="expired") == 1


def test_slow_messages_have_room_for_so_many(start: Start) -> None:
    """Of two that come slowly one is refused at once; one that is quick passes both."""
    server, _ = start(max_body_mib=1, max_in_flight_mib=1.5)
    gate = threading.Event()
    try:
        first = late(server, gate)
        time.sleep(0.5)  # longer than a message is quick
        second = late(server, gate).exception()
        assert (second.code(), problem_of(second)) == (EXHAUSTED, "overloaded")
        assert dict(second.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
        assert server.counted() == {("image", "429", "refused"): 1}
        assert server.metric("liere_refused_total", modality="image", reason="bytes") == 1
        assert server.infer(of_files("tiny", GOOD)).outputs
    finally:
        gate.set()
    assert first.result()
    assert late(server, gate).result()


@pytest.mark.parametrize("deadline", [None, 0.3, 1.231])
def test_client_that_ends_its_own_upload_is_counted(start: Start, deadline: float | None) -> None:
    """It left, or its own deadline came, also one that its header rounds up: neither is the
    server's failure, and no message that was missing.
    """
    server, _ = start()
    gate = threading.Event()
    try:
        call = late(server, gate, deadline or 30)
        time.sleep(0.2)
        if deadline is None:
            call.cancel()
        told = ("image", *(("499", "left") if deadline is None else ("504", "hurried")))
        wait_until(lambda: server.counted() == {told: 1}, "the call to be counted")
    finally:
        gate.set()


def test_call_that_is_not_read_so_far_is_counted_without_a_modality(tmp_path: Path) -> None:
    """Where several are served the message alone says which; with one every call is for that."""
    unread = {("", "400", "bad"): 1, ("", "404", "bad"): 1}
    for modalities, expected in (
        (("image", "volume"), unread),
        (("image",), {("image", code, outcome): 1 for (_, code, outcome) in unread}),
    ):
        root = tmp_path / str(len(modalities))
        for one in modalities:
            write_tiny_bundle(root, one, one)
        with serving_grpc(root, modalities=modalities) as server:
            assert server.refusal(b"\xff\xff\xff").code() == INVALID
            assert server.refusal(of_files("nope", GOOD)).code() == grpc.StatusCode.NOT_FOUND
            assert server.refusal(ModelReadyRequest(name="nope"), "ModelReady")  # which is no work
            assert server.counted() == expected


# --- load and time ---------------------------------------------------------------------------


def test_load_is_shed_with_the_time_to_come_back(start: Start) -> None:
    """Where every permit is taken the next call is refused, counted, and told when to retry."""
    server, session = start(max_in_flight=1)
    session.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.infer, of_files("tiny", GOOD))
        wait_until(lambda: session.batches, "the first call to run")
        error = server.refusal(of_files("tiny", GOOD))
        session.gate.set()
        assert first.result().outputs
    assert (error.code(), problem_of(error)) == (EXHAUSTED, "overloaded")
    told = dict(error.trailing_metadata())
    assert int(told["retry-after"]) >= 1
    assert told["grpc-retry-pushback-ms"] == told["retry-after"] + "000"
    assert server.metric("liere_requests_total", code="429", outcome="refused") == 1
    assert server.metric("liere_refused_total", modality="image", reason="requests") == 1
    assert server.metric("liere_in_flight") == 0
    assert server.metric("liere_in_flight_bytes") == 0


@pytest.mark.parametrize("way", ["gRPC", "parameter"])
def test_answer_that_comes_too_late_is_a_deadline(start: Start, way: str) -> None:
    """By the client's deadline, or by the protocol's own: counted as the client's hurry."""
    server, session = start()
    session.gate.clear()
    asked: Any = of_files("tiny", GOOD)
    options: dict[str, Any] = {}
    if way == "gRPC":
        options = {"timeout": 0.3}
    else:
        asked.parameters["timeout"].int64_param = 300_000
    error = server.refusal(asked, **options)
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(
        lambda: server.metric("liere_requests_total", code="504", outcome="hurried") == 1,
        "the call to be counted",
    )
    session.gate.set()
    wait_until(lambda: server.metric("liere_in_flight") == 0, "its permit to be given back")


def test_client_that_leaves_ends_its_work(start: Start) -> None:
    """Of two calls that wait behind a first the cancelled one is never run."""
    server, session = start()
    session.gate.clear()
    call = server.channel.unary_unary(SERVICE + "ModelInfer")
    message = of_files("tiny", GOOD).SerializeToString()
    first = call.future(message, timeout=30)
    wait_until(lambda: session.batches, "the first call to run")
    second = call.future(message, timeout=30)
    wait_until(lambda: server.metric("liere_in_flight") == 2, "the second call to wait")
    second.cancel()
    wait_until(
        lambda: server.metric("liere_requests_total", code="499", outcome="left") == 1,
        "the second call to be counted",
    )
    session.gate.set()
    assert first.result()
    assert session.batches == [1]


def test_mistake_of_the_graph_leaks_nothing(start: Start) -> None:
    """INTERNAL says that it failed, and neither where nor why."""
    server, _ = start()
    error = server.refusal(of_files("tiny", poison()))
    assert (error.code(), problem_of(error)) == (grpc.StatusCode.INTERNAL, "inference-failed")
    assert "/" not in error.details()
    assert "0x" not in error.details()
    assert server.infer(of_files("tiny", GOOD)).outputs


def test_mistake_of_ours_leaks_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no failure stays in the log, under the id that the client is told."""
    server, _ = start()

    async def fail(jobs: Any) -> None:
        raise RuntimeError("secret at /some/path")

    monkeypatch.setattr(server.engine, "submit_all", fail)
    error = server.refusal(of_files("tiny", GOOD))
    assert (error.code(), problem_of(error)) == (grpc.StatusCode.INTERNAL, "internal-error")
    assert "secret" not in str(error.details())
    told = dict(error.trailing_metadata())["x-request-id"]
    assert any(f"call {told} failed" in one.getMessage() for one in caplog.records)
