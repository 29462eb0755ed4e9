"""A CSV as a source: path, label and, where they are known, split and group of every file."""

from __future__ import annotations

import csv
import io
import os.path
from collections.abc import Callable
from pathlib import Path

from media.sources.items import (
    ALIASES,
    FIRST,
    RULE,
    SPLITS,
    UNLABELLED,
    Item,
    Read,
    Source,
    SourceError,
    make_source,
)
from media.sources.names import composed, finder
from media.sources.stores import Files, Reading, Where

COLUMNS = ("path", "label", "split", "group")


def open_csv(
    path: Path,
    rule: int = RULE,
    name: str = "",
    extra_columns: bool = False,
    labelled: bool = True,
) -> Source:
    """A CSV on disk; its paths are relative to its folder, and may lead out of it."""
    folder, find = path.parent, finder(path.parent, exact=rule == FIRST)

    def where(id_: str) -> Where:
        found = find(id_)
        return Where(path=id_ if found in (None, folder / id_) else str(found))

    return read_table(
        path.read_bytes(),
        path.name,
        name or path.stem,
        exists=lambda id_: find(id_) is not None,
        read=Reading(Files((folder,)), where),
        rule=rule,
        extra_columns=extra_columns,
        labelled=labelled,
    )


def read_table(
    data: bytes,
    file: str,
    name: str,
    *,
    exists: Callable[[str], bool],
    read: Read,
    rule: int = RULE,
    extra_columns: bool = False,
    labelled: bool = True,
) -> Source:
    """The source that a table describes.

    Args:
        data: the CSV itself.
        file: its name, for messages; ``name`` is that of the source.
        exists, read: how to look up and read the path of a row.
        rule: of ``media.sources.rules``.
        extra_columns: whether there may be others than ``COLUMNS``; they mean nothing here.
        labelled: whether every row has to have a label.
    """
    try:
        rows = _rows(_text(data, rule), file, extra_columns, labelled)
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{file}: expected a CSV in UTF-8: {error}") from error
    labels = tuple(sorted({row.get("label", "") for row in rows} - {""}))
    classes = {label: place for place, label in enumerate(labels)} | {"": UNLABELLED}
    items = [
        Item(row["path"], classes[row.get("label", "")], _split(row, file), row.get("group", ""))
        for row in rows
    ]
    _check_paths(items, file, exists)
    return make_source(name, labels, items, read)


def read_column(path: Path, column: str) -> dict[str, str]:
    """What a column of a CSV says of every item; SourceError where there is no such column."""
    rows = _rows(_text(path.read_bytes(), RULE), path.name, extra_columns=True)
    if column not in rows[0]:
        raise SourceError(f"{path.name}: expected a column {column!r}, got {','.join(rows[0])}")
    return {row["path"]: row[column] for row in rows}


def _text(data: bytes, rule: int) -> str:
    text = data.decode("utf-8-sig")
    return text if rule == FIRST else composed(text)


def _rows(
    text: str, file: str, extra_columns: bool, labelled: bool = True
) -> list[dict[str, str]]:
    """Every row, stripped; SourceError where a column is unknown, missing or too many."""
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", restval="")
    header = tuple(reader.fieldnames or ())
    needed = {"path", "label"} if labelled else {"path"}
    known = needed <= set(header) and (extra_columns or set(header) <= set(COLUMNS))
    if not known or len(set(header)) < len(header):
        raise SourceError(
            f"{file}: expected {'columns path,label' if labelled else 'a column path'} and "
            f"optionally {'' if labelled else 'label,'}split,group; "
            f"got {','.join(header)}" + _advice(header)
        )
    rows = []
    for row in reader:
        if "" in row:
            raise SourceError(f"{file}: line {reader.line_num} has more than {len(header)} columns")
        rows.append({key: value.strip() for key, value in row.items()})
        if not all(rows[-1][name] for name in needed):
            lacks = "a path or a label" if labelled else "a path"
            raise SourceError(f"{file}: line {reader.line_num} lacks {lacks}")
    return rows


def _advice(header: tuple[str, ...]) -> str:
    """How columns of other names are put to use, if they are all that is wrong."""
    if len(set(header)) < len(header) or not {"path", "label"} <= set(header):
        return ""
    return (
        "; python -m training split makes a CSV with these columns alone of it, and --group-column "
        "NAME a group of whatever has one value in another"
    )


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
