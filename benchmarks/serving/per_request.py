"""What does a request cost over decoding and running alone?

    python -m benchmarks.serving.per_request [--model tiny-absolute] [--rounds 5]

In turn, round after round: in this process Pillow decodes 8 JPEGs of 640x427 (100 kB) whole and
resizes them, and ONNX Runtime runs them as one batch; the server under a closed loop of 16
connections, then of one. The first figure is the ratio of processor times per picture, the
server's that of its whole process tree; the median over rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from benchmarks.serving.bare import Bare
from benchmarks.serving.bundles import add_bundle_options, chosen_bundle
from benchmarks.serving.media import photographs
from benchmarks.serving.running import add_options, measure_capacity, serving
from service.cpus import usable_cpus

SECONDS = 4.0
CONNECTIONS = 16


def main() -> None:
    """Print the rounds, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add_bundle_options(parser, "tiny-absolute")
    parser.add_argument("--rounds", type=int, default=5)
    add_options(parser)
    options = parser.parse_args()
    seconds = SECONDS * options.scale
    bundle = chosen_bundle(options)
    bare = Bare(bundle, usable_cpus())
    rounds = []
    with tempfile.TemporaryDirectory() as folder, serving([bundle.root], options) as server:
        files = photographs(Path(folder))
        expect = bare.best_labels(files)
        measure_capacity(server, files, CONNECTIONS, seconds / 2, expect)  # warms up
        for _ in range(options.rounds):
            cpu_ms, _ = bare.cost(files, seconds)
            _, single_ms = bare.cost(files[:1], seconds / 2)
            many = measure_capacity(server, files, CONNECTIONS, seconds, expect)
            one = measure_capacity(server, files, 1, seconds, expect)
            rounds.append(
                {
                    "bare_cpu_ms": cpu_ms,
                    "server_cpu_ms": many.cpu_ms,
                    "ratio": many.cpu_ms / cpu_ms,
                    "per_second": many.per_second,
                    "single_cpu_ms": one.cpu_ms,
                    "single_p50_ms": one.p50_ms or 0.0,
                    "bare_single_ms": single_ms,
                }
            )
    median = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    print(f"bare {median['bare_cpu_ms']:.2f} CPU-ms, server {median['server_cpu_ms']:.2f} CPU-ms")
    print(f"ratio {median['ratio']:.3f} of {[round(one['ratio'], 3) for one in rounds]}")
    print(f"alone: p50 {median['single_p50_ms']:.2f} ms, bare {median['bare_single_ms']:.2f} ms")
    line = {"benchmark": "serving.per_request", "bundle": bundle.manifest.name}
    figures = {name: round(value, 4) for name, value in median.items()}
    print(json.dumps(line | {"scale": options.scale, "rounds": len(rounds)} | figures))


if __name__ == "__main__":
    main()
