"""The Open Inference Protocol over gRPC: what is asked is answered, as over HTTP."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from media import read
from media.spec import Grid
from service.engine.job import softmax
from service.grpc.inference_pb2 import (
    InferParameter,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
    ServerReadyRequest,
    ServerReadyResponse,
)
from tests.helpers.grpc_serving import GrpcServer, arrays, of_files, of_pixels
from tests.helpers.service_fixtures import LABELS, MEDIA, TINY, picture, weights
from tests.helpers.v2_requests import files_in_json, output
from tests.helpers.v2_requests import infer as infer_http

MODALITIES = tuple(TINY)
GOOD = picture(1)


def prepared(modality: str, grid: str, *seeds: int) -> np.ndarray:
    """What the graph gets of media, ``[rows, *pixels per axis, channels]``."""
    tiny, parsed = TINY[modality], Grid.parse(grid)
    items = [read(MEDIA[modality](seed), tiny.input, parsed, tiny.patch) for seed in seeds]
    return np.concatenate([one.pixels for one in items])


def test_server_says_what_it_is_and_how_it_is(server: GrpcServer) -> None:
    """Live, ready, name and extensions, as over HTTP but for what is of HTTP alone."""
    assert server.call("ServerLive", ServerLiveRequest(), ServerLiveResponse).live
    assert server.call("ServerReady", ServerReadyRequest(), ServerReadyResponse).ready
    told = server.call("ServerMetadata", ServerMetadataRequest(), ServerMetadataResponse)
    over_http = server.get("/v2").json()
    assert (told.name, told.version) == (over_http["name"], over_http["version"])
    assert list(told.extensions) == ["classification"]


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("suffix", ["", "_tensor"])
def test_models_are_those_of_http(server: GrpcServer, modality: str, suffix: str) -> None:
    """Metadata and readiness of both models of every bundle say the same."""
    name = modality + suffix
    asked = ModelMetadataRequest(name=name, version="1")
    told = server.call("ModelMetadata", asked, ModelMetadataResponse)
    over_http = server.get(f"/v2/models/{name}").json()
    assert (told.name, list(told.versions), told.platform) == (name, ["1"], over_http["platform"])
    for tensors, expected in ((told.inputs, "inputs"), (told.outputs, "outputs")):
        found = [
            {"name": one.name, "datatype": one.datatype, "shape": list(one.shape)}
            for one in tensors
        ]
        assert found == over_http[expected]
    assert server.call("ModelReady", ModelReadyRequest(name=name), ModelReadyResponse).ready


def test_index_lists_every_model(server: GrpcServer) -> None:
    """Two of each bundle, with state and version; as many where only those that are ready count."""
    for ready in (False, True):
        asked = RepositoryIndexRequest(ready=ready)
        told = server.call("RepositoryIndex", asked, RepositoryIndexResponse)
        assert {(one.name, one.version, one.state) for one in told.models} == {
            (name, "1", "READY") for one in MODALITIES for name in (one, f"{one}_tensor")
        }


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("is_raw", [True, False], ids=["raw", "typed"])
def test_files_are_answered_as_over_http(server: GrpcServer, modality: str, is_raw: bool) -> None:
    """Two files of every modality: their logits, in order; raw answers to raw requests alone."""
    files = [MEDIA[modality](seed) for seed in (1, 2)]
    answer = server.infer(of_files(modality, *files, is_raw=is_raw, id="42"))
    assert (answer.model_name, answer.model_version, answer.id) == (modality, "1", "42")
    over_http = output(infer_http(server, modality, json=files_in_json(*files)))
    (found,) = arrays(answer).values()
    assert found.shape == (2, len(LABELS))
    np.testing.assert_allclose(found, over_http, atol=1e-5)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("is_raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("index", [0, 1], ids=["first", "second"])
def test_prepared_rows_are_answered_by_their_grid(
    server: GrpcServer, modality: str, is_raw: bool, index: int
) -> None:
    """UINT8 and FP32: the shape says which grid it is, and every row has its logits."""
    pixels = prepared(modality, TINY[modality].grids[index], 1, 2)
    answer = server.infer(of_pixels(f"{modality}_tensor", pixels, is_raw))
    expected = pixels.reshape(len(pixels), -1) / 255.0 @ weights().astype(np.float64)
    np.testing.assert_allclose(arrays(answer)["logits"], expected, atol=1e-4)


def test_outputs_and_labels_that_are_wanted_come_in_their_order(server: GrpcServer) -> None:
    """Both outputs, the second as texts of its two best labels."""
    asked = of_files("image", GOOD, is_raw=False)
    asked.outputs.add(name="logits")
    best = asked.outputs.add(name="probabilities")
    best.parameters["classification"].int64_param = 2
    answer = server.infer(asked)
    assert [one.name for one in answer.outputs] == ["logits", "probabilities"]
    found = arrays(answer)
    probabilities = softmax(found["logits"][0])
    first, second = found["probabilities"][0]
    order = np.argsort(-probabilities)
    assert first == f"{probabilities[order[0]]:.6f}:{order[0]}:{LABELS[order[0]]}"
    assert second.endswith(f":{order[1]}:{LABELS[order[1]]}")


@pytest.mark.parametrize(
    ("modality", "name", "value"),
    [
        ("image", "grid", {"string_param": "3x2"}),
        ("image", "grid", {"string_param": "auto"}),
        ("video", "views", {"int64_param": 1}),
        ("video", "views", {"uint64_param": 1}),
        ("image", "timeout", {"int64_param": 20_000_000}),
    ],
)
def test_parameters_are_those_of_http(
    server: GrpcServer, modality: str, name: str, value: dict[str, Any]
) -> None:
    """A grid by name or by the file's size, views of a clip, a time: the answer is the same."""
    media = MEDIA[modality](1)
    asked = of_files(modality, media)
    asked.parameters[name].CopyFrom(InferParameter(**value))
    (plain,) = value.values()
    over_http = infer_http(server, modality, json=files_in_json(media, parameters={name: plain}))
    np.testing.assert_allclose(arrays(server.infer(asked))["logits"], output(over_http), atol=1e-5)


def test_fields_may_come_in_any_order(server: GrpcServer) -> None:
    """A message whose raw contents stand before everything else is the same message."""
    asked = of_files("image", GOOD)
    (raw,), rest = asked.raw_input_contents, of_files("image", GOOD)
    del rest.raw_input_contents[:]
    head = type(asked)(raw_input_contents=[raw]).SerializeToString()
    turned = server.infer(head + rest.SerializeToString())
    np.testing.assert_array_equal(
        arrays(turned)["logits"], arrays(server.infer(asked))["logits"]
    )


def test_call_is_counted_and_told_as_a_request(
    server: GrpcServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The series of requests, stages and the access line; the ids come back as metadata."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    before = server.metric("liere_requests_total", modality="image", code="200", outcome="ok")
    sent = (("x-request-id", "mine-7"), ("traceparent", trace))
    asked = of_files("image", GOOD)
    with caplog.at_level("INFO", "service.access"):
        call = server.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        _, done = call.with_call(asked.SerializeToString(), metadata=sent, timeout=30)
    told = dict(done.trailing_metadata())
    assert told["x-request-id"] == "mine-7"
    assert told["traceparent"].split("-")[1] == trace.split("-")[1]
    assert told["traceparent"] != trace
    after = server.metric("liere_requests_total", modality="image", code="200", outcome="ok")
    assert after == before + 1
    (line,) = [vars(one)["fields"] for one in caplog.records if one.name == "service.access"]
    known = {"id": "mine-7", "method": "gRPC", "status": 200, "modality": "image", "key": None}
    assert {name: line[name] for name in known} == known
    assert line["path"] == "/inference.GRPCInferenceService/ModelInfer"
    assert (line["bundle"], line["grid"], line["bytes"]) == ("image", "2x3", asked.ByteSize())
    assert line["trace_id"] == trace.split("-")[1]
