"""How much longer does an answer take that also tells where attention looked?

    python -m benchmarks.serving.attention [--models vit_s-liere_8 tiny-liere_8] [--rounds 5]

One server with a bundle that was exported with --explain. One connection sends photographs of
640x427 pixels, one after another, in turns without and with explain=attention. Ratios are those of
a round, of its two medians; told are the medians over the rounds. The answer with attention comes
from another graph, and has a picture drawn of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.serving.bundles import FOLDER, MODELS, find_bundle
from benchmarks.serving.media import photographs
from benchmarks.serving.running import add_options, run_load, serving

MOST_RATIO = 1.15
WAYS = {"plain": "", "attention": "?explain=attention"}


def main() -> None:
    """Print a line for every round, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, default=("vit_s-liere_8", "tiny-liere_8"))
    add("--folder", type=Path, default=FOLDER, help="where exported models are kept, or made")
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=5.0, help="of each way in a round")
    add_options(parser)
    options = parser.parse_args()
    rows = {name: measure(name, options) for name in options.models}
    print(json.dumps({"benchmark": "serving.attention", "most_ratio": MOST_RATIO, "models": rows}))


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Medians over the rounds; the first one warms up."""
    bundle, seconds = find_bundle(name, options.folder, explain=True), options.seconds
    found: dict[str, list[float]] = {name: [] for name in (*WAYS, "ratio")}
    with (
        tempfile.TemporaryDirectory() as folder,
        serving([bundle], options) as server,
    ):
        files = photographs(Path(folder))
        for number in range(options.rounds + 1):
            told = {}
            for way, query in WAYS.items():
                loop = ("--closed", f"1x{seconds * options.scale}", "--patience", "60")
                records = run_load(server.url() + query, files, *loop).records
                right = [one.seconds for one in records if one.outcome == "200"]
                if len(right) < len(records):
                    raise SystemExit(f"{len(records) - len(right)} answers of {way} are not 200")
                told[way] = 1000 * statistics.median(right)
            told["ratio"] = told["attention"] / told["plain"]
            if number:
                print(name, {way: round(value, 3) for way, value in told.items()}, flush=True)
                for way, value in told.items():
                    found[way].append(value)
    medians = {way: round(statistics.median(values), 3) for way, values in found.items()}
    return medians | {"reached": medians["ratio"] <= MOST_RATIO}


if __name__ == "__main__":
    main()
