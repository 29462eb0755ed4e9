"""A text with a path a line is a source of media without labels."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from media.index import fingerprint, open_media
from media.sources import SourceError, list_source


def test_lines_are_files_in_their_order(tmp_path: Path) -> None:
    """Paths are relative to the text and may lead out of it; empty lines and a byte-order mark are
    nothing; names are told in NFC and found as they stand; what is missing is found when read.
    """
    stored = unicodedata.normalize("NFD", "caf\u00e9.png")
    (tmp_path / "lists").mkdir()
    (tmp_path / "b.png").write_bytes(b"second")
    (tmp_path / "lists" / stored).write_bytes(b"first")
    text = f"\ufeff{stored}\n\n../b.png\nnone.png\n"
    (tmp_path / "lists" / "some.txt").write_text(text, "utf-8")
    files = open_media(tmp_path / "lists" / "some.txt")
    assert list(files.columns.ids) == ["caf\u00e9.png", "../b.png", "none.png"]
    assert [files.read(0), files.read(1)] == [b"first", b"second"]
    with pytest.raises(FileNotFoundError):
        files.read(2)
    assert files.columns.sizes.tolist() == [5, 6, -1]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"a.png\na.png\n", "some: 'a.png' is listed more than once"),
        (b"\xff\xfe", "some.txt: expected a list in UTF-8"),
        (b"\n\n", "some: expected media, got none"),
    ],
)
def test_lists_that_mean_nothing_are_refused(data: bytes, told: str, tmp_path: Path) -> None:
    """A file twice, what is no text, and a list of nothing."""
    (tmp_path / "some.txt").write_bytes(data)
    with pytest.raises(SourceError) as caught:
        open_media(tmp_path / "some.txt")
    assert told in str(caught.value)


def test_list_has_no_labels_to_train_by(tmp_path: Path) -> None:
    """Where labels are needed a text is none of the sources."""
    (tmp_path / "some.txt").write_text("a.png\n")
    with pytest.raises(SourceError, match=r"expected a folder, a pattern of shards or a .*\.csv"):
        list_source(tmp_path / "some.txt")


def test_fingerprint_of_all_items_changes_with_any(tmp_path: Path) -> None:
    """Of items that are in no split: another name, size or time is another one."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"one")
    first = fingerprint(open_media(tmp_path), None)
    assert fingerprint(open_media(tmp_path), None) == first
    (tmp_path / "b.png").write_bytes(b"more")
    second = fingerprint(open_media(tmp_path), None)
    assert second["items"] != first["items"]
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    third = fingerprint(open_media(tmp_path), None)
    assert third["items"] != second["items"]
    assert np.unique([first["times"], second["times"]]).size == 2
