"""Gzip and zlib data that a stranger packed: never more in memory than was asked for.

What comes out is written into one array of the size that the file's own header told, and whatever
lies behind it is inflated piece by piece, for the checksum, and dropped. The whole stream is held
to a limit on its bytes and, above ``FREE_BYTES``, on how many times as many they are as came in:
masks of a small scan pack a thousandfold and are honest.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

from media.errors import BrokenMedia, MediaTooLarge
from media.limits import STRANGER, ScanLimits
from media.scans.voxels import Bytes

FREE_BYTES = 16 * 2**20
GZIP_MAGIC = b"\x1f\x8b"
GZIP, ZLIB_OR_GZIP = 31, 47  # window bits, as zlib numbers what to expect
CHUNK_BYTES = 2**16  # fed at once
PIECE_BYTES = 2**20  # inflated at once


def is_gzip(data: Bytes) -> bool:
    """Whether the bytes begin like a gzip file."""
    return data[:2] == GZIP_MAGIC


def head(data: Bytes, size: int, limits: ScanLimits = STRANGER.scan) -> bytes:
    """The first ``size`` bytes of a file, of what it inflates to where it is a gzip file."""
    if not is_gzip(data):
        return bytes(data[:size])
    found = b""
    for piece in _pieces(data, GZIP, limits.members):
        found += piece
        if len(found) >= size:
            break
    return found[:size]


def unpack(
    data: Bytes,
    size: int | None = None,
    kind: int = GZIP,
    limits: ScanLimits = STRANGER.scan,
) -> memoryview:
    """What the data inflate to.

    Args:
        size: how many bytes are wanted, from the start; None for all.
        kind: ``GZIP``, or ``ZLIB_OR_GZIP`` where both occur.

    Raises:
        BrokenMedia: damaged, truncated, or fewer than ``size`` bytes.
        MediaTooLarge: over the limits.
    """
    limit = most(len(data), limits)
    if (size or 0) > limit:
        raise too_large(limit, limits)
    target = np.empty(limit if size is None else size, np.uint8)  # takes memory where written
    total = 0
    for piece in _pieces(data, kind, limits.members):
        kept = piece[: max(0, len(target) - total)]
        target[total : total + len(kept)] = np.frombuffer(kept, np.uint8)
        total += len(piece)
        if total > limit:
            raise too_large(limit, limits)
    if size is not None and total < size:
        raise BrokenMedia(f"expected {size} bytes in the packed data; there are {total}")
    return target[:total].data


def most(packed: int, limits: ScanLimits = STRANGER.scan) -> int:
    """How many bytes that many packed bytes may inflate to."""
    return min(limits.most_bytes, max(FREE_BYTES, limits.ratio * packed))


def too_large(limit: int, limits: ScanLimits) -> MediaTooLarge:
    """The reason that is given where they inflate to more."""
    return MediaTooLarge(
        f"packed data may inflate to at most {limits.most_bytes} bytes, and above {FREE_BYTES} "
        f"to {limits.ratio} times their size; here that is {limit} bytes, and there are more"
    )


def _pieces(data: Bytes, kind: int, members: int) -> Iterator[bytes]:
    """All that the data inflate to, member after member, in pieces of at most PIECE_BYTES.

    A gzip file may be many, one after another; blocked gzip is.
    """
    rest = memoryview(data)
    for _ in range(members):
        engine = zlib.decompressobj(kind)
        while not engine.eof:
            if not rest:
                raise BrokenMedia("the packed data are truncated")
            fed = bytes(rest[:CHUNK_BYTES])
            yield from _inflate(engine, fed)
            rest = rest[len(fed) - len(engine.unused_data) :]
        if rest[:2] != GZIP_MAGIC:
            if np.frombuffer(rest, np.uint8).any():  # zeros are padding
                raise BrokenMedia("expected the end of the packed data; other bytes follow")
            return
    raise MediaTooLarge(f"gzip files may have at most {members} members")


def _inflate(engine: zlib._Decompress, fed: bytes) -> Iterator[bytes]:
    try:
        while True:
            piece = engine.decompress(fed, PIECE_BYTES)
            yield piece
            fed = engine.unconsumed_tail
            if not fed and len(piece) < PIECE_BYTES:
                return
    except zlib.error as error:
        raise BrokenMedia("the packed data are damaged") from error
