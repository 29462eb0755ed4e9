"""``python -m client jobs``: have many files answered as a job, follow it, read its lines."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from client.asking import AsyncClient
from client.errors import ClientError
from client.exit_status import FAILED, OK, WRONG_COMMAND
from client.jobs import Job
from client.paths import walk
from client.running import Stop, add_connection, check_there, connect, run, status_of
from client.showing import printable

PARAMETERS = ("bundle", "grid", "top_k", "views", "want", "encoding_format", "raw", "abstain")


def main(arguments: list[str]) -> int:
    """Carry out one command; the exit status, which ``--help`` explains."""
    return run(_run(_parse(arguments)))


async def _run(options: argparse.Namespace) -> int:
    async with connect(options) as client:
        try:
            status: int = await options.command(client, options)
            return status
        except ClientError as error:
            raise Stop(str(error), status_of(error)) from error
        except BrokenPipeError:  # a reader that has enough; Python would flush once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return OK


# --- the commands ----------------------------------------------------------------------------


async def _submit(client: AsyncClient, options: argparse.Namespace) -> int:
    check_there([*options.paths, *options.archive])
    named = {name: getattr(options, name) for name in PARAMETERS}
    asked: Any = {name: text for name, text in named.items() if text is not None}
    try:
        job = await client.jobs.submit(
            walk(options.paths, every=options.every),
            archives=options.archive,
            paths=options.server_path,
            key=options.idempotency_key,
            **asked,
        )
    except ValueError as error:
        raise Stop(str(error), WRONG_COMMAND) from error
    print(job.id, flush=True)
    return await _follow(client, job.id) if options.wait else OK


async def _list(client: AsyncClient, options: argparse.Namespace) -> int:
    async for job in client.jobs.list():
        print(printable(_told(job)))
    return OK


async def _show(client: AsyncClient, options: argparse.Namespace) -> int:
    print(json.dumps((await client.jobs.show(options.id)).document, indent=2))
    return OK


async def _wait(client: AsyncClient, options: argparse.Namespace) -> int:
    return await _follow(client, options.id)


async def _results(client: AsyncClient, options: argparse.Namespace) -> int:
    failed = False
    lines = client.jobs.results(options.id, after=options.after, follow=options.follow)
    async for line in lines:
        failed = failed or "error" in line.document
        print(json.dumps(line.document), flush=options.follow)
    sys.stdout.flush()
    return FAILED if failed else OK


async def _cancel(client: AsyncClient, options: argparse.Namespace) -> int:
    print(printable(_told(await client.jobs.cancel(options.id))))
    return OK


async def _follow(client: AsyncClient, id: str) -> int:
    """A bar on a terminal until the job has ended, then a line about it."""
    console = Console(stderr=True)
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]} failed")
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        bar = progress.add_task("", total=None, failed=0)

        def show(job: Job) -> None:
            progress.update(bar, total=job.total, completed=job.answered, failed=job.failed)

        job = await client.jobs.wait(id, show)
    print(printable(_told(job)), file=sys.stderr)
    return OK if job.state == "done" and not job.failed else FAILED


def _told(job: Job) -> str:
    """One job, for people."""
    failed = f", {job.failed} of them errors" if job.failed else ""
    why = f": {job.reason}" if job.reason else ""
    return f"{job.id}: {job.state}, {job.answered} of {job.total} files answered{failed}{why}"


# --- the command line ------------------------------------------------------------------------


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m client jobs",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Have many or long files answered by a server that keeps jobs; it goes on without this command.

  python -m client jobs submit photos/ --wait
  python -m client jobs results ID > answers.jsonl
""",
        epilog="Exit status: 0 done, 1 some files failed or the job was cancelled, 2 wrong\n"
        "command, key, bundle, parameter or job, 3 the server does not answer, 130 interrupted.",
    )
    add = parser.add_subparsers(metavar="COMMAND", required=True).add_parser
    for name, command, told in (
        ("submit", _submit, "make a job, and print its id"),
        ("list", _list, "say of every job of the key how far it is, newest first"),
        ("show", _show, "say all of one job, as JSON"),
        ("wait", _wait, "stay until a job has ended, with a bar on a terminal"),
        ("results", _results, "print the answers that are there by now, a JSON object a line"),
        ("cancel", _cancel, "let a job have no more answers"),
    ):
        one = add(name, help=told, description=f"{told.capitalize()}.")
        one.set_defaults(command=command)
        add_connection(one, "one call")
        if command is _submit:
            _add_submit(one)
        elif command is not _list:
            one.add_argument("id", metavar="ID", help="of the job")
        if command is _results:
            one.add_argument("--after", type=int, default=0, metavar="N", help="lines to pass over")
            one.add_argument("--follow", action="store_true", help="wait for those to come, too")
    return parser.parse_args(arguments)


def _add_submit(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("paths", nargs="*", metavar="PATH", help="a file, or a folder whose media are meant")
    add("--every", action="store_true", help="of folders all files, whatever they are called")
    add("--archive", action="append", default=[], metavar="FILE", help="a zip or tar of files")
    server = "a file or folder that the server reads itself, below what its operator allows"
    add("--server-path", action="append", default=[], metavar="PATH", help=server)
    add("--bundle", metavar="NAME", help="who answers, NAME@VERSION to insist on its version")
    add("--grid", help="one of the bundle's grids, like 8x8, or auto")
    add("--top-k", metavar="K", help="number of labels; 5 (or all, if fewer) when not given")
    add("--views", metavar="V", help="of clips: sampled so often; else as the bundle says")
    add("--want", help="labels (default), probabilities, logits or embedding")
    add("--encoding-format", help="of arrays: float (default) or base64")
    add("--raw", action="store_true", default=None, help="probabilities that are not calibrated")
    add("--abstain", metavar="P", help="below this probability, 0 to 1, the model is not sure")
    once = "of your choice: the same command with it finds the job that it has made"
    add("--idempotency-key", metavar="KEY", help=once)
    add("--wait", action="store_true", help="stay until it has ended")
