"""A candidate version sees copies of what a server answers, and an admin is told what it found."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.engine.shadow.copies import fraction
from service.engine.succession import Succession
from service.http.keys import digest
from service.settings import Settings, SettingsError, make_settings
from tests.helpers.service_fixtures import (
    GRIDS,
    LABELS,
    RunningServer,
    complaint,
    picture,
    run,
    serving,
    tiny_logits,
    wait_until,
    write_tiny_versions,
)
from tests.helpers.v2_requests import binary_files, binary_pixels, infer

KEYS = {"admin": "scopes=admin,classify,metrics", "client": ""}
LINES = tuple(f"{digest(name.encode()).hex()} {name} {KEYS[name]}".strip() for name in KEYS)
ADMIN = {"Authorization": "Bearer admin"}
SHADOW = "/admin/bundles/tiny/shadow"
BEGIN = "/admin/bundles/tiny/versions/2/shadow"


async def believe(settings: Settings, name: str, version: str) -> str | None:
    """In the place of the process that proves."""
    return None


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a bundle, of which the first answers, and a damaged one."""
    home = write_tiny_versions(tmp_path_factory.mktemp("bundles"), "tiny", "1", "2", "bad")
    (home / "serving.json").write_text('{"schema": 1, "version": "1"}')
    (home / "bad" / "graphs" / "weights.bin").unlink()
    return home.parent


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    path.write_text("\n".join(LINES))
    return path


@pytest.fixture(scope="module")
def shared(bundles: Path, keys: Path) -> Iterator[RunningServer]:
    with serving(bundles, keys_file=keys) as running:
        running.engine.rollout.succession.prove = believe
        yield running


@pytest.fixture
def server(shared: RunningServer) -> RunningServer:
    """As it was when it started."""
    ask(shared, "DELETE")
    shared.engine.shadows._ended.clear()
    return shared


def ask(server: RunningServer, method: str, path: str = SHADOW) -> httpx.Response:
    return server.request(method, path, headers=ADMIN)


def classify(server: RunningServer, *media: bytes) -> list[dict[str, Any]]:
    """The predictions for each, without what no two answers share."""
    answers = [server.classify(content=one, headers=ADMIN) for one in media]
    assert [one.status_code for one in answers] == [200] * len(media)
    return [one.json()["results"][0]["predictions"] for one in answers]


def found(server: RunningServer, compared: int) -> dict[str, Any]:
    """The report, once so many copies were compared."""
    wait_until(lambda: ask(server, "GET").json()["compared"] >= compared, "the copies")
    return dict(ask(server, "GET").json())


def test_admin_begins_reads_and_ends(server: RunningServer) -> None:
    """Answers are what they were; the report has figures with intervals, and stays."""
    files = [picture(seed) for seed in range(6)]
    before = classify(server, *files)
    assert ask(server, "GET").json()["type"] == "/problems/no-shadow"
    begun = ask(server, "POST", BEGIN + "?share=1").json()
    assert (begun["answering"], begun["candidate"], begun["share"]) == ("1", "2", 1.0)
    assert classify(server, *files) == before
    report = found(server, 6)
    assert (report["compared"], report["agreed"], report["failed"]) == (6, 6, {})
    assert report["agreement"]["low"] == pytest.approx(0.6097, abs=1e-3)
    assert sum(one["answering"] for one in report["labels"]) == 6
    (listed,) = ask(server, "GET", "/admin/bundles").json()["bundles"]
    assert (listed["loaded"], listed["shadow"], listed["draining"]) == ("1", "2", [])
    ended = ask(server, "DELETE").json()
    assert (ended["state"], ended["reason"]) == ("ended", "an operator ended it")
    classify(server, *files)
    assert ask(server, "GET").json() == ended


def test_share_is_a_tenth_unless_it_is_said(server: RunningServer) -> None:
    """It can be changed while the shadow goes on; the same files are seen each time."""
    files = [picture(seed) for seed in range(30)]
    expected = sum(fraction(one) < 0.1 for one in files)
    assert 0 < expected < 10
    assert ask(server, "POST", BEGIN).json()["share"] == 0.1
    for times in (1, 2):
        classify(server, *files)
        report = found(server, times * expected)
        assert report["compared"] == times * expected
    changed = ask(server, "POST", BEGIN + "?share=0").json()
    assert (changed["share"], changed["compared"]) == (0.0, 2 * expected)


@pytest.mark.parametrize(
    ("path", "status", "kind", "told"),
    [
        (BEGIN + "?share=1.5", 422, "bad-parameter", "expected a number from 0 to 1, got '1.5'"),
        (BEGIN + "?share=", 422, "bad-parameter", "expected a number from 0 to 1"),
        (BEGIN + "?part=0.1", 422, "unknown-parameter", "known parameters: share"),
        (BEGIN + "?share=1&share=1", 422, "repeated-parameter", "share"),
        ("/admin/bundles/tiny/versions/1/shadow", 409, "version-in-use", "version 1 answers"),
        ("/admin/bundles/tiny/versions/9/shadow", 404, "unknown-version", "there are"),
        ("/admin/bundles/none/versions/2/shadow", 404, "unknown-bundle", "known: tiny"),
        ("/admin/bundles/tiny/versions/bad/shadow", 409, "candidate-refused", "version 1 answers"),
    ],
)
def test_what_cannot_be_is_told(
    server: RunningServer, path: str, status: int, kind: str, told: str
) -> None:
    """What was expected and what came; nothing has changed."""
    answer = ask(server, "POST", path)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{kind}")
    assert told in answer.json()["detail"]
    assert ask(server, "GET").status_code == 404
    assert classify(server, picture(1))


def test_shadows_are_for_admins_alone(server: RunningServer, bundles: Path) -> None:
    """A client's key may not, and without keys there is no such address."""
    client = {"Authorization": "Bearer client"}
    for method, path in (("GET", SHADOW), ("POST", BEGIN), ("DELETE", SHADOW)):
        assert server.request(method, path, headers=client).status_code == 403
    with serving(bundles) as without:
        assert without.request("POST", BEGIN).status_code == 404


def test_files_and_tensors_of_v2_are_seen_too(server: RunningServer) -> None:
    """Each row of a tensor is an item of its own."""
    rows = np.random.default_rng(1).integers(0, 256, (3, 8, 12, 3), np.uint8)
    ask(server, "POST", BEGIN + "?share=1")
    for model, request, compared in (
        ("tiny", binary_files(picture(1)), 1),
        ("tiny_tensor", binary_pixels(rows), 4),
    ):
        request["headers"] |= ADMIN
        assert infer(server, model, **request).status_code == 200
        found(server, compared)
    report = found(server, 4)
    assert (report["compared"], report["agreed"], report["failed"]) == (4, 4, {})


def test_series_tell_what_the_report_does(server: RunningServer) -> None:
    """While the shadow goes on; afterwards nothing is left of them."""
    named = {"bundle": "tiny", "version": "2"}
    ask(server, "POST", BEGIN + "?share=1")
    classify(server, picture(1), picture(2))
    found(server, 2)
    outcomes = {
        one: server.metric("liere_shadow_items_total", outcome=one, **named)
        for one in ("agreed", "differed", "shed", "failed")
    }
    assert outcomes == {"agreed": 2, "differed": 0, "shed": 0, "failed": 0}
    assert server.metric("liere_shadow_difference_count", **named) == 2
    assert server.metric("liere_shadow_difference_sum", **named) == pytest.approx(0, abs=1e-6)
    assert server.metric("liere_shadow_share", **named) == 1
    text = server.get("/metrics", headers=ADMIN).text
    assert 'liere_shadow_largest_difference{bundle="tiny",version="2"}' in text
    assert "\nliere_shadow_bytes 0.0" in text
    ask(server, "DELETE")
    assert "liere_shadow_share{" not in server.get("/metrics", headers=ADMIN).text


# --- settings --------------------------------------------------------------------------------


def test_settings_begin_a_shadow_once_the_server_is_ready(
    bundles: Path, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Proven as every candidate, in a process of its own; one that cannot be is in the log."""
    shadow = ("tiny@2=1", "other@1=0.5")
    with serving(bundles, keys_file=keys, shadow=shadow) as server:
        wait_until(lambda: server.engine.shadows.version("tiny"), "the shadow", 60)
        classify(server, picture(1))
        assert found(server, 1)["share"] == 1.0
        wait_until(lambda: server.metric("liere_shadow_refusals_total") == 1, "the complaint")
        assert "--shadow other@1=0.5: " in caplog.text
        assert "unknown bundle 'other'; known: tiny" in caplog.text
        assert server.get("/health/ready").status_code == 200


def test_whatever_goes_wrong_as_a_shadow_begins_is_its_own_affair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also what nobody foresaw: the server serves, the next shadow begins, and it is told."""
    for name in ("a", "b"):
        home = write_tiny_versions(tmp_path, name, "1", "2")
        (home / "serving.json").write_text('{"schema": 1, "version": "1"}')
    examine = Succession.examine

    async def examine_b(self: Succession, name: str, home: Path, version: str) -> Any:
        if name == "a":
            raise ArithmeticError("nobody foresaw it")
        return await examine(self, name, home, version)

    monkeypatch.setattr(Succession, "examine", examine_b)
    with serving(tmp_path, shadow=("a@2=1", "b@2=1")) as server:
        wait_until(lambda: server.engine.shadows.version("b"), "the second shadow", 60)
        assert server.engine.shadows.version("a") is None
        assert server.metric("liere_shadow_refusals_total") == 1
        answer = server.classify("/v1/classify/image?bundle=a", content=picture(1))
        assert answer.json()["results"][0]["version"] == "1"
    assert "--shadow a@2=1: it cannot begin" in caplog.text
    assert "ArithmeticError: nobody foresaw it" in caplog.text


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("digits", "expected NAME@VERSION=SHARE"),
        ("digits@2=1.1", "with a share from 0 to 1, got"),
        ("digits@2=ten", "expected NAME@VERSION=SHARE"),
        ("Digits@2=0.1", "expected NAME@VERSION=SHARE"),
        ("digits@2=0.1,digits@3=0.1", "one version for each bundle"),
    ],
)
def test_setting_that_is_none_is_refused(value: str, told: str) -> None:
    """Before anything is begun; an empty one is none."""
    with pytest.raises(SettingsError, match=told):
        make_settings(shadow=value)
    assert make_settings(shadow="").shadows == []
    assert make_settings(shadow="a@1=.5 b@rc-1=1").shadows == [("a", "1", 0.5), ("b", "rc-1", 1.0)]


# --- the command -----------------------------------------------------------------------------


def test_command_begins_shows_and_ends(server: RunningServer, tmp_path: Path) -> None:
    """For people and, with --json, all of it."""
    key = tmp_path / "admin.key"
    key.write_text("admin\n")
    where = ("--url", server.url, "--key-file", key)
    begun = run("shadow", "begin", "tiny", "2", "--share", "1", *where)
    assert begun.returncode == 0, begun.stderr
    assert "tiny: version 2 sees 100 % of what version 1 answers" in begun.stdout
    files = [picture(seed) for seed in range(3)]
    classify(server, *files)
    found(server, 3)
    firsts = {LABELS[int(tiny_logits(one, GRIDS[0]).argmax())] for one in files}
    shown = run("shadow", "show", "tiny", *where).stdout
    assert "compared 3 files; 0 wait, shed 0, failed 0" in shown
    assert "first labels agree: 100.0 (43.9 to 100.0) %" in shown
    assert re.search(r"^label +version 1 +version 2 +agree$", shown, re.MULTILINE)
    assert all(one in shown for one in firsts)
    report = json.loads(run("shadow", "show", "tiny", *where, "--json").stdout)
    assert report == ask(server, "GET").json()
    ended = run("shadow", "end", "tiny", *where)
    assert "ended, as an operator ended it" in ended.stdout


def test_commands_of_the_guide_work(
    server: RunningServer, tmp_path: Path, repo_root: Path
) -> None:
    """In their order, with the bundle of this server; each tells of the shadow."""
    page = (repo_root / "docs" / "shadow.md").read_text()
    blocks = re.findall(r"^```\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) == 7
    (tmp_path / "admin.key").write_text("admin")
    for line in commands:
        here = line.replace("digits", "tiny").replace("http://127.0.0.1:8000", server.url)
        words = [word.replace("$KEY", "admin") for word in shlex.split(here)]
        words = [word.replace("admin.key", str(tmp_path / "admin.key")) for word in words]
        if words[0] == "curl":
            words[1:1] = ["--silent", "--show-error", "--fail-with-body"]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
        else:
            assert words[:3] == ["python", "-m", "service"]
            done = run(*words[3:], "--url", server.url)
            assert done.returncode == 0, done.stderr
        assert "tiny" in done.stdout, line
    assert "python -m benchmarks.serving.shadow" in page
    settings = make_settings(shadow=re.findall(r"`--shadow (\S+)`", page)[0])
    assert settings.shadows == [("digits", "2", 0.1)]
    classify(server, picture(1))  # the last command has ended it
    assert ask(server, "GET").json()["state"] == "ended"


def test_guide_tells_every_series(server: RunningServer, repo_root: Path) -> None:
    """By the names that the server exports."""
    page = (repo_root / "docs" / "shadow.md").read_text()
    families = {one.name for one in server.engine.metrics.registry.collect()}
    known = {one for one in families if one.startswith("liere_shadow")}
    told = re.findall(r"^\| `(liere_shadow\w+)` \|", page, flags=re.MULTILINE)
    assert {one.removesuffix("_total") for one in told} == known


def test_command_tells_why_it_cannot(server: RunningServer, tmp_path: Path) -> None:
    """In one line, by its exit status."""
    key, other = tmp_path / "admin.key", tmp_path / "two words.key"
    key.write_text("admin")
    other.write_text("two words")
    where = ("--url", server.url, "--key-file")
    told = complaint(run("shadow", "show", "tiny", *where, key), 1)
    assert "status 404: bundle 'tiny' has no shadow" in told
    told = complaint(run("shadow", "begin", "tiny", "2", "--share", "7", *where, key), 1)
    assert "expected a number from 0 to 1, got '7'" in told
    assert "one word alone" in complaint(run("shadow", "show", "tiny", *where, other), 2)
    assert "No such file" in complaint(run("shadow", "show", "tiny", *where, tmp_path / "no"), 2)
    assert "status 401" in complaint(run("shadow", "show", "tiny", "--url", server.url), 1)
    url = "http://127.0.0.1:1"
    assert "no answer from http://127.0.0.1:1" in complaint(
        run("shadow", "show", "tiny", "--url", url), 1
    )
    assert run("shadow", "show", "tiny", "--url", "localhost:8000").returncode == 2
