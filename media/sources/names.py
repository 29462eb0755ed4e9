"""What files are called: one spelling for a name, and what is passed over because of its name.

The same accented letter is one character on some systems (NFC) and two on others (NFD, as macOS
packs archives). Here every name is told in NFC, and found in either.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from media.sources.items import SourceError

#: Kinds of files that a summary tells one by one.
TOLD = 12


def composed(name: str) -> str:
    """A name in NFC."""
    return unicodedata.normalize("NFC", name)


def finder(root: Path, exact: bool = False) -> Callable[[str], Path | None]:
    """What finds the file of a relative path, in whatever form its name is stored.

    Where folders of both forms lie side by side, the file may be in either; where two files have
    one name, SourceError names them.

    Args:
        exact: a file that is stored as it was asked for is that file, whatever lies beside it.
    """
    listings: dict[Path, dict[str, list[str]]] = {}

    def stored(folder: Path, part: str) -> list[str]:
        """All spellings of a name in a folder; the name itself where that cannot be listed."""
        if part in ("/", "..") or not folder.is_dir() or not os.access(folder, os.R_OK):
            return [part]
        if folder not in listings:
            listings[folder] = {}
            for name in sorted(path.name for path in folder.iterdir()):
                listings[folder].setdefault(composed(name), []).append(name)
        return listings[folder].get(composed(part), [part])

    def find(id_: str) -> Path | None:
        if (root / id_).is_file() and (exact or id_.isascii()):
            return root / id_
        places = [Path()]
        for part in PurePosixPath(id_).parts:
            places = [place / name for place in places for name in stored(root / place, part)]
        found = [place for place in places if (root / place).is_file()]
        if len(found) > 1:
            raise twins(root.name, *map(str, found[:2]))
        return root / found[0] if found else None

    return find


def twins(source: str, first: str, second: str) -> SourceError:
    """The refusal of two files that differ in Unicode's form alone: which is meant is unknown."""
    return SourceError(f"{source}: {first!a} and {second!a} are the same name in Unicode")


def is_junk(part: str) -> bool:
    """What systems leave behind beside the files: ``.DS_Store``, ``.git``, ``__MACOSX``."""
    return part.startswith(".") or part == "__MACOSX"


def kind_of_junk(path: str) -> str:
    """What a summary calls a file that is junk, or lies in a folder that is."""
    part = next(part for part in path.split("/") if is_junk(part))
    if part.startswith("._"):
        return "._*"
    return part if part in ("__MACOSX", ".DS_Store") else "hidden"


def kind_of(path: str) -> str:
    """What a summary calls a file that is none of a medium: its ending, if that looks like one."""
    suffix = PurePosixPath(path).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z][a-z0-9_]{0,9}", suffix) else "without an ending"


def most_frequent(kinds: Mapping[str, int]) -> dict[str, int]:
    """The kinds that are told one by one, the most frequent first, and the others together."""
    told = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    rest = sum(count for _, count in told[TOLD:])
    return dict(told[:TOLD]) | ({"others": rest} if rest else {})


def summary(left_out: Mapping[str, int]) -> str:
    """``32 .txt, 1 .DS_Store``."""
    return ", ".join(f"{count} {kind}" for kind, count in left_out.items())
