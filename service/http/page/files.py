"""The files of both pages, read once: ``static/`` is ours, ``swagger/`` is as released."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

FOLDERS = ("static", "swagger")
#: Ending -> media type. What ends otherwise is for people who read the folder, and is not served.
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
#: Stand in a page for the version of all files, and for what asks for a key: both pages do.
VERSION, ASK = b"{version}", b"{ask}"
#: Stands in the page for ``page.css``: it is painted without waiting for a second answer.
STYLE = b"{style}"


@dataclass(frozen=True, slots=True)
class File:
    """What is sent of one file."""

    body: bytes
    packed: bytes  # the same, by gzip
    media_type: str
    etag: str  # weak: of both forms


class Files:
    """All of them, by name.

    Attributes:
        version: of all files together. It is part of their addresses, so whoever has one need not
            ask for it again, and a page never mixes two versions.
        style: what a policy lets the style in the page in by, without its quotes.
    """

    def __init__(self, root: Path = Path(__file__).parent) -> None:
        paths = [path for folder in FOLDERS for path in sorted((root / folder).iterdir())]
        read = {path.name: path.read_bytes() for path in paths if path.suffix in TYPES}
        of_all = hashlib.sha256(b"".join(name.encode() + body for name, body in read.items()))
        self.version = of_all.hexdigest()[:12]
        self._ask, self._style = read["ask.html"], read["page.css"]
        digest = base64.b64encode(hashlib.sha256(self._style).digest())
        self.style = f"sha256-{digest.decode()}"
        self._files = {name: self._make(name, body) for name, body in read.items()}

    def _make(self, name: str, body: bytes) -> File:
        if name.endswith(".html"):
            body = body.replace(ASK, self._ask).replace(VERSION, self.version.encode())
            body = body.replace(STYLE, self._style)
        etag = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
        return File(body, gzip.compress(body, mtime=0), TYPES[Path(name).suffix], etag)

    def get(self, name: str) -> File | None:
        """The file of this name; None where there is none."""
        return self._files.get(name)

    def __getitem__(self, name: str) -> File:
        return self._files[name]

    def names(self) -> list[str]:
        """Of all files."""
        return list(self._files)


@functools.cache
def read_files() -> Files:
    """Those of this checkout, once a process."""
    return Files()
