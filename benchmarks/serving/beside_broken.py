"""Does a broken file cost the requests beside it anything?

    python -m benchmarks.serving.beside_broken [--requests 10000] [--data FOLDER]

So many good requests and as many hostile ones in one stream, on a timetable, to a server with a
bundle of each modality; of the requests for work nine in ten are images. Hostile files are cut off,
have flipped bits, are empty, and so on; those of --data come too. Some images are bad because that
was planted (``benchmarks.serving.planted``): logits that are no numbers, a graph that fails, a
decode worker that dies of its file or is held up until its time is over. The answer
to a good one must have the best label that the bundle says. Hostile ones may end as 200 or as their
sender's fault, planted ones each in its own way. The figures are the good requests lost, and the
hostile ones that ended as they may not. Whoever is told 429 was not lost; where those are many, the
rate is too high for the machine, and the figure says little.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.serving.mixture import (
    Tally,
    add_data_option,
    add_mixture_options,
    all_traffic,
    by_modality,
    sending,
)
from benchmarks.serving.running import add_options, serving

#: Of requests; then of hostile images so many rounds go to one with the planted ones.
HOSTILE_SHARE, PLANTED_EVERY = 0.5, 2
#: Of an image that holds its worker up, seconds.
DECODE_SECONDS = 2.0


def main() -> None:
    """Print both figures and what became of every kind, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--requests", type=int, default=10_000, help="good ones")
    add_mixture_options(parser, 40.0)
    add_data_option(parser)
    add_options(parser)
    options = parser.parse_args()
    bundles = by_modality(options.bundles)
    seconds = options.requests / (1 - HOSTILE_SHARE) / options.rate * options.scale
    roots = [bundle.root for bundle in bundles.values()]
    plants, slow = ("--bad-inputs",), ("--decode-seconds", str(DECODE_SECONDS))
    tally = Tally.of_nothing()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(roots, options, *slow, plants=plants) as server,
    ):
        traffic = all_traffic(
            bundles, options.rate, HOSTILE_SHARE, Path(folder), options.data, PLANTED_EVERY
        )
        with sending(server, traffic, seconds, tally):
            pass
        restarts = server.metric("liere_decode_worker_restarts_total")
    beside = tally.requests - tally.good
    print(f"good requests lost: {tally.lost} of {tally.good}, beside {beside} hostile ones")
    print(f"told to come later: {tally.refused} of the good ones")
    print(f"ended as they may not: {dict(tally.bad)}; decode workers replaced: {restarts:.0f}")
    for kind, outcomes in sorted(tally.ended.items()):
        print(f"  {kind}: {dict(sorted(outcomes.items()))}")
    line = {"benchmark": "serving.beside_broken", "rate": options.rate, "scale": options.scale}
    print(json.dumps(line | {"worker_restarts": restarts} | tally.document()))


if __name__ == "__main__":
    main()
