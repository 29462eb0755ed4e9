"""GIF: its first frame, on a canvas that shows through where the frame does not reach."""

from __future__ import annotations

from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from media.images.opened import Opened, open_as

SCREEN = 13  # bytes before the palette; the last but two have its size
EXTENSION, CONTROL = b"!", b"\xf9"


def open_gif(data: bytes) -> Opened:
    """Open by the header alone; Pillow's errors.

    Before the first frame only what controls it is kept of the extensions: not comments, nor what
    applications add.
    """
    place = SCREEN + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    kept = [data[:place]]
    while data[place : place + 1] == EXTENSION:
        start = place
        place += 2
        while place < len(data) and data[place]:
            place += 1 + data[place]
        place += 1  # the empty part that ends a block
        if data[start + 1 : start + 2] == CONTROL:
            kept.append(data[start:place])
    return Opened(open_as("GIF", b"".join(kept) + data[place:]), settle=settle)


def settle(image: GifImageFile) -> Image.Image:
    """A loaded first frame; around it Pillow would put the first colour of the palette."""
    whole = (0, 0, *image.size)
    frame = image.dispose_extent or whole
    if frame == whole or "transparency" in image.info:  # then the rest is transparent already
        return image
    opaque = Image.new("L", image.size, 0)
    opaque.paste(255, frame)
    shown = image.convert("RGB")
    shown.putalpha(opaque)
    return shown
