"""Real pictures with real oddities: right, as a plain reading has them, or refused with a reason.

``decoded_images.csv`` says which: outcome (ok, or the name of the error), bits of a sample, size,
and the reason where it is refused. To write it anew after a deliberate change, and then to read the
difference::

    python -m tests.media.test_decoded_images FOLDER > tests/media/decoded_images.csv

where FOLDER holds ``decode/images``.
"""

from __future__ import annotations

import csv
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from media import MediaError
from media.images.image import prepare
from media.spec import InputSpec

TABLE = Path(__file__).with_name("decoded_images.csv")
COLUMNS = ("file", "outcome", "bits", "size", "reason")
SPEC = InputSpec(fit="stretch", background=(255, 255, 255))
#: Grey of more than 8 bits whose files use fewer than their 16.
BITS = {"images/12bit.cropped.tif": 12}


def read_plainly(path: Path) -> tuple[np.ndarray, int]:
    """uint8 [h, w, 3], upright and on white, and the bits of a sample; by Pillow's plain means.

    Grey of 16 bits is worked out here: Pillow would clip it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = ImageOps.exif_transpose(Image.open(path))
        if not image.mode.startswith("I;16"):
            canvas = Image.new("RGBA", image.size, (255, 255, 255, 255))
            blended = Image.alpha_composite(canvas, image.convert("RGBA"))
            return np.asarray(blended.convert("RGB")), 8
    bits = BITS.get(f"images/{path.name}", 16)
    stored = np.asarray(image).astype(np.float64)  # [h, w]
    grey = np.floor(stored * 255 / (2**bits - 1) + 0.5)
    grey[stored == image.info.get("transparency", -1)] = 255
    return np.stack([grey.astype(np.uint8)] * 3, axis=-1), bits


def paths(data: Path) -> dict[str, Path]:
    found = sorted(path for path in (data / "decode" / "images").rglob("*") if path.is_file())
    return {str(path.relative_to(data / "decode")): path for path in found}


def row_of(name: str, path: Path) -> dict[str, str]:
    """What becomes of a file, at its own size, where nothing is resampled."""
    row = dict.fromkeys(COLUMNS, "") | {"file": name}
    media = path.read_bytes()
    try:
        prepare(media, SPEC, (4, 6))
    except MediaError as error:
        return row | {"outcome": type(error).__name__, "reason": str(error)}
    plain, bits = read_plainly(path)
    height, width, _ = plain.shape
    ours = prepare(media, SPEC, (height, width))
    worst = np.abs(ours.astype(int) - plain).max()
    assert worst <= (bits > 8), f"{name}: {worst} of 255 off"  # one level, where halves meet
    return row | {"outcome": "ok", "bits": str(bits), "size": f"{height}x{width}"}


def test_pictures_are_read_as_the_table_says(data_dir: Path) -> None:
    """Every file comes out as a plain reading has it, pixel for pixel, or ends as listed."""
    with TABLE.open(newline="", encoding="utf-8") as stream:
        expected = list(csv.DictReader(stream))
    assert [row_of(name, path) for name, path in paths(data_dir).items()] == expected


def test_every_refusal_has_a_reason() -> None:
    """Every refusal of the table gives a reason, and every reading a size."""
    with TABLE.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len({row["file"] for row in rows}) > 100
    assert all(bool(row["reason"]) != bool(row["size"]) for row in rows)


if __name__ == "__main__":
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row_of(name, path) for name, path in paths(Path(sys.argv[1])).items())
