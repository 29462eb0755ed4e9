"""Scans as .npy and .npz: numbers along three axes, and never a pickle."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from media import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from media.limits import STRANGER
from media.scans.arrays import load
from tests.helpers.scan_files import numbered, prepared, seen

SHAPE = (4, 3, 5)


class Trap:
    """What a pickle would run."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Trap, "sprung", True)


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version)
    return stream.getvalue()


def npz(packed: bool = True, **arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def header(text: str, version: int = 1) -> bytes:
    """A .npy file whose header is any text."""
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", ["b1", "i1", "u1", "<i2", ">i2", "u4", "i8", "f2", ">f4", "f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_type_and_order_is_read(dtype: str, order: Any) -> None:
    """The array comes out as numpy has it, from .npy of both versions and from .npz."""
    array = np.asarray(numbered(SHAPE, dtype), order=order)
    files = [npy(array), npy(array, (2, 0)), npz(scan=array), npz(packed=False, scan=array)]
    for data in files:
        scan = load(data)
        np.testing.assert_array_equal(scan.voxels, array)
        assert scan.affine is None


def test_axes_are_depth_height_width() -> None:
    """An array is taken as it is; a last axis of one is a channel."""
    array = numbered(SHAPE, np.uint8)
    for data in (npy(array), npy(array[..., None]), npz(scan=array[..., None])):
        np.testing.assert_array_equal(prepared(data, SHAPE, window=(0, 255)), array)
        told = seen(data)
        assert told.pop("box") == [[0.0, side] for side in SHAPE]
        assert told == {"orientation": "SPL", "spacing_mm": None, "size": list(SHAPE)}


def test_plain_array_is_not_copied() -> None:
    """The voxels of an .npy file are a view of its bytes."""
    data = npy(numbered(SHAPE))
    assert np.shares_memory(load(data).voxels, np.frombuffer(data, np.uint8))


def test_one_array_of_three_axes_is_found_among_others() -> None:
    """Labels and the like beside the scan do not matter; two scans do, and are named."""
    scan, label = numbered(SHAPE), np.array([3])
    np.testing.assert_array_equal(load(npz(scan=scan, label=label)).voxels, scan)
    with pytest.raises(BrokenMedia, match="one array of 3 axes .* got 2: 'first', 'second'"):
        load(npz(first=scan, label=label, second=scan))
    with pytest.raises(BrokenMedia, match="one array of 3 axes .* got 0$"):
        load(npz(label=label))


def test_pickles_are_refused_and_never_run() -> None:
    """An array of objects is code; it is refused by its header, whatever follows."""
    stream = io.BytesIO()
    np.save(stream, np.array([[[Trap()]]], dtype=object), allow_pickle=True)
    fields = np.zeros(SHAPE, dtype=[("a", "O"), ("b", "i4")])
    for data in (
        stream.getvalue(),
        zipped({"scan.npy": stream.getvalue()}),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1, 1)}"),
        npy(fields),
    ):
        with pytest.raises(UnsupportedMedia, match="Python objects, which are code"):
            prepared(data, (2, 3, 4))
    assert not Trap.sprung


ONES = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s)}"
REFUSED: dict[str, tuple[bytes, type[MediaError], str]] = {
    "two axes": (npy(np.zeros((3, 4))), UnsupportedMedia, "3 axes; got 3x4"),
    "four axes": (npy(np.zeros((3, 4, 5, 2))), UnsupportedMedia, "got 3x4x5x2"),
    "no axes": (npy(np.zeros(())), UnsupportedMedia, "got none"),
    "empty": (npy(np.zeros((3, 0, 5))), BrokenMedia, "3x0x5"),
    "complex": (npy(np.zeros(SHAPE, "c8")), UnsupportedMedia, "got complex64"),
    "long double": (npy(np.zeros(SHAPE, "g")), UnsupportedMedia, "at most 64 bits"),
    "text": (npy(np.zeros(SHAPE, "U3")), UnsupportedMedia, "floating point numbers"),
    "dates": (npy(np.zeros(SHAPE, "M8[s]")), UnsupportedMedia, "got datetime64"),
    "fields": (npy(np.zeros(SHAPE, "i2,f4")), UnsupportedMedia, "floating point numbers"),
    "truncated": (npy(np.zeros(SHAPE))[:-1], BrokenMedia, "480 bytes.* holds 479"),
    "huge": (header(ONES % "10**9, 2, 2"), BrokenMedia, "cannot be read"),
    "large": (header(ONES % "1000000000, 2, 2"), MediaTooLarge, "134217728 voxels"),
    "negative": (header(ONES % "-2, -2, 15"), BrokenMedia, "-2x-2x15"),
    "other version": (header(ONES % "1, 1, 1", version=3), UnsupportedMedia, r"got \(3, 0\)"),
    "no version": (b"\x93NUMPY", BrokenMedia, "cannot be read"),
    "no header": (b"\x93NUMPY\1\0\xff\xff{", BrokenMedia, "cannot be read"),
    "endless header": (b"\x93NUMPY\2\0" + b"\xff" * 4 + b" " * 99, BrokenMedia, "cannot be read"),
    "deep header": (header("(" * 9000), BrokenMedia, "cannot be read"),
    "no type": (header(ONES.replace("<f4", "zz") % "1, 1, 1"), BrokenMedia, "cannot be read"),
    "zip of other files": (zipped({"a.npy": b"", "../b.txt": b""}), UnsupportedMedia, "alone"),
    "zip of nonsense": (zipped({"a.npy": b"nonsense"}), BrokenMedia, "cannot be read"),
    "bzip2": (
        zipped({"a.npy": npy(numbered(SHAPE))}, zipfile.ZIP_BZIP2), UnsupportedMedia, "deflated"
    ),
    "longer than told": (
        zipped({"a.npy": npy(numbered(SHAPE)) + b"x"}), BrokenMedia, "longer than its header"
    ),
    "shorter than told": (
        zipped({"a.npy": npy(numbered(SHAPE))[:-1]}), BrokenMedia, "is truncated"
    ),
    "cut zip": (npz(scan=numbered(SHAPE))[:-30], BrokenMedia, "npz file is damaged"),
}


@pytest.mark.parametrize(("data", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_array_that_cannot_be_read_is_refused(
    data: bytes, kind: type[MediaError], message: str
) -> None:
    """Every other array, and every header that lies, gets its reason."""
    with pytest.raises(MediaError, match=message) as caught:
        prepared(data, (2, 3, 4))
    assert type(caught.value) is kind


def test_checksum_of_a_member_counts() -> None:
    """One flipped voxel in a stored member is noticed."""
    data = bytearray(npz(packed=False, scan=numbered(SHAPE)))
    data[data.index(npy(numbered(SHAPE))) + 150] ^= 1
    with pytest.raises(BrokenMedia, match="npz file is damaged"):
        prepared(bytes(data), (2, 3, 4))


def test_encrypted_member_is_refused() -> None:
    """A member that is marked as encrypted is not read."""
    data = bytearray(npz(scan=numbered(SHAPE)))
    data[data.index(b"PK\1\2") + 8] |= 1
    with pytest.raises(UnsupportedMedia, match="not encrypted"):
        prepared(bytes(data), (2, 3, 4))


def test_bomb_is_refused_before_it_is_inflated() -> None:
    """Zeros that pack a thousandfold are over the ratio; only headers have been inflated."""
    bomb = npz(scan=np.zeros((300, 400, 500), np.uint8))
    tracemalloc.start()
    with pytest.raises(MediaTooLarge, match="inflate to at most"):
        prepared(bomb, (2, 3, 4))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_zip_of_too_many_entries_is_refused() -> None:
    """The directory is counted before it is read."""
    most = STRANGER.scan.files
    data = zipped({f"{number}.npy": b"" for number in range(most + 1)})
    with pytest.raises(MediaTooLarge, match=f"at most {most} entries"):
        prepared(data, (2, 3, 4))


@given(data=st.data())
def test_damaged_file_decodes_or_is_refused(data: st.DataObject) -> None:
    """Flipped and missing bytes end as an array or as a MediaError, never otherwise."""
    array = numbered(SHAPE)
    media = bytearray(data.draw(st.sampled_from([npy(array), npz(scan=array)])))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(media) - 1))
        media[place : place + 1] = data.draw(st.binary(min_size=0, max_size=3))
    try:
        found = prepared(bytes(media), (2, 3, 4))
    except MediaError as error:
        assert str(error)
    else:
        assert found.dtype == np.uint8
