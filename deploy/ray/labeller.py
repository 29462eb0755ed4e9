"""One worker of a labelling run: an engine that answers the parts of the list it is given.

Ray keeps it in a process of its own. The engine lives on an event loop in a thread of that
process, so that two parts can be answered at a time: while the last files of one are computed, the
first of the next are decoded.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from deploy.ray.partitions import LIST, Output, Run
from media.files import sha256_file
from media.index import Dataset, open_kept
from media.sources import SourceError
from media.sources.stores import OF_THE_FILE
from models.manifest import MANIFEST
from models.versions import has_versions
from service import logs
from service.cli.exit_status import DEVICE_DIED, FAILED, OK, WRONG_COMMAND
from service.engine.bulk import Answer, File, begin_each
from service.engine.candidates import Candidate, Candidates, find_candidates
from service.engine.decode.link import DecodeError
from service.engine.device.session import DeviceDied, DeviceError
from service.engine.engine import Engine
from service.engine.failures import EmptyFile, Failure, InferenceFailed, UnreadableFile
from service.engine.folders import NoBundles, named_folders
from service.http.problems import problem_of
from service.settings import Settings, SettingsError

#: Why no file can be answered; whoever typed the command is told, and nothing is tried again.
REFUSED = (SettingsError, DeviceError, NoBundles, DecodeError, Failure)
PROBLEMS = "/problems/"
#: How often workers may end at one part: something of its files ends whoever comes to it. Ray
#: itself starts them again without end.
TRIES = 4


@dataclasses.dataclass(frozen=True)
class Work:
    """What every worker needs to know."""

    folder: Path  # of the run
    run: Run
    settings: Settings


class NotReadNow(Exception):
    """The machine could not read a file, and may the next time. The message names both."""


class Labeller:
    """Answers parts; where its start is ``REFUSED``, every call says so."""

    def __init__(self, work: Work) -> None:
        self._work, self._output = work, Output(work.folder)
        self._files: Dataset = open_kept(work.folder / LIST)
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        logs.configure(work.settings)
        self._engine, self._refused = Engine(work.settings), ""
        try:
            self._candidates = self._wait(self._start())
        except REFUSED as error:
            self._refused = str(error)

    def label(self, part: int) -> tuple[int, int, str]:
        """Answer a part; its number, a status, as commands end, and the reason."""
        return part, *self._label(part)

    def close(self) -> None:
        """End the engine, when no part is under way."""
        self._wait(self._engine.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _label(self, part: int) -> tuple[int, str]:
        if self._refused:
            return WRONG_COMMAND, self._refused
        # A worker that was killed may have written a part and not said so.
        if not self._output.path(part).exists():
            try:
                if self._output.begun(part) > TRIES:
                    return DEVICE_DIED, f"{TRIES} workers ended at {self._output.path(part).name}"
                rows = self._wait(self._answer(part))
                self._output.write(part, rows, self._work.run)
            except NotReadNow as error:
                return FAILED, f"{error}; no row says so, and the same command tries again"
            except OSError as error:  # a full disk
                return FAILED, f"{self._output.path(part)} cannot be written: {error.strerror}"
        return OK, ""

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _start(self) -> Candidates:
        """Start the engine; who answers."""
        work = self._work
        engine = self._engine
        engine.on_failure = partial(_end_with_device, engine)
        bundle = f"{work.run.model}@{work.run.version}"
        await engine.start(named_folders(work.settings.bundles, bundle))
        parameters = work.run.parameters | {"bundle": bundle}
        candidates = find_candidates(engine, parameters)
        home = engine.catalog.bundles[work.run.model].home
        assert home is not None
        place = home / work.run.version if has_versions(home) else home
        if sha256_file(place / MANIFEST) != work.run.digest:
            raise SettingsError(f"bundle {bundle} is another one than when the run began")
        if not work.run.embedding:
            return candidates
        found = [one for one in candidates if isinstance(one, Candidate)]  # the bundle is named
        for one in found:
            engine.check_want("embedding", one.choice)
        return [dataclasses.replace(one, embed=True) for one in found]

    async def _answer(self, part: int) -> list[dict[str, Any]]:
        """The rows of a part, in the order of the list."""
        opened = self._opened(part)
        begun = [one async for one in begin_each(self._engine, opened, self._candidates)]
        answers = [(file, await task) for file, task in begun]
        if any(isinstance(answer, InferenceFailed) for _, answer in answers):
            # Of the files, or of a device that is dead: then the process ends in here, and another
            # one answers the part.
            await self._engine.vitals.settle()
        return [self._row(file, answer) for file, answer in answers]

    async def _opened(self, part: int) -> AsyncIterator[File]:
        columns = self._files.columns
        for place in self._work.run.places(part):
            size = max(0, int(columns.sizes[place]))
            yield File(place, columns.ids[place], size, partial(_read, self._files, place))

    def _row(self, file: File, answer: Answer) -> dict[str, Any]:
        run, where = self._work.run, self._files.where(file.number)
        row: dict[str, Any] = {
            "id": file.name, "source": str(self._files.store.holder(where)),
            "model": run.model, "version": run.version, "digest": run.digest,
        }  # fmt: skip
        if isinstance(answer, Failure):
            problem = problem_of(answer).type.removeprefix(PROBLEMS)
            return row | {"problem": problem, "detail": answer.detail}
        return row | {
            "labels": [one["label"] for one in answer.predictions],
            "probabilities": [one["probability"] for one in answer.predictions],
            "abstained": answer.sureness.abstained if answer.sureness else None,
            "embedding": answer.embedding,
            "grid": answer.target.grid,
        }


def _read(files: Dataset, place: int, most: int) -> bytes | Failure:
    """The bytes of a file; of one that is too large as many as show it.

    Raises:
        NotReadNow: why it cannot be read is not the file's affair, so that no row shall say it.
    """
    if files.columns.sizes[place] > most:
        return bytes(most + 1)
    try:
        media = files.read(place)
    except OSError as error:
        if error.errno not in OF_THE_FILE:
            where = files.store.holder(files.where(place))
            raise NotReadNow(f"{where} cannot be read: {error.strerror or error}") from error
        return UnreadableFile(error.strerror or type(error).__name__)
    except SourceError as error:
        return UnreadableFile(str(error))
    assert isinstance(media, bytes)
    return media or EmptyFile("the file has no bytes")


def _end_with_device(engine: Engine) -> None:
    """A device that has died takes its process along: Ray starts another."""
    if isinstance(engine.failure, DeviceDied):
        os._exit(DEVICE_DIED)
