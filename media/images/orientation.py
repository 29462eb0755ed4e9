"""How a picture is turned, as its EXIF data or else its XMP data tell."""

from __future__ import annotations

import contextlib
import re
import struct
from itertools import islice

from media.images.directory import MAX_ENTRIES, entries, first_value

ORIENTATION = 274
TURNS = range(1, 9)
EXIF = b"Exif\0\0"
XMP = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])\b")


def turn_of(exif: bytes, xmp: bytes = b"") -> int:
    """The orientation, 1 to 8, that the data plainly tell; 1 (as stored) if they do not.

    Only that one entry is read, whatever the state of the others, and whatever type and number of
    values it claims, as long as the first of them is a turn.
    """
    while exif.startswith(EXIF):  # some programs write it twice
        exif = exif[len(EXIF) :]
    turn = 0
    with contextlib.suppress(struct.error):  # cut off: what stands before the end counts
        if exif.startswith((b"II", b"MM")):
            for entry in islice(entries(exif), MAX_ENTRIES):
                value = first_value(exif, entry) if entry.tag == ORIENTATION else 0
                turn = int(value) if value in TURNS else turn
    found = None if turn else XMP.search(xmp)
    return int(found[1]) if found else turn or 1
