"""The Open Inference Protocol: what its clients ask, and that the engine's own rules hold there."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media import read
from media.spec import Grid
from service.engine.job import rank, softmax
from tests.helpers.measured_grids import TEMPERATURES, measured_grids
from tests.helpers.service_fixtures import (
    LABELS,
    MEDIA,
    TINY,
    RawConnection,
    RunningServer,
    picture,
    serving,
    tiny_logits,
    wait_until,
    weights,
    write_tiny_bundle,
)
from tests.helpers.v2_requests import (
    binary_files,
    binary_pixels,
    files_in_json,
    infer,
    output,
    outputs,
    pixels_in_json,
)
from tests.http.conftest import Start

MODALITIES = tuple(TINY)
GOOD = picture(1)
LOGITS: dict[str, Any] = {"name": "logits"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a tiny bundle of every modality."""
    root = tmp_path_factory.mktemp("bundles")
    for modality in MODALITIES:
        write_tiny_bundle(root, modality, modality)
    with serving(root) as running:
        yield running


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose bundles have temperatures."""
    root = tmp_path_factory.mktemp("measured")
    for modality in ("image", "video"):
        write_tiny_bundle(root, modality, modality, grids=measured_grids(modality))
    with serving(root) as running:
        yield running


def prepared(modality: str, grid: str, *seeds: int) -> np.ndarray:
    """What the graph gets of media: a row of every view, ``[rows, *pixels per axis, channels]``."""
    tiny, parsed = TINY[modality], Grid.parse(grid)
    items = [read(MEDIA[modality](seed), tiny.input, parsed, tiny.patch) for seed in seeds]
    return np.concatenate([one.pixels for one in items])


def row_logits(pixels: np.ndarray) -> np.ndarray:
    """What the tiny network gives for rows, float64 ``[rows, 5]``."""
    return pixels.reshape(len(pixels), -1) / 255.0 @ weights().astype(np.float64)


# --- what there is ---------------------------------------------------------------------------


def test_server_says_what_it_is_and_how_it_is(server: RunningServer) -> None:
    """Name, version and extensions; live and ready, as the server's own addresses say it."""
    told = server.get("/v2").json()
    assert set(told) == {"name", "version", "extensions"}
    assert told["extensions"] == ["binary_tensor_data", "classification"]
    assert server.get("/v2/health/live").json() == {"live": True}
    assert server.get("/v2/health/ready").json() == {"ready": True}


@pytest.mark.parametrize(
    ("modality", "datatype", "shape"),
    [
        ("image", "UINT8", [-1, -1, -1, 3]),
        ("video", "UINT8", [-1, -1, 2, -1, 3]),
        ("volume", "FP32", [-1, -1, -1, -1, 1]),
    ],
)
def test_bundle_is_a_model_and_a_twin(
    server: RunningServer, modality: str, datatype: str, shape: list[int]
) -> None:
    """One takes files; the other pixels of every grid: sides that differ between them are open."""
    told = server.get(f"/v2/models/{modality}").json()
    about = {"versions": ["1"], "platform": "onnxruntime_onnx"}
    outputs = [
        {"name": name, "datatype": "FP32", "shape": [-1, len(LABELS)]}
        for name in ("logits", "probabilities")
    ]
    file = [{"name": "file", "datatype": "BYTES", "shape": [-1]}]
    assert told == {"name": modality, **about, "inputs": file, "outputs": outputs}
    told = server.get(f"/v2/models/{modality}_tensor/versions/1").json()
    pixels = [{"name": "pixels", "datatype": datatype, "shape": shape}]
    assert told == {"name": f"{modality}_tensor", **about, "inputs": pixels, "outputs": outputs}


def test_model_is_ready_by_itself(tmp_path: Path) -> None:
    """A refused bundle's two models are 503 with the reason; the index lists both of each."""
    write_tiny_bundle(tmp_path, "good")
    (write_tiny_bundle(tmp_path, "bad") / "graphs/weights.bin").unlink()
    with serving(tmp_path) as server:
        for name, status in (("good", 200), ("bad", 503), ("none", 404)):
            for twin in ("", "_tensor"):
                answer = server.get(f"/v2/models/{name}{twin}/ready")
                assert answer.status_code == status
                assert server.get(f"/v2/models/{name}{twin}").status_code == status
                if status == 200:
                    assert answer.json() == {"name": name + twin, "ready": True}
                else:
                    refused = infer(server, name + twin, json=files_in_json(GOOD))
                    assert refused.status_code == status
        listed = server.request("POST", "/v2/repository/index").json()
    reason = "graphs/weights.bin is listed and missing"
    assert [one for one in listed if one["name"].startswith("good")] == [
        {"name": f"good{twin}", "version": "1", "state": "READY", "reason": ""}
        for twin in ("", "_tensor")
    ]
    assert [(one["name"], one["state"], one["reason"]) for one in listed[:2]] == [
        (f"bad{twin}", "UNAVAILABLE", reason) for twin in ("", "_tensor")
    ]


def test_bundle_that_is_called_like_a_twin_comes_first(tmp_path: Path) -> None:
    """Its name is its own; the twin of the other bundle has none, that of this one has."""
    write_tiny_bundle(tmp_path, "x")
    write_tiny_bundle(tmp_path, "x_tensor")
    with serving(tmp_path) as server:
        inputs = {
            name: server.get(f"/v2/models/{name}").json()["inputs"][0]["name"]
            for name in ("x", "x_tensor", "x_tensor_tensor")
        }
        listed = server.request("POST", "/v2/repository/index").json()
    assert inputs == {"x": "file", "x_tensor": "file", "x_tensor_tensor": "pixels"}
    assert [one["name"] for one in listed] == list(inputs)


# --- files in --------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", MODALITIES)
def test_files_are_answered_as_everywhere_else(server: RunningServer, modality: str) -> None:
    """Two files, in JSON and as bytes: logits of the bundle's first grid, of views their mean."""
    files = [MEDIA[modality](seed) for seed in (3, 4)]
    expected = [tiny_logits(file, TINY[modality].grids[0], modality) for file in files]
    for request in ({"json": files_in_json(*files)}, binary_files(*files)):
        answer = infer(server, modality, **request)
        np.testing.assert_allclose(output(answer), expected, atol=1e-4)


def test_grid_and_views_are_parameters(server: RunningServer) -> None:
    """By name or ``auto``; a clip may be sampled another number of times."""
    for grid, chosen in (("3x2", "3x2"), ("auto", "3x2")):
        tall = picture(2, (9, 12))
        answer = infer(server, "image", json=files_in_json(tall, parameters={"grid": grid}))
        np.testing.assert_allclose(output(answer)[0], tiny_logits(tall, chosen), atol=1e-4)
    clip = MEDIA["video"](5)
    answer = infer(server, "video", **binary_files(clip, parameters={"views": 3}))
    expected = tiny_logits(clip, TINY["video"].grids[0], "video", 3)
    np.testing.assert_allclose(output(answer)[0], expected, atol=1e-4)


# --- prepared arrays in ----------------------------------------------------------------------


@pytest.mark.parametrize("modality", MODALITIES)
def test_prepared_rows_go_to_the_grid_of_their_shape(server: RunningServer, modality: str) -> None:
    """Of every grid, as bytes, flat or nested: the graph's own logits for each row."""
    for grid in TINY[modality].grids:
        pixels = prepared(modality, grid, 1, 2)
        ways: list[dict[str, Any]] = [
            binary_pixels(pixels),
            {"json": pixels_in_json(pixels, pixels.ravel().tolist())},
            {"json": pixels_in_json(pixels, pixels.tolist())},
        ]
        for request in ways:
            answer = infer(server, f"{modality}_tensor", **request)
            np.testing.assert_allclose(output(answer), row_logits(pixels), rtol=1e-4, atol=1e-4)


def test_prepared_rows_of_a_file_have_its_logits(server: RunningServer) -> None:
    """What media.read gives is what the model that takes the file computes on."""
    pixels = prepared("video", TINY["video"].grids[0], 6)
    rows = output(infer(server, "video_tensor", **binary_pixels(pixels)))
    whole = output(infer(server, "video", **binary_files(MEDIA["video"](6))))
    assert len(rows) == TINY["video"].input.views
    np.testing.assert_allclose(rows.mean(axis=0), whole[0], atol=1e-4)


def test_rows_of_a_request_run_together(start: Start) -> None:
    """They are rows like all others: one batch, no more than the server's largest."""
    server, session = start(max_batch=4)
    pixels = np.repeat(prepared("image", "2x3", 1), 4, axis=0)
    assert output(infer(server, "tiny_tensor", **binary_pixels(pixels))).shape == (4, len(LABELS))
    assert session.batches == [4]
    refused = infer(server, "tiny_tensor", **binary_pixels(np.repeat(pixels, 2, axis=0)))
    assert refused.status_code == 422
    assert refused.json()["error"] == "inputs[0].shape: expected 1 to 4 rows, got [8, 8, 12, 3]"


# --- what comes out --------------------------------------------------------------------------


def test_output_is_json_or_bytes_as_it_is_asked_for(server: RunningServer) -> None:
    """JSON unless the request or, before it, the output says otherwise; the numbers are equal."""
    ways: list[tuple[dict[str, Any], bool]] = [
        ({}, False),
        ({"parameters": {"binary_data_output": True}}, True),
        ({"outputs": [LOGITS | {"parameters": {"binary_data": True}}]}, True),
        (
            {
                "outputs": [LOGITS | {"parameters": {"binary_data": False}}],
                "parameters": {"binary_data_output": True},
            },
            False,
        ),
    ]
    found = []
    for members, is_binary in ways:
        answer = infer(server, "image", json=files_in_json(GOOD, **members))
        assert ("inference-header-content-length" in answer.headers) == is_binary
        found.append(output(answer).astype(np.float32))
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


@pytest.mark.parametrize("is_binary", [True, False])
def test_classification_names_the_best_labels(server: RunningServer, is_binary: bool) -> None:
    """VALUE:INDEX:LABEL, descending, in the order of the native address; the value is the logit."""
    wanted = {"classification": 3, "binary_data": is_binary}
    request = binary_files(GOOD, GOOD, outputs=[LOGITS | {"parameters": wanted}])
    texts = output(infer(server, "image", **request))
    assert texts.shape == (2, 3)
    logits = tiny_logits(GOOD, "2x3")
    best = rank(softmax(logits), LABELS, 3)
    for text, one in zip(texts[0], best, strict=True):
        value, index, label = text.split(":", 2)
        assert (int(index), label) == (one["index"], one["label"])
        assert float(value) == pytest.approx(logits[one["index"]], abs=1e-4)
    native = server.classify(content=GOOD, params={"top_k": "3"}).json()["results"][0]
    shown = [one["label"] for one in native["predictions"]]
    assert shown == [text.rpartition(":")[2] for text in texts[1]]


@pytest.mark.parametrize("is_binary", [True, False])
def test_probabilities_are_calibrated_beside_the_logits(
    measured: RunningServer, is_binary: bool
) -> None:
    """By the grid that took each file, in the order that is asked for; logits alone by default."""
    files = [picture(4, (30, 13)), picture(4, (13, 30))]
    names = [{"name": name} for name in ("probabilities", "logits")]
    said = {"grid": "auto", "binary_data_output": is_binary}
    request = binary_files(*files, outputs=names, parameters=said)
    found = outputs(infer(measured, "image", **request))
    assert list(found) == ["probabilities", "logits"]
    taken = set()
    for row, file in enumerate(files):
        grid = media_grid(measured, file)
        temperature = TEMPERATURES[TINY["image"].grids.index(grid)]
        logits = tiny_logits(file, grid)
        np.testing.assert_allclose(found["logits"][row], logits, atol=1e-4)
        expected = softmax(logits, temperature)
        np.testing.assert_allclose(found["probabilities"][row], expected, atol=1e-5)
        taken.add(grid)
    assert taken == set(TINY["image"].grids)
    assert list(outputs(infer(measured, "image", **binary_files(*files)))) == ["logits"]


def test_twins_and_clips_have_calibrated_probabilities_too(measured: RunningServer) -> None:
    """Of every prepared row by itself, of a clip of the mean over its views."""
    wanted = {"outputs": [{"name": "probabilities"}]}
    pixels = prepared("image", "3x2", 1, 2)
    rows = output(infer(measured, "image_tensor", **binary_pixels(pixels, **wanted)))
    expected = [softmax(row, TEMPERATURES[1]) for row in row_logits(pixels)]
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    clip, grid = MEDIA["video"](3), TINY["video"].grids[0]
    whole = output(infer(measured, "video", **binary_files(clip, **wanted)))
    expected = [softmax(tiny_logits(clip, grid, "video"), TEMPERATURES[0])]
    np.testing.assert_allclose(whole, expected, atol=1e-5)


def test_classification_names_probabilities(measured: RunningServer) -> None:
    """VALUE is what the output holds: here the ranking of the native address."""
    named = {"name": "probabilities", "parameters": {"classification": 2}}
    (texts,) = output(infer(measured, "image", json=files_in_json(GOOD, outputs=[named])))
    native = measured.classify(content=GOOD, params={"top_k": "2"}).json()["results"][0]
    for text, one in zip(texts, native["predictions"], strict=True):
        value, index, label = text.split(":", 2)
        assert (int(index), label) == (one["index"], one["label"])
        assert float(value) == pytest.approx(one["probability"], abs=2e-6)


def media_grid(server: RunningServer, file: bytes) -> str:
    """The grid that a file takes by its size."""
    answer = server.classify(content=file, params={"grid": "auto"}).json()
    return str(answer["results"][0]["grid"])


def test_answer_says_whose_it_is(server: RunningServer) -> None:
    """Name and version of the model and the id of the request, if it has one; by version too."""
    for model in ("image", "image/versions/1"):
        answer = infer(server, model, json=files_in_json(GOOD, id="42", model_name="image")).json()
        assert set(answer) == {"model_name", "model_version", "id", "outputs"}
        assert (answer["model_name"], answer["model_version"], answer["id"]) == ("image", "1", "42")
    assert "id" not in infer(server, "image", json=files_in_json(GOOD)).json()
    pixels = prepared("image", "2x3", 1)
    answer = infer(server, "image_tensor/versions/1", **binary_pixels(pixels)).json()
    assert answer["model_name"] == "image_tensor"


# --- the server's rules ----------------------------------------------------------------------


def test_version_that_does_not_answer_is_404(server: RunningServer) -> None:
    """Of every address of a model, without a look at a body."""
    for path in ("", "/ready", "/infer"):
        method = "POST" if path == "/infer" else "GET"
        answer = server.request(method, f"/v2/models/image/versions/2{path}")
        assert answer.status_code == 404
        problem = answer.json()
        assert problem["type"] == "/problems/unknown-version"
        assert problem["error"] == problem["detail"] == (
            "bundle image: there is no version '2'; version 1 answers"
        )


def test_unknown_model_is_refused_by_its_head(server: RunningServer) -> None:
    """Before its body is sent, with the names that there are; a line break makes it another."""
    known = "image, image_tensor, video, video_tensor, volume, volume_tensor"
    with RawConnection(server.port) as connection:
        connection.send_head("Content-Length: 1000000", path="/v2/models/no/infer")
        status, _, body = connection.answer()
    assert status == 404
    assert json.loads(body)["error"] == f"unknown model 'no'; known: {known}"
    for path in ("/v2/models/image/infer%0A", "/v2/models/image%0A/infer", "/v2/models//infer"):
        assert server.request("POST", path, json=files_in_json(GOOD)).status_code == 404
    assert server.engine.admission.requests == 0


def test_work_takes_permits_and_is_counted(start: Start) -> None:
    """With every permit taken it is 429 by its head, with the time to come back; metrics count it
    by the model's modality and bundle.
    """
    server, session = start(max_in_flight=2)
    session.gate.clear()
    request = binary_files(GOOD)
    with ExitStack() as stack:
        waiting = [stack.enter_context(RawConnection(server.port)) for _ in range(2)]
        for connection in waiting:
            length = request["headers"]["Inference-Header-Content-Length"]
            connection.send_head(
                f"Content-Length: {len(request['content'])}",
                f"Inference-Header-Content-Length: {length}",
                path="/v2/models/tiny/infer",
            )
            connection.send(request["content"])
        wait_until(lambda: server.engine.admission.requests == 2, "the requests to enter")
        with RawConnection(server.port) as late:
            late.send_head("Content-Length: 1000", path="/v2/models/tiny_tensor/infer")
            status, headers, body = late.answer()
        assert (status, json.loads(body)["type"]) == (429, "/problems/overloaded")
        assert json.loads(body)["error"] == json.loads(body)["detail"]
        assert "retry-after" in headers
        session.gate.set()
        assert [connection.answer()[0] for connection in waiting] == [200, 200]
    wait_until(lambda: server.engine.admission.requests == 0, "the permits to come back")
    assert server.metric("liere_requests_total", modality="image", code="200") == 2
    assert server.metric("liere_requests_total", modality="image", code="429") == 1
    labels = {"modality": "image", "bundle": "tiny", "outcome": "ok"}
    assert server.metric("liere_request_seconds_count", **labels) == 2


def test_timeout_is_the_deadline_of_the_request(start: Start) -> None:
    """In microseconds; what the device does not come to in time is 504 and never run."""
    server, session = start()
    session.gate.clear()
    with RawConnection(server.port) as first:
        first.send_head(f"Content-Length: {len(GOOD)}")
        first.send(GOOD)
        wait_until(lambda: bool(session.batches), "the first run")
        parameters = {"timeout": 200_000}
        late = infer(server, "tiny", json=files_in_json(GOOD, parameters=parameters))
        session.gate.set()
        assert first.answer()[0] == 200
    assert late.status_code == 504
    assert late.json()["error"]
    assert len(session.batches) == 1


def test_draining_server_takes_no_work(start: Start) -> None:
    """Nor is it ready; it is live, and still tells of its models."""
    server, _ = start()
    server.engine.draining = True
    try:
        assert infer(server, "tiny", json=files_in_json(GOOD)).status_code == 503
        assert server.get("/v2/health/ready").json()["error"] == "the server is shutting down"
        assert server.get("/v2/health/live").status_code == 200
        assert server.get("/v2/models/tiny").status_code == 200
    finally:
        server.engine.draining = False


def test_keys_need_the_scope_of_classifying(bundles: Path, tmp_path: Path) -> None:
    """Health is anybody's; all else wants a key, and one that may classify."""
    keys = {scope: secrets.token_urlsafe(32) for scope in ("classify", "metrics")}
    lines = [
        f"{hashlib.sha256(key.encode()).hexdigest()} {scope} scopes={scope}"
        for scope, key in keys.items()
    ]
    (tmp_path / "keys").write_text("\n".join(lines))

    def ask(server: RunningServer, path: str, method: str = "GET", **more: Any) -> list[int]:
        bearers: list[dict[str, str]] = [{}]
        bearers += [{"Authorization": f"Bearer {key}"} for key in keys.values()]
        return [
            server.request(method, path, headers=headers, **more).status_code
            for headers in bearers
        ]

    with serving(bundles, keys_file=tmp_path / "keys") as server:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert ask(server, path) == [200, 200, 200]
        for path in ("/v2", "/v2/models/tiny", "/v2/models/tiny/ready"):
            assert ask(server, path) == [401, 200, 403]
        path = "/v2/models/tiny/infer"
        assert ask(server, path, "POST", json=files_in_json(GOOD)) == [401, 200, 403]
        assert server.get("/v2").json()["error"].startswith("expected Authorization: Bearer")
