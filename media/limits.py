"""How large a still image may be, and how much labelled data may hold.

A trainer's data are its owner's, a server's are a stranger's: each passes limits of its own.
"""

from __future__ import annotations

import dataclasses

from media.errors import MediaTooLarge

MAX_PIXELS = 50_000_000
MAX_SIDE = 16_384  # pixels


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


#: Of whoever is not known.
STRANGER = SourceLimits()
#: As many members as 31 bits can number, and what a long clip or a large scan takes.
TRAINER = SourceLimits(members=2**31 - 1, member_bytes=64 * 2**30)


def check_size(size: tuple[int, int], name: str = "images") -> None:
    """Refuse a size (width, height), told by a header, that is over the limits."""
    width, height = size
    if width * height > MAX_PIXELS or max(size) > MAX_SIDE:
        raise MediaTooLarge(
            f"{name} may have at most {MAX_PIXELS} pixels and {MAX_SIDE} per side; "
            f"this one is {width}x{height}"
        )
