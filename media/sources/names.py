"""What files are called: one spelling for a name, and what is passed over because of its name.

The same accented letter is one character on some systems (NFC) and two on others (NFD, as macOS
packs archives). Here every name is told in NFC, and found in either.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

#: Kinds of files that a summary tells one by one.
TOLD = 12


def composed(name: str) -> str:
    """A name in NFC."""
    return unicodedata.normalize("NFC", name)


def finder(root: Path) -> Callable[[str], Path | None]:
    """What finds the file of a relative path, in whatever form its name is stored."""
    listings: dict[Path, dict[str, str]] = {}

    def stored(folder: Path, part: str) -> str:
        if (folder / part).exists() or not folder.is_dir():
            return part
        if folder not in listings:
            listings[folder] = {composed(path.name): path.name for path in folder.iterdir()}
        return listings[folder].get(composed(part), part)

    def find(id_: str) -> Path | None:
        path = root / id_
        if not path.is_file() and not id_.isascii():
            path = root
            for part in PurePosixPath(id_).parts:
                path /= stored(path, part)
        return path if path.is_file() else None

    return find


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
