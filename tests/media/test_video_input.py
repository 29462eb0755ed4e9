"""Clips: which frames are seen, and how many are decoded for them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest

from media.clips.clip_decode import Decoded
from media.clips.clip_file import open_clip
from media.clips.clip_times import view_times
from media.clips.video import read, read_clip
from media.errors import BrokenMedia, MediaTooLarge, UnsupportedMedia
from media.sample import Sample
from media.spec import InputSpec, VideoSpec
from tests.helpers.clip_files import (
    HEIGHT,
    KINDS,
    RATE,
    WIDTH,
    clip_of,
    encode,
    linear,
    number_of,
    picture,
    stretched,
)

STRETCH = InputSpec(modality="video", fit="stretch", video=VideoSpec())
SIZE = (HEIGHT, WIDTH)
SECOND = Fraction(1)


def seen(data: bytes, frames: int, views: int = 1, spec: InputSpec = STRETCH) -> Sample:
    return read(data, spec, [(frames, *SIZE)], views)


def counted(data: bytes, frames: int) -> tuple[Decoded, int]:
    """What reading took, and how many packets there are."""
    with open_clip(data) as clip:
        return read_clip(clip, STRETCH, [(frames, *SIZE)], 1)[1], len(clip.packets)


def numbers(sample: Sample) -> list[list[int]]:
    return [[number_of(frame) for frame in view] for view in sample.pixels]


def with_stride(stride: float) -> InputSpec:
    return InputSpec(modality="video", fit="stretch", video=VideoSpec(stride=stride))


# --- which frames ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_those_of_a_decoder_that_reads_everything(name: str) -> None:
    """For every type and codec: at each moment the last frame that has begun, to the pixel."""
    data, frames, views = clip_of(name), 7, 2
    everything = linear(data)
    assert len(everything) == 48
    duration = everything[-1][0] + everything[1][0]
    sample = seen(data, frames, views)
    for view in range(views):
        for frame in range(frames):
            moment = (frame + Fraction(2 * view + 1, 2 * views)) * duration / frames
            start, rgb = [one for one in everything if one[0] <= moment][-1]
            assert sample.evidence["seconds"][view][frame] == pytest.approx(float(start), abs=1e-6)
            np.testing.assert_array_equal(sample.pixels[view, frame], stretched(rgb, *SIZE))


@pytest.mark.parametrize("name", KINDS)
def test_frames_show_their_numbers(name: str) -> None:
    """What a frame shows fits the time that is reported for it: 48 frames, of equal length."""
    sample = seen(clip_of(name), 16)
    assert numbers(sample) == [[1 + 3 * part for part in range(16)]]
    length = 1 / 25 if "mpeg1" in name or "mpeg2" in name else 1 / RATE
    expected = [(1 + 3 * part) * length for part in range(16)]
    assert sample.evidence["seconds"][0] == pytest.approx(expected, abs=0.006)  # GIF: hundredths


def test_views_take_turns_in_every_part() -> None:
    """Three views of four frames look at twelve equal parts of the clip, each at every third."""
    assert numbers(seen(clip_of("h264.mp4"), 4, views=3)) == [
        [2, 14, 26, 38],
        [6, 18, 30, 42],
        [10, 22, 34, 46],
    ]


def test_moment_on_the_edge_belongs_to_the_frame_that_begins() -> None:
    """Moments are exact: one that falls on the start of a frame does not fall before it."""
    for frames in (8, 24):  # moments after 3, 9, ... frames; after 1, 3, ... frames
        half = 48 // frames // 2
        expected = [half + 48 // frames * part for part in range(frames)]
        assert numbers(seen(clip_of("h264.mp4"), frames)) == [expected]


def test_time_counts_and_not_the_number_of_a_frame() -> None:
    """Where a frame is held for long, it is seen more often."""
    times = [0, 10, 20, 30, 100, 700, 710, 720, 730, 740]  # hundredths of a second
    data = encode(
        "matroska",
        "libx264",
        pictures=[picture(number) for number in range(len(times))],
        times=times,
        time_base=Fraction(1, 100),
    )
    sample = seen(data, 10)
    with open_clip(data) as clip:
        moments = view_times(clip.duration, 0, 10, 1)[0]
    expected = [sum(time <= 100 * moment for time in times) - 1 for moment in moments]
    assert numbers(sample) == [expected]
    assert (expected[0], expected.count(4)) == (3, 8)
    assert sample.evidence["seconds"][0] == [times[number] / 100 for number in expected]


def test_stride_is_in_seconds() -> None:
    """A window of 5 frames, a quarter of a second apart, lies in the middle of four seconds."""
    sample = seen(clip_of("h264.mp4"), 5, spec=with_stride(0.25))
    assert numbers(sample) == [[18, 21, 24, 27, 30]]


def test_windows_are_spread_over_the_clip() -> None:
    """Two windows of a second lie in the middles of two halves of the room that they have."""
    sample = seen(clip_of("h264.mp4"), 5, views=2, spec=with_stride(0.25))
    assert numbers(sample) == [[9, 12, 15, 18, 21], [27, 30, 33, 36, 39]]


def test_window_longer_than_the_clip_repeats_its_ends() -> None:
    """Moments before the clip are its first, moments after it its last."""
    sample = seen(clip_of("h264.mp4"), 7, spec=with_stride(1.0))
    assert numbers(sample) == [[0, 0, 12, 24, 36, 47, 47]]


def test_decimal_strides_do_not_lose_a_frame_to_rounding() -> None:
    """0.7 s is a little less than seven tenths to a computer, and frame 7 begins then."""
    moments = view_times(Fraction(7), 0.7, 11, 1)[0]
    assert moments == [Fraction(7 * step, 10) for step in range(11)]


def test_more_moments_than_the_limit_are_refused() -> None:
    """Sixty-four frames over all views, however they are divided."""
    assert len(view_times(SECOND, 0, 32, 2)) == 2
    with pytest.raises(MediaTooLarge, match="no more than 64 moments; 5 times 13"):
        view_times(SECOND, 0, 13, 5)


def test_one_frame_repeats() -> None:
    """A clip of one frame, and of no length, shows it at every moment."""
    for container, codec in (("mp4", "libx264"), ("gif", "gif"), ("matroska", "mjpeg")):
        data = encode(container, codec, pictures=[picture(37)])
        sample = seen(data, 3, views=2)
        assert numbers(sample) == [[37] * 3] * 2
        assert sample.evidence["seconds"] == [[0.0] * 3] * 2


def test_decoded_frames_are_chosen_by_number() -> None:
    """An array has no times: its frames are taken as if all lasted equally long."""
    frames = np.stack([picture(number) for number in range(20)])  # [20, h, w, 3]
    sample = read(frames, STRETCH, [(5, *SIZE)], 2)
    assert sample.evidence["seconds"] is None
    assert numbers(sample) == [[1, 5, 9, 13, 17], [3, 7, 11, 15, 19]]
    np.testing.assert_array_equal(sample.pixels[1, 2], picture(11))
    for grey in (frames[..., 0], frames[..., :1]):
        sample = read(grey, STRETCH, [(5, *SIZE)], 1)
        np.testing.assert_array_equal(sample.pixels[0, 1, :, :, 2], picture(6)[:, :, 0])


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((4, 5, 6), np.uint16), r"got uint16 \[4, 5, 6\]"),
        (np.zeros((5, 6), np.uint8), r"got uint8 \[5, 6\]"),
        (np.zeros((0, 5, 6), np.uint8), r"got uint8 \[0, 5, 6\]"),
        (np.zeros((4, 5, 6, 2), np.uint8), r"got uint8 \[5, 6, 2\]"),
    ],
)
def test_arrays_that_are_no_clip_are_refused(array: np.ndarray, says: str) -> None:
    """The message says what was expected and what came."""
    with pytest.raises(BrokenMedia, match=says):
        read(array, STRETCH, [(2, *SIZE)], 1)


def test_array_with_a_stride_is_refused() -> None:
    """Seconds mean nothing where there are no times."""
    with pytest.raises(UnsupportedMedia, match="stride in seconds needs a file with times"):
        read(np.zeros((4, 5, 6), np.uint8), with_stride(0.5), [(2, *SIZE)], 1)


# --- how much is decoded ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mjpeg.avi", "mjpeg.mov"])
def test_frames_of_their_own_are_decoded_alone(name: str) -> None:
    """Where every frame is a key frame, what is decoded is what is used."""
    decoded, packets = counted(clip_of(name), 6)
    assert (decoded.decoded, decoded.used, packets) == (6, 6, 48)


def test_decoding_begins_at_the_last_key_frame() -> None:
    """Key frames every 12 and no others that refer: three moments cost 9 frames each, not 45."""
    data = encode("mp4", "libx264", {"bf": "0", "sc_threshold": "0", "g": "12"})
    decoded, packets = counted(data, 3)  # frames 8, 24 and 40
    assert (decoded.decoded, decoded.used, packets) == (9 + 1 + 5, 3, 48)


def test_frames_that_nothing_refers_to_are_not_decoded() -> None:
    """I b P b P ...: of the 24 unreferenced frames only those that are wanted are decoded."""
    options = {"x264-params": "keyint=48:scenecut=0:bframes=1:b-adapt=0:b-pyramid=none"}
    data = encode("mp4", "libx264", options)
    decoded, packets = counted(data, 8)  # frames 3, 9, ..., 45: none of them referenced
    unreferenced = [3, 9, 15, 21, 27, 33, 39, 45]
    assert numbers(seen(data, 8)) == [unreferenced]
    referenced = 1 + 46 // 2  # frame 0 and the even ones up to 46, to which 45 refers
    assert (decoded.decoded, packets) == (referenced + len(unreferenced), 48)


def test_layers_in_time_are_all_decoded() -> None:
    """What HEVC calls unreferenced may serve the layer above, so nothing is dropped there."""
    flat, _ = counted(clip_of("hevc.mp4"), 8)
    layered, packets = counted(clip_of("hevc_layers.mp4"), 8)
    assert flat.decoded < 36 < layered.decoded == packets


@pytest.mark.parametrize("name", ["hevc.mp4", "mpeg4.mp4"])  # where the file's word counts
def test_false_key_frames_do_no_harm(name: str) -> None:
    """Where every packet claims to be a key frame, the pictures are still the right ones."""

    def claim(packet: av.Packet[Any]) -> bool:
        packet.is_keyframe = True
        return True

    container, codec, options = KINDS[name]
    honest, false = clip_of(name), encode(container, codec, options, keep=claim)
    with open_clip(false) as clip:
        assert all(one.packet.is_keyframe for one in clip.packets)
    np.testing.assert_array_equal(seen(false, 6).pixels, seen(honest, 6).pixels)


def test_same_frame_is_shaped_once() -> None:
    """More moments than frames: each frame is decoded and shaped once, and shown twice."""
    data = encode("mp4", "libx264", pictures=[picture(number) for number in range(4)])
    decoded, _ = counted(data, 8)
    assert (decoded.decoded, decoded.used) == (4, 4)
    assert numbers(seen(data, 8)) == [[0, 0, 1, 1, 2, 2, 3, 3]]
