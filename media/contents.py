"""What a split holds, told by hashes: is it the one that it was, and what is in it twice."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from media import Media
from media.sources import Item, Source

#: Items that are read before anything is done with them, fewer where their files come to so many
#: bytes: a split of large files never lies in memory encoded.
PIECE, PIECE_BYTES = 32, 32 * 2**20
#: Of an item's SHA-256: enough to tell any number of files apart.
DIGEST_BYTES = 16
#: Of no bytes: of an item that is empty, or cannot be read.
NOTHING = np.frombuffer(hashlib.sha256(b"").digest(), np.uint8)


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
    ids: Sequence[str]
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


def contents_from(ids: Sequence[str], labels: np.ndarray, digests: np.ndarray) -> Contents:
    """The contents that reading N items gives, from their labels [N] and SHA-256, uint8 [N, 32]."""
    whole, nothing = hashlib.sha256(), NOTHING.tobytes()
    short = np.zeros((len(digests), DIGEST_BYTES), np.uint8)
    for item, (id_, label, row) in enumerate(zip(ids, labels, digests, strict=True)):
        digest = row.tobytes()
        whole.update(_line(id_, label, digest))
        if digest != nothing:
            short[item] = row[:DIGEST_BYTES]
    return Contents(whole.hexdigest(), ids, short)


class Hashes:
    """The hash of a split and the digests of its items, while they are read."""

    def __init__(self) -> None:
        self.whole = hashlib.sha256()
        self.digests = bytearray()

    def add(self, item: Item, content: bytes) -> None:
        """The next item."""
        digest = hashlib.sha256(content).digest()
        self.whole.update(_line(item.id, item.label, digest))
        self.digests += digest[:DIGEST_BYTES] if content else bytes(DIGEST_BYTES)

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
        medium = _read_one(source, item)
        content = b"" if isinstance(medium, OSError) else content_of(medium)
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


def _line(id_: str, label: int, digest: bytes) -> bytes:
    """An item in the hash of its split."""
    return f"{id_}\0{label}\0{digest.hex()}\n".encode()


def content_of(medium: Media) -> bytes:
    """What a digest covers: of an array its type and shape too."""
    if isinstance(medium, bytes):
        return medium
    return f"{medium.dtype}{medium.shape}".encode() + medium.tobytes()
