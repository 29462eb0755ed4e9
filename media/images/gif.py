"""GIF: its first frame, on a canvas that shows through where the frame does not reach."""

from __future__ import annotations

from PIL import Image
from PIL.GifImagePlugin import GifImageFile


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
