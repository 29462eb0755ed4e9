"""Archives of training data as people have packed them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from media.dataset import prepare_split
from media.sources import open_source
from media.spec import Grid, InputSpec


def test_jpeg_by_any_of_its_names_is_an_item(field_dir: Path) -> None:
    """Sixteen .jpg, .jfif and .jpe each: 48 pictures, all of them decoded."""
    source = open_source(field_dir / "train_endings.zip")
    assert Counter(Path(item.id).suffix for item in source.items) == {
        ".jpg": 16, ".jfif": 16, ".jpe": 16,
    }  # fmt: skip
    assert source.left_out == {}
    sizes = [
        len(prepare_split(source, split, InputSpec(), Grid((2, 3)), (4, 4)).ids)
        for split in source.present()
    ]
    assert sum(sizes) == 48
    assert all(min(counts) > 0 for counts in source.counts().values())


def test_set_that_was_zipped_on_windows_is_read(field_dir: Path) -> None:
    r"""Names with ``\`` between their parts: the two classes of eight, as with ``/``."""
    source = open_source(field_dir / "train_backslash.zip")
    expected = {f"{label}/{number}.png" for label in ("cat", "dog") for number in range(8)}
    assert {item.id for item in source.items} == expected
