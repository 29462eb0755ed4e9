"""A text file as a source: it names a file a line, and says nothing else of them."""

from __future__ import annotations

from pathlib import Path

from media.sources.items import UNLABELLED, Item, Source, SourceError, make_source
from media.sources.names import composed
from media.sources.stores import Files, Reading, Where


def open_lines(path: Path) -> Source:
    """Paths are relative to the folder of the text, and may lead out of it; empty lines are none.

    Whether the files are there is found where they are read.

    Raises:
        SourceError: it is no text in UTF-8, or a file is named twice.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SourceError(f"{path.name}: expected a list in UTF-8: {error}") from error
    named = [(composed(line), line) for line in lines if line]
    places = dict(named)
    items = [Item(id_, UNLABELLED, "") for id_, _ in named]
    read = Reading(Files((path.parent,)), lambda id_: Where(path=places[id_]))
    return make_source(path.stem, (), items, read)
