"""How long does a clip take from its bytes to the network's input, and how much of it is decoded?

A clip of 10 seconds in 1080p, H.264 as x264 makes it (key frames up to 250 frames apart), is made
here and read at 16 moments for an input of 112x112. ``looked through`` is the pass over the
packets, before anything is decoded; ``everything`` decodes the whole clip and shapes nothing.
With ``--clips`` the clips of an archive are read too, at most ``--members`` of them.

    python -m benchmarks.decode_video [--rounds 5] [--clips clips.tar]

All on one thread, in milliseconds of processor time.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tarfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from media.clips.clip_file import open_clip
from media.clips.video import read, read_clip
from media.spec import InputSpec, VideoSpec

SPEC = InputSpec(modality="video", video=VideoSpec())
PIXELS = (16, 112, 112)
SECONDS, RATE = 10, 30
HEIGHT, WIDTH = 1080, 1920


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="readings of each clip")
    parser.add_argument("--clips", type=Path, help="a tar of clips that are read besides")
    parser.add_argument("--members", type=int, default=40, help="how many of them")
    options = parser.parse_args()
    results = [measure("1080p", [film()], options.rounds)]
    if options.clips:
        some = list(members(options.clips, options.members))
        results.append(measure(options.clips.name, some, options.rounds))
    show(results)
    print(json.dumps({"benchmark": "decode_video", "pixels": PIXELS, "results": results}))


def film() -> bytes:
    """A window that moves over a large picture of soft noise."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 400, 3), dtype=np.uint8)
    size = (2 * WIDTH, HEIGHT + SECONDS * RATE)
    scene = np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC))
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as file:
        video: Any = file.add_stream("libx264", rate=RATE)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(SECONDS * RATE):
            window = scene[number : number + HEIGHT, 3 * number : 3 * number + WIDTH]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(window), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
    return stream.getvalue()


def members(path: Path, count: int) -> Iterator[bytes]:
    """Evenly spread over the archive, so that every class is among them."""
    with tarfile.open(path) as archive:
        files = [member for member in archive if member.isfile()]
        for member in files[:: max(len(files) // count, 1)][:count]:
            stream = archive.extractfile(member)
            assert stream is not None
            yield stream.read()


def measure(name: str, clips: list[bytes], rounds: int) -> dict[str, Any]:
    """Medians over the rounds, means over the clips, in milliseconds of processor time a clip."""
    counts = [count(data) for data in clips]
    packets, decoded, used = (sum(column) for column in zip(*counts, strict=True))
    return {
        "name": name,
        "clips": len(clips),
        "bytes": sum(map(len, clips)),
        "frames": packets,
        "decoded": decoded,
        "used": used,
        "read_ms": timed(lambda data: read(data, SPEC, [PIXELS], 1), clips, rounds),
        "look_ms": timed(look, clips, rounds),
        "everything_ms": timed(everything, clips, rounds),
    }


def count(data: bytes) -> tuple[int, int, int]:
    """Frames in the clip, decoded, used."""
    with open_clip(data) as clip:
        decoded = read_clip(clip, SPEC, [PIXELS], 1)[1]
        return len(clip.packets), decoded.decoded, decoded.used


def look(data: bytes) -> None:
    with open_clip(data):
        pass


def everything(data: bytes) -> None:
    with open_clip(data) as clip:
        for one in clip.packets:
            clip.decoder.decode(one.packet)
        clip.decoder.decode(None)


def timed(work: Callable[[bytes], object], clips: list[bytes], rounds: int) -> float:
    """Milliseconds a clip: the median round."""
    spent = []
    for _ in range(rounds):
        start = time.process_time()
        for data in clips:
            work(data)
        spent.append((time.process_time() - start) / len(clips))
    return round(1000 * statistics.median(spent), 2)


def show(results: list[dict[str, Any]]) -> None:
    print(f"{'':>12} {'clips':>6} {'frames':>7} {'decoded':>8} {'used':>5} "
          f"{'read, ms':>9} {'looked through':>15} {'everything':>11}")
    for row in results:
        print(f"{row['name']:>12} {row['clips']:>6} {row['frames']:>7} {row['decoded']:>8} "
              f"{row['used']:>5} {row['read_ms']:>9.1f} {row['look_ms']:>15.1f} "
              f"{row['everything_ms']:>11.1f}")


if __name__ == "__main__":
    main()
