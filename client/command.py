"""``python -m client classify PATH...``: many files to a server, with a bar, and it can go on."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from client.answer_file import AnswerFile, WrongFile
from client.answers import Result
from client.asking import AsyncClient, Outcome
from client.errors import ClientError, NoAnswer, Problem, UnknownModality
from client.exit_status import FAILED, OK, SERVER_GONE, WRONG_COMMAND
from client.paths import walk
from client.running import (
    PASSING,
    Stop,
    add_connection,
    check_there,
    connect,
    count,
    run,
    status_of,
)
from client.showing import Show

#: What the server says of a file, and would say tomorrow; their names are the ends of the types.
OF_THE_FILE = {
    *("empty-body", "empty-file", "body-too-large", "file-too-large", "unsupported-media"),
    *("broken-media", "media-too-large", "decode-timeout", "inference-failed"),
}
GONE_AFTER = 3  # in a row, and at least as many as are under way at once


def main(arguments: list[str]) -> int:
    """Answer every file; the exit status, which ``--help`` explains."""
    options = _parse(arguments)
    return run(_run(options), _how_to_go_on(options))


async def _run(options: argparse.Namespace) -> int:
    check_there(options.paths)
    files = walk(options.paths, every=options.modality is not None)
    total = sum(1 for _ in files)
    async with connect(options) as client:
        await _check_server(client, options.url)
        with _answers(options) as answers, Show(total, answers) as show:
            await _classify(client, options, show)
        return FAILED if show.failed else OK


@contextlib.contextmanager
def _answers(options: argparse.Namespace) -> Iterator[AnswerFile | None]:
    """Where answers are written; None is standard output."""
    if options.out is None:
        yield None
        return
    try:
        answers = AnswerFile(options.out, options.resume, _request(options))
    except WrongFile as error:
        raise Stop(str(error), WRONG_COMMAND) from error
    with contextlib.closing(answers):
        yield answers


async def _check_server(client: AsyncClient, url: str) -> None:
    """One answer before any file is read: address and key are right; else Stop."""
    try:
        await client.bundles()
    except ClientError as error:
        raise Stop(f"{url}: {error}", status_of(error)) from error


async def _classify(client: AsyncClient, options: argparse.Namespace, show: Show) -> None:
    """Send every file that has no answer yet, and show what became of it."""
    files = show.unanswered(walk(options.paths, every=options.modality is not None))
    many = client.classify_many(files, concurrency=options.concurrency, **_request(options))
    in_a_row = 0
    async with contextlib.aclosing(many) as outcomes:
        async for name, outcome in outcomes:
            if isinstance(outcome, Result) or _is_of_the_file(outcome):
                show.final(name, outcome)
                in_a_row = 0
                continue
            show.passing(name, outcome)
            if _is_wrong_command(outcome):
                raise Stop(str(outcome), WRONG_COMMAND)
            in_a_row += not isinstance(outcome, OSError | UnknownModality)
            if in_a_row >= max(GONE_AFTER, options.concurrency):
                told = f"the server answers no more: {outcome}{_how_to_go_on(options)}"
                raise Stop(told, SERVER_GONE)


def _request(options: argparse.Namespace) -> dict[str, Any]:
    named = ("modality", "bundle", "grid", "top_k", "views", "raw", "abstain")
    return {name: getattr(options, name) for name in named if getattr(options, name) is not None}


def _is_of_the_file(outcome: Outcome) -> bool:
    return isinstance(outcome, Problem) and outcome.type.rpartition("/")[2] in OF_THE_FILE


def _is_wrong_command(outcome: Outcome) -> bool:
    """Whether every other file would get the same: a wrong key, bundle, grid or server."""
    if isinstance(outcome, Problem):
        return outcome.status not in PASSING
    return not isinstance(outcome, OSError | NoAnswer | UnknownModality)


def _how_to_go_on(options: argparse.Namespace) -> str:
    return "; the same command with --resume goes on" if options.out else ""


# --- the command line ------------------------------------------------------------------------


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m client classify",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Have a server rank the labels of images, clips and scans.

  python -m client classify photo.jpg clip.mp4 scan.nii.gz
  python -m client classify photos/ --out answers.jsonl
  python -m client classify photos/ --out answers.jsonl --resume

The endings of names say what files are; of a folder, and the folders in it, those are taken whose
names end like media. With --modality all are that, whatever they are called.

--out writes a JSON object a line, {"file": NAME, ...} with what the server says of it, or with
"error" where the file is at fault. Lines come in the order of the answers and are whole at once:
after a kill, --resume goes on with the files that have none. What failed for another reason (a
server that is busy or gone, a file that cannot be read) has no line, so --resume tries it again.
""",
        epilog="Exit status: 0 all answered, 1 some files failed (the others are answered), 2\n"
        "wrong command, key, bundle or parameter, 3 the server does not answer, 130 interrupted.",
    )
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="a file, or a folder")
    add("--out", type=Path, metavar="FILE", help="where answers are written, a new file")
    add("--resume", action="store_true", help="go on with the file that --out names")
    add("--modality", choices=("image", "video", "volume"), help="what the files are")
    add("--bundle", metavar="NAME", help="who answers, NAME@VERSION to insist on its version")
    add("--grid", help="one of the bundle's grids, like 8x8, or auto")
    add("--top-k", metavar="K", help="number of labels; 5 (or all, if fewer) when not given")
    add("--views", metavar="V", help="of clips: sampled so often; else as the bundle says")
    add("--raw", action="store_true", default=None, help="probabilities that are not calibrated")
    add("--abstain", metavar="P", help="below this probability, 0 to 1, the model is not sure")
    add("--concurrency", type=count, default=8, metavar="N", help="files under way (%(default)s)")
    add_connection(parser, "one file")
    options = parser.parse_args(arguments)
    if options.resume and options.out is None:
        parser.error("--resume goes on with the file that --out names: say --out FILE")
    return options
