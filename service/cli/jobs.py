"""``python -m service jobs``: the jobs of a server, for whoever has its folder.

All of it is read from the folder, and written there: a server that runs follows within a second,
and where none does the next one will. Whose jobs they are is not asked.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from service.cli.exit_status import FAILED, OK, WRONG_COMMAND, complain
from service.jobs.database import FILE, StoreError
from service.jobs.pins import pinned
from service.jobs.store import Job, Store
from service.logs import printable
from service.settings import SettingsError, make_settings

#: Lines that are read from the disk together.
PAGE = 500


def main(arguments: list[str]) -> int:
    """Carry out one command: 0, 1 if it failed, 2 for a wrong one."""
    options = _parse(arguments)
    try:
        with closing(_store(options.jobs)) as store:
            status: int = options.command(store, options)
            return status
    except SettingsError as error:
        return complain(error, WRONG_COMMAND)
    except BrokenPipeError:  # a reader that has enough
        sys.stderr.close()  # Python would complain there
        return OK
    except (OSError, sqlite3.Error, StoreError) as error:
        return complain(f"the jobs cannot be read or written: {error}", FAILED)


def _store(given: str | None) -> Store:
    """The database of the folder that is named; SettingsError where there is none."""
    named = {"keys_file": None, "key_sha256": ()} | ({"jobs": given} if given else {})
    folder = make_settings(**named).jobs
    if folder is None:
        raise SettingsError("jobs: expected --jobs DIR, or LIERE_JOBS")
    if not (folder / FILE).is_file():
        raise SettingsError(f"jobs: {folder} holds no jobs")
    return Store(folder)


# --- the commands ----------------------------------------------------------------------------


def _list(store: Store, options: argparse.Namespace) -> int:
    for job in store.of_owner(options.owner):
        print(json.dumps(_document(job)) if options.json else printable(_told(job)))
    return OK


def _show(store: Store, options: argparse.Namespace) -> int:
    print(json.dumps(_document(_find(store, options.id)), indent=2))
    return OK


def _results(store: Store, options: argparse.Namespace) -> int:
    job = _find(store, options.id)
    for line in _lines(store, job, options.after):
        print(line)
    sys.stdout.flush()
    return OK


def _cancel(store: Store, options: argparse.Namespace) -> int:
    job = store.cancel(_find(store, options.id))
    print(printable(_told(job)) if job else f"{options.id}: it has just expired")
    return OK


def _find(store: Store, id_: str) -> Job:
    job = store.get(id_)
    if job is None:
        raise SettingsError(f"there is no job {id_[:40]!a}; python -m service jobs list")
    return job


def _lines(store: Store, job: Job, after: int) -> Iterator[str]:
    while lines := store.lines(job, after, PAGE):
        yield from lines
        after += len(lines)


# --- what is said ----------------------------------------------------------------------------


def _document(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "owner": job.owner,
        "state": job.state,
        "reason": job.reason,
        "created": job.created,
        "ended": job.ended,
        "total": job.total,
        "answered": job.answered,
        "failed": job.failed,
        "bundles": [f"{name}@{version}" for name, version in pinned(job.candidates)],
        "bytes": job.bytes,
    }


def _told(job: Job) -> str:
    """One job, for people."""
    owner = f" of {job.owner}" if job.owner else ""
    failed = f", {job.failed} of them errors" if job.failed else ""
    why = f": {job.reason}" if job.reason else ""
    done = f"{job.answered} of {job.total} files answered{failed}"
    return f"{job.id}{owner}: {job.state}, {done}{why}"


# --- the command line ------------------------------------------------------------------------


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m service jobs",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Look at the jobs of a server, read their answers, cancel them: of all owners, by their folder.

  python -m service jobs list --jobs DIR
  python -m service jobs results ID --jobs DIR > answers.jsonl
""",
        epilog="Exit status: 0 done, 1 failed, 2 wrong command, no such folder or job.",
    )
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--jobs", metavar="DIR", help="folder of jobs (default: LIERE_JOBS)")
    add = parser.add_subparsers(metavar="COMMAND", required=True).add_parser
    for name, command, told in (
        ("list", _list, "say of every job how far it is, newest first"),
        ("show", _show, "say all of one job, as JSON"),
        ("results", _results, "print the answers that are there by now, a JSON object a line"),
        ("cancel", _cancel, "let a job have no more answers"),
    ):
        one = add(name, help=told, description=f"{told.capitalize()}.", parents=[where])
        one.set_defaults(command=command)
        if command is _list:
            one.add_argument("--json", action="store_true", help="a JSON object a line")
            one.add_argument("--owner", metavar="NAME", help="of the key whose jobs are meant")
        else:
            one.add_argument("id", metavar="ID", help="of the job")
        if command is _results:
            one.add_argument("--after", type=int, default=0, metavar="N", help="lines to pass over")
    return parser.parse_args(arguments)
