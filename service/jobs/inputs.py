"""What the items of a job are and how their bytes are read: stored files, members, named paths.

A path that a client names is walked part by part below the folder that the operator allowed, and no
link is followed: what was checked when the job came is opened in the same way when its turn comes.
The operator's own paths are opened as they are.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from media.sources.archive import TooManyMembers
from media.sources.items import SourceError
from media.sources.packed import Packed, open_archive
from service.engine.failures import EmptyFile, Failure, UnreadableFile
from service.jobs.failures import BrokenArchive, EmptyJob, JobTooLarge, PathRefused
from service.jobs.store import LOCAL, Item

MAX_ITEMS = 100_000
MAX_LOOKED = 10 * MAX_ITEMS  # names in the folders of a job, also those that are passed over
MAX_PATH = 4096  # characters
ARCHIVE = "archive"  # how the names of stored archives begin
#: Where archives are listed, one after another: seconds each, which no other file shall wait for.
LISTING = ThreadPoolExecutor(1, thread_name_prefix="archives")


class Collected:
    """The items of a job, as they are found in what its request names."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._looked = 0  # at names in folders

    def add(self, name: str, origin: str, member: str = "") -> None:
        """One more; JobTooLarge after ``MAX_ITEMS``."""
        if len(self.items) >= MAX_ITEMS:
            raise JobTooLarge(f"a job may have at most {MAX_ITEMS} files")
        self.items.append(Item(len(self.items) + 1, name, origin, member))

    def add_archive(self, path: Path, most: int) -> None:
        """Every file of a stored zip or tar.

        Args:
            most: bytes that all of them may have once unpacked.

        Raises:
            BrokenArchive: it is none, damaged, or made to deceive.
            JobTooLarge: there is too much in it.
        """
        try:
            packed = open_archive(path, MAX_ITEMS)
        except TooManyMembers as error:
            raise JobTooLarge(f"{error}: files, and folders with an entry of their own") from error
        except SourceError as error:
            raise BrokenArchive(str(error)) from error
        unpacked = sum(one.size for one in packed.values())
        if unpacked > most:
            raise JobTooLarge(
                f"{path.name} would unpack to {unpacked} bytes; expected at most {most}"
            )
        for name in packed:
            if not is_text(name):
                raise BrokenArchive(f"{path.name}: expected names in UTF-8, got {name[:80]!a}")
            self.add(name, path.name, name)

    def add_paths(self, allowed: Path, paths: Sequence[str]) -> None:
        """The files of paths; of a folder all below it, by name, without those of a dot.

        Args:
            allowed: paths are relative to it.

        Raises:
            PathRefused: one is a link, leads outside, or to nothing that can be read.
            JobTooLarge: more names lie there than ``MAX_LOOKED``, files or not.
        """
        for path in paths:
            for file in _files_of(allowed, path, self._look):
                if not is_text(file):
                    raise PathRefused(f"expected names in UTF-8, got {file[:80]!a}")
                self.add(file, "", file)

    def _look(self) -> None:
        self._looked += 1
        if self._looked > MAX_LOOKED:
            raise JobTooLarge(f"the folders of a job may hold at most {MAX_LOOKED} names")

    def add_local(self, path: str) -> None:
        """A file of this machine, by whatever path; PathRefused for a name that is no text."""
        if not is_text(path):
            raise PathRefused(f"expected names in UTF-8, got {path[:80]!a}")
        self.add(path, LOCAL, str(Path(path).absolute()))

    def check(self) -> None:
        """EmptyJob if nothing was found."""
        if not self.items:
            raise EmptyJob("expected at least one file; an archive or a folder may hold none")


class Inputs:
    """The bytes of one job's items; for one thread at a time.

    Args:
        folder: of its stored files.
        allowed: below which paths are read; None where there is no such folder any more.
    """

    def __init__(self, folder: Path, allowed: Path | None) -> None:
        self._folder = folder
        self._allowed = allowed
        self._archives: dict[str, dict[str, Packed]] = {}

    def size(self, item: Item) -> int:
        """Of its bytes; 0 where reading it will say what is wrong. For ``LISTING``."""
        try:
            if item.origin.startswith(ARCHIVE):
                return self._packed(item).size
            if item.origin:
                return self._stored(item).stat().st_size
            with self._open(item) as descriptor:
                return os.fstat(descriptor.number).st_size
        except (OSError, SourceError, KeyError):
            return 0

    def read(self, item: Item, most: int) -> bytes | Failure:
        """The bytes of an item, one more than ``most`` of a longer one."""
        try:
            media = self._read(item, most)
        except OSError as error:
            return UnreadableFile(error.strerror or type(error).__name__)
        except (SourceError, KeyError):
            return UnreadableFile("the archive that it came in is not there any more")
        return media or EmptyFile("the file has no bytes")

    def _read(self, item: Item, most: int) -> bytes:
        if item.origin.startswith(ARCHIVE):
            packed = self._packed(item)
            return packed.read() if packed.size <= most else bytes(most + 1)
        if item.origin:
            with self._stored(item).open("rb") as stream:
                return stream.read(most + 1)
        with self._open(item) as descriptor, os.fdopen(os.dup(descriptor.number), "rb") as stream:
            return stream.read(most + 1)

    def _stored(self, item: Item) -> Path:
        return Path(item.member) if item.origin == LOCAL else self._folder / item.origin

    def _packed(self, item: Item) -> Packed:
        if item.origin not in self._archives:
            self._archives[item.origin] = open_archive(self._folder / item.origin, MAX_ITEMS)
        return self._archives[item.origin][item.member]

    def _open(self, item: Item) -> Opened:
        if self._allowed is None:
            raise OSError(errno.EACCES, "the folder that its path is of is not allowed any more")
        return Opened(self._allowed, item.member)


class Opened:
    """A file or folder below a root, open for reading within a ``with``; OSError for a link."""

    def __init__(self, root: Path, path: str) -> None:
        self.number = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        for part in Path(path).parts:
            inner = -1
            try:
                # a pipe would be waited for, and a device does who knows what
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
                inner = os.open(part, flags, dir_fd=self.number)
            finally:
                os.close(self.number)
            self.number = inner

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.number)


def _files_of(allowed: Path, path: str, look: Callable[[], None]) -> Iterator[str]:
    """The regular files that a path means, relative to ``allowed``; ``look`` comes at each name."""
    look()
    parts = Path(path).parts
    if not path or len(path) > MAX_PATH or "\0" in path or path.startswith("/") or ".." in parts:
        raise PathRefused(
            f"expected a path below the folder of this server, without ..; got {path[:80]!a}"
        )
    try:
        with Opened(allowed, path) as opened:
            kind = stat.S_IFMT(os.fstat(opened.number).st_mode)
            if kind == stat.S_IFREG:
                yield "/".join(parts)
            elif kind == stat.S_IFDIR:
                yield from _walk("/".join(parts), opened.number, look)
            else:
                raise PathRefused(f"{path[:80]!a} is neither a file nor a folder")
    except OSError as error:
        is_link = error.errno in (errno.ELOOP, errno.ENOTDIR)
        why = "it is no file, or a link leads to it" if is_link else error.strerror
        raise PathRefused(f"{path[:80]!a} cannot be read: {why}") from error


def _walk(start: str, folder: int, look: Callable[[], None]) -> Iterator[str]:
    """Files below an open folder, in order; names that begin with a dot are passed over."""
    for place, below, names, at in os.fwalk(".", onerror=_refuse, dir_fd=folder):
        for name in sorted((*below, *names)):
            look()
            if name.startswith("."):
                continue
            inner = (Path(start) / place / name).as_posix()
            kind = stat.S_IFMT(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)
            if kind == stat.S_IFLNK:
                raise PathRefused(f"{inner[:80]!a} is a link, which is not followed")
            if kind == stat.S_IFREG:
                yield inner
        below[:] = sorted(name for name in below if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise error


def is_text(name: str) -> bool:
    """Whether a name can be told: those that are not UTF-8 hold what stands for their bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
