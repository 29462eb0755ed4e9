"""Answers over HTTP are as sure as export has measured: of clips too, which have several views."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from rich.console import Console

from export.answers import Answers
from export.make import Options, make_bundle
from export.parity import graph_logits, open_graph
from media.dataset import prepare_split
from media.index import open_dataset
from media.sources import open_source
from models.bundle import Bundle
from tests.helpers.export_bundles import know_graphs
from tests.helpers.export_clips_and_scans import (
    CLIPS,
    GRIDS,
    LABELS,
    PATCH,
    VIEWS,
    exported_clips,
    make_model,
    save,
)
from tests.helpers.service_fixtures import RunningServer, clip, serving

ITEMS, VALIDATION = 36, 18
(GRID, *_) = GRIDS


class Case(NamedTuple):
    """Clips, the bundle that was measured on them, and its server."""

    data: Path
    bundle: Bundle
    server: RunningServer


def write_clips(folder: Path) -> Path:
    """Clips as a CSV, the first half of them for validation.

    Each has the label that the model gives it, but every third another one.
    """
    for seed in range(ITEMS):
        (folder / f"{seed}.gif").write_bytes(clip(seed, 7, (23, 17)))
    write_table(folder, list(range(ITEMS)))
    model = make_model(CLIPS)
    labels = []
    for split in ("val", "test"):
        prepared = prepare_split(open_source(folder / "clips.csv"), split, CLIPS, GRID, PATCH)
        with torch.inference_mode():
            logits = model(torch.from_numpy(prepared.pixels.copy()))
        labels += prepared.of_items(logits.numpy()).argmax(1).tolist()
    other = {0: 1, 3: 2}
    return write_table(folder, [label + other.get(n % 6, 0) for n, label in enumerate(labels)])


def write_table(folder: Path, labels: list[int]) -> Path:
    rows = ["path,label,split"]
    for number, label in enumerate(labels):
        split = "val" if number < VALIDATION else "test"
        rows.append(f"{number}.gif,{LABELS[label % len(LABELS)]},{split}")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    return folder / "clips.csv"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    root = tmp_path_factory.mktemp("served")
    (root / "data").mkdir()
    data = write_clips(root / "data")
    checkpoint = save(root / "run" / "best", make_model(CLIPS), CLIPS, data)
    options = Options(
        checkpoint, (GRID,), root / "bundles", "noise", parity_items=36, abstain=0.65
    )
    with pytest.MonkeyPatch.context() as patched:
        know_graphs(patched, exported_clips(tmp_path_factory))
        bundle = make_bundle(options, Console(quiet=True))
    with serving(root / "bundles") as server:
        yield Case(data, bundle, server)


def test_served_probabilities_are_the_measured_ones(case: Case) -> None:
    """Item by item; and so are how sure they are, their mix, and what is left of them."""
    (entry,) = case.bundle.manifest.grids
    calibration, told = entry.calibration, entry.figures
    assert calibration.calibrated and told is not None
    assert abs(calibration.temperature - 1) > 0.05
    dataset = open_dataset(case.data)
    prepared = prepare_split(dataset, "test", CLIPS, GRID, PATCH)
    assert len(prepared.pixels) == VIEWS * (ITEMS - VALIDATION)
    logits = graph_logits(open_graph(case.bundle.path(entry.graph)), prepared.pixels)
    answers = Answers.of(dataset, "test", prepared, logits)
    measured = np.exp(answers.likelihoods(calibration.temperature))  # [items, classes]
    served, abstained, coverage = [], [], []
    for number in range(VALIDATION, ITEMS):
        media = (case.data.parent / f"{number}.gif").read_bytes()
        answer = case.server.classify("/v1/classify/video", content=media).json()
        (result,) = answer["results"]
        by_index = {one["index"]: one["probability"] for one in result["predictions"]}
        served.append([by_index[index] for index in range(len(LABELS))])
        abstained.append(result["abstained"])
        coverage.append(result["coverage"])
        assert result["calibrated"] is True
    np.testing.assert_allclose(served, measured, atol=2e-4)
    (row,) = (one for one in told.coverage if one.threshold == 0.65)
    assert coverage == [{"threshold": 0.65, "share": row.share, "accuracy": row.accuracy}] * 18
    assert 1 - np.mean(abstained) == pytest.approx(row.share)
    labels = {"bundle": "noise", "grid": str(GRID)}
    total = case.server.metric("liere_confidence_sum", **labels)
    count = case.server.metric("liere_confidence_count", **labels)
    assert total / count == pytest.approx(told.confidence, abs=1e-4)
    name = "liere_first_label_total"
    firsts = [case.server.metric(name, label=label, **labels) / count for label in LABELS]
    assert firsts == pytest.approx(told.mix)
