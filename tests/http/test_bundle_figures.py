"""What a bundle says of itself: figures and calibration of every grid and version, and its card."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from media.strict_json import to_json
from models.promotion import promote
from service.http.documents import BundleList
from service.http.versions import CARD, VERSIONS_EXAMPLE, VersionList
from tests.helpers.measured_grids import ABSTAIN, measured_grids
from tests.helpers.service_fixtures import (
    TINY,
    RunningServer,
    serving,
    write_tiny_bundle,
    write_tiny_versions,
)
from tests.http.conftest import Start


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with versions, whose oldest has no figures and answers; a flat one; a refused one."""
    root = tmp_path_factory.mktemp("bundles")
    home = write_tiny_versions(root, "versions", "1")
    made = write_tiny_bundle(
        root / ".made", "versions", version="2", grids=measured_grids(abstain=ABSTAIN)
    )
    made.rename(home / "2")
    (home / "3").mkdir()
    promote(home, "1")
    write_tiny_bundle(root, "flat", "video", grids=measured_grids("video"))
    (write_tiny_bundle(root, "refused") / "graphs/weights.bin").write_bytes(b"other")
    return root


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[RunningServer]:
    with serving(bundles) as running:
        yield running


def problem(server: RunningServer, path: str) -> tuple[int, str, str]:
    told = server.get(path).json()
    return told["status"], told["type"], told["detail"]


def check_grids(shown: list[dict[str, Any]], modality: str, abstain: float | None) -> None:
    """They say what the manifest does, word for word."""
    entries = measured_grids(modality, abstain)
    assert [one["grid"] for one in shown] == list(TINY[modality].grids)
    for one, entry in zip(shown, entries, strict=True):
        for name in ("figures", "calibration"):
            assert one[name] == json.loads(json.dumps(dataclasses.asdict(getattr(entry, name))))
        assert to_json(entry.figures)["top1"] == one["figures"]["top1"]
        assert (one["abstain"], one["split"], one["items"]) == (abstain, "test", 8)


def test_list_shows_figures_of_every_grid(server: RunningServer) -> None:
    """Of bundles from before it says that nothing was fitted, and why."""
    document = server.get("/v1/bundles").json()
    BundleList.model_validate_json(json.dumps(document))
    by_name = {one["name"]: one["grids"] for one in document["bundles"]}
    check_grids(by_name["flat"], "video", None)
    for one in by_name["versions"]:
        assert one["figures"] is None
        assert one["abstain"] is None
        assert one["calibration"]["calibrated"] is False
        assert one["calibration"]["temperature"] == 1
        assert "before temperatures were fitted" in one["calibration"]["reason"]
    assert by_name["refused"] == []


def test_versions_show_theirs(server: RunningServer) -> None:
    """Also one that does not answer, and one of which nothing can be told but why."""
    document = server.get("/v1/bundles/versions/versions").json()
    VersionList.model_validate_json(json.dumps(document))
    one, two, three = document["versions"]
    assert [each["version"] for each in document["versions"]] == ["1", "2", "3"]
    assert [each["answers"] for each in document["versions"]] == [True, False, False]
    assert one["grids"][0]["figures"] is None
    check_grids(two["grids"], "image", ABSTAIN)
    assert (two["reason"], three["reason"]) == (None, "3: manifest.json is missing")
    assert three["grids"] == []
    (flat,) = server.get("/v1/bundles/flat/versions").json()["versions"]
    assert (flat["version"], flat["answers"]) == ("1", True)
    check_grids(flat["grids"], "video", None)
    assert server.get("/v1/bundles/refused/versions").json()["versions"][0]["answers"] is False
    assert set(document) == set(VERSIONS_EXAMPLE)


def test_card_is_that_of_the_version_that_answers(server: RunningServer) -> None:
    """As markdown; HEAD as everywhere."""
    for name in ("versions", "flat"):
        answer = server.get(f"/v1/bundles/{name}/card")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
        assert answer.text == "A tiny network with random weights.\n"
    assert server.request("HEAD", "/v1/bundles/flat/card").status_code == 200


def test_what_is_not_there_is_told(server: RunningServer) -> None:
    """By the problem that it is."""
    for path in ("versions", "card"):
        status, kind, detail = problem(server, f"/v1/bundles/nope/{path}")
        assert (status, kind) == (404, "/problems/unknown-bundle")
        assert detail == "unknown bundle 'nope'; known: flat, refused, versions"
    status, kind, detail = problem(server, "/v1/bundles/refused/card")
    assert (status, kind) == (503, "/problems/bundle-refused")
    assert detail.startswith("bundle refused is not served: graphs/weights.bin has sha256")


def test_card_that_was_changed_is_not_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What lies there now may be anything, a link too; the log says why, the answer does not."""
    folder = write_tiny_bundle(tmp_path)
    (tmp_path / "secret").write_text("a secret")
    another = "it is not the one that the bundle was exported with"
    with serving(tmp_path) as server:
        for change, why in (
            (lambda: (folder / CARD).write_text("another"), another),
            ((folder / CARD).unlink, "No such file or directory"),
            ((folder / CARD).mkdir, "Is a directory"),
            ((folder / CARD).rmdir, "No such file or directory"),
            (lambda: (folder / CARD).symlink_to(tmp_path / "secret"), another),
        ):
            change()
            caplog.clear()
            status, kind, detail = problem(server, "/v1/bundles/tiny/card")
            assert (status, kind) == (404, "/problems/not-found")
            assert detail == "bundle tiny has no card, or not the one that it was exported with"
            (told,) = [one.message for one in caplog.records if "the card of" in one.message]
            assert told.startswith("the card of bundle tiny 1 is not told: ")
            assert why in told


def test_versions_that_cannot_be_listed_are_told_to_the_operator(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The one that answers is shown, and why there are no others is in the log alone."""
    folder = write_tiny_bundle(tmp_path)
    with serving(tmp_path) as server:
        (folder / "manifest.json").write_text("{")
        (one,) = server.get("/v1/bundles/tiny/versions").json()["versions"]
        assert (one["version"], one["reason"]) == ("1", None)
        assert f"the versions in {folder} cannot be listed: " in caplog.text


def test_bundle_that_may_still_come_is_not_unknown(start: Start) -> None:
    """503 until every bundle was examined."""
    server, _ = start()
    server.engine.catalog.examined = False
    assert problem(server, "/v1/bundles/later/card")[:2] == (503, "/problems/not-ready")
    assert server.get("/v1/bundles/flat/card").status_code == 200
