"""What do prepared tensors over HTTP cost over the bare session? The Open Inference Protocol.

    python -m benchmarks.serving.v2_tensors [--model vit_s-absolute] [--batch 8] [--rounds 6]

Requests of ``--batch`` rows of noise, with the binary extension in both directions, by connections
that each send the next one when they have their answer: one more than the server has lanes. Beside
it, in turn, the same graph in sessions of the same lanes is run bare in this process, whole batches
by threads that do nothing else. The server's batches may be as large as a request, and its time is
that of the clock, client included. The figure is the median of the rounds' ratios of images a
second, with its range; an answer that is not the graph's own ends the row.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np

from benchmarks.serving.bundles import add_bundle_options, chosen_bundle
from benchmarks.serving.running import Running, add_options, serving
from media.spec import Grid
from service.cpus import usable_cpus
from service.engine.device.lanes import Lanes, rate
from service.engine.device.session import open_session
from service.http.v2.request import JSON_LENGTH
from service.http.v2.tensors import DATATYPES

SECONDS = 4.0  # of each way in each round
#: Largest difference of a logit between a batch of the server and the bare one.
NEAR = 1e-3


def main() -> None:
    """Print the figure, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add_bundle_options(parser, "vit_s-absolute")
    parser.add_argument("--batch", type=int, default=8, help="rows of one request, and of a run")
    parser.add_argument("--rounds", type=int, default=6)
    add_options(parser)
    options = parser.parse_args()
    bundle, cpus, seconds = chosen_bundle(options), usable_cpus(), SECONDS * options.scale
    manifest = bundle.manifest
    session = open_session(bundle.path(manifest.grids[0].graph), "cpu", 1)
    pixels = Grid.parse(manifest.grids[0].grid).pixels(manifest.patch)
    generator = np.random.default_rng(0)
    rows = generator.integers(0, 256, (options.batch, *pixels, manifest.input.channels))
    rows = rows.astype(manifest.input.dtype)
    expected = session.run(rows)  # [batch, classes]
    request, lanes, found = Request(manifest.name, rows), Lanes(cpus, 1), []
    arguments = ["--lanes", str(cpus), "--threads", "1", "--max-batch", str(options.batch)]
    arguments += ["--batch-seconds", "60", "--max-wait", "60", "--decode-workers", "1"]
    with serving([bundle.root], options, *arguments) as server:
        through_http(server, request, expected, seconds / 2, cpus + 1)  # warms up
        for _ in range(options.rounds):
            ours = through_http(server, request, expected, seconds, cpus + 1)
            found.append((ours, options.batch * rate(session, lanes, rows, seconds)))
    ratios = [ours / bare for ours, bare in found]
    middle, least, most = statistics.median(ratios), min(ratios), max(ratios)
    print(f"images a second over bare sessions: {middle:.3f} ({least:.3f} to {most:.3f})")
    ours, bare = (statistics.median(way) for way in zip(*found, strict=True))
    print(f"{ours:.1f} of {bare:.1f} a second; {options.rounds} rounds, {cpus} lanes")
    line = {"benchmark": "serving.v2_tensors", "bundle": manifest.name, "lanes": cpus}
    figures = {"batch": options.batch, "ratio": [middle, least, most], "per_second": [ours, bare]}
    print(json.dumps(line | figures | {"rounds": options.rounds, "seconds": seconds}))


class Request:
    """Rows as the body of a request; its answer as logits.

    Args:
        rows: ``[batch, *pixels per axis, channels]`` of the graph's dtype.
    """

    def __init__(self, name: str, rows: np.ndarray) -> None:
        raw = rows.tobytes()
        given = {
            "name": "pixels",
            "shape": rows.shape,
            "datatype": DATATYPES[str(rows.dtype)],
            "parameters": {"binary_data_size": len(raw)},
        }
        document = {"inputs": [given], "parameters": {"binary_data_output": True}}
        head = json.dumps(document).encode()
        self.path, self.rows = f"/v2/models/{name}_tensor/infer", len(rows)
        self.body, self.headers = head + raw, {JSON_LENGTH: str(len(head))}

    def send(self, connection: http.client.HTTPConnection) -> np.ndarray:
        """Logits ``[batch, classes]``; SystemExit if the answer is another."""
        connection.request("POST", self.path, self.body, self.headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"the server answered {answer.status}: {content.decode()}")
        tail = content[int(answer.headers[JSON_LENGTH]) :]
        return np.frombuffer(tail, "<f4").reshape(self.rows, -1)


def through_http(
    server: Running, request: Request, expected: np.ndarray, seconds: float, connections: int
) -> float:
    """Images a second that were answered."""
    end = time.monotonic() + seconds

    def send_again(_: int) -> int:
        answered = 0
        with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
            while time.monotonic() < end:
                difference = float(np.abs(request.send(connection) - expected).max())
                if difference > NEAR:
                    raise SystemExit(f"a logit is {difference:.3g} from that of the bare session")
                answered += request.rows
        return answered

    started = time.monotonic()
    with ThreadPoolExecutor(connections) as threads:
        return sum(threads.map(send_again, range(connections))) / (time.monotonic() - started)


if __name__ == "__main__":
    main()
