"""Files spoilt from a seed: what a broken disk, a cut connection or an attacker makes of them."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

#: How often one file is damaged: mostly once, which gets deeper into a decoder.
TIMES = (1, 1, 1, 2, 4)
#: Half of the damage falls on so many bytes at the beginning, where most files have their headers.
HEADER_BYTES = 512
#: A file grows to so many times its seed, at most; decoders' limits have tests of their own.
MOST_GROWTH = 4
PNG = b"\x89PNG\r\n\x1a\n"


def no_wrap(inner: bytes) -> bytes:
    """The file is what was spoilt."""
    return inner


class Seed(NamedTuple):
    """A whole file; ``wrap`` packs what is spoilt inside a checksum or a compressed stream."""

    inner: bytes
    wrap: Callable[[bytes], bytes] = no_wrap

    @property
    def file(self) -> bytes:
        return self.wrap(self.inner)


def spoil(chance: random.Random, seeds: Sequence[Seed]) -> bytes:
    """One of the seeds, damaged once or a few times.

    Of seeds that are packed half are damaged inside, so that their checksums hold.
    """
    seed, other = chance.choice(seeds), chance.choice(seeds)
    inside = chance.random() < 0.5
    data = bytearray(seed.inner if inside else seed.file)
    most = MOST_GROWTH * len(data)
    for _ in range(chance.choice(TIMES)):
        if data:
            chance.choice(DAMAGES)(chance, data, other.inner if inside else other.file)
            del data[most:]
    return seed.wrap(bytes(data)) if inside else bytes(data)


def place(chance: random.Random, data: bytearray) -> int:
    """Somewhere in it, often near its beginning."""
    near = len(data) if chance.random() < 0.5 else min(HEADER_BYTES, len(data))
    return chance.randrange(near)


def flip_bits(chance: random.Random, data: bytearray, other: bytes) -> None:
    for _ in range(2 ** chance.randrange(6)):
        data[place(chance, data)] ^= 1 << chance.randrange(8)


def cut_off(chance: random.Random, data: bytearray, other: bytes) -> None:
    del data[chance.randrange(len(data)) :]


def cut_out(chance: random.Random, data: bytearray, other: bytes) -> None:
    begin = place(chance, data)
    del data[begin : begin + 2 ** chance.randrange(10)]


def splice(chance: random.Random, data: bytearray, other: bytes) -> None:
    """The beginning of one file with the end of another of its kind."""
    data[chance.randrange(len(data)) :] = other[chance.randrange(len(other)) :]


def set_length(chance: random.Random, data: bytearray, other: bytes) -> None:
    """An extreme number where a length, an offset, a size or a count may stand."""
    size = chance.choice((1, 2, 4, 8))
    most = 2 ** (8 * size)
    numbers = (0, 1, len(data), most // 2 - 1, most // 2, most - 1, chance.randrange(most))
    number = chance.choice(numbers) % most
    begin = place(chance, data)
    data[begin : begin + size] = number.to_bytes(size, chance.choice(("little", "big")))


def repeat_chunk(chance: random.Random, data: bytearray, other: bytes) -> None:
    begin = place(chance, data)
    chunk = data[begin : begin + 2 ** chance.randrange(12)]
    data[begin:begin] = chunk * chance.choice((1, 1, 2, 16))


def swap_chunks(chance: random.Random, data: bytearray, other: bytes) -> None:
    size = min(2 ** chance.randrange(10), len(data) // 2)
    first, second = place(chance, data), chance.randrange(len(data))
    if first + size <= second <= len(data) - size:
        one, two = data[first : first + size], data[second : second + size]
        data[first : first + size], data[second : second + size] = two, one


def overwrite(chance: random.Random, data: bytearray, other: bytes) -> None:
    """With zeros, ones or noise, as a bad sector does."""
    begin, size = place(chance, data), 2 ** chance.randrange(10)
    size = min(size, len(data) - begin)
    filling = chance.choice((bytes(size), b"\xff" * size, chance.randbytes(size)))
    data[begin : begin + size] = filling


Damage = Callable[[random.Random, bytearray, bytes], None]
DAMAGES: tuple[Damage, ...] = (
    flip_bits, cut_off, cut_out, splice, set_length, repeat_chunk, swap_chunks, overwrite,
)  # fmt: skip


def mend_png(data: bytes) -> bytes:
    """A PNG whose checksums are right again, as far as its chunks can be followed."""
    mended, at = bytearray(data), len(PNG)
    while at + 12 <= len(mended):
        (size,) = struct.unpack_from(">I", mended, at)
        if at + 12 + size > len(mended):
            break
        checksum = zlib.crc32(mended[at + 4 : at + 8 + size])
        struct.pack_into(">I", mended, at + 8 + size, checksum)
        at += 12 + size
    return bytes(mended)
