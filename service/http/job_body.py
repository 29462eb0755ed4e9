"""What a request for a job brings: files, archives or paths, written to the disk as they come."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from service.engine.failures import BadParameter, EmptyFile
from service.engine.vocabulary import OF_JOBS
from service.http.body import FILE, MAX_QUERY_BYTES, Parameters, pieces, shown_filename
from service.http.exchange import Exchange, UploadTime
from service.http.multipart import MultipartReader, parse_parameters
from service.http.problems import (
    BodyTimeout,
    BodyTooLarge,
    BrokenForm,
    EmptyBody,
    UnknownParameter,
)
from service.jobs.failures import PathRefused
from service.jobs.inputs import ARCHIVE, LISTING, Collected
from service.jobs.spool import Incoming, Spool
from service.settings import Settings

ARCHIVES = (b"application/zip", b"application/x-zip-compressed", b"application/x-tar")
#: Bytes that go to the disk together; of a list of paths in all.
PIECE_BYTES, MAX_PATHS_BYTES = 2**20, 2**24
#: Of a body in all, whatever it brings a second.
UPLOAD_SECONDS = 86_400.0
FORM_BYTES = 2**20  # around the files


class JobParameters(Parameters):
    """What the address of a request for a job may say."""

    def __init__(self, query: bytes) -> None:
        super().__init__(OF_JOBS)
        if len(query) > MAX_QUERY_BYTES:
            raise BadParameter(f"expected a query of at most {MAX_QUERY_BYTES} bytes")
        for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
            self.add(name, value)


class JobBody:
    """Reads one body.

    Attributes:
        found: the items that it names.
        fingerprint: of every file, archive and path that came: what it is, its name, its bytes.
    """

    def __init__(
        self, exchange: Exchange, incoming: Incoming, spool: Spool, settings: Settings
    ) -> None:
        self._exchange = exchange
        self._incoming = incoming
        self._settings = settings
        self._most = spool.most
        self.found = Collected()
        self.fingerprint = hashlib.sha256()
        self._came = 0  # files and archives

    async def read(self, content_type: bytes) -> None:
        """All of it, by its Content-Type.

        Raises:
            Failure: 4xx or 507.
        """
        exchange = self._exchange
        # It goes to the disk: nothing of it is counted among the bytes in memory.
        exchange.limit = exchange.held = self._most + FORM_BYTES
        exchange.check()
        now = asyncio.get_running_loop().time()
        rate = self._settings.min_upload_kib
        exchange.deadline = now + UPLOAD_SECONDS
        exchange.upload = UploadTime(now, exchange.deadline, 1024 * rate)
        try:
            async with asyncio.timeout_at(exchange.upload.end(0)) as exchange.timeout:
                await self._read(content_type)
        except TimeoutError as error:
            raise BodyTimeout(f"the body came more slowly than {rate:g} KiB a second") from error
        finally:
            exchange.timeout = None
        self.found.check()

    async def _read(self, content_type: bytes) -> None:
        media_type, options = parse_parameters(content_type)
        body = pieces(self._exchange.receive)
        if media_type == b"multipart/form-data":
            await self._read_form(MultipartReader(body, options.get(b"boundary", b"")))
        elif media_type == b"application/json":
            await self._read_paths(body)
        elif not await self._store(body, FILE, media_type in ARCHIVES):
            raise EmptyBody("expected a file, an archive, a form or a list of paths")

    async def _store(
        self, media: AsyncIterator[bytes | bytearray], name: str, is_archive: bool
    ) -> int:
        """One file or archive; its size in bytes. An empty archive is not one."""
        kind, self._came = ARCHIVE if is_archive else FILE, self._came + 1
        stored = f"{kind}-{self._came}"
        before, incoming = self._incoming.bytes, self._incoming
        await asyncio.to_thread(incoming.begin, stored)
        buffer = bytearray()
        async for piece in media:
            buffer += piece
            if len(buffer) >= PIECE_BYTES:
                await asyncio.to_thread(incoming.write, buffer)
                buffer = bytearray()
        await asyncio.to_thread(incoming.write, buffer)
        self._note(kind, name, await asyncio.to_thread(incoming.end))
        size = incoming.bytes - before
        if size and is_archive:
            path = incoming.folder / stored
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(LISTING, self.found.add_archive, path, self._most)
        elif not is_archive:
            self.found.add(name, stored)
        return size

    def _note(self, *words: str) -> None:
        """Let the fingerprint depend on words; no other ones are written the same."""
        self.fingerprint.update(json.dumps(words).encode())

    async def _read_form(self, form: MultipartReader) -> None:
        """Parts named file are one item each, parts named archive a zip or a tar of them."""
        while (headers := await form.next_part()) is not None:
            _, options = parse_parameters(headers.get(b"content-disposition", b""))
            part = options.get(b"name", b"").decode("utf-8", "replace")
            if part not in (FILE, ARCHIVE):
                raise UnknownParameter(
                    f"the part {part[:40]!a} of the form: expected {FILE} or {ARCHIVE}; parameters "
                    "of a job belong into its address"
                )
            number = self._came + 1
            name = shown_filename(options.get(b"filename", b"").decode("utf-8", "replace"))
            name = name or f"{part} {number}"
            # an empty file is an item, whose line says so
            if not await self._store(_data(form), name, part == ARCHIVE) and part == ARCHIVE:
                raise EmptyFile(f"{part} {number} of the form has no bytes")

    async def _read_paths(self, body: AsyncIterator[bytes]) -> None:
        read = bytearray()
        async for piece in body:
            read += piece
            if len(read) > MAX_PATHS_BYTES:
                raise BodyTooLarge(f"a list of paths may have at most {MAX_PATHS_BYTES} bytes")
        allowed = self._settings.jobs_paths
        if allowed is None:
            raise PathRefused("this server reads no paths: send the files")
        await asyncio.to_thread(self._find_paths, allowed, bytes(read))

    def _find_paths(self, allowed: Path, body: bytes) -> None:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        paths: Any = document.get("paths") if isinstance(document, dict) else None
        is_list = isinstance(paths, list) and all(isinstance(one, str) for one in paths)
        if not is_list or set(document) != {"paths"}:
            raise BrokenForm('expected JSON like {"paths": ["folder/scan.nii.gz", "folder"]}')
        self.found.add_paths(allowed, paths)
        for path in paths:
            self._note("path", path)


async def _data(form: MultipartReader) -> AsyncIterator[bytearray]:
    """The bytes of the part that was begun."""
    while data := await form.read():
        yield data


def request_key(headers: list[tuple[bytes, bytes]]) -> str | None:
    """The Idempotency-Key of a request; BadParameter for one that is none."""
    keys = [value for name, value in headers if name == b"idempotency-key"]
    if not keys:
        return None
    key = keys[0].decode("latin-1")
    if len(keys) > 1 or not 1 <= len(key) <= 255 or not (key.isascii() and key.isprintable()):
        raise BadParameter("Idempotency-Key: expected one, of 1 to 255 printable ASCII characters")
    return key
