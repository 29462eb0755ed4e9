"""How long does it take to say where a model looked, and how long do others wait beside it?

    python -m benchmarks.serving.explain [--model vit_s-absolute] [--others tiny-absolute]

One server with two models. First one connection asks the one for explanations (explain=occlusion)
of photographs of 640x427 pixels, one after another: printed are the median and the 99th percentile,
and how many rows each takes. Then images for the other come on a timetable, first alone, then
beside two connections that ask for explanations again and again, then alone once more: printed are
the median and the 99th percentile of each time, and what the company adds to the mean of the two
times alone. With --others vit_s-absolute both are one model; then an image shares its processors
with a row that takes as long as itself.
"""

from __future__ import annotations

import argparse
import http.client
import json
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.serving.bundles import MODELS, add_bundle_options, chosen_bundle, find_bundle
from benchmarks.serving.figures import due_between, summary
from benchmarks.serving.media import photographs
from benchmarks.serving.running import (
    Running,
    add_options,
    read_result,
    run_load,
    serving,
    start_load,
)

COMPANY = 2  # connections
HEAD_START = 2.0  # of explanations, seconds
PATIENCE, ARGUMENTS = ("--patience", "120"), ("--deadline-seconds", "120")
#: What is to be reached on two cores: seconds of an explanation, milliseconds added to the p99.
MOST_SECONDS, MOST_ADDED_MS = 2.5, 20.0


def main() -> None:
    """Print the figures, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add_bundle_options(parser, "vit_s-absolute")
    add("--others", choices=MODELS, default="tiny-absolute", help="whom the images are for")
    add("--rate", type=float, default=30.0, help="images a second (default: 30)")
    add("--seconds", type=float, default=20.0, help="of each of the four times (default: 20)")
    add_options(parser)
    options = parser.parse_args()
    bundle, seconds = chosen_bundle(options), options.seconds * options.scale
    name = bundle.manifest.name
    others = () if options.others == name else (find_bundle(options.others, options.folder),)
    paths = f"?bundle={name}&explain=occlusion", f"?bundle={options.others}"
    with (
        tempfile.TemporaryDirectory() as folder,
        serving([bundle.root, *others], options, *ARGUMENTS) as server,
    ):
        row = measure(server, photographs(Path(folder)), paths, options.rate, seconds)
    told = row["explanations"]
    print(f"explanations of {row['masks']} rows: p50 {told['p50_ms']} ms, p99 {told['p99_ms']} ms")
    for time in ("alone", "beside", "after"):
        print(f"images {time}: p50 {row[time]['p50_ms']} ms, p99 {row[time]['p99_ms']} ms")
    print(f"added to the p99 {row['added_p99_ms']} ms; {row['company']} explanations beside")
    print(f"to reach: {MOST_SECONDS} s of an explanation, {MOST_ADDED_MS:g} ms added")
    line = {"benchmark": "serving.explain", "bundle": name, "others": options.others}
    line |= {"rate": options.rate}
    print(json.dumps(line | {"scale": options.scale} | row))


def measure(
    server: Running, images: Sequence[Path], paths: tuple[str, str], rate: float, seconds: float
) -> dict[str, Any]:
    """Explanations one by one, then images alone, with company, and alone again.

    Args:
        paths: queries of explanations and of images.
    """
    slow, quick = (server.url() + path for path in paths)
    masks, phases = count_masks(server, paths[0], images[0]), f"{rate}x{seconds}"  # warms up, too
    explained_alone = run_load(slow, images, "--closed", f"1x{seconds}", *PATIENCE)
    run_load(quick, images, "--phases", f"{rate}x1", *PATIENCE)  # warms up
    alone = run_load(quick, images, "--phases", phases, *PATIENCE)
    long = HEAD_START + seconds + 1
    with start_load(slow, images, "--closed", f"{COMPANY}x{long}", *PATIENCE) as company:
        later = f"{rate}x{HEAD_START},{phases}"
        beside = run_load(quick, images, "--phases", later, *PATIENCE)
        explained = read_result(company).records
    server.settle()
    after = run_load(quick, images, "--phases", phases, *PATIENCE)
    row: dict[str, Any] = {
        "masks": masks,
        "explanations": summary(explained_alone.records, seconds),
        "alone": summary(alone.records, seconds),
        "beside": summary(due_between(beside.records, HEAD_START, HEAD_START + seconds), seconds),
        "after": summary(after.records, seconds),
        "company": sum(one.outcome == "200" for one in explained),
    }
    p99 = {time: row[time]["p99_ms"] for time in ("alone", "beside", "after")}
    if None in p99.values():
        raise SystemExit(f"no image was answered right in one of the times: {row}")
    return row | {"added_p99_ms": round(p99["beside"] - (p99["alone"] + p99["after"]) / 2, 2)}


def count_masks(server: Running, path: str, image: Path) -> int:
    """Rows of one explanation, as its answer tells; SystemExit where there is none."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)) as connection:
        connection.request("POST", f"/v1/classify/image{path}", image.read_bytes())
        answer = connection.getresponse()
        body = answer.read()
    if answer.status != 200:
        raise SystemExit(f"expected an explanation, got {answer.status}: {body.decode()[:500]}")
    return int(json.loads(body)["results"][0]["explanation"]["masks"])


if __name__ == "__main__":
    main()
