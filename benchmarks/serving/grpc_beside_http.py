"""What does a call of the Open Inference Protocol cost over gRPC, and over HTTP?

    python -m benchmarks.serving.grpc_beside_http [--bundle bundles/cifar10-liere8] [--rounds 6]

One server with both ports, one client that sends a small JPEG and waits for its logits, some
hundred times over HTTP/1.1 with the binary extension and as often over gRPC with raw contents, in
turn. The figures are medians over the rounds: of the time of the clock for one call, the client's
own included, and of the processor time of the server and its decode workers, with the ratio of gRPC
to HTTP and its range. Answers of the two that differ end the row.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import socket
import statistics
import struct
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import grpc
import numpy as np
from PIL import Image

from benchmarks.serving.running import Running, add_options, serving
from models.bundle import read_bundle
from service.grpc.inference_pb2 import ModelInferRequest, ModelInferResponse
from service.http.v2.request import JSON_LENGTH

CALLS = 300  # of each way in each round
NEAR = 1e-4  # of a logit
KEPT_SECONDS = 2.0  # for so long without a request a connection is certainly still open
METHOD = "/inference.GRPCInferenceService/ModelInfer"

#: Sends a file, gives its logits ``[1, classes]``.
Send = Callable[[], np.ndarray]


def main() -> None:
    """Print the figures, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/cifar10-liere8"))
    parser.add_argument("--rounds", type=int, default=6)
    add_options(parser)
    options = parser.parse_args()
    name, calls = read_bundle(options.bundle).manifest.name, max(1, round(CALLS * options.scale))
    file, port = small_jpeg(), free_port()
    with (
        serving([options.bundle], options, "--grpc-port", str(port)) as server,
        closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        ways = {"HTTP": over_http(connection, name, file), "gRPC": over_grpc(channel, name, file)}
        figures = measure(server, ways, calls, options.rounds)
    line = {"benchmark": "serving.grpc_beside_http", "bundle": name, "calls": calls}
    print(json.dumps(line | {"rounds": options.rounds} | figures))


def measure(
    server: Running, ways: dict[str, Send], calls: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Of each way the median milliseconds of a call, by the clock and of processors."""
    expected = {name: send() for name, send in ways.items()}  # which warms up, too
    if float(np.abs(expected["HTTP"] - expected["gRPC"]).max()) > NEAR:
        raise SystemExit("the two ways do not give the same logits")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, send in ways.items():
            before, times = server.cpu_seconds(), []
            for _ in range(calls):
                began = time.monotonic()
                send()
                times.append(1000 * (time.monotonic() - began))
            spent = 1000 * (server.cpu_seconds() - before) / calls
            found[name].append((statistics.median(times), spent))
    figures = {}
    for number, what in enumerate(("p50_ms", "cpu_ms")):
        rows = {name: [one[number] for one in both] for name, both in found.items()}
        ratios = [ours / theirs for ours, theirs in zip(rows["gRPC"], rows["HTTP"], strict=True)]
        middle = {name: statistics.median(row) for name, row in rows.items()}
        figures[what] = middle | {"ratio": statistics.median(ratios)}
        told = ", ".join(f"{name} {value:.2f}" for name, value in middle.items())
        span = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{what}: {told}; gRPC over HTTP {figures[what]['ratio']:.2f} ({span})")
    return figures


def over_http(connection: http.client.HTTPConnection, model: str, file: bytes) -> Send:
    """By one connection, which is kept while it is used."""
    raw = struct.pack("<I", len(file)) + file
    size = {"binary_data_size": len(raw)}
    given = {"name": "file", "shape": [1], "datatype": "BYTES", "parameters": size}
    document = {"inputs": [given], "parameters": {"binary_data_output": True}}
    head = json.dumps(document).encode()
    path, headers = f"/v2/models/{model}/infer", {JSON_LENGTH: str(len(head))}
    used = 0.0  # monotonic

    def send() -> np.ndarray:
        nonlocal used
        if time.monotonic() - used > KEPT_SECONDS:
            connection.close()  # the next request opens it again
        used = time.monotonic()
        connection.request("POST", path, head + raw, headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"the server answered {answer.status}: {content.decode()}")
        return np.frombuffer(content[int(answer.headers[JSON_LENGTH]) :], "<f4").reshape(1, -1)

    return send


def over_grpc(channel: grpc.Channel, model: str, file: bytes) -> Send:
    """By one channel."""
    asked = ModelInferRequest(model_name=model)
    asked.inputs.add(name="file", datatype="BYTES", shape=[1])
    asked.raw_input_contents.append(struct.pack("<I", len(file)) + file)
    message, call = asked.SerializeToString(), channel.unary_unary(METHOD)

    def send() -> np.ndarray:
        answer = ModelInferResponse.FromString(call(message, timeout=60))
        return np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(1, -1)

    return send


def small_jpeg() -> bytes:
    """Noise, 96 by 64."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG")
    return encoded.getvalue()


def free_port() -> int:
    """One that nobody has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


if __name__ == "__main__":
    main()
