"""Clips that are refused, and why: other types, too much of something, damage, other files."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from media.clips import clip_file
from media.clips.clip_file import open_clip
from media.clips.video import read
from media.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from media.limits import ClipLimits, Limits
from media.spec import InputSpec, VideoSpec
from tests.helpers.clip_files import (
    HEIGHT,
    KINDS,
    WIDTH,
    clip_of,
    encode,
    linear,
    picture,
    stretched,
)

SPEC = InputSpec(modality="video", fit="stretch", video=VideoSpec())
SIZE = (HEIGHT, WIDTH)
FRAMES = 6


def refused(data: bytes, kind: type[MediaError], says: str, **limits: int) -> None:
    with pytest.raises(kind, match=says):
        read(data, SPEC, [(FRAMES, *SIZE)], 1, limits=Limits(clip=ClipLimits(**limits)))


# --- types -----------------------------------------------------------------------------------

PLAYLISTS = {
    "HLS": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nclip.ts\n#EXT-X-ENDLIST\n",
    "concat": b"ffconcat version 1.0\nfile 'clip.mp4'\n",
    "SDP": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nm=video 5004 RTP/AVP 96\n",
    "DASH": b"<?xml version='1.0'?><MPD/>",
    "nothing": b"",
    "text": b"a clip, they said",
    "FLV": b"FLV\1\5\0\0\0\t",
    "JPEG": b"\xff\xd8\xff\xe0" + bytes(600),
    "AVIF": b"\0\0\0\x20ftypavif" + bytes(600),
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_other_types_are_refused_unread(name: str) -> None:
    """What a file is called does not matter; its first bytes must be those of a known type."""
    refused(PLAYLISTS[name], UnsupportedMedia, "expected MP4, QuickTime.*these are none of them")


@pytest.mark.parametrize(
    ("container", "codec", "pixel_format"),
    [("avi", "msmpeg4", "yuv420p"), ("mov", "prores", "yuv422p10le"), ("matroska", "ffv1", "bgr0")],
)
def test_other_codecs_are_refused(container: str, codec: str, pixel_format: str) -> None:
    """Only decoders that are meant to be exposed are ever opened."""
    data = encode(container, codec, pictures=[picture(1)], pixel_format=pixel_format)
    refused(data, UnsupportedMedia, f"expected video of h264, hevc, .*; this is {codec}")


def audio(file: Any) -> None:
    stream = file.add_stream("mp2", rate=44_100)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 4608), np.int16), format="s16", layout="mono")
    frame.rate, frame.pts = 44_100, 0
    file.mux(stream.encode(frame))
    file.mux(stream.encode(None))


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "mpeg", "avi"])
def test_sound_alone_is_refused(container: str) -> None:
    """A file without video says so."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as file:
        audio(file)
    refused(stream.getvalue(), UnsupportedMedia, "expected a file with video")


def test_cover_picture_is_no_video() -> None:
    """A picture attached to sound is not a clip of one frame."""
    cover, stream = io.BytesIO(), io.BytesIO()
    Image.fromarray(picture(3)).save(cover, "JPEG")
    with av.open(stream, "w", format="mp4") as file:
        sound = file.add_stream("mp2", rate=44_100)
        attached: Any = file.add_stream("mjpeg", rate=1)
        attached.width, attached.height, attached.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        attached.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4608), np.int16), layout="mono")
        frame.rate, frame.pts = 44_100, 0
        file.mux(sound.encode(frame))
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts = attached, 0, 0
        file.mux(packet)
        file.mux(sound.encode(None))
    refused(stream.getvalue(), UnsupportedMedia, "expected a file with video")


# --- limits ----------------------------------------------------------------------------------


def test_long_clips_are_refused() -> None:
    """Sixty seconds are the limit, the last frame's own time included."""
    ends = [picture(0), picture(1)]
    fits = encode("mp4", "libx264", pictures=ends, times=[0, 59], time_base=Fraction(1))
    with open_clip(fits) as clip:
        assert clip.duration == 60
    held = encode("mp4", "libx264", pictures=ends, times=[0, 60], time_base=Fraction(1))
    refused(held, MediaTooLarge, "at most 60 seconds")
    years = encode("matroska", "mjpeg", pictures=ends, times=[0, 10**8], time_base=Fraction(1))
    refused(years, MediaTooLarge, "at most 60 seconds")


def test_large_frames_are_refused_by_the_header() -> None:
    """The size that a header tells is enough; not a frame is decoded."""
    data = encode("mov", "mjpeg", pictures=[np.zeros((2080, 4000, 3), np.uint8)])
    refused(data, MediaTooLarge, "at most 8300000 pixels; these are 4000x2080")


def test_frames_that_grow_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame is measured when it is decoded too, and after its pixels have become square."""
    monkeypatch.setattr("media.clips.clip_picture.MAX_PIXELS", HEIGHT * WIDTH)
    read(clip_of("h264.mp4"), SPEC, [(2, *SIZE)], 1)

    def widen(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)

    data = encode("mp4", "libx264", pictures=[picture(1)], prepare=widen)
    refused(data, MediaTooLarge, "at most 5280 pixels; this one is 132x60")


def streams(count: int) -> bytes:
    """As many videos of one frame in one file."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as file:
        videos: list[Any] = [file.add_stream("mjpeg", rate=1) for _ in range(count)]
        for video in videos:
            video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        for video in videos:
            frame = av.VideoFrame.from_ndarray(picture(1)).reformat(format="yuvj420p")
            frame.pts = 0
            file.mux(video.encode(frame))
            file.mux(video.encode(None))
    return stream.getvalue()


def test_many_streams_are_refused() -> None:
    """Sixteen streams are the limit, whatever is in them."""
    assert read(streams(16), SPEC, [(2, *SIZE)], 1).evidence["seconds"] == [[0.0, 0.0]]
    refused(streams(17), MediaTooLarge, "at most 16 streams; this one has 17")


def dots(count: int) -> bytes:
    """A GIF of one pixel and many frames, a hundredth of a second each."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(3) + b"\xff\xff\xff"
    control = b"!\xf9\4\0\2\0\0\0"
    frame = control + b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0"
    return head + frame * count + b";"


def test_many_frames_are_refused() -> None:
    """So many packets are looked at and no more; fewer still are decoded."""
    assert read(dots(1500), SPEC, [(2, *SIZE)], 1).evidence["seconds"] == [[7.5, 22.5]]
    refused(dots(2500), MediaTooLarge, "at most 2000 packets of a clip are decoded")
    refused(dots(150_000), MediaTooLarge, "at most 60 seconds")


def test_packets_are_counted() -> None:
    """However short they are."""
    refused(clip_of("h264.mp4"), MediaTooLarge, "at most 40 packets", packets=40)


def test_cost_is_known_before_decoding() -> None:
    """The limit is on what the frames that are asked for need, not on the clip."""
    data, few = clip_of("h264.mp4"), Limits(clip=ClipLimits(decoded=12))
    assert read(data, SPEC, [(1, *SIZE)], 1, limits=few).pixels.shape == (1, 1, *SIZE, 3)
    refused(data, MediaTooLarge, "at most 12 packets of a clip are decoded", decoded=12)


def test_long_files_are_refused() -> None:
    """Bytes are counted before anything is opened."""
    refused(clip_of("h264.mp4"), MediaTooLarge, "at most 1000 bytes", file_bytes=1000)


# --- damage ----------------------------------------------------------------------------------

#: Streamed types that have all their frames when cut there.
STILL_READ = {(name, 0.9) for name in ("h264.ts", "mpeg2.ts", "mpeg2.mpeg")}


@pytest.mark.parametrize("part", [0.03, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("name", KINDS)
def test_cut_off_files_give_no_made_up_frame(name: str, part: float) -> None:
    """Refused; or, where the type is streamed and may end anywhere, the frames that are there."""
    data = clip_of(name)
    try:
        sample = read(data[: int(len(data) * part)], SPEC, [(FRAMES, *SIZE)], 1)
    except BrokenMedia:
        assert (name, part) not in STILL_READ
        return
    streamed = name.endswith((".ts", ".mpeg"))
    assert streamed or (part == 0.99 and name.endswith((".mp4", ".avi")))  # only an index is gone
    frames = {round(float(start), 6): rgb for start, rgb in linear(data)}
    for second, shown in zip(sample.evidence["seconds"][0], sample.pixels[0], strict=True):
        np.testing.assert_array_equal(shown, stretched(frames[second], *SIZE))


class Spoil:
    """Overwrites the last quarter of packets on their way into a file.

    Attributes:
        which: tells by a packet's number, in the order of encoding, and its key flag.
    """

    def __init__(self, which: Callable[[int, bool], bool]) -> None:
        self.which = which
        self.count = 0

    def __call__(self, packet: Any) -> bool:
        if self.which(self.count, packet.is_keyframe):
            data, end = bytes(packet), packet.size // 4
            packet.update(data[: packet.size - end] + b"\xff" * end)
        self.count += 1
        return True


#: Codes of whole bits, in which damage shows; arithmetic codes make other pictures of it.
VARIABLE_LENGTH = {"g": "12", "x264-params": "cabac=0:mbtree=0"}


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        ("mp4", "libx264", VARIABLE_LENGTH),
        ("mpegts", "libx264", VARIABLE_LENGTH),
        *(KINDS[name] for name in ("mpeg2.mkv", "mpeg2.mpeg", "mpeg4.mp4", "mpeg4.avi")),
    ],
)
def test_damage_is_refused_where_it_is_needed(
    container: str, codec: str, options: dict[str, str]
) -> None:
    """A damaged key frame spoils what builds on it, though that itself decodes well."""
    data = encode(container, codec, options, keep=Spoil(lambda count, key: key and count > 0))
    refused(data, BrokenMedia, "damaged|corrupt")


def test_damage_elsewhere_does_no_harm() -> None:
    """What need not be decoded is not looked at: here all but the key frame of the middle."""
    # mbtree: with it, two encodings of the same frames may differ
    options = {"g": "8", "bf": "0", "sc_threshold": "0", "x264-params": "mbtree=0:cabac=0"}
    spoilt = encode("mp4", "libx264", options, keep=Spoil(lambda count, key: count != 24))
    shown = read(spoilt, SPEC, [(1, *SIZE)], 1).pixels[0, 0]
    whole = linear(encode("mp4", "libx264", options))
    np.testing.assert_array_equal(shown, stretched(whole[24][1], *SIZE))
    refused(spoilt, BrokenMedia, "damaged|corrupt")


def test_clip_without_a_key_frame_is_refused() -> None:
    """Nothing can be decoded without one."""
    for container, codec in (("matroska", "libvpx"), ("mpegts", "mpeg2video")):
        data = encode(container, codec, keep=lambda packet: not packet.is_keyframe)
        refused(data, BrokenMedia, "no key frame|begin with a key frame")


def test_clip_begins_with_its_first_key_frame() -> None:
    """What comes before it, in a recording that was joined late, is left out."""
    late = encode("mpegts", "mpeg2video", {"g": "12"}, keep=Late())
    sample = read(late, SPEC, [(36, *SIZE)], 1)
    expected = [stretched(rgb, *SIZE) for _, rgb in linear(clip_of_plain())[12:]]
    np.testing.assert_array_equal(sample.pixels[0], np.stack(expected))


def clip_of_plain() -> bytes:
    return encode("mpegts", "mpeg2video", {"g": "12"})


class Late:
    """Keeps all packets but the first five."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, packet: Any) -> bool:
        self.count += 1
        return self.count > 5


def test_frames_at_one_time_are_refused() -> None:
    """Twelve frames in no time at all: which of them would be shown?"""
    pictures = [picture(number) for number in range(12)]
    data = encode("matroska", "mjpeg", pictures=pictures, time_base=Fraction(1, 10**5))
    refused(data, BrokenMedia, "shows 12 frames at 1 different times")  # in milliseconds


# --- nothing else is opened ------------------------------------------------------------------


def elsewhere(data: bytes, path: str) -> bytes:
    """An MP4 whose samples are said to lie in another file: its data reference is an alias."""
    place = data.index(b"url ", data.index(b"dref")) - 4
    text = path.encode()
    alias = bytes(10) + b"\0" + bytes(27) + bytes(12) + b"\0" + bytes(63) + bytes(20) + bytes(16)
    alias += struct.pack(">HH", 2, len(text)) + text + bytes(len(text) % 2) + b"\xff\xff\0\0"
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    grown = data[:place] + entry + data[place + 12 :]
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        start = grown.index(kind) - 4
        (size,) = struct.unpack_from(">I", grown, start)
        size += len(entry) - 12
        grown = grown[:start] + struct.pack(">I", size) + grown[start + 4 :]
    return grown


def test_other_files_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples that an MP4 says to lie in another file are not looked for, though it is there."""
    data = encode("mov", "mjpeg", pictures=[picture(number) for number in range(4)])
    assert data.index(b"mdat") < data.index(b"moov")  # sizes inside moov may change freely
    other = tmp_path / "other.mov"
    other.write_bytes(data)
    foreign = elsewhere(data, str(other))
    opened: list[str] = []

    def record(name: str, *_: object) -> io.BytesIO:
        opened.append(name)
        return io.BytesIO(data)

    careless = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(io.BytesIO(foreign), "r", container_options=careless, io_open=record):
        assert opened == [str(other)]  # so the file does ask for it
    opened.clear()
    monkeypatch.setattr(clip_file, "_refuse_to_open", record)
    refused(foreign, BrokenMedia, "no key frame|truncated or corrupt")
    assert opened == []


LIMITED = """
import resource, sys
from media.clips.video import read
from media.spec import InputSpec, VideoSpec
resource.setrlimit(resource.RLIMIT_AS, (1536 * 2**20,) * 2)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
spec = InputSpec(modality="video", video=VideoSpec())
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        pixels = read(file.read(), spec, [(8, 40, 32)], 2).pixels
    assert pixels.shape == (2, 8, 40, 32, 3)
"""


def test_reading_works_inside_the_limits_of_a_worker(tmp_path: Path, repo_root: Path) -> None:
    """With 1.5 GiB of addresses, 64 open files and none that can be written."""
    paths = []
    for name in KINDS:
        paths.append(tmp_path / name)
        paths[-1].write_bytes(clip_of(name))
    command = [sys.executable, "-c", LIMITED, *map(str, paths)]
    subprocess.run(command, check=True, cwd=repo_root)
