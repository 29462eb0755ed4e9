"""``python -m service classify FILE...``: answers without a server, through the server's own code.

Every file is a job of class batch for the ``Engine``, read once there is room for it. Answers come
out in the order of the files, as soon as they are there; with ``--resume`` as they come, and kept.
Where no bundle is named, the first reader that knows the type of a file answers it.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import logging
import os
import signal
import sqlite3
import stat
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import uvloop

from service import logs
from service.cli.exit_status import (
    FAILED,
    OK,
    WRONG_COMMAND,
    complain,
    end_at_once,
    end_of_device,
)
from service.cli.kept import items_of, kept_answers
from service.cli.overlays import Overlays
from service.cli.progress import Progress
from service.cli.question import add_bundle, add_question, parameters_of
from service.engine.bulk import File, begin_each
from service.engine.candidates import Candidates, find_candidates, largest
from service.engine.decode.link import DecodeError
from service.engine.device.session import DeviceDied, DeviceError, check_device
from service.engine.engine import Engine
from service.engine.explain.explanation import METHODS
from service.engine.failures import EmptyFile, Failure, UnreadableFile
from service.engine.folders import NoBundles, named_folders
from service.engine.job import EncodingFormat, Outcome
from service.engine.parameters import FORMATS, WANTS, Asked
from service.http.problems import members, problem_of
from service.logs import printable
from service.settings import Settings, SettingsError, make_offline_settings

log = logging.getLogger(__name__)

STDIN = "-"
#: (name as given, what became of the file; of one that is kept as JSON)
Answer = tuple[str, Outcome | Failure | dict[str, Any]]


def main(arguments: list[str]) -> int:
    """Answer every file: 0 if all were answered, 1 if some were not, 2 for a wrong command."""
    options = _parse(arguments)
    try:
        settings = _settings(options)
        check_device(settings.device)
        logs.configure(settings)
        for number in (signal.SIGINT, signal.SIGTERM):
            # Every line is out already, and workers end when nobody holds their stdin.
            signal.signal(number, end_at_once)
        return uvloop.run(_run(settings, options))
    except (SettingsError, DeviceError, NoBundles) as error:
        return complain(error, WRONG_COMMAND)
    except DecodeError as error:
        return complain(error, FAILED)
    except (Failure, sqlite3.Error) as error:
        return complain(f"the answers cannot be kept: {error}", FAILED)
    except DeviceDied:  # the log has the reason
        end_of_device()


async def _run(settings: Settings, options: argparse.Namespace) -> int:
    engine = Engine(settings)
    try:
        await engine.start(named_folders(settings.bundles, options.bundle))
        parameters = parameters_of(options)
        try:
            candidates = find_candidates(engine, parameters)
            items = items_of(options.files) if options.resume else []
        except Failure as failure:
            return complain(failure.detail, WRONG_COMMAND)
        try:
            overlays = Overlays(options.explain) if options.explain else None
        except OSError as error:
            return complain(f"cannot make {options.explain}: {error.strerror}", WRONG_COMMAND)
        answers: AsyncGenerator[Answer, None] = _answers(engine, options.files, candidates)
        if options.resume:
            answers = kept_answers(engine, items, parameters, candidates)
        async with aclosing(answers):
            printing = asyncio.create_task(_print_all(answers, options, overlays))
            return await _unless_dead(engine, printing)
    finally:
        await engine.close()


async def _unless_dead(engine: Engine, printing: asyncio.Task[int]) -> int:
    """The status of what prints the answers; DeviceDied, at once, where no more can come."""
    engine.on_failure = printing.cancel
    await asyncio.wait([printing])
    await engine.vitals.settle()
    if isinstance(engine.failure, DeviceDied):
        raise engine.failure
    return printing.result()


async def _answers(
    engine: Engine, files: list[str], candidates: Candidates
) -> AsyncGenerator[Answer, None]:
    """Every file's answer, in order."""
    begun: asyncio.Queue[asyncio.Task[Outcome | Failure]] = asyncio.Queue()
    beginning = asyncio.create_task(_begin_all(engine, files, candidates, begun))
    beginning.add_done_callback(begun.put_nowait)  # to be awaited too, should it fail
    try:
        for file in files:
            yield file, await (await begun.get())
    finally:
        beginning.cancel()


async def _begin_all(
    engine: Engine,
    files: list[str],
    candidates: Candidates,
    begun: asyncio.Queue[asyncio.Task[Outcome | Failure]],
) -> Any:
    """Let every file be answered, in its turn and once there is room for it."""
    async for _, task in begin_each(engine, _opened(files, largest(candidates)), candidates):
        begun.put_nowait(task)


async def _opened(files: list[str], most: int) -> AsyncIterator[File]:
    for number, file in enumerate(files, 1):
        yield File(number, file, _size(file, most), functools.partial(_read, file))


def _size(file: str, most: int) -> int:
    """The bytes that reading a file may take; of what is no file on a disk as many as it may."""
    if file == STDIN:
        return most
    try:
        found = Path(file).stat()
    except OSError:
        return 0  # reading it will say why
    return min(found.st_size, most) if stat.S_ISREG(found.st_mode) else most


def _read(file: str, most: int) -> bytes | Failure:
    """The bytes of a file, one more than is allowed at most."""
    try:
        if file == STDIN:
            media = sys.stdin.buffer.read(most + 1)
        else:
            with Path(file).open("rb") as stream:
                media = stream.read(most + 1)
    except OSError as error:
        return UnreadableFile(error.strerror or type(error).__name__)
    return media or EmptyFile("the file has no bytes")


# --- output ----------------------------------------------------------------------------------


async def _print_all(
    answers: AsyncIterator[Answer], options: argparse.Namespace, overlays: Overlays | None = None
) -> int:
    """A line per file; the exit status."""
    failed, progress = 0, Progress(len(options.files), "files")
    asked = Asked.parse(parameters_of(options))
    show: Callable[[str, Any], None] = _show
    if options.json:
        show = functools.partial(_show_json, asked.encoding_format)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        async for name, answer in answers:
            if isinstance(answer, Failure) or (isinstance(answer, dict) and "error" in answer):
                failed += 1
                progress.clear()
            elif overlays is not None and isinstance(answer, Outcome):
                overlays.write(name, answer)
            show(name, answer)
            progress.step()
    except OSError as error:  # of stdout or overlays: a full disk, or a reader that has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more
        return complain(f"cannot write the answers: {error.strerror}", FAILED)
    finally:
        progress.clear()
    return FAILED if failed else OK


def _show(name: str, answer: Outcome | Failure) -> None:
    """For people: the labels on stdout, what went wrong on stderr."""
    if isinstance(answer, Failure):
        line = f"{name}: {problem_of(answer).title} {answer.detail}"
        print(printable(line), file=sys.stderr, flush=True)
    else:
        ranked = (f"{one['label']} {one['probability']:.1%}" for one in answer.predictions)
        unsure = "not sure: " if answer.sureness and answer.sureness.abstained else ""
        print(printable(f"{name}: {unsure}{', '.join(ranked)}"), flush=True)


def _show_json(
    encoding_format: EncodingFormat, name: str, answer: Outcome | Failure | dict[str, Any]
) -> None:
    """For machines: what the REST answer says of one file, in ASCII."""
    line: dict[str, Any] = {"file": name}
    if isinstance(answer, dict):
        line |= answer
    elif isinstance(answer, Failure):
        line["error"] = members(answer)
    else:
        line |= answer.document(encoding_format)
    print(json.dumps(line, allow_nan=False), flush=True)


# --- the command line ------------------------------------------------------------------------


def _settings(options: argparse.Namespace) -> Settings:
    """Those of the server, from the environment and the flags that are here too."""
    named = ("bundles", "device", "jobs")
    given = {name: getattr(options, name) for name in named if getattr(options, name) is not None}
    if options.bundle is not None:
        given["default_bundle"] = ()  # nobody is asked for it
    settings = make_offline_settings(**given)
    if options.resume and settings.jobs is None:
        raise SettingsError("--resume: expected --jobs DIR, or LIERE_JOBS, where answers are kept")
    return settings


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m service classify",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Rank the labels of images, clips and scans without a server: of what there are bundles for.

  python -m service classify photo.jpg clip.mp4 scan.nii.gz
  python -m service classify --json *.png > answers.jsonl
  python -m service classify --json --resume --jobs DIR *.png > answers.jsonl
  curl -s URL | python -m service classify -

A file goes to the bundle that is named. Else its own bytes decide: it is offered to the default
bundles for images, scans and clips, in this order, and the first that reads its type answers. A
GIF is an image then.

With --resume every answer is kept as a server keeps those of jobs: after a kill the same command,
of the same files as they were, prints those that are there and answers the others. Lines come in
the order of the answers then. python -m service jobs shows what is kept.
""",
        epilog="Exit status: 0 all answered, 1 some file failed (the others are answered), 2 wrong "
        "command,\nno bundles, unknown bundle or grid, device not there, 3 the device stopped to "
        "answer. The settings\nof the server count here too, as environment variables: see "
        "python -m service --help.",
    )
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="an image, a clip or a scan; - is standard input")
    add_bundle(parser, "--bundle", "; else the default bundles of the server")
    add_question(parser)
    add(
        "--want",
        choices=WANTS,
        help="ranked labels (default); or, with --json, the probabilities or logits of all labels, "
        "in the bundle's order, or the features before the head",
    )
    add(
        "--encoding-format",
        choices=FORMATS,
        help="of arrays: numbers (default), or base64 of little-endian float32",
    )
    add(
        "--explain",
        metavar="DIR",
        type=Path,
        help="also find where the model looked, and write a picture of it, NAME.png in this "
        "folder, for every file",
    )
    add(
        "--explain-by",
        choices=METHODS,
        help="with --explain: by hiding parts (occlusion, the default), which is slow, or by "
        "attention, of bundles that were exported with --explain",
    )
    add("--explain-label", metavar="LABEL", help="of occlusion: this one; else the most probable")
    add("--json", action="store_true", help="a JSON object a line, as in the server's answer")
    add("--resume", action="store_true", help="keep the answers, and go on where they are kept")
    add("--jobs", metavar="DIR", help="where they are kept (default: LIERE_JOBS)")
    add("--bundles", metavar="DIR", help="folder of bundles (default: LIERE_BUNDLES, else bundles)")
    add("--device", help="auto, cpu, cpu:N, cuda or cuda:N (default: LIERE_DEVICE, else auto)")
    options = parser.parse_args(arguments)
    if options.want not in (None, WANTS[0]) and not options.json:
        parser.error(f"--want {options.want} is an array: it needs --json")
    if options.resume and (not options.json or STDIN in options.files):
        parser.error("--resume keeps lines of JSON, of files: it needs --json and no -")
    if options.resume and options.explain:
        parser.error("--explain draws answers as they come, and --resume keeps lines alone")
    if options.explain_by and not options.explain:
        parser.error("--explain-by says how: --explain DIR says where pictures go")
    if options.jobs is not None and not options.resume:
        parser.error("--jobs is where --resume keeps its answers: say --resume")
    if options.files.count(STDIN) > 1:
        parser.error("standard input (-) can be read once only")
    return options
