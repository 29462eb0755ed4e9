"""``python -m service shadow``: what a candidate version that sees copies of requests has found.

It asks a running server at its addresses under /admin, with a key that has that scope.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import ssl
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

from service.cli.exit_status import FAILED, OK, WRONG_COMMAND, complain
from service.logs import printable

#: To begin takes as long as to prove a version.
SECONDS = 660.0
MOST_BYTES = 2**24
#: Rows of each table that are printed; --json has all that the server tells.
ROWS = 20
Report = Mapping[str, Any]


class Refused(Exception):
    """The server says no, or nothing that can be understood; the message is for the operator."""


def main(arguments: list[str]) -> int:
    """Carry out one command: 0, 1 if the server refuses or does not answer, 2 for a wrong one."""
    options = _parse(arguments)
    try:
        key = options.key_file.read_bytes().strip() if options.key_file else b""
        trusted = ssl.create_default_context(cafile=options.ca_file)
    except OSError as error:
        return complain(f"{error.filename or options.ca_file}: {error.strerror}", WRONG_COMMAND)
    if not re.fullmatch(rb"[!-~]*", key):
        return complain(f"{options.key_file}: expected a key, one word alone", WRONG_COMMAND)
    method, path = options.asks(options)
    try:
        report = _ask(options.url, trusted, method, f"/admin/bundles/{path}", key)
    except Refused as error:
        return complain(error, FAILED)
    except (OSError, http.client.HTTPException) as error:
        return complain(f"no answer from {options.url.geturl()}: {error!a}", FAILED)
    lines = [json.dumps(report)] if options.json else _lines(report)
    print("\n".join(map(printable, lines)))
    return OK


def _ask(
    url: SplitResult, trusted: ssl.SSLContext, method: str, path: str, key: bytes
) -> Report:
    """The report that the server answers with; Refused where it answers with something else."""
    assert url.hostname is not None
    if url.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            url.hostname, url.port, timeout=SECONDS, context=trusted
        )
    else:
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=SECONDS)
    headers = {"Authorization": b"Bearer " + key} if key else {}
    try:
        connection.request(method, url.path.rstrip("/") + path, headers=headers)
        answer = connection.getresponse()
        body = answer.read(MOST_BYTES)
    finally:
        connection.close()
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise Refused(f"expected JSON, got status {answer.status} and {body[:200]!a}")
    if answer.status == http.client.NOT_FOUND and document.get("type") == "/problems/not-found":
        raise Refused(
            "the server has no addresses for admins: they are there where a key has the scope admin"
        )
    if answer.status != http.client.OK:
        raise Refused(f"status {answer.status}: {document.get('detail')}")
    return document


# --- what is asked for -----------------------------------------------------------------------


def _show(options: argparse.Namespace) -> tuple[str, str]:
    return "GET", f"{quote(options.name, safe='')}/shadow"


def _begin(options: argparse.Namespace) -> tuple[str, str]:
    name, version = (quote(one, safe="") for one in (options.name, options.version))
    return "POST", f"{name}/versions/{version}/shadow?share={options.share:g}"


def _end(options: argparse.Namespace) -> tuple[str, str]:
    return "DELETE", f"{quote(options.name, safe='')}/shadow"


# --- what is said ----------------------------------------------------------------------------


def _lines(report: Report) -> list[str]:
    """A report for people."""
    mine, theirs = report["answering"], report["candidate"]
    began = datetime.fromtimestamp(report["began"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    ended = f"; ended, as {report['reason']}" if report["reason"] else ""
    sees = f"{100 * report['share']:g} % of what version {mine} answers"
    lines = [f"{report['bundle']}: version {theirs} sees {sees}, since {began}{ended}"]
    lines += [f"compared {report['compared']} files; {_left_out(report)}"]
    if not report["compared"]:
        return lines
    lines += [f"first labels agree: {_percent(report['agreement'])}"]
    apart = report["difference"]
    mean = f"mean {_interval(apart, '.4f')}, " if apart else ""
    lines += [f"probabilities differ by: {mean}largest {report['largest_difference']:.4f}"]
    sure, lane = report["confidence"], report["lane_ms"]
    lines += [f"probability of the first label, mean: {_both(sure, '.4f')}"]
    lines += [f"a file's time on a lane, ms, mean: {_both(lane, '.2f')}"]
    lines += ["", *_table(
        "<>>>", ("label", f"version {mine}", f"version {theirs}", "agree"),
        ((one["label"], one["answering"], one["candidate"], _percent(one["agreement"]))
         for one in report["labels"][:ROWS]),
    )]  # fmt: skip
    if report["differed"]:
        lines += ["", *_table(
            "<<>", (f"version {mine}", f"version {theirs}", "files"),
            ((one["answering"], one["candidate"], one["items"])
             for one in report["differed"][:ROWS]),
        )]  # fmt: skip
    return lines


def _left_out(report: Report) -> str:
    """Copies that were not compared."""
    said = [f"{report['waiting']} wait"]
    for name in ("shed", "failed"):
        counts = ", ".join(f"{kind} {count}" for kind, count in report[name].items())
        total = sum(report[name].values())
        said.append(f"{name} {total}" + (f" ({counts})" if counts else ""))
    return ", ".join(said)


def _both(numbers: Mapping[str, float], form: str) -> str:
    return f"{numbers['answering']:{form}} and {numbers['candidate']:{form}}"


def _percent(interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return "-"
    return _interval({name: 100 * value for name, value in interval.items()}, ".1f") + " %"


def _interval(interval: Mapping[str, float], form: str) -> str:
    value, low, high = (f"{interval[name]:{form}}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _table(sides: str, head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    """Columns as wide as they must be, each to the left (<) or to the right (>)."""
    texts = [head, *(tuple(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        "  ".join(
            f"{cell:{side}{width}}" for side, cell, width in zip(sides, row, widths, strict=True)
        ).rstrip()
        for row in texts
    ]


# --- the command line ------------------------------------------------------------------------


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m service shadow",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Tell how far a candidate version agrees with the one that answers: the candidate sees copies of a
share of the requests. Intervals in brackets are of 95 %.

  python -m service shadow begin digits 2 --share 0.1 --key-file admin.key
  python -m service shadow show digits --key-file admin.key
  python -m service shadow end digits --key-file admin.key
""",
        epilog="Exit status: 0 done, 1 the server refuses or does not answer, 2 wrong command.",
    )
    where = argparse.ArgumentParser(add_help=False)
    add = where.add_argument
    add("name", metavar="NAME", help="of the bundle")
    add("--url", type=_url, default="http://127.0.0.1:8000", help="of the server (%(default)s)")
    add("--key-file", type=Path, metavar="FILE", help="holds a key with the scope admin")
    add("--ca-file", type=Path, metavar="FILE", help="certificates to trust instead of the usual")
    add("--json", action="store_true", help="all that the server tells, as one JSON object")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, asks, told in (
        ("show", _show, "tell what was found so far, or by the last one"),
        ("begin", _begin, "prove a version and let it see copies, or change the share of one"),
        ("end", _end, "let no version see copies any more"),
    ):
        described = f"{told.capitalize()}."
        one = commands.add_parser(name, help=told, description=described, parents=[where])
        one.set_defaults(asks=asks)
        if asks is _begin:
            one.add_argument("version", metavar="VERSION", help="name of its folder")
            share = "of the requests, 0 to 1 (%(default)s)"
            one.add_argument("--share", type=float, default=0.1, metavar="SHARE", help=share)
    return parser.parse_args(arguments)


def _url(text: str) -> SplitResult:
    url = urlsplit(text)
    try:
        known = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # of a port that is none
        known = False
    if not known:
        raise argparse.ArgumentTypeError(f"expected an address like http://HOST:8000, got {text!a}")
    return url
