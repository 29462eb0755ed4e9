"""JPEG: its segments, less the notes of programs and cameras.

Of the APPn segments two say how colours are stored: JFIF and Adobe. The others, and comments, are
left out: EXIF data, profiles, thumbnails, further pictures of a multi-picture file.
"""

from __future__ import annotations

import re

from media.images.opened import Opened, open_as
from media.images.orientation import EXIF, turn_of

MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
START_OF_SCAN = b"\xff\xda"
COMMENT = 0xFE
APPS = range(0xE0, 0xF0)  # APP0 to APP15
#: Markers without a segment behind them: TEM, RST0 to RST7, SOI, EOI.
BARE = (0x01, *range(0xD0, 0xDA))
#: A marker of these, and the bytes that a segment of the name has at least.
COLOURS = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}
APP1 = 0xE1
XMP = b"http://ns.adobe.com/xap/1.0/\0"


def open_jpeg(data: bytes) -> Opened:
    """Open by the header alone; Pillow's errors."""
    kept, exif, xmp = [data[:2]], [], []
    place = 2  # behind the first marker
    while (found := MARKER.search(data, place)) and found[0] != START_OF_SCAN:
        marker, place = found[0][1], found.start()  # skipping junk, and fillers
        length = 0 if marker in BARE else int.from_bytes(data[place + 2 : place + 4], "big")
        segment = data[place : place + 2 + length]
        body = segment[4:]
        if marker == APP1 and body.startswith(EXIF):  # long ones go on in the next segment
            exif.append(body[len(EXIF) :])
        elif marker == APP1 and body.startswith(XMP):
            xmp.append(body)
        elif _is_needed(marker, body):
            kept.append(segment)
        place += 2 + length
    kept.append(data[found.start() if found else place :])
    return Opened(open_as("JPEG", b"".join(kept)), turn_of(b"".join(exif), b"".join(xmp)))


def _is_needed(marker: int, body: bytes) -> bool:
    if marker in COLOURS:
        name, length = COLOURS[marker]
        return body.startswith(name) and len(body) >= length
    return marker != COMMENT and marker not in APPS
