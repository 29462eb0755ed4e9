"""A program that knows tritonclient and nothing of this project; ``test_tritonclient`` runs it.

    python tests/grpc/tritonclient_program.py HOST:PORT MODEL PICTURE PIXELS.npy

It runs in an environment of its own (``make triton-env``) and prints what it saw as one JSON line.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException


def main() -> None:
    """Ask everything once."""
    url, model, picture, pixels = sys.argv[1:]
    twin, file, rows = f"{model}_tensor", Path(picture).read_bytes(), np.load(pixels)
    with triton.InferenceServerClient(url) as client:
        seen = {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "models_ready": [client.is_model_ready(one) for one in (model, twin)],
            "server": client.get_server_metadata(as_json=True),
            "model": client.get_model_metadata(model, "1", as_json=True),
            "index": client.get_model_repository_index(as_json=True),
            "files": infer_files(client, model, [file, file]),
            "labels": classify(client, model, file),
            "rows": client.infer(twin, [prepared(rows)]).as_numpy("logits").tolist(),
            "async": infer_later(client, twin, rows),
            "errors": [error_of(client, *one) for one in (("nope", rows), (twin, rows[:, 1:]))],
            "messages": messages(),
        }
    print(json.dumps(seen))


def infer_files(client: triton.InferenceServerClient, model: str, files: list[bytes]) -> Any:
    """Logits and probabilities of files."""
    given = triton.InferInput("file", [len(files)], "BYTES")
    given.set_data_from_numpy(np.array(files, dtype=np.object_))
    outputs = [triton.InferRequestedOutput(name) for name in ("logits", "probabilities")]
    answer = client.infer(
        model, [given], outputs=outputs, request_id="7", timeout=20_000_000, client_timeout=20,
        headers={"x-request-id": "mine"}, parameters={"grid": "3x2"},
    )  # fmt: skip
    assert answer.get_response().id == "7"
    return [answer.as_numpy(name).tolist() for name in ("logits", "probabilities")]


def classify(client: triton.InferenceServerClient, model: str, file: bytes) -> Any:
    """The two best labels."""
    given = triton.InferInput("file", [1], "BYTES")
    given.set_data_from_numpy(np.array([file], dtype=np.object_))
    wanted = triton.InferRequestedOutput("logits", class_count=2)
    texts = client.infer(model, [given], outputs=[wanted]).as_numpy("logits")
    return [[text.decode() for text in row] for row in texts]


def prepared(rows: np.ndarray) -> triton.InferInput:
    given = triton.InferInput("pixels", list(rows.shape), "UINT8")
    given.set_data_from_numpy(np.ascontiguousarray(rows))
    return given


def infer_later(client: triton.InferenceServerClient, twin: str, rows: np.ndarray) -> Any:
    """Two calls at once, each told to a callback."""
    answers: list[Any] = []
    done = threading.Semaphore(0)

    def take(result: Any, error: Any) -> None:
        answers.append(error or result)
        done.release()

    for _ in range(2):
        client.async_infer(twin, [prepared(rows)], take)
    assert done.acquire(timeout=20)
    assert done.acquire(timeout=20)
    return [one.as_numpy("logits").tolist() for one in answers]


def error_of(client: triton.InferenceServerClient, model: str, rows: np.ndarray) -> list[str]:
    """Status and words of what cannot be answered."""
    try:
        client.infer(model, [prepared(rows)])
    except InferenceServerException as error:
        return [str(error.status()), str(error.message())]
    raise AssertionError(f"{model} answered")


def messages() -> dict[str, list[list[Any]]]:
    """Of every message that the client knows: name, number and type of its fields."""
    found: dict[str, list[list[Any]]] = {}

    def look(message: Any) -> None:
        found[message.full_name] = [
            [one.name, one.number, one.type, one.is_repeated] for one in message.fields
        ]
        for inner in message.nested_types:
            look(inner)

    for message in service_pb2.DESCRIPTOR.message_types_by_name.values():
        look(message)
    return found


if __name__ == "__main__":
    main()
