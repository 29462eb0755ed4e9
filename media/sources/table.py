"""A CSV as a source: path, label and, where they are known, split and group of every file."""

from __future__ import annotations

import csv
import io
import os.path
from collections.abc import Callable
from pathlib import Path

from media.sources.items import ALIASES, SPLITS, Item, Read, Source, SourceError, make_source

COLUMNS = ("path", "label", "split", "group")


def open_csv(path: Path, name: str = "") -> Source:
    """A CSV on disk; its paths are relative to its folder, and may lead out of it."""
    root = path.parent
    return read_table(
        path.read_bytes(),
        path.name,
        name or path.stem,
        exists=lambda id_: (root / id_).is_file(),
        read=lambda id_: (root / id_).read_bytes(),
    )


def read_table(
    data: bytes, file: str, name: str, exists: Callable[[str], bool], read: Read
) -> Source:
    """The source that a table describes.

    Args:
        data: the CSV itself.
        file: its name, for messages; ``name`` is that of the source.
        exists, read: how to look up and read the path of a row.
    """
    try:
        rows = _rows(data.decode("utf-8-sig"), file)
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{file}: expected a CSV in UTF-8: {error}") from error
    labels = tuple(sorted({row["label"] for row in rows}))
    items = [
        Item(row["path"], labels.index(row["label"]), _split(row, file), row.get("group", ""))
        for row in rows
    ]
    _check_paths(items, file, exists)
    return make_source(name, labels, items, read)


def _rows(text: str, file: str) -> list[dict[str, str]]:
    """Every row, stripped; SourceError where a column is unknown, missing or too many."""
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", restval="")
    header = tuple(reader.fieldnames or ())
    wrong = not {"path", "label"} <= set(header) <= set(COLUMNS)
    if wrong or len(set(header)) < len(header):
        raise SourceError(
            f"{file}: expected columns path,label and optionally split,group; "
            f"got {','.join(header)}"
        )
    rows = []
    for row in reader:
        if "" in row:
            raise SourceError(f"{file}: line {reader.line_num} has more than {len(header)} columns")
        rows.append({key: value.strip() for key, value in row.items()})
        if not rows[-1]["path"] or not rows[-1]["label"]:
            raise SourceError(f"{file}: line {reader.line_num} lacks a path or a label")
    return rows


def _split(row: dict[str, str], file: str) -> str:
    split = ALIASES.get(row.get("split", ""), row.get("split", ""))
    if split not in ("", *SPLITS):
        raise SourceError(f"{file}: split must be one of {', '.join(SPLITS)}, got {split!r}")
    return split


def _check_paths(items: list[Item], file: str, exists: Callable[[str], bool]) -> None:
    """Every file is there, and no two rows mean the same one by two spellings."""
    missing = [item.id for item in items if not exists(item.id)]
    if missing:
        raise SourceError(
            f"{file}: {len(missing)} of {len(items)} files are missing, first {missing[0]!r}"
        )
    seen: dict[str, str] = {}
    for item in items:
        other = seen.setdefault(os.path.normpath(item.id), item.id)
        if other != item.id:
            raise SourceError(f"{file}: {other!r} and {item.id!r} are the same file")
