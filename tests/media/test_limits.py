"""A stranger's files have limits, and a trainer's are its own: the same file, refused and read."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import media.limits
from media import MediaTooLarge, Part, read, read_part
from media.dataset import prepare_split
from media.index import Wanted, open_dataset
from media.limits import STRANGER, TRAINER, Limits, ScanLimits
from media.spec import Grid, InputSpec, VideoSpec
from tests.helpers import scan_files
from tests.helpers.clip_files import encode, number_of, picture
from tests.helpers.scan_files import nifti
from tests.media.test_video_limits import dots

CLIPS = InputSpec(modality="video", fit="stretch", video=VideoSpec())
SCANS = scan_files.spec(window=(0.0, 255.0))
SIDES = {"video": (3, 60, 88), "volume": (2, 3, 5)}


def long_clip() -> bytes:
    """An hour and a half, in which pictures follow each other after half an hour, and an hour."""
    ends = [picture(number) for number in (5, 6, 7)]
    return encode("mp4", "libx264", pictures=ends, times=[0, 1800, 5400], time_base=Fraction(1))


def long_scan() -> bytes:
    """One side longer than a stranger's."""
    return nifti(np.arange(6 * (STRANGER.scan.side + 1), dtype=np.int16).reshape(-1, 2, 3))


def well_packed() -> bytes:
    """Of one value, which packs a thousandfold."""
    return gzip.compress(nifti(np.full((250, 280, 260), 200, np.uint8)))


def many_arrays() -> bytes:
    """One scan among more arrays than a stranger may bring."""
    stream, scan, other = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(scan, np.full((4, 5, 6), 200, np.uint8))
    np.save(other, np.uint8(0))
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("scan.npy", scan.getvalue())
        for number in range(STRANGER.scan.files):
            archive.writestr(f"{number}.npy", other.getvalue())
    return stream.getvalue()


KINDS: dict[str, tuple[Callable[[], bytes], str, InputSpec, str]] = {
    "long clip": (long_clip, ".mp4", CLIPS, "a clip may last at most 60 seconds"),
    "far key frame": (lambda: dots(2500), ".gif", CLIPS, "at most 2000 packets of a clip are"),
    "long scan": (long_scan, ".nii", SCANS, "scans may have at most .* voxels and 16384 per side"),
    "well packed": (well_packed, ".nii.gz", SCANS, "packed data may .* to 200 times their size"),
    "many arrays": (many_arrays, ".npz", SCANS, "npz files may have at most 2000 entries"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_trainer_reads_what_a_server_refuses(tmp_path: Path, kind: str) -> None:
    """Item by item and as a whole split; who passes no limits, as a server does, is refused."""
    make, ending, spec, message = KINDS[kind]
    data, sides = make(), SIDES[spec.modality]
    one = (1,) * len(sides)
    with pytest.raises(MediaTooLarge, match=message):
        read(data, spec, Grid(sides), one)
    for label in "ab":
        (tmp_path / "set/val" / label).mkdir(parents=True)
        (tmp_path / f"set/val/{label}/1{ending}").write_bytes(data)
    dataset = open_dataset(tmp_path / "set")
    found = dataset.read(0, Wanted(spec, sides))
    assert found.shape == (1, *sides, spec.channels)
    assert np.array_equal(found, read(data, spec, Grid(sides), one, limits=TRAINER).pixels)
    whole = prepare_split(dataset, "val", spec, Grid(sides), one).pixels
    assert np.array_equal(whole, np.concatenate([found, found]))


@pytest.mark.parametrize(("moment", "shown"), [(0.0, 5), (0.5, 6), (1.0, 7)])
def test_long_clip_is_read_at_any_moment(moment: float, shown: int) -> None:
    """A frame of it may be the first, the last, or any between."""
    part = Part(1, (1, 1), (0.5, 0.5), moment)
    (frame,) = read_part(long_clip(), CLIPS, (1, *SIDES["video"][1:]), part, TRAINER)
    assert number_of(frame) == shown


def test_scan_that_memory_cannot_bear_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer's scan may take half of the memory, and the message says how much that is."""
    data, sides = nifti(np.zeros((20, 30, 40), np.int16)), SIDES["volume"]
    monkeypatch.setattr(media.limits, "memory_bytes", lambda: 60_000)
    for one in (data, gzip.compress(data)):
        with pytest.raises(MediaTooLarge, match="30000 bytes, half of the memory .* takes 48000"):
            read(one, SCANS, Grid(sides), (1, 1, 1), limits=TRAINER)
    few = Limits(scan=ScanLimits(inflated_bytes=30_000))
    with pytest.raises(MediaTooLarge, match="at most 30000 bytes; these are .* 48000"):
        read(data, SCANS, Grid(sides), (1, 1, 1), limits=few)


def test_memory_is_that_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one has a limit; the word max is none."""
    path = tmp_path / "memory.max"
    monkeypatch.setattr(media.limits, "CONTAINER", (str(path),))
    machine = media.limits.memory_bytes()
    path.write_text("max\n")
    assert media.limits.memory_bytes() == machine
    path.write_text("4096\n")
    assert media.limits.memory_bytes() == 4096 < machine
