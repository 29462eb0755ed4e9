"""HEIC, HEIF and AVIF: still images that are not read, but known by name.

They are ISO files as MP4 is, and say in their first box of which kind they are.
"""

from __future__ import annotations

#: Brands of still images -> the name that people know; the brands of pictures by any codec last.
BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis"), "HEIC"),
    **dict.fromkeys((b"hevc", b"hevx", b"hevm", b"hevs"), "HEIC"),
    **dict.fromkeys((b"mif1", b"mif2", b"msf1"), "HEIF"),
    b"crx ": "CR3",
}


def still_named(data: bytes) -> str | None:
    """The name of a still image in an ISO file; None for all other bytes, clips among them."""
    if data[4:8] != b"ftyp" or data[8:12] not in BRANDS:
        return None
    end = min(int.from_bytes(data[:4], "big"), 256)
    told = {data[8:12], *(data[place : place + 4] for place in range(16, end, 4))}
    return next(name for brand, name in BRANDS.items() if brand in told)


def none_of_them(data: bytes) -> str:
    """The end of a refusal of bytes that are not read, with their name where that is known."""
    still = still_named(data)
    return f"these are none of them, but {still}" if still else "these are none of them"
