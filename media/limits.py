"""How large media may be, and how much labelled data may hold: all that is not of one type alone.

A server's files are a stranger's, a trainer's are its owner's: whoever reads passes limits, and who
passes none gets a stranger's. Frames and still images have one limit for all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

from media.errors import MediaTooLarge

MAX_PIXELS = 50_000_000
MAX_SIDE = 16_384  # pixels
#: Where the limit of a container stands, in bytes.
CONTAINER = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclasses.dataclass(frozen=True)
class SourceLimits:
    """What an archive of labelled media may hold.

    Attributes:
        members: files and folders in it.
        member_bytes: of one of them, once unpacked.
        inflated_bytes: of a whole tar.gz, which lies in memory then.
    """

    members: int = 1_000_000
    member_bytes: int = 512 * 2**20
    inflated_bytes: int = 2 * 2**30


@dataclasses.dataclass(frozen=True)
class ClipLimits:
    """What one clip may ask for.

    Attributes:
        file_bytes: of its file.
        seconds: that it lasts.
        packets: that are looked at.
        decoded: packets that are decoded for all frames that are wanted of it.
    """

    file_bytes: int = 100 * 2**20
    seconds: int = 60
    packets: int = 100_000
    decoded: int = 2000

    @property
    def boxes(self) -> int:
        """Outer ones of an MP4; a fragment of one frame has two or more."""
        return 4 * self.packets


@dataclasses.dataclass(frozen=True)
class ScanLimits:
    """What one scan may ask for.

    Attributes:
        file_bytes: of its file.
        inflated_bytes: of its voxels, and of what packed data become; 0 for half of the memory,
            as its file lies there too.
        ratio: how many times their size packed data may become, above 16 MiB; deflate ends at 1032.
        voxels, side: of all axes together, and of one.
        slices: of DICOM, frames over all files.
        files: in the zip of a series, arrays in an npz.
        members: that follow each other in a gzip file.
        pieces: of DICOM headers, that are taken apart: countless tiny elements end here. An element
            is two or three pieces, a frame with functional groups some 300.
    """

    file_bytes: int = 256 * 2**20
    inflated_bytes: int = 512 * 2**20
    ratio: int = 200
    voxels: int = 512**3
    side: int = 16_384
    slices: int = 4096
    files: int = 2000
    members: int = 20_000
    pieces: int = 1_000_000

    @property
    def most_bytes(self) -> int:
        """``inflated_bytes`` in numbers."""
        return self.inflated_bytes or memory_bytes() // 2

    @property
    def value_bytes(self) -> int:
        """Of a value in a DICOM header; none that is used has more than a number per slice."""
        return 32 * self.slices


@dataclasses.dataclass(frozen=True)
class Limits:
    """What whoever brings data may bring."""

    source: SourceLimits = SourceLimits()
    clip: ClipLimits = ClipLimits()
    scan: ScanLimits = ScanLimits()


#: Of whoever is not known.
STRANGER = Limits()
#: As many members as 31 bits can number; a day of 120 frames a second; scans that memory can bear.
TRAINER = Limits(
    SourceLimits(members=2**31 - 1, member_bytes=64 * 2**30),
    ClipLimits(64 * 2**30, seconds=24 * 3600, packets=120 * 24 * 3600, decoded=120 * 24 * 3600),
    ScanLimits(
        64 * 2**30, inflated_bytes=0, ratio=1100, voxels=2**40, side=2**20, slices=2**18,
        files=65_535, members=2**31 - 1, pieces=2**31 - 1,
    ),
)  # fmt: skip


def memory_bytes() -> int:
    """Of memory that this machine has, or that its container may use."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CONTAINER:
        with contextlib.suppress(OSError, ValueError):  # no such file; "max" for no limit
            sizes.append(int(Path(path).read_text()))
    return min(sizes)


def check_size(size: tuple[int, int], name: str = "images") -> None:
    """Refuse a size (width, height), told by a header, that is over the limits."""
    width, height = size
    if width * height > MAX_PIXELS or max(size) > MAX_SIDE:
        raise MediaTooLarge(
            f"{name} may have at most {MAX_PIXELS} pixels and {MAX_SIDE} per side; "
            f"this one is {width}x{height}"
        )
