"""What a split holds, told by hashes: is it the one that it was, and what is in it twice."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator

import numpy as np

from media import Media
from media.sources import Item, Source

#: Items that are read before anything is done with them, fewer where their files come to so many
#: bytes: a split of large files never lies in memory encoded.
PIECE, PIECE_BYTES = 32, 32 * 2**20
#: Of an item's SHA-256: enough to tell any number of files apart.
DIGEST_BYTES = 16


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a split holds, without its pixels. N items.

    Attributes:
        sha256: of ids, labels and contents, in order: the same data give the same hash.
        ids: N item ids, in order.
        digests: of each item's bytes, the first 16 bytes of their SHA-256, uint8 [N, 16]; zeros
            where there are no bytes or where they cannot be read.
    """

    sha256: str
    ids: tuple[str, ...]
    digests: np.ndarray


def split_sha256(source: Source, split: str) -> str:
    """The hash that ``prepare_split`` gives, without decoding."""
    return split_contents(source, split).sha256


def split_contents(source: Source, split: str) -> Contents:
    """What ``prepare_split`` says of a split's contents, without decoding."""
    return contents_of(source, source.split(split))


def contents_of(source: Source, items: list[Item]) -> Contents:
    """What some items of a source hold, in their order."""
    hashes = Hashes()
    for _ in read_pieces(source, items, hashes):
        pass
    return hashes.contents(items)


class Hashes:
    """The hash of a split and the digests of its items, while they are read."""

    def __init__(self) -> None:
        self.whole = hashlib.sha256()
        self.digests = bytearray()

    def add(self, item: Item, content: bytes) -> None:
        """The next item."""
        digest = hashlib.sha256(content)
        self.whole.update(f"{item.id}\0{item.label}\0{digest.hexdigest()}\n".encode())
        self.digests += digest.digest()[:DIGEST_BYTES] if content else bytes(DIGEST_BYTES)

    def contents(self, items: list[Item]) -> Contents:
        """All that was added: every one of the items."""
        digests = np.frombuffer(bytes(self.digests), np.uint8).reshape(-1, DIGEST_BYTES)
        return Contents(self.whole.hexdigest(), tuple(item.id for item in items), digests)


def read_pieces(
    source: Source, items: list[Item], hashes: Hashes
) -> Iterator[tuple[list[Item], list[Media | OSError]]]:
    """Pieces of a split with their media, hashed on the way."""
    piece: list[Item] = []
    media: list[Media | OSError] = []
    size = 0
    for item in items:
        content = _content(medium := _read_one(source, item))
        hashes.add(item, content)
        piece.append(item)
        media.append(medium)
        size += len(content)
        if len(piece) == PIECE or size >= PIECE_BYTES or item is items[-1]:
            yield piece, media
            piece, media, size = [], [], 0


def _read_one(source: Source, item: Item) -> Media | OSError:
    """A file that cannot be opened is an unreadable item like one that cannot be decoded."""
    try:
        return source.read(item.id)
    except OSError as error:
        return error


def _content(medium: Media | OSError) -> bytes:
    """What the hash covers: of an array its type and shape too."""
    if isinstance(medium, OSError):
        return b""
    if isinstance(medium, bytes):
        return medium
    return f"{medium.dtype}{medium.shape}".encode() + medium.tobytes()
