"""Do several grids and a clip together cost a server more than each by itself?

    python -m benchmarks.serving.mixed_grids [--rounds 3] [--seconds 8]

Closed loops of 32 connections over HTTP, so decoders, loop and client are in it; the pictures are
JPEGs of 96x64 pixels, of which the device has most of the work, the clip is MPEG-4 of 320x240 and
96 frames. First every shape alone (a picture at each grid of the bundle of images, the clip at the
first grid of the bundle of clips), then all of them in turn from the same connections, round after
round on one server, which refuses nothing (--max-wait). Of each there are so many among them that
every shape takes about as long as any other, by a first round that does not count.

The first figure is the sum over shapes of their rate in the mix over their rate alone: 1 where
mixing costs nothing, for then every shape has just the time that the others leave. The second says
the same in processor time of the server's process tree, which other work on the machine changes
less: what the answers of the mix cost alone over what they cost. Both are medians over rounds, with
the range. The first 2.5 s of every loop are not counted: for so long a lane is kept for what may
come no more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.serving.figures import ended_between
from benchmarks.serving.media import clip, thumbnails
from benchmarks.serving.running import ROOT, CpuCurve, Running, add_options, run_load, serving
from models.bundle import read_manifest
from models.manifest import Manifest

CONNECTIONS = 32
#: Of the cycle of a mix, at most: its files and addresses are arguments of a command.
MOST_OF_ONE = 200
SETTLING_SECONDS = 2.5


class Shape(NamedTuple):
    """One kind of request."""

    path: str
    files: list[Path]


class Measured(NamedTuple):
    """Of one loop."""

    answers: list[int]  # of every shape
    cpu: float  # seconds of the server


class Round(NamedTuple):
    """Ratios of the mix to its shapes alone, 1 where mixing costs nothing."""

    rates: float
    cpu: float
    alone_per_second: list[float]
    mixed_per_second: list[float]


def main() -> None:
    """Print the rounds, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("--bundles", type=Path, default=ROOT / "bundles", help="a folder with one of images, which "
        "has several grids, and one of clips")  # fmt: skip
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=8.0, help="of each loop that count")
    add_options(parser)
    options = parser.parse_args()
    manifests = [
        read_manifest(one.parent) for one in sorted(options.bundles.glob("*/manifest.json"))
    ]
    images = next((m for m in manifests if m.modality == "image" and len(m.grids) > 1), None)
    clips = next((m for m in manifests if m.modality == "video"), None)
    if images is None or clips is None:
        parser.error(f"--bundles: expected images at several grids and clips in {options.bundles}")
    options.server_arguments += " --max-wait 600"
    bundles = [options.bundles / one.name for one in (images, clips)]
    seconds, settling = options.seconds * options.scale, SETTLING_SECONDS * options.scale
    with tempfile.TemporaryDirectory() as folder, serving(bundles, options) as server:
        shapes = shapes_of(images, clips, Path(folder))
        loop = Loop(server, shapes, settling, seconds)
        rounds = measure(loop, options.rounds)
    figures = {}
    for name, what in (("rates", "rates"), ("cpu", "processor time")):
        ratios = sorted(getattr(one, name) for one in rounds)
        middle, least, most = statistics.median(ratios), ratios[0], ratios[-1]
        figures[name] = [round(value, 4) for value in (middle, least, most)]
        print(f"{what}, mix over its shapes alone: {middle:.3f} ({least:.3f} to {most:.3f})")
    line = {"benchmark": "serving.mixed_grids", "scale": options.scale, "seconds": seconds}
    line |= figures | {"shapes": [one.path for one in shapes]}
    print(json.dumps(line | {"rounds": [one._asdict() for one in rounds]}))


def shapes_of(images: Manifest, clips: Manifest, folder: Path) -> list[Shape]:
    """A picture at every grid, and the clip."""
    pictures, film = thumbnails(folder), clip(folder / "clip.mp4")
    at = f"/v1/classify/image?bundle={images.name}&grid="
    several = [Shape(at + entry.grid, pictures) for entry in images.grids]
    return [*several, Shape(f"/v1/classify/video?bundle={clips.name}", [film])]


class Loop:
    """Closed loops on a server."""

    def __init__(
        self, server: Running, shapes: Sequence[Shape], settling: float, seconds: float
    ) -> None:
        self.shapes = shapes
        self._server, self._settling, self.seconds = server, settling, seconds

    def run(self, counts: Sequence[int]) -> Measured:
        """With so many of each shape in turn; SystemExit where anything else than 200 came."""
        cycle = interleaved(counts)
        files, sent = [], [0] * len(counts)
        for shape in cycle:
            own = self.shapes[shape].files
            files.append(own[sent[shape] % len(own)])
            sent[shape] += 1
        end = self._settling + self.seconds
        with CpuCurve(self._server) as curve:
            result = run_load(
                self._server.url(), files, "--closed", f"{CONNECTIONS}x{end}", "--patience", "60",
                "--paths", *(self.shapes[shape].path for shape in cycle),
            )  # fmt: skip
        if failed := {one.outcome for one in result.records} - {"200"}:
            raise SystemExit(f"expected answers alone, got {', '.join(sorted(failed))} too")
        counted = ended_between(result.records, self._settling, end)
        of_shape = [cycle[one.number] for one in counted]
        cpu = curve.between(result.begin + self._settling, result.begin + end)
        return Measured([of_shape.count(shape) for shape in range(len(counts))], cpu)


def measure(loop: Loop, rounds: int) -> list[Round]:
    """Every shape alone, then the mix, again and again."""
    shapes = range(len(loop.shapes))
    alone = [[int(one == shape) for one in shapes] for shape in shapes]
    first = [loop.run(counts).answers[shape] for shape, counts in enumerate(alone)]
    if not min(first):
        raise SystemExit("expected answers of every shape within --seconds, got none of one")
    counts = [min(MOST_OF_ONE, round(answers / min(first))) for answers in first]
    return [one_round(loop, alone, counts) for _ in range(rounds)]


def one_round(loop: Loop, alone: Sequence[Sequence[int]], counts: Sequence[int]) -> Round:
    """Raises SystemExit where a loop has no answer to divide by."""
    measured = [loop.run(one) for one in alone]
    single = [one.answers[shape] for shape, one in enumerate(measured)]
    mixed = loop.run(counts)
    if not min(single) or not mixed.cpu:
        raise SystemExit("expected answers of every shape within --seconds, got none of one")
    shares = [
        together / by_itself for together, by_itself in zip(mixed.answers, single, strict=True)
    ]
    cpu = sum(share * one.cpu for share, one in zip(shares, measured, strict=True)) / mixed.cpu
    rates = ([count / loop.seconds for count in answers] for answers in (single, mixed.answers))
    return Round(sum(shares), cpu, *rates)


def interleaved(counts: Sequence[int]) -> list[int]:
    """The places of ``counts``, each so often, spread evenly: [2, 1] -> [0, 1, 0]."""
    spread = [
        ((number + 0.5) / count, place)
        for place, count in enumerate(counts)
        for number in range(count)
    ]
    return [place for _, place in sorted(spread)]


if __name__ == "__main__":
    main()
