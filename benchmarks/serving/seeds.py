"""Small whole files of every type that is read, in several ways of writing it; none are stored."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.video.stream import VideoStream
from PIL import Image

from benchmarks.serving.mutations import Seed, mend_png
from benchmarks.serving.scan_seeds import saved, scans
from media.formats import FORMATS, Format

HEIGHT, WIDTH, FRAMES = 40, 56, 12
#: Container -> (encoder, its options); the first is FFmpeg's name of a type in ``FORMATS``.
CLIPS: dict[str, tuple[tuple[str, str, dict[str, str]], ...]] = {
    "avi": (("avi", "mpeg4", {"g": "6", "bf": "2"}), ("avi", "mjpeg", {})),
    "matroska": (
        ("matroska", "libx264", {"g": "6", "bf": "2"}),
        ("webm", "libvpx", {"g": "6"}),
        ("webm", "libvpx-vp9", {"g": "6"}),
    ),
    "mov": (
        ("mp4", "libx264", {"g": "6", "bf": "2"}),
        ("mp4", "libx265", {"x265-params": "keyint=6:log-level=none"}),
        ("mp4", "libsvtav1", {"g": "6", "preset": "12", "svtav1-params": "lp=1"}),
        ("mov", "mpeg4", {"g": "6", "bf": "2"}),
    ),
    "mpeg": (("mpeg", "mpeg1video", {"g": "6"}), ("mpeg", "mpeg2video", {"g": "6", "bf": "2"})),
    "mpegts": (("mpegts", "mpeg2video", {"g": "6"}), ("mpegts", "libx264", {"g": "6", "bf": "2"})),
}


def seeds_of(kind: Format, data: Path | None = None, most_bytes: int = 2**18) -> list[Seed]:
    """Whole files of one type; with ``data`` also those below it that are not too large."""
    made = MAKERS[kind.modality](kind.name)
    found = sorted(path for path in data.rglob("*") if path.is_file()) if data else ()
    endings = (*kind.endings, *kind.added)
    fitting = [path for path in found if path.name.lower().endswith(endings)]
    return made + [Seed(p.read_bytes()) for p in fitting if 0 < p.stat().st_size <= most_bytes]


# --- pictures --------------------------------------------------------------------------------


def picture(number: int = 0) -> Image.Image:
    """Soft colours, RGB; numbers make them move."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [np.sin((rows + step * columns + 4 * number) / 9) for step in (1, 2, 3)]
    return Image.fromarray((127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8))


def deep() -> Image.Image:
    """Grey of 16 bits."""
    return Image.fromarray(
        (np.arange(HEIGHT * WIDTH) * 29).astype(np.uint16).reshape(HEIGHT, WIDTH)
    )


def images(kind: str) -> list[Seed]:
    rgb, several = picture(), {"save_all": True, "append_images": [picture(1), picture(2)]}
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    ways: dict[str, list[tuple[Image.Image, dict[str, Any]]]] = {
        "BMP": [(rgb.convert(mode), {}) for mode in ("RGB", "RGBA", "P", "L", "1")],
        "GIF": [(rgb, {}), (rgb, several), (rgb.convert("P"), {"interlace": 0, "transparency": 3})],
        "JPEG": [
            (rgb, {"exif": exif}), (rgb, {"progressive": True}), (rgb.convert("L"), {}),
            (rgb.convert("CMYK"), {}), (rgb, {"restart_marker_blocks": 2}),
        ],
        "PNG": [
            *((rgb.convert(mode), {}) for mode in ("RGB", "RGBA", "P", "LA", "1")),
            (rgb.convert("P"), {"transparency": 3}), (deep(), {}), (rgb, several),
        ],
        "TIFF": [
            *((rgb, {"compression": way}) for way in
              ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
            (rgb.convert("1"), {"compression": "group4"}), (deep(), {}), (rgb, several),
        ],
        "WEBP": [(rgb, {}), (rgb, {"lossless": True}), (rgb.convert("RGBA"), {}), (rgb, several)],
    }  # fmt: skip
    wrap = {"wrap": mend_png} if kind == "PNG" else {}
    return [Seed(saved(one, kind, **options), **wrap) for one, options in ways[kind]]


# --- clips -----------------------------------------------------------------------------------


def clips(kind: str) -> list[Seed]:
    if kind == "gif":
        frames = [picture(number) for number in range(1, FRAMES)]
        options = {"save_all": True, "append_images": frames, "duration": 100}
        return [Seed(saved(picture(), "GIF", **options, disposal=way)) for way in (1, 2)]
    os.environ.setdefault("SVT_LOG", "0")  # the AV1 encoder would print to stderr
    return [Seed(encoded(*way)) for way in CLIPS[kind]]


def encoded(container: str, codec: str, options: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as file:
        rate = 25 if codec.startswith("mpeg") else Fraction(12)
        video = cast(VideoStream, file.add_stream(codec, rate=rate, options=options))
        video.height, video.width = HEIGHT, WIDTH
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        video.codec_context.thread_count = 1
        for number in range(FRAMES):
            file.mux(video.encode(av.VideoFrame.from_image(picture(number))))
        file.mux(video.encode(None))
    return stream.getvalue()


MAKERS: dict[str, Callable[[str], list[Seed]]] = {"image": images, "video": clips, "volume": scans}
BY_NAME = {f"{kind.modality}/{kind.name}": kind for kind in FORMATS}
