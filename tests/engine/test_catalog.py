"""Bundles prove themselves before they answer; whatever is wrong is a reason, others serve on."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media.files import sha256_file
from models.bundle import read_bundle
from models.manifest import Golden, Tolerance
from service import logs
from service.cli import serve
from service.engine.device.session import DeviceError
from service.engine.engine import Engine
from service.engine.folders import NoBundles, bundle_folders, modality_of
from service.settings import SettingsError, read_settings
from tests.helpers.disks import ordinary_user
from tests.helpers.service_fixtures import (
    GRIDS,
    RunningServer,
    TinySession,
    picture,
    serving,
    wait_until,
    write_tiny_bundle,
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One good bundle to copy from."""
    return write_tiny_bundle(tmp_path_factory.mktemp("good"), "good")


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def change_byte(folder: Path, file: str) -> None:
    path = folder / file
    data = bytearray(path.read_bytes())
    data[0] ^= 1  # of a manifest its brace: some digits of a golden's logits may change
    path.write_bytes(data)


def replace_file(folder: Path, file: str, data: bytes) -> None:
    """Other content with a fitting hash: only loading or replaying can tell."""
    (folder / file).write_bytes(data)
    digest = sha256_file(folder / file)
    edit_manifest(folder, lambda manifest: manifest["files"].update({file: digest}))


def move_logits(manifest: dict[str, Any]) -> None:
    manifest["goldens"][1]["logits"]["3x2"][2] += 0.01


def no_tolerance(manifest: dict[str, Any]) -> None:
    manifest["tolerances"] = [t for t in manifest["tolerances"] if t["device"] != "cpu"]


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed byte in the weights": (
        lambda folder: change_byte(folder, "graphs/weights.bin"),
        "graphs/weights.bin has sha256",
    ),
    "changed byte in a graph": (
        lambda folder: change_byte(folder, "graphs/3x2.onnx"),
        "graphs/3x2.onnx has sha256",
    ),
    "changed byte in a golden": (
        lambda folder: change_byte(folder, "golden/1.png"),
        "golden/1.png has sha256",
    ),
    "unknown manifest key": (
        lambda folder: edit_manifest(folder, lambda manifest: manifest.update(extra=1)),
        "unknown key 'extra'",
    ),
    "missing manifest key": (
        lambda folder: edit_manifest(folder, lambda manifest: manifest.pop("labels")),
        "missing key 'labels'",
    ),
    "manifest that is no JSON": (
        lambda folder: (folder / "manifest.json").write_text("{"),
        "not valid JSON",
    ),
    "missing manifest": (
        lambda folder: (folder / "manifest.json").unlink(),
        "manifest.json is missing",
    ),
    "missing file": (
        lambda folder: (folder / "golden/2.png").unlink(),
        "golden/2.png is listed and missing",
    ),
    "extra file": (
        lambda folder: (folder / "graphs/more.onnx").write_bytes(b"x"),
        "graphs/more.onnx is there and not listed",
    ),
    "link": (
        lambda folder: (folder / "golden/link.png").symlink_to(folder / "golden/1.png"),
        "golden/link.png is a link",
    ),
    "hard link": (
        lambda folder: (folder / "golden/hard.png").hardlink_to(folder / "golden/1.png"),
        "not a plain file",
    ),
    "golden mismatch": (
        lambda folder: edit_manifest(folder, move_logits),
        "golden/1.png at grid 3x2 differs from its stored logits",
    ),
    "golden that cannot be decoded": (
        lambda folder: replace_file(folder, "golden/1.png", b"text"),
        "expected JPEG",
    ),
    "golden of another picture": (
        lambda folder: replace_file(folder, "golden/1.png", picture(99)),
        "golden/1.png at grid 2x3 differs",
    ),
    "other weights": (
        lambda folder: replace_file(folder, "graphs/weights.bin", bytes(288 * 5 * 4)),
        "golden/0.png at grid 2x3 differs",
    ),
    "weights that are not numbers": (
        lambda folder: replace_file(folder, "graphs/weights.bin", b"\xff" * (288 * 5 * 4)),
        "golden/0.png at grid 2x3 differs",
    ),
    "weights cut off": (
        lambda folder: replace_file(folder, "graphs/weights.bin", bytes(100)),
        "graphs/2x3.onnx cannot be loaded",
    ),
    "graph that is none": (
        lambda folder: replace_file(folder, "graphs/3x2.onnx", b"not a graph"),
        "graphs/3x2.onnx cannot be loaded",
    ),
    "graph of another grid": (
        lambda folder: replace_file(
            folder, "graphs/3x2.onnx", (folder / "graphs/2x3.onnx").read_bytes()
        ),
        "graph of grid 3x2 cannot be run",
    ),
    "no tolerance for the device": (
        lambda folder: edit_manifest(folder, no_tolerance),
        "no tolerance is stated for cpu",
    ),
}


def test_damaged_bundles_are_refused_and_the_good_one_serves(good: Path, tmp_path: Path) -> None:
    """Twenty kinds of damage: each is refused with its own reason; the good bundle answers."""
    shutil.copytree(good, tmp_path / "good")
    names = {}
    for number, (kind, (damage, _)) in enumerate(DAMAGE.items()):
        folder = tmp_path / f"bad-{number:02}"
        shutil.copytree(good, folder)
        edit_manifest(folder, lambda manifest: manifest.update(name=folder.name))  # noqa: B023
        damage(folder)
        names[folder.name] = kind
    with serving(tmp_path) as server:
        listed = {one["name"]: one for one in server.get("/v1/bundles").json()["bundles"]}
        assert set(listed) == {"good", *names}
        for name, kind in names.items():
            assert listed[name]["state"] == "refused", kind
            assert DAMAGE[kind][1] in listed[name]["reason"], (kind, listed[name]["reason"])
            check_refused(server, name, tmp_path)
        assert server.get("/health/ready").status_code == 200
        answer = server.classify(content=picture(), params={"bundle": "good"}).json()
        assert answer["results"][0]["bundle"] == "good"
        assert server.classify(content=picture()).json()["detail"].startswith("bundle bad-00, the")


def check_refused(server: RunningServer, name: str, root: Path) -> None:
    response = server.classify(content=picture(), params={"bundle": name})
    assert response.status_code == 503
    assert response.json()["type"] == "/problems/bundle-refused"
    assert str(root) not in response.text
    assert not re.search(r"0x[0-9a-f]{6,}|Traceback", response.text)


def test_server_with_only_bad_bundles_is_never_ready(good: Path, tmp_path: Path) -> None:
    """It stays alive to say why, and is not ready."""
    shutil.copytree(good, tmp_path / "good")
    change_byte(tmp_path / "good", "graphs/weights.bin")
    with serving(tmp_path) as server:
        assert server.get("/health/live").status_code == 200
        assert server.get("/health/ready").status_code == 503
        assert server.classify(content=picture()).json()["type"] == "/problems/bundle-refused"
        assert server.metric("liere_bundle_info", bundle="good", version="", state="refused") == 1


def test_goldens_are_held_to_the_stated_tolerance(good: Path, tmp_path: Path) -> None:
    """The same difference passes a wide tolerance and fails a narrow one."""
    manifest = read_bundle(good).manifest
    goldens = tuple(
        Golden(one.file, {grid: tuple(v + 1e-3 for v in row) for grid, row in one.logits.items()})
        for one in manifest.goldens
    )
    write_tiny_bundle(tmp_path, "narrow", goldens=goldens)
    wide = tuple(replace(t, atol=2e-3) for t in manifest.tolerances)
    write_tiny_bundle(tmp_path, "wide", goldens=goldens, tolerances=wide)
    with serving(tmp_path) as server:
        states = {one["name"]: one["state"] for one in server.get("/v1/bundles").json()["bundles"]}
    assert states == {"narrow": "refused", "wide": "ready"}


def test_tolerance_of_zero_lets_equal_logits_pass(tmp_path: Path) -> None:
    """Nothing may differ, and nothing does; a difference of one bit is told as it is."""
    logits = (0.0, 1.5, -2.0, 3.25, 0.5)

    class Constant(TinySession):
        def run(self, pixels: Any, stop: Any = None) -> Any:
            return np.tile(np.array(logits, np.float32), (len(pixels), 1))

    exact = (Tolerance("cpu", "fp32", 0, 0),)
    for name, third in (("equal", -2.0), ("unequal", -2.0 - 2**-22)):
        row = (*logits[:2], third, *logits[3:])
        goldens = tuple(Golden(f"golden/{n}.png", dict.fromkeys(GRIDS, row)) for n in range(3))
        write_tiny_bundle(tmp_path, name, goldens=goldens, tolerances=exact)
    with serving(tmp_path, lambda *_: Constant()) as server:
        equal, unequal = server.get("/v1/bundles").json()["bundles"]
    assert (equal["state"], unequal["state"]) == ("ready", "refused")
    assert unequal["reason"].endswith("differs from its stored logits by 2.38e-07; 0 is allowed")


def test_tolerance_is_that_of_the_device_the_session_got(tmp_path: Path) -> None:
    """On a GPU the goldens are held to the GPU's tolerance."""

    class Rough(TinySession):
        device = "cuda"

        def run(self, pixels: Any, stop: Any = None) -> Any:
            return super().run(pixels) + 0.05

    tolerances = (Tolerance("cpu", "fp32", 1e-4, 0), Tolerance("cuda", "fp32", 0.1, 0))
    write_tiny_bundle(tmp_path, tolerances=tolerances)
    with serving(tmp_path, lambda *_: Rough()) as server:
        (listed,) = server.get("/v1/bundles").json()["bundles"]
    assert (listed["state"], listed["device"]) == ("ready", "cuda")


FLIPPED = ("graphs/2x3.onnx", "graphs/weights.bin", "golden/0.png", "manifest.json")


DEFAULTS = pytest.mark.parametrize("said", [{}, {"default_bundle": "a"}], ids=["silent", "said"])


@DEFAULTS
def test_default_answers_who_names_no_bundle(pair: Path, said: dict[str, Any]) -> None:
    """While it is whole."""
    with serving(pair, **said) as server:
        assert server.classify(content=picture()).json()["results"][0]["bundle"] == "a"


@pytest.mark.parametrize("file", FLIPPED)
@DEFAULTS
def test_refused_default_has_no_stand_in(
    pair: Path, tmp_path: Path, file: str, said: dict[str, Any]
) -> None:
    """One byte of the default is flipped: who names no bundle gets 503 and the reason, who names
    the good one its answer; the list of bundles and the readiness say so.
    """
    shutil.copytree(pair, tmp_path, dirs_exist_ok=True)
    change_byte(tmp_path / "a", file)
    with serving(tmp_path, **said) as server:
        document = server.get("/v1/bundles").json()
        assert document["default"]["image"] == "a"
        refused, good = document["bundles"]
        assert (refused["state"], good["state"]) == ("refused", "ready")
        response = server.classify(content=picture())
        assert (response.status_code, response.json()["type"]) == (503, "/problems/bundle-refused")
        assert response.json()["detail"] == (
            f"bundle a, the default for image, is not served: {refused['reason']}"
        )
        named = server.classify(content=picture(), params={"bundle": "b"})
        assert (named.status_code, named.json()["results"][0]["bundle"]) == (200, "b")
        ready = server.get("/health/ready")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready", "refused": ["image"]})


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good bundles of images."""
    root = tmp_path_factory.mktemp("pair")
    for name in ("a", "b"):
        write_tiny_bundle(root, name)
    return root


def test_modality_survives_any_flipped_byte_of_a_manifest(good: Path, tmp_path: Path) -> None:
    """A manifest says twice what it is for: no single byte can move the default to another one."""
    path = tmp_path / "manifest.json"
    manifest = (good / path.name).read_bytes()
    for position in range(len(manifest)):
        damaged = bytearray(manifest)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        assert modality_of(tmp_path) == "image", position


def test_default_that_cannot_be_told_is_refused_everywhere(pair: Path, tmp_path: Path) -> None:
    """A manifest that is gone may have been any modality's; a word of the operator settles it."""
    shutil.copytree(pair, tmp_path, dirs_exist_ok=True)
    (tmp_path / "a/manifest.json").unlink()
    with serving(tmp_path) as server:
        defaults = {"image": "a", "video": "a", "volume": "a"}
        assert server.get("/v1/bundles").json()["default"] == defaults
        assert server.classify(content=picture()).json()["type"] == "/problems/bundle-refused"
    with serving(tmp_path, default_bundle="b") as server:
        assert server.classify(content=picture()).json()["results"][0]["bundle"] == "b"


def test_folder_that_holds_nothing_is_nobodys_default(pair: Path, tmp_path: Path) -> None:
    """A stray folder is told as refused, and takes no request away from a bundle."""
    shutil.copytree(pair, tmp_path, dirs_exist_ok=True)
    (tmp_path / "a-stray/notes").mkdir(parents=True)
    (tmp_path / "0").mkdir()
    with serving(tmp_path) as server:
        defaults = {"image": "a", "video": None, "volume": None}
        assert server.get("/v1/bundles").json()["default"] == defaults
        assert server.classify(content=picture()).json()["results"][0]["bundle"] == "a"
        assert server.classify(content=picture(), params={"bundle": "0"}).status_code == 503


def test_default_goes_by_folder_and_each_modality_can_have_its_own(tmp_path: Path) -> None:
    """The first folder, whatever its bundle calls itself, or one for each as the operator says."""
    write_tiny_bundle(tmp_path, "b").rename(tmp_path / "first")
    write_tiny_bundle(tmp_path, "zebra")
    for name in ("clips-1", "clips-2"):
        write_tiny_bundle(tmp_path, name, "video")
    with serving(tmp_path) as server:
        assert server.get("/v1/bundles").json()["default"]["image"] == "b"
    with serving(tmp_path, default_bundle="zebra,clips-2") as server:
        defaults = {"image": "zebra", "video": "clips-2", "volume": None}
        assert server.get("/v1/bundles").json()["default"] == defaults
    with serving(tmp_path, default_bundle="b,zebra", ready=False) as server:
        wait_until(lambda: server.engine.failure, "the failure to be told")
        assert "--default-bundle b,zebra: 2 are for modality image" in str(server.engine.failure)


def test_name_of_a_refused_bundle_is_not_free(good: Path, tmp_path: Path) -> None:
    """Another folder of the same name does not step in for one that was refused."""
    shutil.copytree(good, tmp_path / "one")
    shutil.copytree(good, tmp_path / "two")
    change_byte(tmp_path / "one", "graphs/weights.bin")
    with serving(tmp_path) as server:
        listed = {one["name"]: one["reason"] for one in server.get("/v1/bundles").json()["bundles"]}
        response = server.classify(content=picture(), params={"bundle": "good"})
    assert "graphs/weights.bin has sha256" in listed["good"]
    assert listed["two"] == "another folder already gave a bundle named good"
    assert response.status_code == 503


def test_folder_that_may_not_be_read_is_told_as_that(
    good: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is no empty folder and no trouble with a port: the server ends with 2 and says so."""
    shutil.copytree(good, tmp_path / "bundles/good")
    (tmp_path / "bundles").chmod(0)
    monkeypatch.setattr(logs, "configure", lambda settings: None)  # for the whole process
    with ordinary_user():
        assert serve.main(["--bundles", str(tmp_path / "bundles"), "--port", "0"]) == 2
    told = "bundles: the folder cannot be read: Permission denied\n"
    assert capsys.readouterr().err.endswith(told)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("", "the folder cannot be read: Permission denied"),
        ("manifest.json", "manifest.json cannot be read: Permission denied"),
        ("golden/1.png", "golden/1.png cannot be read: Permission denied"),
    ],
)
def test_bundle_that_may_not_be_read_is_refused_in_one_line(
    pair: Path, caplog: pytest.LogCaptureFixture, part: str, reason: str
) -> None:
    """The reason is the same without a path for HTTP and without a trace for the log."""
    with tempfile.TemporaryDirectory() as name:  # tmp_path is nobody else's to look into
        Path(name).chmod(0o755)
        folder = shutil.copytree(pair / "a", Path(name) / "a")
        (folder / part).chmod(0)
        engine = Engine(read_settings(["--bundles", name]))
        with ordinary_user():
            asyncio.run(engine.catalog.examine([folder], lambda one: None))
    (refused,) = engine.catalog.bundles.values()
    assert (refused.name, refused.state, refused.reason) == ("a", "refused", reason)
    told = [(one.getMessage(), one.exc_info) for one in caplog.records]
    assert (f"bundle a is refused: {reason}", None) in told
    assert not any(trace for _, trace in told)


@pytest.mark.parametrize(
    ("defaults", "words"),
    [
        ("c", "--default-bundle c: no such bundle; known: a, b"),
        ("a,b", "--default-bundle a,b: 2 are for modality image"),
    ],
)
def test_wrong_default_ends_before_a_bundle_is_loaded(
    pair: Path, defaults: str, words: str
) -> None:
    """Names and manifests tell it: no graph is opened for a server that cannot be."""
    opened: list[Path] = []

    def opener(graph: Path, *_: object) -> TinySession:
        opened.append(graph)
        return TinySession()

    with serving(pair, opener, ready=False, default_bundle=defaults) as server:
        wait_until(lambda: server.engine.failure, "the failure to be told")
    assert isinstance(server.engine.failure, SettingsError)
    assert (str(server.engine.failure), opened) == (words, [])


def test_second_bundle_of_a_name_is_refused(good: Path, tmp_path: Path) -> None:
    """Two folders cannot answer under one name; the first by folder name wins."""
    shutil.copytree(good, tmp_path / "one")
    shutil.copytree(good, tmp_path / "two")
    with serving(tmp_path) as server:
        listed = {one["name"]: one["state"] for one in server.get("/v1/bundles").json()["bundles"]}
    assert listed == {"good": "ready", "two": "refused"}


def test_hidden_folders_and_files_are_no_bundles(good: Path, tmp_path: Path) -> None:
    """A bundle that is still being written (hidden) and stray files are passed over."""
    shutil.copytree(good, tmp_path / ".good.partial")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(NoBundles, match="there is no bundle in this folder"):
        bundle_folders(tmp_path)
    with pytest.raises(NoBundles, match="there is no such folder"):
        bundle_folders(tmp_path / "absent")


def test_device_that_is_not_there_ends_the_server(good: Path) -> None:
    """A DeviceError for --device cuda is no bundle's fault: the server never becomes ready."""

    def opener(*_: object) -> TinySession:
        raise DeviceError("no GPU")

    with serving(good.parent, opener, ready=False, device="cuda") as server:
        wait_until(lambda: server.engine.failure, "the failure to be told")
        assert isinstance(server.engine.failure, DeviceError)
        assert server.get("/health/live").status_code == 200
        assert server.get("/health/ready").status_code == 503


def test_gpu_that_was_found_and_fails_later_costs_one_bundle(tmp_path: Path) -> None:
    """Under auto nobody insisted on the GPU: the bundle that it fails on is refused alone."""
    for name in ("first", "second"):
        write_tiny_bundle(tmp_path, name)

    class OnGpu(TinySession):
        device = "cuda"

    asked: list[str] = []

    def opener(graph: Path, device: str, threads: int) -> TinySession:
        asked.append(device)
        if graph.parts[-3] == "second":
            raise DeviceError("--device cuda: the GPU cannot be used")
        return OnGpu()

    with serving(tmp_path, opener) as server:
        first, second = server.get("/v1/bundles").json()["bundles"]
        assert server.get("/health/ready").status_code == 200
    assert asked == ["auto", "cuda", "cuda"]
    assert (first["state"], second["state"]) == ("ready", "refused")
    assert second["reason"] == "graphs/2x3.onnx cannot be opened on the GPU that the others use"


@pytest.mark.parametrize(
    ("error", "traced"), [(DeviceError("no GPU"), False), (KeyError("surprise"), True)]
)
def test_unexpected_failure_at_start_keeps_its_traceback(
    good: Path, caplog: pytest.LogCaptureFixture, error: Exception, traced: bool
) -> None:
    """What is written for the operator is one line; a mistake of ours is traced in the log."""
    engine = Engine(read_settings(["--bundles", str(good.parent)]))

    async def start(modalities: object) -> None:
        raise error

    engine.pool.start = start  # type: ignore[method-assign]
    asyncio.run(engine.prepare())
    assert engine.failure is error
    (record,) = [one for one in caplog.records if "cannot become ready" in one.getMessage()]
    assert bool(record.exc_info) == traced
