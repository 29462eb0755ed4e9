"""``python -m service bundles``: which versions there are, which answers, and which shall.

All of it is done to the folder of bundles; a server sees it when it starts, or gets SIGHUP. What
shall answer is proven before, in a process of its own: a graph that takes its runtime down takes
nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvloop

from models.bundle import BundleError, read_manifest
from models.promotion import promote, retire, roll_back
from models.versions import (
    SERVING,
    NoSuchVersion,
    Serving,
    answering,
    check_stated,
    check_there,
    has_versions,
    read_serving,
    version_names,
)
from service import logs
from service.cli.exit_status import FAILED, OK, WRONG_COMMAND, complain, end_at_once
from service.engine.decode.link import DecodeError
from service.engine.device.session import DeviceError, check_device
from service.engine.engine import Engine
from service.engine.folders import NoBundles, bundle_folders, name_bundles
from service.jobs.database import StoreError
from service.jobs.pins import is_needed
from service.logs import printable
from service.settings import Settings, SettingsError, make_settings


def main(arguments: list[str]) -> int:
    """Carry out one command: 0, 1 if it failed and left all as it was, 2 for a wrong one."""
    options = _parse(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end_at_once)  # what is written is there as a whole or not at all
    try:
        status: int = options.command(_settings(options), options)
        return status
    except (SettingsError, DeviceError, NoBundles, NoSuchVersion) as error:
        return complain(error, WRONG_COMMAND)
    except (BundleError, DecodeError) as error:
        return complain(error, FAILED)


# --- the commands ----------------------------------------------------------------------------


def _list(settings: Settings, options: argparse.Namespace) -> int:
    bundles = name_bundles(bundle_folders(settings.bundles))
    rows = [_row(name, folder) for name, folder in sorted(bundles.items())]
    if options.json:
        print(json.dumps({"bundles": rows}))
    else:
        for row in rows:
            print(printable(_line(row)))
    return OK


def _promote(settings: Settings, options: argparse.Namespace) -> int:
    home = _home(settings, options.name)
    check_there(home, options.version)
    if why := _prove_apart(settings, options):
        what = f"{options.name} {options.version} is not promoted, as its proof {why}"
        return complain(f"{what}; {_told(home)}", FAILED)
    with _changing(home):
        return _say(home, promote(home, options.version))


def _roll_back(settings: Settings, options: argparse.Namespace) -> int:
    home = _home(settings, options.name)
    with _changing(home):
        return _say(home, roll_back(home))


def _retire(settings: Settings, options: argparse.Namespace) -> int:
    home = _home(settings, options.name)
    try:
        needed = settings.jobs is not None and is_needed(settings.jobs, home.name, options.version)
    except (StoreError, OSError, sqlite3.Error) as error:
        raise BundleError(f"{home.name}: the jobs cannot be read: {error}") from error
    if needed:
        what = f"{home.name}: a job that has not ended needs version {options.version}"
        raise BundleError(f"{what}; python -m service jobs list")
    with _changing(home):
        retire(home, options.version)
    print(f"{options.name}: version {options.version} is removed; {_told(home)}")
    return OK


def _verify(settings: Settings, options: argparse.Namespace) -> int:
    home = _bundle(settings, options.name)
    if has_versions(home):
        check_there(home, options.version)
    elif (only := read_manifest(home).version) != options.version:
        asked = f"{options.version[:64]!a} is not there"
        raise NoSuchVersion(f"{home.name}: version {asked}; versions: {only}")
    check_device(settings.device)
    logs.configure(settings)
    uvloop.run(_prove(settings, home, options.version))
    print(f"{options.name} {options.version} gave the logits of its goldens")
    return OK


@contextlib.contextmanager
def _changing(home: Path) -> Iterator[None]:
    """A disk that is full, or may not be written, is told with what still holds."""
    try:
        yield
    except OSError as error:
        what = f"{home.name} cannot be changed: {error.strerror}"
        raise BundleError(f"{what}; {_told(home)}") from error


# --- proofs ----------------------------------------------------------------------------------


def _prove_apart(settings: Settings, options: argparse.Namespace) -> str | None:
    """Verify in a child process, which says itself what is wrong; else how it ended."""
    words = ["verify", options.name, options.version]
    flags = ["--bundles", str(settings.bundles), "--device", settings.device]
    command = [sys.executable, "-m", "service", "bundles", *words, *flags]
    status = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
    if status == OK:
        return None
    return f"ended by signal {-status}" if status < 0 else f"failed with status {status}"


async def _prove(settings: Settings, home: Path, version: str) -> None:
    """What a server does at start, with this version alone; BundleError if it would refuse it."""
    engine = Engine(settings)
    try:
        await engine.start([home / version if has_versions(home) else home])
        (one,) = engine.catalog.bundles.values()
    finally:
        await engine.close()
    if one.manifest is None:
        raise BundleError(f"{home.name}: version {version}: {one.reason}")
    if has_versions(home):
        check_stated(home, version, one.manifest)


# --- what is said ----------------------------------------------------------------------------


def _say(home: Path, serving: Serving) -> int:
    before = f" ({serving.previous} before)" if serving.previous else ""
    when = "when a server starts, or gets SIGHUP"
    print(f"{home.name}: version {serving.version} answers{before} {when}")
    return OK


def _told(home: Path) -> str:
    """Who answers, or why nobody does."""
    try:
        return f"version {answering(home)} answers"
    except (BundleError, OSError) as error:
        return f"no version answers: {error}"


def _row(name: str, folder: Path) -> dict[str, Any]:
    """One bundle, for --json. Only names are looked at, and the manifest where there is one alone.

    ``by`` says why this version answers: for serving.json, or as the newest, or the only one.
    """
    row: dict[str, Any] = {"name": name, "answers": None, "by": None, "previous": None}
    row |= {"versions": [], "reason": None}
    try:
        if not has_versions(folder):
            version = read_manifest(folder).version
            return row | {"answers": version, "by": "only", "versions": [version]}
        row["versions"] = list(version_names(folder))
        serving = read_serving(folder)
        row["previous"] = serving.previous if serving else None
        return row | {"answers": answering(folder), "by": SERVING if serving else "newest"}
    except BundleError as error:
        return row | {"reason": str(error)}
    except OSError as error:
        return row | {"reason": f"{folder.name}: it cannot be read: {error.strerror}"}


def _line(row: dict[str, Any]) -> str:
    """One bundle, for people."""
    if row["reason"] is not None:
        return f"{row['name']}: none answers: {row['reason']}"
    before = f", {row['previous']} before" if row["previous"] else ""
    there = ", ".join(row["versions"])
    return f"{row['name']}: {row['answers']} answers ({row['by']}{before}); versions: {there}"


# --- the command line ------------------------------------------------------------------------


def _bundle(settings: Settings, name: str) -> Path:
    """The folder of a bundle, or of its versions."""
    bundles = name_bundles(bundle_folders(settings.bundles))
    if name not in bundles:
        known = ", ".join(sorted(bundles))
        raise NoBundles(f"--bundles {settings.bundles}: no bundle {name[:64]!a}; known: {known}")
    return bundles[name]


def _home(settings: Settings, name: str) -> Path:
    """The folder of a bundle's versions."""
    home = _bundle(settings, name)
    if not has_versions(home):
        raise NoSuchVersion(
            f"{name} lies in its folder itself, as its only version: "
            "python -m export --version writes others beside it"
        )
    return home


def _settings(options: argparse.Namespace) -> Settings:
    """Those of the server, from the environment and the flags that are here too."""
    named = ("bundles", "device", "jobs")
    given = {name: value for name in named if (value := getattr(options, name, None)) is not None}
    given |= {"default_bundle": (), "keys_file": None, "key_sha256": ()}  # nobody asks here
    return make_settings(log_level="warning", log_format="text", **given)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m service bundles",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Choose which version of a bundle answers. Versions are folders, bundles/NAME/VERSION, as
python -m export --version writes them; bundles/NAME/serving.json names the one that answers. Where
there is no such file the newest does: 1.9 is older than 1.10, and that than 2.

  python -m service bundles list
  python -m service bundles promote digits 2
  python -m service bundles rollback digits

A server that runs goes on with the version that it has loaded until it gets SIGHUP, or is told by
its own addresses under /admin, which a key with the scope admin may call.
""",
        epilog="Exit status: 0 done, 1 failed and all is as it was, 2 wrong command, unknown "
        "bundle or version.",
    )
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument(
        "--bundles", metavar="DIR", help="folder of bundles (default: LIERE_BUNDLES, else bundles)"
    )
    add = parser.add_subparsers(metavar="COMMAND", required=True).add_parser
    for name, command, told in (
        ("list", _list, "say of every bundle which version answers, why, and which there are"),
        ("promote", _promote, "prove a version as a server would, then let it answer"),
        ("verify", _verify, "only prove a version, by its hashes and goldens on this device"),
        ("rollback", _roll_back, "let the version answer again that did before"),
        ("retire", _retire, "remove a version that does not answer"),
    ):
        one = add(name, help=told, description=f"{told.capitalize()}.", parents=[where])
        one.set_defaults(command=command)
        if command is _list:
            one.add_argument("--json", action="store_true", help="as one JSON object")
            continue
        one.add_argument("name", metavar="NAME", help="of the bundle")
        if command is not _roll_back:
            one.add_argument("version", metavar="VERSION", help="name of its folder")
        if command is _retire:
            jobs = "folder of jobs, whose versions stay (default: LIERE_JOBS)"
            one.add_argument("--jobs", metavar="DIR", help=jobs)
        if command in (_promote, _verify):
            one.add_argument("--device", help="auto, cpu, cuda, cuda:N; LIERE_DEVICE, else auto")
    return parser.parse_args(arguments)
