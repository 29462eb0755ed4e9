"""One table of file types: it is the readers' own, and every ending in it makes an item."""

from __future__ import annotations

from pathlib import Path

import pytest

from media.clips import clip_types
from media.formats import ENDINGS, FIRST_ENDINGS, FOREIGN, FORMATS, media_types
from media.images import image
from media.scans import volume
from media.sources import FIRST, open_source

READ = {
    "image": set(image.SIGNATURES),
    "video": set(clip_types.SIGNATURES),
    "volume": {one.name for one in volume.TYPES},
}


@pytest.mark.parametrize("modality", sorted(READ))
def test_table_names_every_type_that_a_reader_reads(modality: str) -> None:
    """A type that a reader gains or loses is a row that is lacking or idle here."""
    assert {one.name for one in FORMATS if one.modality == modality} == READ[modality]


def test_endings_are_written_alike() -> None:
    """Small letters behind a dot, none of them twice in a row, none both read and foreign."""
    for one in FORMATS:
        listed = (*one.endings, *one.added)
        assert all(end.startswith(".") and end == end.lower() for end in listed)
        assert len(set(listed)) == len(listed)
    assert not set(ENDINGS) & set(FOREIGN)
    assert set(media_types("image")) >= {"image/jpeg", "image/png"}


@pytest.mark.parametrize("ending", ENDINGS + FOREIGN)
def test_file_of_every_ending_is_an_item_in_either_case(tmp_path: Path, ending: str) -> None:
    """Cameras and old systems write capitals; what no reader reads is listed to be refused."""
    names = {f"a/1{ending}", f"a/2{ending.upper()}", f"b/3{ending.title()}"}
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert {item.id for item in open_source(tmp_path).items} == names


def test_first_rule_lists_what_it_always_did(tmp_path: Path) -> None:
    """A run from before new endings were known finds the items it had, and no others."""
    for name in ("a/1.jpg", "a/2.jfif", "b/3.jpe", "b/4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    source = open_source(tmp_path, FIRST)
    assert {item.id for item in source.items} == {"a/1.jpg", "b/4.png"}
    assert source.left_out == {".jfif": 1, ".jpe": 1}
    assert {".jfif", ".jpe"} <= set(ENDINGS) - set(FIRST_ENDINGS)
