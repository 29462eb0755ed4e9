"""Requests and answers of the Open Inference Protocol, written and read by hand."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from tests.helpers.service_fixtures import RunningServer

HEADER = "Inference-Header-Content-Length"
NUMPY = {"UINT8": "<u1", "FP32": "<f4"}
DATATYPES = {"uint8": "UINT8", "float32": "FP32"}


def elements(*files: bytes) -> bytes:
    """A tensor of BYTES."""
    return b"".join(struct.pack("<I", len(file)) + file for file in files)


def with_binary(document: dict[str, Any], raw: bytes, **headers: str) -> dict[str, Any]:
    """Body and headers, for httpx, of JSON with bytes behind it."""
    head = json.dumps(document).encode()
    return {"content": head + raw, "headers": {HEADER: str(len(head)), **headers}}


def files_in_json(*files: bytes, **members: Any) -> dict[str, Any]:
    """A request with files."""
    data = [base64.b64encode(file).decode() for file in files]
    given = {"name": "file", "shape": [len(files)], "datatype": "BYTES", "data": data}
    return {"inputs": [given], **members}


def binary_files(*files: bytes, **members: Any) -> dict[str, Any]:
    """The same with the binary extension, for httpx."""
    raw = elements(*files)
    size = {"binary_data_size": len(raw)}
    given = {"name": "file", "shape": [len(files)], "datatype": "BYTES", "parameters": size}
    return with_binary({"inputs": [given], **members}, raw)


def pixels_in_json(pixels: np.ndarray, data: list[Any], **members: Any) -> dict[str, Any]:
    """A request with prepared pixels."""
    datatype = DATATYPES[str(pixels.dtype)]
    shape = list(pixels.shape)
    given = {"name": "pixels", "shape": shape, "datatype": datatype, "data": data}
    return {"inputs": [given], **members}


def binary_pixels(pixels: np.ndarray, **members: Any) -> dict[str, Any]:
    """The same with the binary extension, for httpx."""
    raw, datatype = pixels.tobytes(), DATATYPES[str(pixels.dtype)]
    given = {
        "name": "pixels",
        "shape": list(pixels.shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": len(raw)},
    }
    return with_binary({"inputs": [given], **members}, raw)


def infer(server: RunningServer, model: str, **request: Any) -> httpx.Response:
    """``model`` may be NAME/versions/VERSION."""
    return server.request("POST", f"/v2/models/{model}/infer", **request)


def output(response: httpx.Response) -> np.ndarray:
    """The only output of an answer, as an array of its shape."""
    (only,) = outputs(response).values()
    return only


def outputs(response: httpx.Response) -> dict[str, np.ndarray]:
    """Every output of an answer, in JSON or behind it, as an array of its shape."""
    assert response.status_code == 200, response.text
    size = int(response.headers.get(HEADER, len(response.content)))
    raw, found = response.content[size:], {}
    for told in json.loads(response.content[:size])["outputs"]:
        length = told.get("parameters", {}).get("binary_data_size", 0)
        found[told["name"]] = _array(response, told, raw[:length])
        raw = raw[length:]
    assert not raw
    return found


def _array(response: httpx.Response, told: dict[str, Any], raw: bytes) -> np.ndarray:
    if "parameters" not in told:
        assert "data" in told
        values: Sequence[Any] = told["data"]
        return np.array(values).reshape(told["shape"])
    assert told["parameters"] == {"binary_data_size": len(raw)}
    assert "data" not in told
    assert response.headers["content-type"] == "application/octet-stream"
    if told["datatype"] != "BYTES":
        return np.frombuffer(raw, NUMPY[told["datatype"]]).reshape(told["shape"])
    texts = []
    while raw:
        (length,) = struct.unpack("<I", raw[:4])
        texts.append(raw[4 : 4 + length].decode())
        raw = raw[4 + length :]
    return np.array(texts).reshape(told["shape"])
