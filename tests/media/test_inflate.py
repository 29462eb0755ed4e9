"""Packed data: everything that honest packers write, and never more in memory than asked for."""

from __future__ import annotations

import gzip
import io
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.errors import BrokenMedia, MediaTooLarge
from media.limits import STRANGER
from media.scans import inflate

NOISE = np.random.default_rng(0).bytes(3 * 2**20 + 17)


@given(
    parts=st.lists(st.binary(max_size=300), min_size=1, max_size=6),
    size=st.integers(0, 1500),
    padding=st.integers(0, 9),
)
def test_members_follow_one_another(parts: list[bytes], size: int, padding: int) -> None:
    """However many members, empty ones too, and zeros after them: the whole, and its beginning."""
    data, whole = b"".join(map(gzip.compress, parts)) + bytes(padding), b"".join(parts)
    assert gzip.decompress(data) == whole
    assert bytes(inflate.unpack(data)) == whole
    assert inflate.head(data, size) == whole[:size]
    if size <= len(whole):
        assert bytes(inflate.unpack(data, size)) == whole[:size]
    else:
        with pytest.raises(BrokenMedia, match=f"expected {size} bytes .* there are {len(whole)}"):
            inflate.unpack(data, size)


@pytest.mark.parametrize("body", [NOISE, bytes(3 * 2**20 + 17)], ids=["noise", "zeros"])
def test_larger_than_every_buffer(body: bytes) -> None:
    """What does not fit one piece comes out whole, whether it packs well or not."""
    assert bytes(inflate.unpack(gzip.compress(body, 1))) == body
    assert bytes(inflate.unpack(zlib.compress(body, 1), len(body), inflate.ZLIB_OR_GZIP)) == body


def test_plain_bytes_are_their_own_head() -> None:
    """What is no gzip file is not looked into."""
    assert inflate.head(b"abcdef", 4) == b"abcd"
    assert not inflate.is_gzip(b"\x1f") and inflate.is_gzip(b"\x1f\x8b")


@pytest.mark.parametrize("cut", [1, 5, 8, 9, 100, 10_000])
def test_truncated_data_are_broken(cut: int) -> None:
    """Every part is missed, the checksum at the end too, even if nobody asked for so much."""
    data = gzip.compress(NOISE[:20_000])[:-cut]
    for size in (None, 10):
        with pytest.raises(BrokenMedia, match="truncated"):
            inflate.unpack(data, size)


@pytest.mark.parametrize("place", [2, 3, 60, 10_000, -6, -2])
def test_flipped_byte_is_noticed(place: int) -> None:
    """Header, body, checksum and length are all looked at."""
    data = bytearray(gzip.compress(NOISE[:20_000]))
    data[place] ^= 0xFF
    with pytest.raises(BrokenMedia, match=r"damaged|truncated"):
        inflate.unpack(bytes(data), 10)


def test_other_bytes_behind_the_end_are_refused() -> None:
    """Zeros are padding; anything else is not what was packed."""
    with pytest.raises(BrokenMedia, match="other bytes follow"):
        inflate.unpack(gzip.compress(b"abc") + bytes(4) + b"x")


@pytest.mark.parametrize("size", [None, 100, 17 * 2**20])
def test_bomb_ends_at_the_limit(size: int | None) -> None:
    """What inflates beyond the ratio is refused; memory holds what was asked for at most."""
    data = gzip.compress(bytes(40 * 2**20))
    tracemalloc.start()
    with pytest.raises(MediaTooLarge, match="200 times their size"):
        inflate.unpack(data, size)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (size or inflate.FREE_BYTES) + 4 * 2**20


def test_small_masks_may_pack_as_well_as_they_like() -> None:
    """Up to FREE_BYTES there is no ratio; above, 200 to 1; and never more than the limit."""
    assert len(inflate.unpack(gzip.compress(bytes(inflate.FREE_BYTES)))) == inflate.FREE_BYTES
    assert inflate.most(1) == inflate.FREE_BYTES
    assert inflate.most(2**20) == 200 * 2**20
    assert inflate.most(2**28) == 512 * 2**20


def test_members_are_counted() -> None:
    """A file of nothing but beginnings ends in time."""
    most = STRANGER.scan.members
    stream = io.BytesIO(gzip.compress(b"") * (most + 1))
    with pytest.raises(MediaTooLarge, match=f"at most {most} members"):
        inflate.unpack(stream.getvalue())
