"""A server with gRPC beside HTTP, and calls to it as the protocol's own clients make them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from service.grpc.front import GrpcFront
from service.grpc.inference_pb2 import ModelInferRequest, ModelInferResponse
from service.http.app import create_app
from service.http.server import Server
from service.settings import Settings
from tests.helpers.service_fixtures import RunningServer, wait_until
from tests.helpers.v2_requests import DATATYPES, elements

SERVICE = "/inference.GRPCInferenceService/"
NUMPY = {"FP32": "<f4"}


class GrpcServer(RunningServer):
    """Both ways in, as the command opens and closes them, in a thread of this process."""

    def __init__(self, settings: Settings, opener: Any, modalities: Sequence[str]) -> None:
        app = create_app(settings) if opener is None else create_app(settings, opener)
        state = app.state
        self.front = GrpcFront(
            state.engine, state.keys, ("127.0.0.1", 0), modalities, state.tracing
        )
        self.channel: grpc.Channel
        super().__init__(app)

    def make_server(self) -> Server:
        return Server(self.engine.settings, self.app, self.socket, self.front)

    def end(self) -> None:
        """As a signal would."""
        self._server.should_exit = True

    def start(self) -> None:
        super().start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.front.port}")

    def stop(self) -> None:
        self.channel.close()
        super().stop()

    def call(self, method: str, message: Any, answer: Any, **options: Any) -> Any:
        """One call; ``options`` as gRPC has them, such as ``metadata`` and ``timeout``."""
        call = self.channel.unary_unary(
            SERVICE + method,
            request_serializer=_serialized,
            response_deserializer=answer.FromString,
        )
        return call(message, **{"timeout": 30, **options})

    def infer(self, message: ModelInferRequest | bytes, **options: Any) -> ModelInferResponse:
        answer: ModelInferResponse = self.call("ModelInfer", message, ModelInferResponse, **options)
        return answer

    def refusal(self, message: Any, method: str = "ModelInfer", **options: Any) -> grpc.RpcError:
        """What such a call fails with."""
        try:
            answered = self.call(method, message, ModelInferResponse, **options)
        except grpc.RpcError as error:
            return error
        raise AssertionError(f"expected a refusal, got {answered}")


    def counted(self) -> dict[tuple[str, str, str], float]:
        """Requests for work by modality, code and outcome, but those that were answered."""
        self.settle()
        families = self.engine.metrics.registry.collect()
        return {
            (one.labels["modality"], one.labels["code"], one.labels["outcome"]): one.value
            for family in families
            for one in family.samples
            if one.name == "liere_requests_total" and one.value and one.labels["code"] != "200"
        }


def _serialized(message: Any) -> bytes:
    return bytes(message if isinstance(message, bytes) else message.SerializeToString())


@contextmanager
def serving_grpc(
    bundles: Path, opener: Any = None, modalities: Sequence[str] = ("image",), **settings: Any
) -> Iterator[GrpcServer]:
    """A server on free ports whose bundles were examined."""
    modest: dict[str, Any] = {"decode_workers": 1, "lanes": 1, "threads": 1, "log_format": "json"}
    server = GrpcServer(Settings(bundles=bundles, **(modest | settings)), opener, modalities)
    server.start()
    try:
        wait_until(lambda: server.engine.catalog.examined, "the bundles to be examined")
        yield server
    finally:
        server.stop()


def of_files(model: str, *files: bytes, is_raw: bool = True, **members: Any) -> ModelInferRequest:
    """A request with files."""
    asked = ModelInferRequest(model_name=model, **members)
    given = asked.inputs.add(name="file", datatype="BYTES", shape=[len(files)])
    if is_raw:
        asked.raw_input_contents.append(elements(*files))
    else:
        given.contents.bytes_contents.extend(files)
    return asked


def of_pixels(
    model: str, pixels: np.ndarray, is_raw: bool = True, **members: Any
) -> ModelInferRequest:
    """A request with prepared pixels."""
    asked = ModelInferRequest(model_name=model, **members)
    datatype = DATATYPES[str(pixels.dtype)]
    given = asked.inputs.add(name="pixels", datatype=datatype, shape=pixels.shape)
    if is_raw:
        asked.raw_input_contents.append(pixels.tobytes())
    elif datatype == "UINT8":
        given.contents.uint_contents.extend(pixels.ravel().tolist())
    else:
        given.contents.fp32_contents.extend(pixels.ravel().tolist())
    return asked


def arrays(answer: ModelInferResponse) -> dict[str, np.ndarray]:
    """Every output, raw or not, as an array of its shape."""
    found = {}
    for number, output in enumerate(answer.outputs):
        assert output.HasField("contents") == (not answer.raw_output_contents)
        if answer.raw_output_contents:
            values: Any = np.frombuffer(answer.raw_output_contents[number], NUMPY[output.datatype])
        elif output.datatype == "BYTES":
            values = np.array([one.decode() for one in output.contents.bytes_contents])
        else:
            values = np.array(output.contents.fp32_contents)
        found[output.name] = values.reshape(output.shape)
    return found
