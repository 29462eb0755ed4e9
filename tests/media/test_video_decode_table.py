"""Real clips, one by one: the committed table says what is read of each, or why it is refused.

``decoded_videos.csv`` has the columns path (below decode/video), outcome (read or the error),
reason (of a refusal), type, codec, stream (its number in the file), height and width (upright, with
square pixels), frames and seconds. To write it anew after a deliberate change, and then to read
the difference::

    python -m tests.media.test_video_decode_table FOLDER > tests/media/decoded_videos.csv

where FOLDER holds ``decode/video``.
"""

from __future__ import annotations

import csv
import io
import sys
import tarfile
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest

from media.clips.clip_decode import decode
from media.clips.clip_file import open_clip
from media.clips.clip_picture import Painter
from media.clips.video import read
from media.errors import MediaError
from media.spec import InputSpec, VideoSpec
from tests.helpers.clip_files import linear, stretched

TABLE = Path(__file__).with_name("decoded_videos.csv")
COLUMNS = tuple(
    "path outcome reason type codec stream height width frames seconds".split()  # noqa: SIM905
)
SPEC = InputSpec(modality="video", fit="stretch", video=VideoSpec())
FRAMES, HEIGHT, WIDTH = 8, 48, 72


@cache
def table() -> dict[str, dict[str, str]]:
    with TABLE.open(newline="") as stream:
        return {row["path"]: row for row in csv.DictReader(stream)}


def outcome(data: bytes) -> dict[str, str]:
    """A file's row, without its path."""
    try:
        with open_clip(data) as clip:
            number = clip.packets[0].packet.stream.index
            first = decode(clip, clip.starts[:1], Painter(clip.pixel_aspect).picture)
            height, width = first.pictures[clip.starts[0]].shape[:2]
            facts = (clip.demuxer, clip.codec, number, height, width, len(clip.starts))
            values = ["read", "", *map(str, facts), f"{float(clip.duration):.6f}"]
    except MediaError as error:
        values = [type(error).__name__, str(error), *[""] * 7]
    return dict(zip(COLUMNS[1:], values, strict=True))


def files(data: Path) -> dict[str, Path]:
    folder = data / "decode" / "video"
    return {
        str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_real_files_end_as_the_table_says(data_dir: Path) -> None:
    """Every file is read as committed, or refused for the reason that is committed."""
    found = files(data_dir)
    assert set(found) == set(table())
    for name, path in found.items():
        row = {"path": name, **outcome(path.read_bytes())}
        assert row == table()[name], name


def test_real_files_agree_with_another_record(data_dir: Path) -> None:
    """Size and number of frames are what another program counted; it looks at the first video."""
    with (data_dir / "OBSERVED.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    observed = {row["file"].removeprefix("decode/video/"): row for row in rows}
    for name, row in table().items():
        other = observed[name]
        if row["outcome"] != "read" or row["stream"] != "0":
            continue
        assert other["frames"] == row["frames"], name
        assert other["shape"] == f"[{row['height']}, {row['width']}]", name
    elsewhere = [name for name, row in table().items() if row["stream"] not in ("", "0")]
    assert elsewhere == ["nasa_13013.mp4"]  # its second video is the larger one
    assert observed["nasa_13013.mp4"]["shape"] == "[180, 320]"


@pytest.mark.parametrize("name", [name for name, row in table().items() if row["type"]])
def test_real_files_show_what_a_full_decode_shows(data_dir: Path, name: str) -> None:
    """Frame by frame, to the pixel, whatever was left out in between."""
    data = files(data_dir)[name].read_bytes()
    compare(data, exactly=True)


def compare(data: bytes, exactly: bool) -> None:
    frames = {round(float(start), 6): rgb for start, rgb in linear(data)}
    sample = read(data, SPEC, [(FRAMES, HEIGHT, WIDTH)], 1)
    for second, shown in zip(sample.evidence["seconds"][0], sample.pixels[0], strict=True):
        expected = stretched(frames[second], HEIGHT, WIDTH)
        if exactly:
            np.testing.assert_array_equal(shown, expected)
        else:
            assert np.abs(shown.astype(int) - expected).mean() < 1


#: Members of originals.tar: H.264 with edit lists, variable rate, odd sizes, pixels that are not
#: square (the 4th), HEVC in 1080p, MPEG-4 in AVI, an MP4 that is called AVI, MPEG-2, GIF.
ORIGINALS = {
    "kickflip/Kickflip1.mov": True,
    "kickflip/Kickflip4.mov": True,
    "kickflip/Kickflip56.mov": True,
    "covid19/Cov_combatting_Image1.mp4": False,
    "covid19/Cov-Atlas-Day+2.gif": True,
    "pneumonia/Pneu_northumbria_0409_set2_vid4.avi": True,
    "regular/Reg-NormalLungs.mp4": True,
    "regular/Reg_northumbria_1009_vid5.avi": True,
    "regular/Reg_pat1Image_133232.mpeg": True,
}


def member(data: Path, archive: str, name: str) -> bytes:
    with tarfile.open(data / "video" / archive) as file:
        stream = file.extractfile(name)
        assert stream is not None
        return stream.read()


@pytest.mark.parametrize("name", ORIGINALS)
def test_originals_show_what_a_full_decode_shows(data_dir: Path, name: str) -> None:
    """Clips as cameras and scanners made them, from a data set that is trained on."""
    data = member(data_dir, "originals.tar", f"originals/{name}")
    compare(data, exactly=ORIGINALS[name])


@pytest.mark.parametrize("name", ["kickflip/Kickflip75", "ollie/Ollie38"])
def test_turned_originals_look_like_their_upright_copies(data_dir: Path, name: str) -> None:
    """Cameras held upright: the same frames, in small, were turned by another program."""
    original = member(data_dir, "originals.tar", f"originals/{name}.mov")
    with av.open(io.BytesIO(original), "r") as file:
        turned = next(file.decode(video=0))
        assert (abs(turned.rotation), turned.width > turned.height) == (90, True)
    copy = member(data_dir, "clips.tar", f"clips/{name}.mp4")
    size = (FRAMES, 64, 36)
    one, other = (read(data, SPEC, [size], 1) for data in (original, copy))
    assert np.abs(one.pixels.astype(int) - other.pixels).mean() < 8
    upside_down = one.pixels[:, :, ::-1, ::-1].astype(int)
    assert np.abs(upside_down - other.pixels).mean() > 20


def write_table(data: Path) -> None:
    """Print the table as it is today."""
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for name, path in files(data).items():
        writer.writerow({"path": name, **outcome(path.read_bytes())})


if __name__ == "__main__":
    write_table(Path(sys.argv[1]))
