"""What the commands of the client share: whom they ask, and how they end."""

from __future__ import annotations

import argparse
import asyncio
import signal
import ssl
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from client.asking import DEADLINE_SECONDS, DEFAULT_URL, RETRIES, AsyncClient
from client.errors import ClientError, NoAnswer, Problem
from client.exit_status import FAILED, INTERRUPTED, SERVER_GONE, WRONG_COMMAND, complain

#: 408 is a network that is too slow; what the server did not manage it may manage later.
PASSING = {408, 429, *range(500, 600)}


class Stop(Exception):
    """The command cannot go on.

    Args:
        status: to end with.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def run(command: Coroutine[Any, Any, int], how_to_go_on: str = "") -> int:
    """The exit status of a command, which says on stderr why it ended early.

    Args:
        how_to_go_on: said where it was interrupted.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return asyncio.run(command)
    except Stop as stop:
        return complain(stop, stop.status)
    except OSError as error:
        told = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        return complain(told or error, FAILED)
    except KeyboardInterrupt:
        return complain(f"interrupted{how_to_go_on}", INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before)


def connect(options: argparse.Namespace) -> AsyncClient:
    """The server that ``add_connection`` names.

    Raises:
        Stop: the address, the key or the certificates are not such.
    """
    try:
        key = options.key_file.read_text().strip() if options.key_file else None
        trusted = ssl.create_default_context(cafile=options.ca_file) if options.ca_file else True
        given = {} if options.deadline is None else {"deadline": options.deadline}
        return AsyncClient(
            options.url,
            key=key,
            **given,
            retries=options.retries,
            verify=trusted,
        )
    except OSError as error:
        named = error.filename or options.ca_file  # OpenSSL names nothing
        raise Stop(f"{named}: {error.strerror or error}", WRONG_COMMAND) from error
    except ValueError as error:
        raise Stop(str(error), WRONG_COMMAND) from error


def status_of(error: ClientError) -> int:
    """How a command ends that cannot go on without this answer."""
    passing = isinstance(error, Problem) and error.status in PASSING
    return SERVER_GONE if passing or isinstance(error, NoAnswer) else WRONG_COMMAND


def check_there(paths: Sequence[str]) -> None:
    """Stop where one of them is no file or folder."""
    for path in paths:
        if not Path(path).exists():
            raise Stop(f"there is no file or folder {path!a}", WRONG_COMMAND)


def add_connection(parser: argparse.ArgumentParser, what: str) -> None:
    """The options that say whom to ask.

    Args:
        what: a deadline and tries are of.
    """
    add = parser.add_argument
    add("--url", default=DEFAULT_URL, help="of the server (default: %(default)s)")
    add("--key-file", type=Path, metavar="FILE", help="holds the key that the server asks for")
    add("--ca-file", type=Path, metavar="FILE", help="certificates to trust instead of the usual")
    add(
        "--deadline",
        type=_seconds,
        metavar="SECONDS",
        help=f"for {what}, with all its tries and waits ({DEADLINE_SECONDS:g}; none for the files "
        "of a job)",
    )
    add("--retries", type=count, default=RETRIES, metavar="N", help=f"of {what} (%(default)s)")


def count(text: str) -> int:
    """A whole number of the command line."""
    if text.isascii() and text.isdecimal() and 1 <= int(text) <= 1000:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 1000, got {text!a}")


def _seconds(text: str) -> float:
    try:
        if 0 < (seconds := float(text)) <= 86_400:
            return seconds
    except ValueError:
        pass  # told below
    raise argparse.ArgumentTypeError(f"expected seconds from 0 to 86400, got {text!a}")
