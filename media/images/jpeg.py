"""JPEG: its segments, less the notes of programs and cameras.

Of the APPn segments two say how colours are stored: JFIF and Adobe. The others, and comments, are
left out: EXIF data, profiles, thumbnails, further pictures of a multi-picture file.
"""

from __future__ import annotations

from media.images.opened import Opened, open_as
from media.images.orientation import EXIF, turn_of

START_OF_SCAN, COMMENT = 0xDA, 0xFE
APPS = range(0xE0, 0xF0)  # APP0 to APP15
#: Markers without a segment behind them: TEM, RST0 to RST7, SOI.
BARE = (0x01, *range(0xD0, 0xD9))
#: A marker of these, and the bytes that a segment of the name has at least.
COLOURS = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}
APP1 = 0xE1
XMP = b"http://ns.adobe.com/xap/1.0/\0"


def open_jpeg(data: bytes) -> Opened:
    """Open by the header alone; Pillow's errors."""
    kept, exif, xmp = [], b"", b""
    place = copied = 2  # behind the first marker
    while place + 4 <= len(data) and data[place + 1] != START_OF_SCAN:
        marker = data[place + 1]
        if data[place] != 0xFF or marker in BARE or marker in (0x00, 0xFF):  # junk, and fillers
            place += 1
            continue
        end = place + 2 + max(int.from_bytes(data[place + 2 : place + 4], "big"), 2)
        body = data[place + 4 : end]
        if marker == COMMENT or (marker in APPS and not _says_colours(marker, body)):
            kept.append(data[copied:place])
            copied = end
            if marker == APP1 and body.startswith(EXIF):  # long ones go on in the next segment
                exif += body[len(EXIF) :]
            elif marker == APP1 and body.startswith(XMP):
                xmp += body
        place = end
    pared = data[:2] + b"".join(kept) + data[copied:]
    return Opened(open_as("JPEG", pared), turn_of(exif, xmp))


def _says_colours(marker: int, body: bytes) -> bool:
    name, length = COLOURS.get(marker, (b"", 0))
    return bool(name) and body.startswith(name) and len(body) >= length
