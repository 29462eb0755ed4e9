"""A server of bundles with several versions: one of them answers, and everybody can see which."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.promotion import promote
from tests.helpers.service_fixtures import (
    RunningServer,
    picture,
    run,
    serving,
    write_tiny_bundle,
    write_tiny_versions,
)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of folder that there can be."""
    root = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(root, "flat", version="7")
    for name in ("newest", "chosen", "gone", "moved", "hurt"):
        write_tiny_versions(root, name, "1.9", "1.10")
    promote(root / "chosen", "1.9")
    (root / "gone/serving.json").write_text(json.dumps({"schema": 1, "version": "2"}))
    (root / "moved/1.10").rename(root / "moved/2")
    (root / "hurt/1.10/graphs/weights.bin").write_bytes(b"other")
    shutil.copytree(root / "newest/1.9", root / "newest/.2.partial")
    (root / "newest/notes.txt").write_text("x")
    return root


@pytest.fixture(scope="module")
def log() -> list[str]:
    """What the server said while it started."""
    return []


@pytest.fixture(scope="module")
def server(bundles: Path, log: list[str]) -> Iterator[RunningServer]:
    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log.append(record.getMessage())

    logger, kept = logging.getLogger("service.engine.folders"), Kept()
    logger.addHandler(kept)
    logger.setLevel("INFO")
    with serving(bundles, default_bundle="newest") as running:
        yield running
    logger.removeHandler(kept)
    logger.setLevel("NOTSET")


def ask(server: RunningServer, bundle: str) -> tuple[int, dict[str, Any]]:
    """The status, and the result or the problem."""
    answer = server.classify(content=picture(), params={"bundle": bundle})
    return answer.status_code, answer.json().get("results", [answer.json()])[0]


def test_list_says_which_versions_there_are_and_which_answers(server: RunningServer) -> None:
    """Oldest first; of refused ones what is there, so that another one can be promoted."""
    listed = server.get("/v1/bundles").json()["bundles"]
    assert {one["name"]: (one["state"], one["version"], one["versions"]) for one in listed} == {
        "chosen": ("ready", "1.9", ["1.9", "1.10"]),
        "flat": ("ready", "7", ["7"]),
        "gone": ("refused", None, ["1.9", "1.10"]),
        "hurt": ("refused", None, ["1.9", "1.10"]),
        "moved": ("refused", None, ["1.9", "2"]),
        "newest": ("ready", "1.10", ["1.9", "1.10"]),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone", "serving.json names version '2', which is not there; versions: 1.9, 1.10"),
        ("hurt", "version 1.10: graphs/weights.bin has sha256"),
        ("moved", "version 2: manifest.json states version 1.10, expected 2, as its folder"),
    ],
)
def test_version_that_cannot_answer_has_no_stand_in(
    server: RunningServer, name: str, reason: str
) -> None:
    """The bundle is refused with the reason, whichever version is asked for."""
    for asked in (name, f"{name}@1.9"):
        status, problem = ask(server, asked)
        assert (status, problem["type"]) == (503, "/problems/bundle-refused")
        assert problem["detail"].startswith(f"bundle {name} is not served: {reason}")


@pytest.mark.parametrize(
    ("asked", "version"),
    [
        ("newest", "1.10"), ("newest@1.10", "1.10"), ("chosen", "1.9"), ("chosen@1.9", "1.9"),
        ("flat@7", "7"),
    ],
)  # fmt: skip
def test_version_that_answers_can_be_insisted_on(
    server: RunningServer, asked: str, version: str
) -> None:
    """NAME and NAME@VERSION get the same answer, which says its version."""
    status, result = ask(server, asked)
    assert (status, f"{result['bundle']}@{result['version']}") == (
        200,
        f"{asked.partition('@')[0]}@{version}",
    )


@pytest.mark.parametrize(
    ("asked", "detail"),
    [
        ("newest@1.9", "bundle newest: version 1.9 is there and not loaded; version 1.10 answers"),
        ("newest@3", "bundle newest: there is no version '3'; version 1.10 answers"),
        ("newest@", "bundle newest: there is no version ''; version 1.10 answers"),
        ("flat@1.9", "bundle flat: there is no version '1.9'; version 7 answers"),
    ],
)
def test_other_version_is_not_answered_by_this_one(
    server: RunningServer, asked: str, detail: str
) -> None:
    """404, and which version does answer."""
    status, problem = ask(server, asked)
    assert (status, problem["type"], problem["detail"]) == (
        404,
        "/problems/unknown-version",
        detail,
    )


def test_unknown_bundle_with_a_version_is_an_unknown_bundle(server: RunningServer) -> None:
    """The name decides first."""
    status, problem = ask(server, "nope@1")
    assert (status, problem["type"]) == (404, "/problems/unknown-bundle")
    assert "unknown image bundle 'nope@1'" in problem["detail"]


def test_log_says_where_nobody_has_chosen(server: RunningServer, log: list[str]) -> None:
    """One line for every bundle whose newest version answers only because it is the newest."""
    assert "bundle newest: no serving.json, so the newest of 1.9, 1.10 answers: 1.10" in log
    assert not [line for line in log if "chosen" in line or "flat" in line]


def test_command_insists_on_a_version_as_requests_do(bundles: Path, tmp_path: Path) -> None:
    """classify --bundle NAME@VERSION: that version, or no answer and which there is."""
    (tmp_path / "photo.png").write_bytes(picture())
    asked = ("classify", "--json", tmp_path / "photo.png", "--bundles", bundles, "--bundle")
    small = {"LIERE_DECODE_WORKERS": "1", "LIERE_THREADS": "1"}
    done = run(*asked, "chosen@1.9", **small)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["version"] == "1.9"
    done = run(*asked, "chosen@1.10", **small)
    assert (done.returncode, done.stdout) == (2, "")
    assert "version 1.10 is there and not loaded; version 1.9 answers" in done.stderr
