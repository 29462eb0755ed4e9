"""Probabilities are calibrated unless raw ones are asked for, and may be too low for an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.coverage import THRESHOLDS
from service.engine.job import softmax
from tests.helpers.measured_grids import ABSTAIN, TEMPERATURES, coverage, measured_grids
from tests.helpers.service_fixtures import (
    LABELS,
    MEDIA,
    TINY,
    RunningServer,
    complaint,
    picture,
    run,
    serving,
    tiny_logits,
    write_tiny_bundle,
)
from tests.http.test_want import ask

MODALITIES = tuple(TINY)
EACH_GRID = [
    (modality, grid, temperature)
    for modality in MODALITIES
    for grid, temperature in zip(TINY[modality].grids, TEMPERATURES, strict=True)
]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of every modality with temperatures, one with a threshold, and one from before."""
    root = tmp_path_factory.mktemp("bundles")
    for modality in MODALITIES:
        write_tiny_bundle(root, modality, modality, grids=measured_grids(modality))
    for name, modality in (("unsure", "image"), ("unsure-clips", "video")):
        write_tiny_bundle(root, name, modality, grids=measured_grids(modality, ABSTAIN))
    write_tiny_bundle(root, "older")
    return root


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[RunningServer]:
    """Their server."""
    names = ("image", "video", "volume")
    with serving(bundles, default_bundle=names) as running:
        yield running


def told(result: Any) -> list[float]:
    """Probabilities in the order of the labels, as the ranking has them."""
    ranked = {one["index"]: one["probability"] for one in result["predictions"]}
    return [ranked[index] for index in range(len(LABELS))]


# --- calibrated and raw ----------------------------------------------------------------------


@pytest.mark.parametrize(("modality", "grid", "temperature"), EACH_GRID)
def test_probabilities_are_those_of_the_grids_temperature(
    server: RunningServer, modality: str, grid: str, temperature: float
) -> None:
    """In rankings and in whole; of a clip the mean of its views' logits is divided."""
    media = MEDIA[modality](4)
    logits = tiny_logits(media, grid, modality)
    for said, expected in (
        ({}, softmax(logits, temperature)),
        ({"raw": "false"}, softmax(logits, temperature)),
        ({"raw": "true"}, softmax(logits)),
    ):
        ranked = ask(server, media, modality, grid=grid, **said)
        assert told(ranked) == pytest.approx(expected, abs=1e-4)
        whole = ask(server, media, modality, grid=grid, want="probabilities", **said)
        assert whole["probabilities"] == pytest.approx(expected, abs=1e-4)
        is_raw = said.get("raw") == "true"
        assert ranked["calibrated"] is whole["calibrated"] is not is_raw
        assert "abstained" not in ranked and "coverage" not in ranked


def test_logits_are_never_touched(server: RunningServer) -> None:
    """They are the graph's, and nothing is said of probabilities that are not there."""
    media = picture(4)
    result = ask(server, media, want="logits", bundle="unsure")
    assert result["logits"] == pytest.approx(tiny_logits(media, "2x3"), abs=1e-4)
    assert not {"calibrated", "abstained", "coverage"} & set(result)


def test_bundle_from_before_answers_as_it_did(server: RunningServer) -> None:
    """It says that its probabilities are the network's own; raw ones are the same."""
    media = picture(4)
    for said in ({}, {"raw": "true"}):
        result = ask(server, media, bundle="older", **said)
        assert told(result) == pytest.approx(softmax(tiny_logits(media, "2x3")), abs=1e-4)
        assert result["calibrated"] is False
        assert "abstained" not in result


def test_file_that_takes_its_grid_gets_the_temperature_of_that(server: RunningServer) -> None:
    """Whichever it is."""
    taken = set()
    for size in ((30, 13), (13, 30)):
        media = picture(4, size)
        result = ask(server, media, grid="auto")
        temperature = TEMPERATURES[TINY["image"].grids.index(result["grid"])]
        logits = tiny_logits(media, result["grid"])
        assert told(result) == pytest.approx(softmax(logits, temperature), abs=1e-4)
        taken.add(result["grid"])
    assert taken == set(TINY["image"].grids)


def test_form_says_the_same_as_the_address(server: RunningServer) -> None:
    """Of every file; and a parameter in both places is one too many."""
    files = [("file", (f"{seed}.png", picture(seed))) for seed in (3, 4)]
    said = {"raw": "true", "abstain": "0.99", "want": "probabilities"}
    in_form = server.classify(files=files, data=said).json()["results"]
    in_address = server.classify(files=files, params=said).json()["results"]
    mixed = server.classify(files=files, params={"raw": "true"}, data={"abstain": "0.99"})
    for seed, *results in zip((3, 4), in_form, in_address, strict=True):
        expected = softmax(tiny_logits(picture(seed), "2x3"))
        for result in results:
            assert result["probabilities"] == pytest.approx(expected, abs=1e-4)
            assert result["calibrated"] is False
            assert result["abstained"] is True
    assert all(one["abstained"] for one in mixed.json()["results"])
    twice = server.classify(files=files, params={"raw": "true"}, data={"raw": "true"})
    assert twice.json()["type"] == "/problems/repeated-parameter"


# --- not knowing -----------------------------------------------------------------------------


def highest(media: bytes, grid: str = "2x3", modality: str = "image") -> float:
    temperature = TEMPERATURES[TINY[modality].grids.index(grid)]
    return float(softmax(tiny_logits(media, grid, modality), temperature).max())


def test_bundle_says_when_it_does_not_know(server: RunningServer) -> None:
    """Below its threshold, with what was left there of the measured split; labels still come."""
    (row,) = (one for one in coverage() if one.threshold == ABSTAIN)
    seen = set()
    for seed in range(6):
        media = picture(seed)
        result = ask(server, media, bundle="unsure")
        assert result["abstained"] is (highest(media) < ABSTAIN)
        expected = {"threshold": ABSTAIN, "share": row.share, "accuracy": row.accuracy}
        assert result["coverage"] == expected
        assert len(result["predictions"]) == 5
        seen.add(result["abstained"])
    assert seen == {True, False}


def test_request_may_say_another_threshold(server: RunningServer) -> None:
    """0 is none; one that was measured comes with its figures, another one without."""
    media = picture(4)
    value = highest(media)
    off = ask(server, media, bundle="unsure", abstain="0")
    assert "abstained" not in off and "coverage" not in off
    for threshold in THRESHOLDS:
        result = ask(server, media, bundle="unsure", abstain=str(threshold))
        (row,) = (one for one in coverage() if one.threshold == threshold)
        assert result["abstained"] is (value < threshold)
        assert result["coverage"]["share"] == row.share
        assert result["coverage"]["accuracy"] == row.accuracy
    for text, abstained in ((f"{value - 1e-3:.6f}", False), (f"{value + 1e-3:.6f}", True)):
        result = ask(server, media, abstain=text)
        assert result["abstained"] is abstained
        assert "coverage" not in result
    older = ask(server, media, bundle="older", abstain="0.5")
    assert older["abstained"] is bool(softmax(tiny_logits(media, "2x3")).max() < 0.5)
    assert "coverage" not in older


def test_raw_probabilities_change_nothing_about_knowing(server: RunningServer) -> None:
    """What was measured is the calibrated one, so it decides whatever is told."""
    overruled = []
    for seed in range(6):
        said = {"bundle": "unsure", "grid": "2x3"}
        calibrated, raw = (ask(server, picture(seed), raw=raw, **said) for raw in ("false", "true"))
        assert raw["abstained"] is calibrated["abstained"]
        assert raw["coverage"] == calibrated["coverage"]
        overruled.append(raw["abstained"] and raw["predictions"][0]["probability"] > ABSTAIN)
    assert any(overruled)


def test_figures_are_those_of_the_bundles_own_views(server: RunningServer) -> None:
    """Nothing was fitted to other numbers of them, nor measured: they are not called calibrated."""
    said = {"bundle": "unsure-clips", "grid": TINY["video"].grids[0]}
    own = ask(server, MEDIA["video"](1), "video", views="2", **said)
    other = ask(server, MEDIA["video"](1), "video", views="3", **said)
    assert own["coverage"]["threshold"] == ABSTAIN
    assert other["abstained"] in (True, False)
    assert "coverage" not in other
    assert (own["calibrated"], other["calibrated"]) == (True, False)
    whole = ask(server, MEDIA["video"](1), "video", views="3", want="probabilities", **said)
    assert whole["calibrated"] is False


@pytest.mark.parametrize(
    ("said", "detail"),
    [
        ({"raw": "yes"}, "raw: expected one of false, true; got 'yes'"),
        ({"raw": ""}, "raw: expected one of false, true; got ''"),
        ({"abstain": "1.5"}, "abstain: expected a number from 0 to 1, got '1.5'"),
        ({"abstain": "-0.1"}, "abstain: expected a number from 0 to 1, got '-0.1'"),
        ({"abstain": "nan"}, "abstain: expected a number from 0 to 1, got 'nan'"),
        ({"abstain": "0_1"}, "abstain: expected a number from 0 to 1, got '0_1'"),
        ({"abstain": ""}, "abstain: expected a number from 0 to 1, got ''"),
        ({"abstain": "1e999"}, "abstain: expected a number from 0 to 1, got '1e999'"),
        ({"raw": "true", "want": "logits"}, "raw: only of probabilities; want=logits has none"),
        (
            {"abstain": "0.5", "want": "embedding"},
            "abstain: only of probabilities; want=embedding has none",
        ),
    ],
)
@pytest.mark.parametrize("place", ["params", "data"])
def test_what_cannot_be_meant_is_told(
    server: RunningServer, said: dict[str, str], detail: str, place: str
) -> None:
    """In the address and in a form."""
    options: dict[str, Any] = {place: said}
    answer = server.classify(files={"file": picture(1)}, **options)
    assert answer.status_code == 422
    assert (answer.json()["type"], answer.json()["detail"]) == ("/problems/bad-parameter", detail)


@pytest.mark.parametrize("text", ["1", "1.0", ".5", "5e-1", "0.", "1E-3"])
def test_numbers_may_be_written_as_usual(server: RunningServer, text: str) -> None:
    """As languages print them."""
    assert ask(server, picture(1), abstain=text).get("abstained", False) is (
        highest(picture(1)) < float(text)
    )


# --- the command -----------------------------------------------------------------------------


def test_command_gives_the_same(bundles: Path, tmp_path: Path) -> None:
    """A JSON object a line, and for people a word before the labels."""
    photo = tmp_path / "photo.png"
    photo.write_bytes(picture(4))
    asked = ("classify", photo, "--bundles", bundles, "--bundle", "unsure", "--grid", "2x3")
    logits = tiny_logits(picture(4), "2x3")
    for words, temperature, calibrated in (([], TEMPERATURES[0], True), (["--raw"], 1.0, False)):
        done = run(*asked, "--json", "--abstain", "0.99", *words)
        assert (done.returncode, done.stderr) == (0, "")
        line = json.loads(done.stdout)
        assert told(line) == pytest.approx(softmax(logits, temperature), abs=1e-4)
        assert (line["calibrated"], line["abstained"]) == (calibrated, True)
        assert line["coverage"] == {"threshold": 0.99, "share": 0.0, "accuracy": None}
    best = LABELS[int(np.argmax(logits))]
    done = run(*asked, "--abstain", "0.99")
    assert done.stdout.startswith(f"{photo}: not sure: {best} ")
    done = run(*asked, "--abstain", "0")
    assert done.stdout.startswith(f"{photo}: {best} ")


def test_command_refuses_what_it_cannot_mean(bundles: Path, tmp_path: Path) -> None:
    """Before anything is answered."""
    asked = ("classify", tmp_path / "photo.png", "--bundles", bundles)
    assert "abstain: expected a number" in complaint(run(*asked, "--abstain", "2"), 2)
    said = complaint(run(*asked, "--json", "--want", "logits", "--raw"), 2)
    assert "raw: only of probabilities" in said
