"""Clips of kinds that people have reported: each kind by its file, and by others made here.

Messages beside the pixels; display matrices that say nothing or are rounded; aspects that only the
codec tells; clocks that start again or jump; alpha of VP8 and VP9; packets of M2TS.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from media.clips.clip_file import open_clip
from media.clips.clip_picture import Painter
from media.clips.video import read
from media.errors import BrokenMedia, MediaTooLarge, UnsupportedMedia
from media.images import image
from media.spec import InputSpec, VideoSpec
from tests.helpers.clip_files import (
    EXACT,
    HEIGHT,
    RATE,
    WIDTH,
    encode,
    linear,
    number_of,
    picture,
    stretched,
)

STRETCH = InputSpec(modality="video", fit="stretch", video=VideoSpec())
SIZE = (HEIGHT, WIDTH)


def shown(data: bytes, frames: int, spec: InputSpec = STRETCH, views: int = 1) -> np.ndarray:
    """uint8 [frames, HEIGHT, WIDTH, 3] of one view, or [views, frames, ...] of several."""
    pixels = read(data, spec, [(frames, *SIZE)], views).pixels
    return pixels if views > 1 else pixels[0]


def numbers(data: bytes, frames: int) -> list[int]:
    return [number_of(frame) for frame in shown(data, frames)]


def field(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


#: What the field's clips show in frame n, where nothing else is said: left grey, right a colour.
LEFT, RIGHT = [16 + 11 * number for number in range(20)], (200, 60, 30)


def assert_halves(pixels: np.ndarray, left: list[int], right: tuple[int, ...] = RIGHT) -> None:
    """[frames, h, w, 3] shows a grey in its left half and a colour in its right."""
    _, height, width, _ = pixels.shape
    middle = height // 2
    greys, colours = pixels[:, middle, width // 4], pixels[:, middle, 3 * width // 4]
    assert np.abs(greys.astype(int) - np.array(left)[:, None]).max() <= 3
    assert np.abs(colours.astype(int) - right).max() <= 3


# --- messages beside the pixels --------------------------------------------------------------


def remuxed(data: bytes, container: str, change: Callable[[bytes], bytes]) -> bytes:
    """The same packets in another file, each changed; of MP4 they begin with their lengths."""
    stream = io.BytesIO()
    with av.open(io.BytesIO(data), "r") as source, av.open(stream, "w", format=container) as file:
        video = source.streams.video[0]
        copy = file.add_stream_from_template(video)
        for packet in source.demux(video):
            if packet.size:
                changed: Any = av.Packet(change(bytes(packet)))
                changed.pts, changed.dts, changed.duration = (
                    packet.pts,
                    packet.dts,
                    packet.duration,
                )
                changed.time_base, changed.is_keyframe = packet.time_base, packet.is_keyframe
                changed.stream = copy
                file.mux(changed)
    return stream.getvalue()


@cache
def source_of(codec: str) -> bytes:
    own = {"libx264": {"bf": "2", "g": "12"}, "libx265": {"x265-params": X265}}[codec]
    return encode("mp4", codec, own, pictures=[picture(number) for number in range(24)])


X265 = "log-level=none:keyint=12:bframes=2"
HEADS = {"libx264": b"\x06", "libx265": b"\x4e\x01"}  # of a unit of messages in front of a frame
#: Type, length and what follows of a message.
MESSAGES = {
    "cut": b"\x05\xff\x10abc",
    "cut-length": b"\x05\xff\xff\xff",
    "without-length": b"\xff\xff",
    "of-nothing": b"\x05\x00",
    "captions-cut": b"\x04\x0a\xb5\x00\x31GA94",
    "of-unknown-headers": b"\x00\x04\xff\xff\xff\x80\x80",
    "turn-cut": b"\x2f\x20\x7f",
}


@pytest.mark.parametrize("state", MESSAGES)
@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
@pytest.mark.parametrize("codec", HEADS)
def test_broken_messages_beside_the_pixels_change_nothing(
    codec: str, container: str, state: str
) -> None:
    """SEI in front of every frame, with lengths or start codes: frames are as without it."""
    unit = HEADS[codec] + MESSAGES[state]
    data = source_of(codec)
    whole = remuxed(data, container, lambda packet: packet)
    messy = remuxed(data, container, lambda packet: struct.pack(">I", len(unit)) + unit + packet)
    np.testing.assert_array_equal(shown(messy, 7), shown(whole, 7))


def test_broken_messages_do_not_hide_damage_in_the_pixels() -> None:
    """With the messages taken out, what is wrong with the frames is found as ever."""
    unit = HEADS["libx264"] + MESSAGES["cut"]
    options = {"g": "12", "x264-params": "cabac=0:mbtree=0"}
    data = encode("mp4", "libx264", options, pictures=[picture(number) for number in range(24)])

    def spoil(packet: bytes) -> bytes:
        end = len(packet) // 4
        return struct.pack(">I", len(unit)) + unit + packet[:-end] + b"\xff" * end

    with pytest.raises(BrokenMedia, match="damaged|corrupt"):
        shown(remuxed(data, "mp4", spoil), 6)


def test_packets_of_nothing_but_messages_are_refused() -> None:
    """A packet that has lost its frame is not passed over."""
    unit = struct.pack(">I", 7) + HEADS["libx264"] + MESSAGES["cut"]
    count = iter(range(100))
    lost = remuxed(
        source_of("libx264"), "mp4", lambda packet: unit if next(count) == 5 else unit + packet
    )
    with pytest.raises(BrokenMedia, match="packets without a frame"):
        shown(lost, 24)


def test_broken_messages_in_the_header_of_hevc_change_nothing() -> None:
    """x265 writes its settings there, in thousands of bytes; a muxer may cut them off."""
    data = source_of("libx265")
    settings = data.index(b"\x4e\x01\x05\xff", data.index(b"hvcC"))
    end = data.index(b"\x03", settings)  # of the length, which is a sum
    broken = bytearray(data)
    broken[end] = 0xFF  # of more than there is
    np.testing.assert_array_equal(shown(bytes(broken), 7), shown(data, 7))


def test_field_clip_with_cut_messages_shows_its_frames(field_dir: Path) -> None:
    """Frame by frame what a lenient decoder gives."""
    data = field(field_dir, "clip_h264_sei_cut.mp4")
    expected = np.stack([stretched(rgb, 48, 64) for _, rgb in linear(data)])
    pixels = read(data, STRETCH, [(20, 48, 64)], 1).pixels[0]
    np.testing.assert_array_equal(pixels, expected)
    assert_halves(pixels, LEFT)


# --- display matrices ------------------------------------------------------------------------

ONE = 1 << 16
#: a, b, c, d -> what is done with the stored picture, [h, w, 3].
MATRICES: dict[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]] = {
    (0, 0, 0, 0): lambda stored: stored,
    (ONE, 3, -5, ONE - 1): lambda stored: stored,
    (ONE, 900, -900, ONE): lambda stored: stored,  # less than a degree
    (2, ONE, -ONE, -3): lambda stored: np.rot90(stored, -1),
    (-1, -ONE + 1, ONE - 2, 0): lambda stored: np.rot90(stored, 1),
    (-ONE, 6, 9, -ONE - 1): lambda stored: stored[::-1, ::-1],
    (-ONE, 1, 1, ONE): lambda stored: stored[:, ::-1],
    (1, ONE, ONE, -1): lambda stored: stored.swapaxes(0, 1),
}


def with_matrix(data: bytes, matrix: tuple[int, int, int, int], last: int = 1 << 30) -> bytes:
    """An MP4 whose track is shown through a matrix: a, b, 0, c, d, 0, 0, 0, w."""
    a, b, c, d = matrix
    numbers = (a, b, 0, c, d, 0, 0, 0, last if any(matrix) else 0)
    place = data.index(b"tkhd") + 44
    return data[:place] + struct.pack(">9i", *numbers) + data[place + 36 :]


@cache
def plain() -> bytes:
    return encode("mp4", "libx264", {"qp": "0"}, pictures=[picture(5)], pixel_format="yuv444p")


@pytest.mark.parametrize("matrix", MATRICES)
def test_matrix_of_zeros_or_of_rounded_quarters_is_read(
    matrix: tuple[int, int, int, int],
) -> None:
    """One that nobody filled in turns nothing; one that is nearly a quarter turn is one."""
    expected = MATRICES[matrix](shown(plain(), 1)[0])
    height, width = expected.shape[:2]
    turned = read(with_matrix(plain(), matrix), STRETCH, [(1, height, width)], 1).pixels[0, 0]
    np.testing.assert_array_equal(turned, expected)


@pytest.mark.parametrize(
    "matrix",
    [(46341, 46341, -46341, 46341), (ONE, 3000, -3000, ONE), (ONE, 0, 0, 0), (ONE, ONE, 0, ONE)],
    ids=["eighth", "three-degrees", "flat", "shear"],
)
def test_other_matrices_are_refused(matrix: tuple[int, int, int, int]) -> None:
    """Degrees that show have no right rectangle."""
    with pytest.raises(UnsupportedMedia, match="turned by quarters"):
        shown(with_matrix(plain(), matrix), 1)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_turn_of_a_matroska_projection_is_read(degrees: int) -> None:
    """There a turn is a roll in degrees, of which FFmpeg makes a matrix."""

    def turn(stream: Any) -> None:
        stream.set_display_rotation(degrees)

    options: dict[str, Any] = {"pictures": [picture(5)], "pixel_format": "yuv444p"}
    data = encode("matroska", "libx264", {"qp": "0"}, prepare=turn, **options)
    with av.open(io.BytesIO(data), "r") as file:
        if abs(next(file.decode(video=0)).rotation) != min(degrees, 360 - degrees):
            pytest.skip("this FFmpeg writes no projection")
    expected = np.rot90(shown(plain(), 1)[0], degrees // 90)
    turned = read(data, STRETCH, [(1, *expected.shape[:2])], 1).pixels[0, 0]
    np.testing.assert_array_equal(turned, expected)


def test_field_matrix_of_zeros_turns_nothing(field_dir: Path) -> None:
    """All frames, as they are stored."""
    data = field(field_dir, "clip_matrix_zero.mp4")
    assert_halves(read(data, STRETCH, [(20, 48, 64)], 1).pixels[0], LEFT)


# --- aspect ----------------------------------------------------------------------------------


def told_by_codec(container: str, codec: str, aspect: Fraction) -> bytes:
    """A clip whose container says nothing of its pixels' aspect, or says that it knows none."""

    def squeeze(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = aspect

    own = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    data = encode(
        container, codec, own, pictures=[picture(number) for number in range(6)], prepare=squeeze
    )
    if container in ("mp4", "mov"):  # a box, and the size of the track
        place = data.index(b"tkhd") + 80
        data = data[:place] + struct.pack(">2I", WIDTH << 16, HEIGHT << 16) + data[place + 8 :]
        data = data.replace(b"pasp", b"free")
    return data.replace(b"vprp", b"JUNK") if container == "avi" else data


@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(3, 4)])
@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "libx264"), ("mp4", "libx265"), ("mp4", "mpeg4"), ("mpegts", "libx264")]
    + [("mpegts", "libx265"), ("avi", "mpeg4"), ("avi", "libx264")],
)
def test_aspect_that_only_the_codec_tells_counts(
    container: str, codec: str, aspect: Fraction
) -> None:
    """Pixels become square: a wide frame, cropped at its centre, keeps less of its width."""
    data = told_by_codec(container, codec, aspect)
    with open_clip(data) as clip:
        assert clip.pixel_aspect == aspect
    wide = round(WIDTH * aspect) if aspect > 1 else WIDTH
    high = HEIGHT if aspect > 1 else round(HEIGHT / aspect)
    whole = read(data, STRETCH, [(1, high, wide)], 1).pixels[0, 0]
    crop = InputSpec(modality="video", video=VideoSpec())
    side = min(high, wide)
    cropped = read(data, crop, [(1, side, side)], 1).pixels[0, 0]
    top, left = (high - side) // 2, (wide - side) // 2
    expected = whole[top : top + side, left : left + side].astype(int)
    assert np.abs(cropped - expected).mean() < 3
    assert np.abs(shown(data, 1)[0].astype(int) - picture(3)).mean() < 20


@pytest.mark.parametrize("container", ["mpegts", "mpeg"])
def test_aspect_in_the_headers_of_mpeg_2_counts(container: str) -> None:
    """A frame of 720x576 that is shown as 16:9 has pixels of 64:45."""

    def widescreen(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(64, 45)

    blank = np.zeros((576, 720, 3), np.uint8)
    with open_clip(encode(container, "mpeg2video", pictures=[blank], prepare=widescreen)) as clip:
        assert clip.pixel_aspect == Fraction(64, 45)


def test_aspect_of_the_container_wins_where_it_says_one() -> None:
    """As FFmpeg has it (av_guess_sample_aspect_ratio): here squares, against the codec's 2:1."""

    def squeeze(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(2)

    data = encode("mp4", "libx264", pictures=[picture(1)], prepare=squeeze)
    place = data.index(b"pasp") + 4
    with open_clip(data[:place] + struct.pack(">2I", 1, 1) + data[place + 8 :]) as clip:
        assert clip.pixel_aspect == 1


def test_damaged_first_frame_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is only asked for its aspect; where it is not needed, nobody minds what is wrong there."""
    options = {"g": "8", "bf": "0", "sc_threshold": "0", "x264-params": "mbtree=0:cabac=0"}
    data = encode("mp4", "libx264", options)
    first = data.index(b"mdat") + 4
    spoilt = data[: first + 900] + b"\xff" * 60 + data[first + 960 :]
    with pytest.raises(BrokenMedia):
        shown(spoilt, 48)
    np.testing.assert_array_equal(shown(spoilt, 1), shown(data, 1))


def test_field_aspect_in_the_codec_alone_is_read(field_dir: Path) -> None:
    """64x48 pixels of 2:1 are shown as 128x48."""
    data = field(field_dir, "clip_aspect_in_sps_only.mp4")
    with open_clip(data) as clip:
        assert clip.pixel_aspect == 2
    crop = InputSpec(modality="video", video=VideoSpec())
    assert_halves(read(data, STRETCH, [(20, 48, 128)], 1).pixels[0], LEFT)
    square = read(data, crop, [(20, 48, 48)], 1).pixels[0]  # the middle 24 of 64 stored columns
    assert_halves(square, LEFT)


# --- clocks that start again or jump ---------------------------------------------------------

BROADCASTS = {
    "h264.ts": ("mpegts", "libx264", {"g": "6", "bf": "2"}),
    "hevc.ts": ("mpegts", "libx265", {"x265-params": "keyint=6:bframes=2:log-level=none"}),
    "mpeg2.ts": ("mpegts", "mpeg2video", {"g": "6", "bf": "2"}),
    "mpeg2.mpg": ("mpeg", "mpeg2video", {"g": "6", "bf": "2"}),
    "mpeg1.mpg": ("mpeg", "mpeg1video", {"g": "6", "bf": "2"}),
    "mpeg2_plain.mpg": ("mpeg", "mpeg2video", {"g": "6", "bf": "0"}),
}


def rate_of(kind: str) -> int:
    return RATE if BROADCASTS[kind][1].startswith("lib") else 25


@cache
def broadcast(kind: str, first: int, last: int, begins: float = 0, muxer: str = "") -> bytes:
    """Frames ``first`` up to ``last``, on a clock that is at ``begins`` seconds then."""
    container, codec, options = BROADCASTS[kind]
    stream = io.BytesIO()
    own = dict(part.split("=") for part in muxer.split())
    with av.open(stream, "w", format=container, container_options=own) as file:
        video: Any = file.add_stream(codec, rate=rate_of(kind), options=options)
        video.height, video.width, video.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        video.codec_context.thread_count = 1
        for number in range(first, last):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame = frame.reformat(format="yuv420p", interpolation=EXACT)
            frame.pts = round(begins * rate_of(kind)) + number - first
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
    return stream.getvalue()


def assert_all_seen(data: bytes, kind: str, frames: int = 24) -> None:
    """All frames, each once, in order, as long as the others, as each part alone shows them."""
    with open_clip(data) as clip:
        assert len(clip.starts) == frames
        assert float(clip.duration) == pytest.approx(frames / rate_of(kind), abs=0.002)
    sample = read(data, STRETCH, [(frames, *SIZE)], 1)
    assert [number_of(frame) for frame in sample.pixels[0]] == list(range(frames))
    expected = [number / rate_of(kind) for number in range(frames)]
    assert sample.evidence["seconds"][0] == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize("middle", [10, 11, 12, 13])
@pytest.mark.parametrize("kind", BROADCASTS)
def test_broadcasts_that_are_joined_are_seen_whole(kind: str, middle: int) -> None:
    """The second begins again at 0; wherever the first ends, between the key frames too."""
    one, other = broadcast(kind, 0, middle), broadcast(kind, middle, 24)
    assert_all_seen(one + other, kind)
    joined = shown(one + other, 24)
    np.testing.assert_array_equal(joined[:middle], shown(one, middle))
    np.testing.assert_array_equal(joined[middle:], shown(other, 24 - middle))


@pytest.mark.parametrize("kind", BROADCASTS)
def test_any_number_of_broadcasts_may_be_joined(kind: str) -> None:
    """Also some of a single frame."""
    parts = [(0, 9), (9, 10), (10, 17), (17, 24)]
    assert_all_seen(b"".join(broadcast(kind, *part) for part in parts), kind)


@pytest.mark.parametrize("begins", [(3000, 0), (0, 3000), (20_000, 20_500), (95_000, 10)])
@pytest.mark.parametrize("kind", BROADCASTS)
def test_clock_may_jump_however_far(kind: str, begins: tuple[int, int]) -> None:
    """Back or on, for longer than a clip may last: what is behind the seam follows at once."""
    one, other = broadcast(kind, 0, 12, begins[0]), broadcast(kind, 12, 24, begins[1])
    assert_all_seen(one + other, kind)


@pytest.mark.parametrize("kind", BROADCASTS)
def test_clock_of_33_bits_may_run_over(kind: str) -> None:
    """It begins anew every 26.5 hours, in the middle of a clip too."""
    assert_all_seen(broadcast(kind, 0, 24, 2**33 / 90_000 - 1.9), kind)


@pytest.mark.parametrize("kind", ["h264.ts", "hevc.ts", "mpeg2.ts"])
def test_pieces_whose_clock_goes_on_may_be_joined(kind: str) -> None:
    """As HLS has them: only their packets count anew, which is no damage."""
    again = broadcast(kind, 12, 24, 12 / rate_of(kind))
    assert_all_seen(broadcast(kind, 0, 12) + again, kind)


@pytest.mark.parametrize("later", [0.15, 0.5, 2, 6, 9.8, 10.5])
@pytest.mark.parametrize("kind", ["h264.ts", "hevc.ts", "mpeg2.ts"])
def test_clock_of_what_is_joined_may_be_a_little_later(kind: str, later: float) -> None:
    """A new stream begins there, and its counters: nothing is lost, however long the pause."""
    begins = 5 + 12 / rate_of(kind) + later
    assert_all_seen(broadcast(kind, 0, 12, 5) + broadcast(kind, 12, 24, begins), kind)


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("kind", ["h264.ts", "mpeg2.ts"])
def test_frames_that_are_lost_up_to_a_key_frame_are_still_damage(kind: str, lost: int) -> None:
    """With the tables between them: counters that go on from anywhere are no new stream."""
    data = broadcast(kind, 0, 24)
    tables = [place for place in range(0, len(data), 188) if data[place : place + 3] == b"G@\0"]
    begin = next(place for place in tables if place > len(data) // 4)
    end = tables[tables.index(begin) + lost]
    with pytest.raises(BrokenMedia, match="damaged frames, or lacks some"):
        shown(data[: begin - 188] + data[end:], 24 - 6 * lost)


def test_clock_may_jump_between_key_frames() -> None:
    """Frames go on as if nothing had happened: no part is cut off before a frame of its own."""
    data = bytearray(broadcast("h264.ts", 0, 24))
    packets = [place for place in range(0, len(data), 188) if data[place + 1] & 0x40]
    frames = [place for place in packets if (data[place + 1] & 31, data[place + 2]) == (1, 0)]
    for place in frames[15:]:  # of 6 frames each, so this one is no key frame
        start = place + 4 + (1 + data[place + 4] if data[place + 3] & 0x20 else 0)
        both = data[start + 7] >> 6 == 3
        for stamp in (start + 9, start + 14) if both else (start + 9,):
            put_stamp(data, stamp, get_stamp(data, stamp) + 100 * 90_000)
    assert_all_seen(bytes(data), "h264.ts")


def get_stamp(data: bytearray, place: int) -> int:
    """33 bits in five bytes, three of which end in a bit that is set."""
    high, low, lowest = data[place] >> 1 & 7, *struct.unpack_from(">HH", data, place + 1)
    return int(high) << 30 | (low >> 1) << 15 | lowest >> 1


def put_stamp(data: bytearray, place: int, stamp: int) -> None:
    data[place] = data[place] & 0xF1 | stamp >> 30 << 1
    words = (stamp >> 15 & 0x7FFF) << 1 | 1, (stamp & 0x7FFF) << 1 | 1
    struct.pack_into(">HH", data, place + 1, *words)


def test_joined_broadcasts_of_other_sizes_are_seen_whole() -> None:
    """Each frame is shaped on its own."""
    small = broadcast("h264.ts", 0, 12)
    large = encode("mpegts", "libx264", pictures=[picture(number, 120) for number in range(12, 24)])
    assert numbers(small + large, 24)[:12] == list(range(12))
    expected = [stretched(rgb, *SIZE) for _, rgb in linear(large)]
    np.testing.assert_array_equal(shown(small + large, 24)[12:], np.stack(expected))


def test_joined_broadcasts_are_bound_together() -> None:
    """Sixty seconds are the limit of all parts."""
    part = encode(
        "mpegts", "mpeg2video", {"g": "12"}, pictures=[picture(0)] * 12, time_base=Fraction(1, 12)
    )
    with open_clip(part) as clip:
        seconds = float(clip.duration)
    with open_clip(part * int(60 / seconds)) as clip:
        assert 59 < clip.duration <= 60
    with pytest.raises(MediaTooLarge, match="at most 60 seconds"):
        shown(part * (int(60 / seconds) + 1), 2)


@pytest.mark.parametrize(
    "muxer", ["mpegts_start_pid=512", "mpegts_start_pid=512 mpegts_pmt_start_pid=4352"]
)
def test_video_that_goes_on_under_another_number_is_refused(muxer: str) -> None:
    """Which of the two would be seen? The reason says so; half of it is never seen in silence."""
    other = broadcast("h264.ts", 12, 24, 0, muxer)
    with pytest.raises(UnsupportedMedia, match="one ends, and another begins in its place"):
        shown(broadcast("h264.ts", 0, 12) + other, 24)


@pytest.mark.parametrize(
    ("first", "second"), list(permutations(["h264.ts", "hevc.ts", "mpeg2.ts"], 2))
)
@pytest.mark.parametrize("muxer", ["", "mpegts_m2ts_mode=1", "mpegts_pmt_start_pid=4352"])
def test_joined_broadcasts_of_two_codecs_are_refused_by_name(
    first: str, second: str, muxer: str
) -> None:
    """Under one number, which has one decoder: no frame is damaged, and that is not said."""
    names = {"h264.ts": "h264", "hevc.ts": "hevc", "mpeg2.ts": "mpeg2video"}
    one, other = broadcast(first, 0, 12, 0, muxer), broadcast(second, 12, 24, 0, muxer)
    with pytest.raises(UnsupportedMedia, match=f"{names[first]} changes to {names[second]}"):
        shown(one + other, 24)


def test_damaged_table_of_streams_declares_no_codec() -> None:
    """Its checksum is wrong: it is passed over, as FFmpeg does, and all frames are shown."""
    data = bytearray(broadcast("h264.ts", 0, 24))
    table = data.rindex(b"G\x50\0")
    stream = data.index(b"\x1b\xe1\0", table, table + 188)
    data[stream] = 2  # MPEG-2
    assert_all_seen(bytes(data), "h264.ts")


def test_lost_packets_are_still_damage() -> None:
    """Inside a part nothing is forgiven: a packet of 188 bytes that is missing is noticed."""
    data = broadcast("mpeg2.ts", 0, 12)
    refused = 0
    for place in range(4 * 188, len(data), 188):
        try:
            pixels = shown(data[:place] + data[place + 188 :] + broadcast("mpeg2.ts", 12, 24), 24)
        except BrokenMedia:
            refused += 1
        else:
            ids = data[place + 1] & 31, data[place + 2]
            whole = shown(data + broadcast("mpeg2.ts", 12, 24), 24)
            assert ids != (1, 0) or (pixels == whole).all()
    assert refused > 20


@pytest.mark.parametrize("container", ["webm", "matroska"])
def test_joined_matroska_is_seen_whole(container: str) -> None:
    """Recorders of browsers begin anew, and what they write is put together so."""
    codec = "libvpx" if container == "webm" else "libx264"
    parts = [
        encode(container, codec, pictures=[picture(number) for number in part])
        for part in (range(12), range(12, 24))
    ]
    assert numbers(b"".join(parts), 24) == list(range(24))


def test_joined_mp4_is_refused() -> None:
    """Every player shows the first movie alone; so it is said."""
    with pytest.raises(UnsupportedMedia, match="several were joined"):
        shown(plain() + plain(), 2)


FRAGMENTS = {
    "by-ffmpeg": "frag_keyframe+empty_moov",
    "to-be-joined": "frag_keyframe+empty_moov+default_base_moof",
    "frames-in-the-movie": "frag_keyframe+default_base_moof",
    "dash": "frag_keyframe+empty_moov+default_base_moof+dash",
    "one-frame-each": "frag_every_frame+empty_moov+default_base_moof",
}


@cache
def fragmented(flags: str, first: int, last: int) -> bytes:
    """An MP4 whose frames are told of by a table (moof) in front of each few of them."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4", options={"movflags": flags}) as file:
        video: Any = file.add_stream("libx264", rate=RATE, options={"g": "5"})
        video.height, video.width, video.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for number in range(first, last):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame = frame.reformat(format="yuv420p", interpolation=EXACT)
            frame.pts = number - first
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
    return stream.getvalue()


def boxes(data: bytes) -> list[bytes]:
    place, found = 0, []
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        found.append(data[place : place + size])
        place += size
    return found


@pytest.mark.parametrize("flags", FRAGMENTS.values(), ids=FRAGMENTS)
def test_joined_mp4_in_fragments_is_refused(flags: str) -> None:
    """Two of them, or one and a plain one: frames of the second would be lost in silence."""
    first, second = fragmented(flags, 0, 12), fragmented(flags, 12, 24)
    for joined in (first + second, first + first, first + plain(), plain() + first):
        with pytest.raises(UnsupportedMedia, match="several were joined"):
            shown(joined, 12)


@pytest.mark.parametrize("flags", FRAGMENTS.values(), ids=FRAGMENTS)
def test_mp4_in_fragments_is_seen_whole(flags: str) -> None:
    """Also behind a type or a message of its own in front of each."""
    data = fragmented(flags, 0, 24)
    assert numbers(data, 24) == list(range(24))
    if "default_base_moof" in flags:  # others count bytes from the beginning of the file
        beside = struct.pack(">I4s8xI4s4x", 16, b"styp", 12, b"emsg")
        own = [beside * (box[4:8] == b"moof") + box for box in boxes(data)]
        assert numbers(b"".join(own), 24) == list(range(24))


def test_mp4_in_fragments_may_say_its_movie_again() -> None:
    """As players store it: what is told of the movie is the same, and its fragments go on."""
    data = boxes(fragmented(FRAGMENTS["to-be-joined"], 0, 24))
    middle = [place for place, box in enumerate(data) if box[4:8] == b"moof"][2]
    assert numbers(b"".join(data[:middle] + data[:2] + data[middle:]), 24) == list(range(24))


def test_boxes_of_an_mp4_are_bounded() -> None:
    """Millions of empty ones are refused before any is looked into."""
    with pytest.raises(MediaTooLarge, match="at most 400000 boxes"):
        shown(plain() + b"\0\0\0\x08free" * 400_000, 1)


@pytest.mark.parametrize(("name", "seconds"), [("clip_joined.mpg", 4.0), ("clip_joined.ts", 4.0)])
def test_field_joined_clips_are_seen_whole(field_dir: Path, name: str, seconds: float) -> None:
    """Both halves, the second of which shows 255 less everything."""
    data = field(field_dir, name)
    with open_clip(data) as clip:
        assert float(clip.duration) == pytest.approx(seconds)
    pixels = read(data, STRETCH, [(40, 48, 64)], 1).pixels[0]
    assert_halves(pixels[:20], LEFT)
    assert_halves(pixels[20:], [255 - level for level in LEFT], (55, 195, 225))


# --- alpha -----------------------------------------------------------------------------------

GREEN = (10, 200, 90)
ALPHA = InputSpec(modality="video", fit="stretch", video=VideoSpec(), background=GREEN)


@cache
def clear_clip(container: str, codec: str) -> bytes:
    """24 frames with their numbers; the lower half is red under an alpha that rises with them."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as file:
        options = {"g": "6", "auto-alt-ref": "0", "crf": "4", "b": "4M"}
        video: Any = file.add_stream(codec, rate=RATE, options=options)
        video.height, video.width, video.pix_fmt = HEIGHT, WIDTH, "yuva420p"
        video.codec_context.thread_count = 1
        for number in range(24):
            rgba = np.dstack([picture(number), np.full(SIZE, 255, np.uint8)])
            rgba[HEIGHT // 2 :] = (250, 20, 30, 10 * number)
            frame = av.VideoFrame.from_ndarray(rgba, format="rgba")
            frame = frame.reformat(format="yuva420p", interpolation=EXACT)
            frame.pts = number
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
    return stream.getvalue()


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
@pytest.mark.parametrize("container", ["webm", "matroska"])
@pytest.mark.parametrize(("frames", "views"), [(24, 1), (5, 1), (4, 3)])
def test_alpha_is_blended_onto_the_background(
    container: str, codec: str, frames: int, views: int
) -> None:
    """Of every frame that is looked at its own alpha, in every view."""
    sample = read(clear_clip(container, codec), ALPHA, [(frames, *SIZE)], views)
    for view, seconds in zip(sample.pixels, sample.evidence["seconds"], strict=True):
        for pixels, second in zip(view, seconds, strict=True):
            number = round(second * RATE)
            assert number_of(pixels) == number
            share = 10 * number / 255
            expected = share * np.array([250, 20, 30]) + (1 - share) * np.array(GREEN)
            assert np.abs(pixels[HEIGHT * 3 // 4, 5:-5] - expected).max() <= 6


def test_colours_under_clear_pixels_do_not_spread_where_pixels_become_square() -> None:
    """Wide pixels are stretched as much as their alpha lets them be seen."""
    rgba = np.full((8, 12, 4), (0, 0, 255, 255), np.uint8)
    rgba[:, 6:] = (255, 0, 0, 0)  # clear, with red underneath
    frame = av.VideoFrame.from_ndarray(rgba, format="rgba")
    wide = Painter(Fraction(3)).picture(frame)
    assert wide.shape == (8, 36, 4)
    blue = InputSpec(background=(0, 0, 255))
    assert (image.prepare(wide, blue, (8, 36)) == (0, 0, 255)).all()


def additions_renamed(data: bytes) -> bytes:
    """The second pictures of a WebM declared as something else: BlockAddID 1 becomes 4."""
    return data.replace(b"\xee\x81\x01", b"\xee\x81\x04")


def test_what_is_added_to_packets_and_is_no_alpha_changes_nothing() -> None:
    """Only number 1 is alpha; without it the decoder is that of every other clip."""
    data = clear_clip("webm", "libvpx-vp9")
    other = additions_renamed(data)
    assert other != data
    with open_clip(other) as clip:
        assert (clip.alpha, clip.decoder.name) == (False, "vp9")
    frames = [stretched(rgb, *SIZE) for _, rgb in linear(data)]
    seen = np.stack([frames[number] for number in (2, 7, 12, 16, 21)])
    np.testing.assert_array_equal(shown(other, 5), seen)


def test_alpha_of_some_frames_alone_is_refused() -> None:
    """Whether the others are opaque or broken, nobody knows."""
    data = clear_clip("webm", "libvpx-vp9")
    place = data.rindex(b"\xee\x81\x01")
    with pytest.raises(UnsupportedMedia, match="alpha with every frame or with none"):
        shown(data[:place] + b"\xee\x81\x04" + data[place + 3 :], 5)


def test_field_alpha_shows_the_background(field_dir: Path) -> None:
    """The right half is clear in every frame."""
    data = field(field_dir, "clip_vp9_alpha.webm")
    assert_halves(read(data, STRETCH, [(20, 48, 64)], 1).pixels[0], LEFT, (255, 255, 255))


# --- M2TS ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["h264.ts", "hevc.ts", "mpeg2.ts"])
def test_m2ts_is_read_like_ts(kind: str) -> None:
    """Packets of 192 bytes, as camcorders and Blu-ray have them, hold what those of 188 do."""
    data = broadcast(kind, 0, 24, 0, "mpegts_m2ts_mode=1")
    assert (len(data) % 192, data[:1] == b"G", data[4:5]) == (0, False, b"G")
    bare = b"".join(data[place + 4 : place + 192] for place in range(0, len(data), 192))
    np.testing.assert_array_equal(shown(data, 24), shown(bare, 24))
    again = broadcast(kind, 12, 24, 0, "mpegts_m2ts_mode=1")
    assert_all_seen(broadcast(kind, 0, 12, 0, "mpegts_m2ts_mode=1") + again, kind)
