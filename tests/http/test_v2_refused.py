"""Inference requests that say what cannot be: each is told what was expected, and harms nobody."""

from __future__ import annotations

import copy
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.failures import BadParameter
from service.http.v2.request import MAX_JSON_BYTES, MAX_REST_BYTES, RequestInput
from service.http.v2.tensors import read_pixels
from tests.helpers.service_fixtures import RunningServer, picture, scan, serving, write_tiny_bundle
from tests.helpers.v2_requests import (
    HEADER,
    binary_files,
    binary_pixels,
    elements,
    files_in_json,
    infer,
    output,
    pixels_in_json,
    with_binary,
)

GOOD = picture(1)
PIXELS = np.arange(2 * 8 * 12 * 3, dtype=np.uint8).reshape(2, 8, 12, 3)
VOXELS = np.full((1, 4, 6, 12, 1), 100, dtype=np.float32)
OF_PIXELS = "expected [rows, 8, 12, 3] or [rows, 12, 8, 3]"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of images and scans, with small limits."""
    root = tmp_path_factory.mktemp("bundles")
    for modality in ("image", "volume"):
        write_tiny_bundle(root, modality, modality)
    with serving(root, max_files=3, max_file_mib=0.01, max_batch=4) as running:
        yield running


def changed(request: dict[str, Any], *place: Any, **members: Any) -> dict[str, Any]:
    """A copy with other members at a place; those that are None are taken away."""
    other = copy.deepcopy(request)
    at = other
    for key in place:
        at = at[key]
    at |= members
    for name in [name for name, value in members.items() if value is None]:
        del at[name]
    return other


FILE = files_in_json(GOOD)
FLAT = pixels_in_json(PIXELS, PIXELS.ravel().tolist())
BEHIND = {
    "inputs": [
        {
            "name": "pixels",
            "shape": [2, 8, 12, 3],
            "datatype": "UINT8",
            "parameters": {"binary_data_size": 576},
        }
    ]
}


def of_file(**members: Any) -> dict[str, Any]:
    return {"json": changed(FILE, "inputs", 0, **members)}


def of_pixels(**members: Any) -> dict[str, Any]:
    return {"json": changed(FLAT, "inputs", 0, **members)}


def behind(raw: bytes, size: int | None = None, **members: Any) -> dict[str, Any]:
    """Pixels as bytes that say they are so many."""
    parameters = {"binary_data_size": len(raw) if size is None else size}
    return with_binary(changed(BEHIND, "inputs", 0, parameters=parameters, **members), raw)


def element_bytes(raw: bytes, count: int = 1) -> dict[str, Any]:
    """Files as bytes, as they are."""
    size = {"binary_data_size": len(raw)}
    given = {"name": "file", "shape": [count], "datatype": "BYTES", "parameters": size}
    return with_binary({"inputs": [given]}, raw)


def wanting(**parameters: Any) -> dict[str, Any]:
    return {"json": changed(FILE, outputs=[{"name": "logits", "parameters": parameters}])}


def saying(**parameters: Any) -> dict[str, Any]:
    return {"json": changed(FILE, parameters=parameters)}


RAW = PIXELS.tobytes()
#: Model, request -> status, end of the type, and how the sentence begins.
REFUSED: list[tuple[str, dict[str, Any], int, str, str]] = [
    # no request
    ("image", {"content": b""}, 400, "empty-body", "expected an inference request as JSON"),
    ("image", {"content": GOOD}, 400, "broken-tensors", "expected an inference request as JSON"),
    ("image", {"content": b"[" * 9000}, 400, "broken-tensors", "expected an inference request"),
    ("image", {"json": [1]}, 422, "bad-parameter", "request: expected an object, got list"),
    ("image", {"json": {}}, 422, "bad-parameter", "request: missing key 'inputs'"),
    ("image", {"json": {"inputs": []}}, 422, "bad-parameter", "request.inputs: expected one, got"),
    ("image", {"json": {"inputs": FILE["inputs"] * 2}}, 422, "bad-parameter", "request.inputs: ex"),
    ("image", {"json": {"inputs": ["x"]}}, 422, "bad-parameter", "request.inputs[0]: expected an"),
    ("image", {"json": FILE | {"inptus": 1}}, 422, "bad-parameter", "request: unknown key 'inptus"),
    ("image", {"json": FILE | {"id": 1}}, 422, "bad-parameter", "request.id: expected str, got in"),
    ("image", {"content": json.dumps(FILE | {"id": "\ud800"})}, 422, "bad-parameter", "request: "),
    ("image", {"json": FILE | {"model_name": "x"}}, 422, "bad-parameter", "model_name: expected i"),
    # the wrong input
    ("image", of_file(name="pixels"), 422, "bad-parameter", "inputs[0].name: expected file, got"),
    ("image", of_file(name=None), 422, "bad-parameter", "request.inputs[0]: missing key 'name'"),
    ("image", of_file(datatype="UINT8"), 422, "bad-parameter", "inputs[0].datatype: expected BYTE"),
    ("image", of_file(shape=[2]), 422, "bad-parameter", "inputs[0].data: expected 2 texts, got 1"),
    ("image", of_file(shape=[1, 1]), 422, "bad-parameter", "inputs[0].shape: expected [files], go"),
    ("image", of_file(shape=[]), 422, "bad-parameter", "inputs[0].shape: expected [files], got []"),
    ("image", of_file(shape=[0], data=[]), 422, "bad-parameter", "inputs[0].shape: expected [file"),
    ("image", of_file(shape=[-1]), 422, "bad-parameter", "inputs[0].shape: expected [files], got"),
    ("image", of_file(shape=["1"]), 422, "bad-parameter", "request.inputs[0].shape[0]: expected i"),
    ("image", of_file(shape=[True]), 422, "bad-parameter", "request.inputs[0].shape[0]: expected"),
    ("image", of_file(data=None), 422, "bad-parameter", "request.inputs[0]: expected either data"),
    ("image", of_file(data="text"), 422, "bad-parameter", "request.inputs[0].data: expected a lis"),
    ("image", of_file(data=[1]), 422, "bad-parameter", "inputs[0].data[0]: expected a file as a t"),
    ("image", of_file(data=["?"]), 422, "bad-parameter", "inputs[0].data[0]: expected a file as"),
    ("image", of_file(data=["é"]), 422, "bad-parameter", "inputs[0].data[0]: expected a file as"),
    ("image", of_file(data=[""]), 400, "empty-file", "file 1 has no bytes"),
    ("image", of_file(data=["AAAA"]), 415, "unsupported-media", "expected JPEG, PNG"),
    ("image", {"json": files_in_json(GOOD, b"text")}, 415, "unsupported-media", "file 2 of 2: exp"),
    ("image", {"json": files_in_json(*[GOOD] * 4)}, 413, "too-many-files", "a request may have at"),
    ("image", {"json": files_in_json(bytes(11000))}, 413, "file-too-large", "a file may have at"),
    ("image", binary_files(bytes(11000)), 413, "file-too-large", "a file may have at most 10485"),
    ("image", binary_files(GOOD, b""), 400, "empty-file", "file 2 has no bytes"),
    ("volume", {"json": files_in_json(GOOD)}, 415, "unsupported-media", "expected NIfTI"),
    # tensors of the wrong shape, type or size
    ("image_tensor", {"json": FILE}, 422, "bad-parameter", "inputs[0].name: expected pixels, got"),
    ("image_tensor", of_pixels(shape=[2, 12, 3, 8]), 422, "bad-parameter",
     f"inputs[0].shape: {OF_PIXELS}, got rows of [12, 3, 8]"),
    ("image_tensor", of_pixels(shape=[2, 8, 12]), 422, "bad-parameter", "inputs[0].shape: expecte"),
    ("image_tensor", of_pixels(shape=[]), 422, "bad-parameter", "inputs[0].shape: expected 1 to 4"),
    ("image_tensor", of_pixels(shape=[10**40, 8, 12, 3]), 422, "bad-parameter", "inputs[0].shape:"),
    ("image_tensor", of_pixels(shape=[0, 8, 12, 3]), 422, "bad-parameter", "inputs[0].shape: exp"),
    ("image_tensor", of_pixels(shape=[1, 8, 12, 3]), 422, "bad-parameter",
     "inputs[0].data: expected 288 numbers, or lists of them for [1, 8, 12, 3]"),
    ("image_tensor", of_pixels(datatype="FP32"), 422, "bad-parameter",
     "inputs[0].datatype: expected UINT8, got 'FP32'"),
    ("image_tensor", of_pixels(data=[[1, 2], [3]]), 422, "bad-parameter", "inputs[0].data: expect"),
    ("image_tensor", of_pixels(data=[0.5] * 576), 422, "bad-parameter", "inputs[0].data: expected"),
    ("image_tensor", of_pixels(data=["1"] * 576), 422, "bad-parameter", "inputs[0].data: expected"),
    ("image_tensor", of_pixels(data=[None] * 576), 422, "bad-parameter", "inputs[0].data: expecte"),
    ("image_tensor", of_pixels(data=[True] * 576), 422, "bad-parameter", "inputs[0].data: expecte"),
    ("image_tensor", of_pixels(data=[0] * 575 + [True]), 422, "bad-parameter",
     "inputs[0].data: expected whole numbers from 0 to 255 for UINT8"),
    ("image_tensor", of_pixels(data=[0] * 575 + ["x" * 10**6]), 422, "bad-parameter",
     "inputs[0].data: expected whole numbers from 0 to 255 for UINT8"),
    ("image_tensor", of_pixels(data=[[]] * 250_000), 422, "bad-parameter",
     "inputs[0].data: expected 576 numbers, or lists of them for [2, 8, 12, 3]"),
    ("image_tensor", of_pixels(data=[*PIXELS[:1].tolist(), 1]), 422, "bad-parameter",
     "inputs[0].data: expected 576 numbers, or lists of them for [2, 8, 12, 3]"),
    ("image_tensor", of_pixels(data=[10**30] * 576), 422, "bad-parameter",
     "pixels: expected 0 to 255, got 1e+30 to 1e+30"),
    ("image_tensor", of_pixels(data=[10**4000] * 200 + [0] * 376), 422, "bad-parameter",
     "inputs[0].data: expected whole numbers from 0 to 255 for UINT8"),
    ("image_tensor", of_pixels(data=[256] * 576), 422, "bad-parameter", "pixels: expected 0 to 25"),
    ("image_tensor", of_pixels(data=[-1] * 576), 422, "bad-parameter", "pixels: expected 0 to 255"),
    ("volume_tensor", binary_pixels(VOXELS - 101), 422, "bad-parameter",
     "pixels: expected 0 to 255, got -1 to -1"),
    ("volume_tensor", binary_pixels(VOXELS * np.float32("nan")), 422, "bad-parameter",
     "pixels: expected 0 to 255, got nan to nan"),
    ("volume_tensor", {"json": pixels_in_json(VOXELS, [1e300] * 288)}, 422, "bad-parameter",
     "pixels: expected 0 to 255, got 1e+300 to 1e+300"),
    ("volume_tensor", binary_pixels(VOXELS[:, :, :, :6]), 422, "bad-parameter", "inputs[0].shape"),
    # lengths that disagree
    ("image_tensor", behind(RAW[:-1]), 422, "bad-parameter",
     "inputs[0]: expected 576 bytes for UINT8 [2, 8, 12, 3], got 575"),
    ("image_tensor", behind(RAW, 575), 400, "broken-tensors", "binary_data_size: 575 bytes are an"),
    ("image_tensor", behind(RAW, -576), 400, "broken-tensors", "binary_data_size: -576 bytes are"),
    ("image_tensor", behind(RAW, 2**70), 400, "broken-tensors", "binary_data_size: 11805916207174"),
    ("image_tensor", behind(RAW, 0), 400, "broken-tensors", "binary_data_size: 0 bytes are announ"),
    ("image_tensor", behind(b"", 0), 422, "bad-parameter", "inputs[0]: expected 576 bytes for"),
    ("image_tensor", behind(RAW, data=[1]), 422, "bad-parameter", "request.inputs[0]: expected ei"),
    ("image_tensor", with_binary(FLAT, b"more"), 400, "broken-tensors", "binary_data_size: 0 byte"),
    ("image_tensor", {"json": BEHIND}, 400, "broken-tensors", "binary_data_size: 576 bytes are an"),
    ("image", element_bytes(elements(GOOD), 2), 400, "broken-tensors", "element 2 of 2: its lengt"),
    ("image", element_bytes(elements(GOOD, GOOD)), 400, "broken-tensors", "element 1 of 1: its le"),
    ("image", element_bytes(elements(GOOD)[:-1]), 400, "broken-tensors", "element 1 of 1: its len"),
    ("image", element_bytes(b"\xff\xff\xff\xff"), 400, "broken-tensors",
     "element 1 of 1: its length is 4294967295, and 0 bytes follow"),
    ("image", element_bytes(b"\x00"), 400, "broken-tensors", "element 1 of 1: its length is 0, an"),
    *(
        ("image", {"json": FILE, "headers": {HEADER: length}}, 400, "broken-tensors", told)
        for length, told in (
            ("0", "expected an inference request as JSON"),
            ("-1", f"{HEADER}: expected one number of bytes"),
            ("ten", f"{HEADER}: expected one number of bytes"),
            ("900000", f"{HEADER} is 900000, and the body has"),
        )
    ),
    ("image", {"json": FILE, "headers": {HEADER: "9" * 12}}, 413, "body-too-large", "the JSON of"),
    ("image", {"content": b" " * (MAX_JSON_BYTES + 1)}, 413, "body-too-large", "the JSON of a req"),
    ("image", {"json": FILE | {"id": "x" * MAX_REST_BYTES}}, 413, "body-too-large", "a request ma"),
    # parameters
    ("image", wanting(classification=6), 422, "bad-parameter", "classification: expected from 1 t"),
    ("image", wanting(classification=0), 422, "bad-parameter", "classification: expected from 1 t"),
    ("image", wanting(classification="2"), 422, "bad-parameter", "request.outputs[0].parameters.c"),
    ("image", wanting(shared_memory_region="x"), 422, "bad-parameter", "request.outputs[0].parame"),
    ("image", {"json": FILE | {"outputs": [{"name": "x"}]}}, 422, "bad-parameter", "outputs: expe"),
    ("image", {"json": FILE | {"outputs": [{"name": "logits"}] * 2}}, 422, "bad-parameter",
     "outputs: expected logits or probabilities, each once, got 'logits', 'logits'"),
    ("image", saying(sequence_id=1), 422, "bad-parameter", "request.parameters: unknown key 'sequ"),
    ("image", saying(timeout=0), 422, "bad-parameter", "timeout: expected 1 to 30000000 microseco"),
    ("image", saying(timeout=10**9), 422, "bad-parameter", "timeout: expected 1 to 30000000 micro"),
    ("image", saying(grid="9x9"), 422, "unknown-grid", "unknown grid '9x9' for bundle image"),
    ("image", saying(views=2), 422, "bad-parameter", "views: of clips only; image is for another"),
    ("image_tensor", {"json": FLAT | {"parameters": {"grid": "2x3"}}}, 422, "bad-parameter", "gri"),
    ("image", {"json": FILE, "headers": {"Content-Encoding": "gzip"}}, 415, "content-encoding", ""),
]  # fmt: skip


@pytest.mark.parametrize(("model", "request_", "status", "kind", "detail"), REFUSED)
def test_refusal_says_what_was_expected(
    server: RunningServer, model: str, request_: dict[str, Any], status: int, kind: str, detail: str
) -> None:
    """A problem with the member ``error``; the status is the problem's own."""
    answer = infer(server, model, **request_)
    problem = answer.json()
    told = answer.status_code, problem["type"], problem["detail"][: len(detail)]
    assert told == (status, f"/problems/{kind}", detail)
    assert problem["error"] == problem["detail"]
    assert len(problem["detail"]) < 400


@pytest.mark.parametrize("shape", [(2, 8, 12, 3), (200_000, 1, 1, 1)])
def test_json_takes_the_memory_of_its_numbers_whatever_it_holds(shape: tuple[int, ...]) -> None:
    """One long text among the numbers makes no array in which each is as long."""
    count = int(np.prod(shape))
    asked = RequestInput("pixels", shape, "UINT8", data=[0] * (count - 1) + ["x" * 500_000])
    tracemalloc.start()
    try:
        with pytest.raises(BadParameter, match="expected whole numbers"):
            read_pixels(asked, bytearray())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * count + 2**16  # a pointer of a list is 8


def test_header_that_comes_twice_is_refused(server: RunningServer) -> None:
    """Two lengths are none, whatever they say."""
    request = binary_files(GOOD)
    headers = [*request["headers"].items()] * 2
    answer = infer(server, "image", content=request["content"], headers=headers)
    assert answer.json()["detail"] == f"{HEADER}: expected one number of bytes"


def test_too_much_json_is_refused_while_it_comes(server: RunningServer) -> None:
    """Also where nobody said how much it will be."""
    answer = infer(server, "volume", content=iter([b" " * 2**20] * 20))
    assert answer.status_code == 413
    assert answer.json()["error"].startswith(f"the JSON of a request may have at most {2**20}")


def test_index_takes_no_body(server: RunningServer) -> None:
    """What it could ask for is not there, so it is not ignored."""
    answer = server.request("POST", "/v2/repository/index", json={"ready": True})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("expected no body")


@given(
    where=st.floats(0, 1, exclude_max=True),
    bytes_=st.binary(max_size=8),
    cut=st.integers(0, 8),
    which=st.sampled_from([("image", binary_files(GOOD, GOOD)), ("image_tensor", behind(RAW)),
                           ("volume_tensor", binary_pixels(VOXELS)),
                           ("volume", binary_files(scan(1)))]),
)  # fmt: skip
def test_no_request_is_a_mistake_of_the_server(
    server: RunningServer, where: float, bytes_: bytes, cut: int, which: tuple[str, dict[str, Any]]
) -> None:
    """Whatever bytes are changed, the answer is one or says what was wrong."""
    model, request = which
    content = request["content"]
    place = int(where * len(content))
    spoilt = content[:place] + bytes_ + content[place + cut :]
    answer = infer(server, model, content=spoilt, headers=request["headers"])
    assert answer.status_code in {200, 400, 413, 415, 422}
    assert answer.status_code == 200 or answer.json()["error"]


def test_good_request_is_answered_after_all_that(server: RunningServer) -> None:
    """Nothing was left behind."""
    assert output(infer(server, "image", **binary_files(GOOD))).shape == (1, 5)
    assert (server.engine.admission.requests, server.engine.admission.bytes) == (0, 0)
