"""A program that knows tritonclient and nothing of this project; ``test_v2_tritonclient`` runs it.

    python tests/http/tritonclient_program.py HOST:PORT MODEL PICTURE PIXELS.npy

It runs in an environment of its own (``make triton-env``) and prints what it saw as one JSON line.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException


def main() -> None:
    """Ask everything once."""
    url, model, picture, pixels = sys.argv[1:]
    twin, file, rows = f"{model}_tensor", Path(picture).read_bytes(), np.load(pixels)
    with triton.InferenceServerClient(url) as client:
        seen = {
            "version": importlib.metadata.version("tritonclient"),
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "models_ready": [client.is_model_ready(one) for one in (model, twin, "nope")],
            "version_ready": [client.is_model_ready(model, one) for one in ("1", "2")],
            "server": client.get_server_metadata(),
            "model": client.get_model_metadata(model, "1"),
            "twin": client.get_model_metadata(twin),
            "index": client.get_model_repository_index(),
            "files": [infer_files(client, model, [file, file], way) for way in (True, False)],
            "labels": classify(client, model, file),
            "both": infer_both(client, model, file),
            "rows": infer_rows(client, twin, rows),
            "async": infer_later(client, twin, rows),
            "errors": [error_of(client, model, twin, rows)],
        }
    print(json.dumps(seen))


def infer_files(
    client: triton.InferenceServerClient, model: str, files: list[bytes], is_binary: bool
) -> Any:
    """Logits of files, as bytes; and back as bytes, or in JSON."""
    given = triton.InferInput("file", [len(files)], "BYTES")
    given.set_data_from_numpy(np.array(files, dtype=np.object_))
    wanted = triton.InferRequestedOutput("logits", binary_data=is_binary)
    answer = client.infer(model, [given], outputs=[wanted], request_id="7", timeout=20_000_000)
    assert answer.get_response()["id"] == "7"
    return answer.as_numpy("logits").tolist()


def classify(client: triton.InferenceServerClient, model: str, file: bytes) -> Any:
    """The two best labels."""
    given = triton.InferInput("file", [1], "BYTES")
    given.set_data_from_numpy(np.array([file], dtype=np.object_))
    wanted = triton.InferRequestedOutput("logits", class_count=2)
    texts = client.infer(model, [given], outputs=[wanted]).as_numpy("logits")
    return [[text.decode() for text in row] for row in texts]


def infer_both(client: triton.InferenceServerClient, model: str, file: bytes) -> Any:
    """Logits and probabilities of one request."""
    given = triton.InferInput("file", [1], "BYTES")
    given.set_data_from_numpy(np.array([file], dtype=np.object_))
    names = ("logits", "probabilities")
    outputs = [triton.InferRequestedOutput(name) for name in names]
    answer = client.infer(model, [given], outputs=outputs)
    return [answer.as_numpy(name)[0].tolist() for name in names]


def prepared(rows: np.ndarray, is_binary: bool = True) -> triton.InferInput:
    given = triton.InferInput("pixels", list(rows.shape), "UINT8")
    given.set_data_from_numpy(rows, binary_data=is_binary)
    return given


def infer_rows(client: triton.InferenceServerClient, twin: str, rows: np.ndarray) -> Any:
    """Logits of prepared rows, sent as bytes and in JSON."""
    answers = [client.infer(twin, [prepared(rows, is_binary)]) for is_binary in (True, False)]
    return [answer.as_numpy("logits").tolist() for answer in answers]


def infer_later(client: triton.InferenceServerClient, twin: str, rows: np.ndarray) -> Any:
    """The same by two requests at once."""
    waiting = [client.async_infer(twin, [prepared(rows)]) for _ in range(2)]
    return [one.get_result().as_numpy("logits").tolist() for one in waiting]


def error_of(
    client: triton.InferenceServerClient, model: str, twin: str, rows: np.ndarray
) -> list[list[str]]:
    """Status and words of what cannot be answered: no such model, a wrong shape."""
    said = []
    for name, given in (("nope", rows), (twin, rows[:, 1:])):
        try:
            client.infer(name, [prepared(np.ascontiguousarray(given))])
        except InferenceServerException as error:
            said.append([str(error.status()), str(error.message())])
    return said


if __name__ == "__main__":
    main()
