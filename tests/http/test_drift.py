"""What answers look like is counted by grid, beside what the manifest measured."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.drift import NAMED, OTHER, Drift, name_labels
from service.engine.job import softmax
from service.http.keys import digest
from tests.helpers.measured_grids import (
    CONFIDENCE,
    MIX,
    TEMPERATURES,
    figures,
    many_labels,
    measured_grids,
)
from tests.helpers.service_fixtures import (
    LABELS,
    MEDIA,
    TINY,
    RunningServer,
    picture,
    serving,
    tiny_logits,
    write_tiny_bundle,
    write_tiny_versions,
)
from tests.helpers.v2_requests import binary_files, binary_pixels, infer

GRID = TINY["image"].grids[0]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and clips that were measured, and a bundle from before."""
    root = tmp_path_factory.mktemp("bundles")
    for modality in ("image", "video"):
        write_tiny_bundle(root, modality, modality, grids=measured_grids(modality))
    write_tiny_bundle(root, "older")
    return root


@pytest.fixture
def server(bundles: Path) -> Iterator[RunningServer]:
    with serving(bundles) as running:
        yield running


def firsts(server: RunningServer, bundle: str, grid: str) -> dict[str, float]:
    """Answers by their first label."""
    name = "liere_first_label_total"
    return {
        label: server.metric(name, bundle=bundle, grid=grid, label=label) for label in LABELS
    }


def test_answers_are_counted_by_grid(server: RunningServer) -> None:
    """Whatever is wanted of a file: how sure the calibrated answer is, and its first label."""
    for seed, said in enumerate(({}, {"want": "logits"}, {"raw": "true"}, {"want": "embedding"})):
        server.classify(content=picture(seed), params=said)  # the last one has none
    infer(server, "image", **binary_files(picture(3)))
    expected, sure = dict.fromkeys(LABELS, 0), 0.0
    for seed in range(4):
        probabilities = softmax(tiny_logits(picture(seed), GRID), TEMPERATURES[0])
        expected[LABELS[int(probabilities.argmax())]] += 1
        sure += float(probabilities.max())
    assert firsts(server, "image", GRID) == expected
    labels = {"bundle": "image", "grid": GRID}
    assert server.metric("liere_confidence_count", **labels) == 4
    assert server.metric("liere_confidence_sum", **labels) == pytest.approx(sure, abs=1e-3)
    assert sum(firsts(server, "image", TINY["image"].grids[1]).values()) == 0


def test_what_was_not_measured_so_is_not_counted(server: RunningServer) -> None:
    """Prepared pixels, a clip in other views, and what failed."""
    pixels = np.zeros((2, 8, 12, 3), np.uint8)
    assert infer(server, "image_tensor", **binary_pixels(pixels)).status_code == 200
    assert server.classify(content=b"text").status_code == 415
    grid, clip = TINY["video"].grids[0], MEDIA["video"](1)
    assert server.classify("/v1/classify/video?views=3", content=clip).status_code == 200
    assert sum(firsts(server, "image", GRID).values()) == 0
    assert sum(firsts(server, "video", grid).values()) == 0
    assert server.classify("/v1/classify/video?views=2", content=clip).status_code == 200
    assert sum(firsts(server, "video", grid).values()) == 1


def test_measured_figures_stand_beside_the_counts(server: RunningServer) -> None:
    """From the first scrape on, all labels at 0; a bundle from before has counts alone."""
    text = server.get("/metrics").text
    shown = r'^liere_measured_mix{bundle="image",grid="2x3",label="(\w+)",version="1"} (\S+)$'
    mix = {label: float(share) for label, share in re.findall(shown, text, re.MULTILINE)}
    assert mix == dict(zip(LABELS, MIX, strict=True))
    labels = {"bundle": "image", "grid": GRID}
    assert server.metric("liere_measured_confidence", **labels) == CONFIDENCE
    assert 'liere_first_label_total{bundle="older",grid="2x3",label="eel",version="1"} 0.0' in text
    assert 'liere_measured_mix{bundle="older"' not in text
    assert 'liere_measured_confidence{bundle="older"' not in text
    assert server.classify(content=picture(), params={"bundle": "older"}).status_code == 200
    assert server.metric("liere_confidence_count", bundle="older", grid=GRID) == 1
    assert "_created" not in "".join(line for line in text.splitlines() if "first_label" in line)


def test_version_that_answers_begins_anew(tmp_path: Path) -> None:
    """The counts are its own, beside its own figures; those of the one before are gone."""
    home, keys = tmp_path / "bundles" / "tiny", tmp_path / "keys"
    keys.write_text(f"{digest(b'boss').hex()} boss scopes=classify,admin\n")
    boss: dict[str, Any] = {"headers": {"Authorization": "Bearer boss"}}
    write_tiny_versions(home.parent, "tiny", "1")
    labels = {"bundle": "tiny", "grid": GRID}
    with serving(home.parent, keys_file=keys) as server:
        assert server.classify(content=picture(), **boss).status_code == 200
        assert server.metric("liere_confidence_count", **labels, version="1") == 1
        grids = measured_grids()
        write_tiny_bundle(tmp_path, "tiny", version="2", grids=grids).rename(home / "2")
        assert server.request("POST", "/admin/reload", **boss).status_code == 200
        assert b'grid="2x3",version="1"' not in server.engine.metrics.render()
        assert server.metric("liere_confidence_count", **labels) == 0
        assert server.metric("liere_measured_confidence", **labels) == CONFIDENCE
        assert server.classify(content=picture(), **boss).status_code == 200
        assert server.metric("liere_confidence_count", **labels, version="2") == 1


# --- how many series -------------------------------------------------------------------------


def test_many_labels_have_few_series() -> None:
    """Those that the measured split had most often, and all others together."""
    labels, shares = many_labels(1000), np.zeros(1000)
    shares[[7, 990]] = 0.125
    shares[100:200] = 0.75 / 100
    told = figures(shares.tolist())
    names = name_labels(labels, told)
    kept = {name for name in names if name != OTHER}
    assert len(kept) == NAMED - 1
    assert {"label 7", "label 990"} < kept <= {"label 7", "label 990", *labels[100:200]}
    drift = Drift()
    drift.begin(1, "many", "1", "2x3", labels, told)
    for label in (990, 0, 1):
        drift.count(1, label, 0.5)
    drift.count(2, 0, 0.5)  # of nobody who answers
    counted = samples(drift, "liere_first_label_total")
    assert len(counted) == NAMED
    assert (counted["label 990"], counted[OTHER], sum(counted.values())) == (1, 2, 3)
    measured = samples(drift, "liere_measured_mix")
    assert measured.keys() == counted.keys()
    assert sum(measured.values()) == pytest.approx(1)
    assert measured[OTHER] == pytest.approx(0.75 * 83 / 100)
    drift.end(1)
    assert samples(drift, "liere_first_label_total") == {}


def test_first_labels_have_series_where_the_mix_is_not_known() -> None:
    """Up to the bound each has its own, whatever they are called."""
    names = name_labels(many_labels(NAMED + 1), None)
    assert names == [*many_labels(NAMED - 1), OTHER, OTHER]
    assert name_labels(many_labels(NAMED), None) == list(many_labels(NAMED))
    drift = Drift()
    drift.begin(1, "tiny", "1", "2x3", ("ant", OTHER, "bee"), figures((0.5, 0.25, 0.25)))
    assert samples(drift, "liere_measured_mix") == {"ant": 0.5, OTHER: 0.25, "bee": 0.25}


def samples(drift: Drift, name: str) -> dict[str, float]:
    """By label."""
    found = (one for family in drift.collect() for one in family.samples)
    return {one.labels["label"]: one.value for one in found if one.name == name}
