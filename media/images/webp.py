"""WebP: the chunks of its pictures. Profiles, EXIF, XMP and unknown chunks are left out."""

from __future__ import annotations

import struct

from media.images.opened import Opened, open_as
from media.images.orientation import turn_of

HEADER = 12  # bytes: RIFF, a length, WEBP
EXTENDED = b"VP8X"
PICTURES = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
#: Flags of VP8X: what is left out is no longer announced. Alpha and animation stay.
KEPT_FLAGS = 0x10 | 0x02


def open_webp(data: bytes) -> Opened:
    """Open by the header alone; Pillow's errors."""
    kept: list[bytes] = []
    notes: dict[bytes, bytes] = {}
    place = HEADER
    while place + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, place)
        end = place + 8 + length + length % 2
        whole = data[place:end]
        if name == EXTENDED:
            kept.append(whole[:8] + bytes([whole[8] & KEPT_FLAGS]) + whole[9:])
        elif name in PICTURES:
            kept.append(whole)
        else:
            notes.setdefault(name, whole[8:])
        place = end
    body = b"WEBP" + b"".join(kept)
    pared = b"RIFF" + struct.pack("<I", len(body)) + body
    turn = turn_of(notes.get(b"EXIF", b""), notes.get(b"XMP ", b""))
    return Opened(open_as("WEBP", pared), turn)
