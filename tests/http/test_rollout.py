"""Another version takes the place of the one that answers, while requests go on."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.engine.apart import prove_apart
from service.engine.device.session import Session, Stop, open_session
from service.http.keys import digest
from service.settings import Settings, make_settings
from tests.helpers.service_fixtures import (
    GRIDS,
    RawConnection,
    RunningServer,
    TinySession,
    picture,
    serving,
    wait_until,
    write_tiny_bundle,
    write_tiny_versions,
)

KEYS = {"admin": "scopes=admin,classify,metrics", "client": ""}
LINES = tuple(f"{digest(name.encode()).hex()} {name} {KEYS[name]}".strip() for name in KEYS)
GOOD = picture(1)


async def believe(settings: Settings, name: str, version: str) -> str | None:
    """In the place of the process that proves: what is tested here comes after it."""
    return None


class Site:
    """A server with three versions of a bundle, its folder, and an admin."""

    def __init__(self, server: RunningServer, home: Path) -> None:
        self.server, self.home = server, home
        server.engine.rollout.succession.prove = believe

    def ask(self, method: str, path: str = "", key: str = "admin") -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"}
        return self.server.request(method, f"/admin{path}", headers=headers)

    def bundle(self) -> dict[str, Any]:
        (one,) = self.ask("GET", "/bundles").json()["bundles"]
        return dict(one)

    def change(self, what: str, version: str) -> httpx.Response:
        return self.ask("POST", f"/bundles/tiny/versions/{version}/{what}")

    def answers(self) -> str:
        """The version that a client's answer names."""
        headers = {"Authorization": "Bearer client"}
        answer = self.server.classify(content=GOOD, headers=headers)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["results"][0]["version"])

    def write(self, version: str) -> None:
        """serving.json, as ``promote`` would write it."""
        serving = {"schema": 1, "version": version, "previous": None}
        (self.home / "serving.json").write_text(json.dumps(serving))


def keys_file(folder: Path) -> Path:
    path = folder / "keys.txt"
    path.write_text("\n".join(LINES))
    return path


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("LIERE_READY", "all")  # as in the containers
    home = write_tiny_versions(tmp_path / "bundles", "tiny", "1", "2", "3")
    site_of(home).write("1")
    with serving(home.parent, keys_file=keys_file(tmp_path)) as server:
        yield Site(server, home)


def site_of(home: Path) -> Site:
    """Of no server: only to write."""
    site = Site.__new__(Site)
    site.home = home
    return site


# --- who answers -----------------------------------------------------------------------------


def test_load_promote_roll_back_retire(site: Site) -> None:
    """The round that an operator goes, and what is told on the way."""
    assert site.bundle() == {
        "name": "tiny", "state": "ready", "loaded": "1", "draining": [], "shadow": None,
        "refused": None,
        "versions": ["1", "2", "3"], "answering": "1", "previous": None, "writable": True,
    }  # fmt: skip
    loaded = site.change("load", "3").json()
    assert (loaded["loaded"], loaded["answering"], site.answers()) == ("3", "1", "3")
    promoted = site.change("promote", "2").json()
    assert (promoted["loaded"], promoted["answering"], promoted["previous"]) == ("2", "2", "1")
    assert promoted["draining"] == []  # nothing was inside
    assert site.answers() == "2"
    back = site.ask("POST", "/bundles/tiny/rollback").json()
    assert (back["loaded"], back["answering"], back["previous"]) == ("1", "1", "2")
    assert site.answers() == "1"
    assert site.ask("DELETE", "/bundles/tiny/versions/3").json()["versions"] == ["1", "2"]
    assert not (site.home / "3").exists()
    assert site.server.metric("liere_bundle_info", bundle="tiny", version="1", state="ready") == 1
    assert site.server.metric("liere_bundle_info", bundle="tiny", version="2", state="ready") == 0


def test_requests_inside_end_with_the_version_that_they_began_with(tmp_path: Path) -> None:
    """The old one drains; when its last request is out, its sessions are gone."""
    home = write_tiny_versions(tmp_path / "bundles", "tiny", "1", "2")
    site_of(home).write("1")
    sessions: dict[str, list[weakref.ref[TinySession]]] = {"1": [], "2": []}
    gate = threading.Event()
    gate.set()

    def opener(graph: Path, device: str, threads: int) -> TinySession:
        session = TinySession()
        session.gate = gate
        sessions[graph.parts[-3]].append(weakref.ref(session))
        return session

    with serving(home.parent, opener, keys_file=keys_file(tmp_path), lanes=2) as server:
        site, before = Site(server, home), len(GRIDS)
        told: list[str] = []
        gate.clear()
        asking = threading.Thread(target=lambda: told.append(site.answers()))
        asking.start()
        wait_until(lambda: sum(len(one._running) for one in server.engine.devices.stations), "it")
        changing = threading.Thread(target=lambda: site.change("load", "2"))
        changing.start()
        threading.Timer(0.1, gate.set).start()
        changing.join()
        asking.join()
        assert (told, site.answers()) == (["1"], "2")
        wait_until(lambda: not any(one() for one in sessions["1"]), "the old sessions to go")
        assert len([one for one in sessions["2"] if one()]) == before
        assert site.bundle()["draining"] == []
        for station in server.engine.devices.stations:
            assert len(station._queues) == len(GRIDS)


def test_swaps_under_load_fail_nobody(site: Site) -> None:
    """Every answer is whole and names a version; no request is refused for a swap."""
    told: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            told.append(site.answers())

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for one in asking:
        one.start()
    for number in range(8):
        assert site.change("load", str(1 + number % 3)).status_code == 200
    done.set()
    for one in asking:
        one.join()
    assert set(told) == {"1", "2", "3"}


# --- SIGHUP ----------------------------------------------------------------------------------


def test_reload_lets_answer_what_would_after_a_start(site: Site) -> None:
    """Another version, a new bundle, one that is gone; what did not change is left alone."""
    site.write("2")
    write_tiny_bundle(site.home.parent, "other", "volume")
    models = site.server.engine.prover.models
    assert site.ask("POST", "/reload").status_code == 200
    assert site.answers() == "2"
    headers = {"Authorization": "Bearer client"}
    listed = site.server.get("/v1/bundles", headers=headers).json()
    assert listed["default"] == {"image": "tiny", "video": None, "volume": "other"}
    numbers = {one.number for one in models}
    site.ask("POST", "/reload")
    assert {one.number for one in models} == numbers
    shutil.rmtree(site.home.parent / "other")
    site.ask("POST", "/reload")
    listed = site.server.get("/v1/bundles", headers=headers).json()
    assert [one["name"] for one in listed["bundles"]] == ["tiny"]
    assert listed["default"]["volume"] is None


def test_load_is_undone_by_a_reload(site: Site) -> None:
    """It was for this process alone: the folder says otherwise."""
    site.change("load", "3")
    assert site.answers() == "3"
    site.ask("POST", "/reload")
    assert site.answers() == "1"


def test_bundle_that_is_damaged_under_another_name_answers_on(tmp_path: Path) -> None:
    """A flat one goes by its manifest's name, and by its folder's where that cannot be read."""
    write_tiny_bundle(tmp_path / "bundles", "tiny")
    folder = (tmp_path / "bundles" / "tiny").rename(tmp_path / "bundles" / "folder")
    with serving(folder.parent, keys_file=keys_file(tmp_path)) as server:
        site = Site(server, folder)
        (folder / "manifest.json").write_text("{")
        assert site.ask("POST", "/reload").status_code == 200
        assert site.answers() == "1"
        assert "manifest.json" in site.bundle()["refused"]  # of one entry, not of a twin
        headers = {"Authorization": "Bearer client"}
        assert len(server.get("/v1/bundles", headers=headers).json()["bundles"]) == 1


def test_flat_bundle_that_got_another_name_answers_by_it_alone(tmp_path: Path) -> None:
    """Exported anew into the same folder."""
    folder = write_tiny_bundle(tmp_path / "bundles", "tiny")
    with serving(folder.parent, keys_file=keys_file(tmp_path)) as server:
        site = Site(server, folder)
        rewrite(folder, name="other")
        assert site.ask("POST", "/reload").status_code == 200
        assert site.bundle()["name"] == "other"
        assert site.answers() == "1"


@pytest.mark.parametrize("what", ["load", "promote"])
def test_version_that_answers_is_proven_again_once_its_files_changed(site: Site, what: str) -> None:
    """Its name alone does not say that it is the same."""
    assert site.change(what, "1").status_code == 200
    change_a_byte(site.home / "1")
    answer = site.change(what, "1")
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/candidate-refused")
    assert "version 1 answers" in answer.json()["detail"]
    assert site.answers() == "1"


def test_flat_bundle_exported_anew_with_the_same_version_is_another(tmp_path: Path) -> None:
    """It is what answers from then on; its only version can be promoted, and nothing is written."""
    folder = write_tiny_bundle(tmp_path / "bundles")
    with serving(folder.parent, keys_file=keys_file(tmp_path)) as server:
        site = Site(server, folder)
        (before,) = (one.number for one in server.engine.prover.models)
        rewrite(folder, labels=["a", "b", "c", "d", "e"])
        promoted = site.change("promote", "1")
        assert (promoted.status_code, promoted.json()["writable"]) == (200, False)
        assert not (folder / "serving.json").exists()
        wait_until(lambda: len(server.engine.prover.models) == 1, "the old one to go")
        assert before not in {one.number for one in server.engine.prover.models}


def test_refused_candidate_that_is_removed_is_not_told_of_any_more(site: Site) -> None:
    """Another one that is removed changes nothing."""
    change_a_byte(site.home / "2")
    assert site.change("load", "2").status_code == 409
    assert site.ask("DELETE", "/bundles/tiny/versions/3").json()["refused"]
    assert site.ask("DELETE", "/bundles/tiny/versions/2").json()["refused"] is None


def test_refused_bundle_may_come_back_for_another_modality(tmp_path: Path) -> None:
    """Nobody answered by its name, so nobody is surprised; the reason is always of its newest."""
    folder = write_tiny_bundle(tmp_path / "bundles")
    write_tiny_bundle(folder.parent, "scans", "volume")
    (folder / "graphs" / "weights.bin").unlink()
    with serving(folder.parent, keys_file=keys_file(tmp_path)) as server:
        site = Site(server, folder)

        def state() -> tuple[str, str | None]:
            (one,) = (
                one
                for one in site.ask("GET", "/bundles").json()["bundles"]
                if one["name"] == "tiny"
            )
            return one["state"], one["refused"]

        assert state() == ("refused", "graphs/weights.bin is listed and missing")
        (folder / "manifest.json").write_text("{")
        site.ask("POST", "/reload")
        assert "manifest.json" in str(state()[1])
        shutil.rmtree(folder)
        write_tiny_bundle(folder.parent, "tiny", "video")
        site.ask("POST", "/reload")
        assert state() == ("ready", None)


@pytest.mark.parametrize("what", ["golden", "graphs", "1"])
def test_flat_bundle_is_never_taken_apart(tmp_path: Path, what: str) -> None:
    """Its folders are no versions, and its only one answers."""
    folder = write_tiny_bundle(tmp_path / "bundles")
    before = sorted(folder.rglob("*"))
    with serving(folder.parent, keys_file=keys_file(tmp_path)) as server:
        site = Site(server, folder)
        answer = site.ask("DELETE", f"/bundles/tiny/versions/{what}")
        assert answer.status_code == (409 if what == "1" else 404)
        assert site.answers() == "1"
    assert sorted(folder.rglob("*")) == before


def test_mended_default_of_unknown_modality_answers_its_own_alone(tmp_path: Path) -> None:
    """While nothing of it could be read it stood for all."""
    folder = write_tiny_bundle(tmp_path / "bundles")
    manifest = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_text("{")
    with serving(folder.parent, keys_file=keys_file(tmp_path)) as server:
        site = Site(server, folder)
        (folder / "manifest.json").write_bytes(manifest)
        site.ask("POST", "/reload")
        headers = {"Authorization": "Bearer client"}
        default = server.get("/v1/bundles", headers=headers).json()["default"]
        assert default == {"image": "tiny", "video": None, "volume": None}


def test_change_goes_on_when_its_admin_leaves(site: Site) -> None:
    """The connection is closed in the middle of the proof."""
    gate = threading.Event()

    async def slow(settings: Settings, name: str, version: str) -> str | None:
        await asyncio.to_thread(gate.wait, 10)
        return None

    site.server.engine.rollout.succession.prove = slow
    with RawConnection(site.server.port) as admin:
        admin.send("POST /admin/bundles/tiny/versions/2/load HTTP/1.1\r\nHost: x\r\n")
        admin.send("Authorization: Bearer admin\r\n\r\n")
        wait_until(lambda: site.server.engine.rollout._changes, "the change to begin")
    gate.set()
    wait_until(lambda: site.answers() == "2", "the other version to answer")


def test_asker_that_is_cancelled_leaves_the_change_alone(site: Site) -> None:
    """As where a server cancels its handlers: nothing is half done."""
    engine, gate = site.server.engine, threading.Event()

    async def slow(settings: Settings, name: str, version: str) -> str | None:
        await asyncio.to_thread(gate.wait, 10)
        return None

    async def ask() -> None:
        asking = asyncio.create_task(engine.rollout.load("tiny", "3"))
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.wait([asking])
        gate.set()

    engine.rollout.succession.prove = slow
    loop = engine.vitals._watching.get_loop()
    asyncio.run_coroutine_threadsafe(ask(), loop).result(10)
    wait_until(lambda: site.answers() == "3", "the other version to answer")


def test_nothing_is_changed_once_the_server_ends(site: Site) -> None:
    """503, as of all other work."""
    rollout, loop = site.server.engine.rollout, site.server.engine.vitals._watching.get_loop()
    asyncio.run_coroutine_threadsafe(rollout.close(), loop).result(10)
    answer = site.change("load", "2")
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/draining")
    assert site.answers() == "1"


def test_folder_that_is_gone_changes_nothing(site: Site) -> None:
    """A mount that is away for a moment must not take every bundle with it."""
    site.home.parent.rename(site.home.parent.with_name("away"))
    assert site.ask("POST", "/reload").status_code == 404
    assert site.answers() == "1"


def test_bad_newcomer_is_listed_as_after_a_start(site: Site) -> None:
    """Refused with its reason, and nobody's default."""
    broken = write_tiny_bundle(site.home.parent, "aaa")
    (broken / "graphs" / "weights.bin").unlink()
    site.ask("POST", "/reload")
    headers = {"Authorization": "Bearer client"}
    listed = site.server.get("/v1/bundles", headers=headers).json()
    states = {one["name"]: (one["state"], one["reason"]) for one in listed["bundles"]}
    assert states["aaa"] == ("refused", "graphs/weights.bin is listed and missing")
    assert site.server.get("/health/ready").status_code == 200
    assert listed["default"]["image"] == "tiny"


# --- what goes wrong -------------------------------------------------------------------------


def change_a_byte(version: Path) -> None:
    weights = version / "graphs" / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[5] ^= 1
    weights.write_bytes(content)


def rewrite(folder: Path, **fields: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | fields))


def other_logits(version: Path) -> None:
    goldens = json.loads((version / "manifest.json").read_text())["goldens"]
    for golden in goldens:
        golden["logits"] = {grid: [9.0] * 5 for grid in golden["logits"]}
    rewrite(version, goldens=goldens)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed byte": (change_a_byte, "weights.bin has sha256"),
    "a newer schema": (lambda v: rewrite(v, schema=99), "schema"),
    "an unknown key": (lambda v: rewrite(v, colour="red"), "colour"),
    "a missing file": (lambda v: (v / "golden" / "0.png").unlink(), "is listed and missing"),
    "a file too many": (lambda v: (v / "note.txt").write_text("x"), "is there and not listed"),
    "a link": (lambda v: (v / "link").symlink_to("/etc/passwd"), "is a link"),
    "another name": (lambda v: rewrite(v, name="other"), "states name other"),
    "another version": (lambda v: rewrite(v, version="7"), "states version 7"),
    "no manifest": (lambda v: (v / "manifest.json").write_text("{"), "manifest.json"),
    "other logits": (other_logits, "differs from its stored logits"),
    "no tolerance": (lambda v: rewrite(v, tolerances=[]), "toleranc"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_candidate_leaves_the_old_one_serving(site: Site, kind: str) -> None:
    """409 says why, without a path; nothing is written, and the next good one is taken."""
    spoil, words = BAD[kind]
    spoil(site.home / "2")
    for what in ("load", "promote"):
        answer = site.change(what, "2")
        assert (answer.status_code, answer.json()["type"]) == (409, "/problems/candidate-refused")
        assert words in answer.json()["detail"]
        assert "version 1 answers" in answer.json()["detail"]
        assert str(site.home.parent) not in answer.text
    assert (site.answers(), site.bundle()["answering"]) == ("1", "1")
    assert words in site.bundle()["refused"]
    assert site.change("promote", "3").status_code == 200
    assert site.bundle()["refused"] is None


class Narrow:
    """A real session that fails with 32 rows, and tells when it is gone."""

    def __init__(self, session: Session) -> None:
        self.session, self.device = session, session.device

    def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
        if len(pixels) >= 32:
            raise RuntimeError("no memory")
        return self.session.run(pixels, stop)


def test_candidate_that_fails_with_full_batches_is_refused_and_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would halve every full batch; its sessions are not kept."""
    # The traceback in a log record that pytest keeps would hold the session.
    monkeypatch.setattr(logging.getLogger("service.engine.proof"), "disabled", True)
    home = write_tiny_versions(tmp_path / "bundles", "tiny", "1", "2")
    site_of(home).write("1")
    opened: list[weakref.ref[Narrow]] = []

    def opener(graph: Path, device: str, threads: int) -> Session:
        session = open_session(graph, device, threads)
        if graph.parts[-3] == "1":
            return session
        narrow = Narrow(session)
        opened.append(weakref.ref(narrow))
        return narrow

    with serving(home.parent, opener, keys_file=keys_file(tmp_path), batch_seconds=60) as server:
        site = Site(server, home)
        answer = site.change("load", "2")
        assert answer.status_code == 409
        assert "fails with 32 rows in one run" in answer.json()["detail"]
        assert site.answers() == "1"
        wait_until(lambda: opened and not any(one() for one in opened), "its memory to come back")
        (station,) = server.engine.devices.stations
        assert len(station._queues) == len(GRIDS)


def test_proof_in_a_process_of_its_own(site: Site) -> None:
    """Of a good version, and of a bad one, whose reason it brings back."""
    site.server.engine.rollout.succession.prove = prove_apart
    assert site.change("load", "2").status_code == 200
    change_a_byte(site.home / "3")
    answer = site.change("load", "3")
    assert answer.status_code == 409
    assert "version 3: graphs/weights.bin has sha256" in answer.json()["detail"]
    assert site.answers() == "2"


def test_proof_is_made_with_the_settings_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may have come as flags, which no other process sees."""
    home = write_tiny_versions(tmp_path, "tiny", "1")
    settings = make_settings(bundles=home.parent, max_batch=5, batch_tokens=77, key_sha256=())
    told: dict[str, str] = {}

    async def start(*words: str, env: dict[str, str], **_: Any) -> None:
        told.update(env)
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    reason = asyncio.run(prove_apart(settings, "tiny", "1"))
    assert reason == "its proof cannot be started: Resource temporarily unavailable"
    assert (told["LIERE_MAX_BATCH"], told["LIERE_BATCH_TOKENS"]) == ("5", "77")
    assert told["LIERE_LANES"] == "1"


def test_full_disk_at_promote_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """409, the old one answers, here and after the next start."""

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("models.promotion.write_atomic", full)
    answer = site.change("promote", "2")
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/folder-fixed")
    assert "No space left on device; version 1 answers" in answer.json()["detail"]
    assert str(site.home.parent) not in answer.text
    assert (site.answers(), site.bundle()["answering"]) == ("1", "1")
    wait_until(lambda: site.bundle()["draining"] == [], "the candidate to be let go of")


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("POST", "/bundles/nope/versions/1/load", 404, "unknown-bundle"),
        ("POST", "/bundles/tiny/versions/9/load", 404, "unknown-version"),
        ("POST", "/bundles/tiny/versions/..%2F1/promote", 404, "not-found"),
        ("POST", "/bundles/tiny/rollback", 404, "unknown-version"),
        ("DELETE", "/bundles/tiny/versions/1", 409, "version-in-use"),
        ("DELETE", "/bundles/tiny/versions/9", 404, "unknown-version"),
        ("GET", "/bundles/tiny/versions/1/load", 405, "method-not-allowed"),
    ],
)
def test_impossible_changes_are_problems(
    site: Site, method: str, path: str, status: int, kind: str
) -> None:
    answer = site.ask(method, path)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{kind}")
    assert site.answers() == "1"


def test_version_that_answers_by_the_folder_is_not_removed(site: Site) -> None:
    """Though another one was loaded here."""
    site.change("load", "2")
    answer = site.ask("DELETE", "/bundles/tiny/versions/1")
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/version-in-use")
    assert (site.home / "1").exists()


# --- who may ---------------------------------------------------------------------------------


def test_admin_addresses_are_for_admins(site: Site) -> None:
    """403 for another key, 401 for none."""
    assert site.ask("GET", "/bundles", key="client").status_code == 403
    assert site.ask("GET", "/bundles", key="stranger").status_code == 401
    assert site.server.get("/admin/bundles").status_code == 401
    headers = {"Authorization": "Bearer admin"}
    paths = site.server.get("/openapi.json", headers=headers).json()["paths"]
    assert "/admin/bundles/{name}/rollback" in paths


@pytest.mark.parametrize("keyed", [False, True], ids=["no keys", "no admin"])
def test_without_an_admin_there_are_no_such_addresses(tmp_path: Path, keyed: bool) -> None:
    """A page in the operator's browser must not find them; the documents do not name them."""
    write_tiny_bundle(tmp_path / "bundles")
    known = (LINES[1].split()[0],) if keyed else ()
    headers = {"Authorization": "Bearer client"} if keyed else {}
    with serving(tmp_path / "bundles", key_sha256=known) as server:
        for method, path in (("GET", "/admin/bundles"), ("POST", "/admin/reload"), ("GET", "/adm")):
            answer = server.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")
        paths = server.get("/openapi.json", headers=headers).json()["paths"]
        assert not any(path.startswith("/admin") for path in paths)


def test_changes_wait_for_one_another(site: Site) -> None:
    """Two at once: the second one begins when the first has ended."""
    running: list[int] = []
    most: list[int] = []

    async def slow(settings: Settings, name: str, version: str) -> str | None:
        running.append(1)
        most.append(len(running))
        await asyncio.sleep(0.05)
        running.pop()
        return None

    site.server.engine.rollout.succession.prove = slow
    changes = [threading.Thread(target=site.change, args=("load", v)) for v in ("2", "3", "2")]
    for one in changes:
        one.start()
    for one in changes:
        one.join()
    assert max(most) == 1
