"""Every encoding of the table walks the whole road: a training step, a bundle, an answer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console

from export.make import Options, make_bundle
from export.plan import plan_of
from export.reference import torch_logits
from media import read
from media.spec import Grid
from models.checkpoint import load_checkpoint
from models.encodings import ENCODINGS, parse_encoding
from tests.helpers import training_runs
from tests.helpers.graph_forms import check_form
from tests.helpers.service_fixtures import picture, serving
from training.loop import train
from training.presets import PRESETS
from training.settings import override

pictures = training_runs.pictures

#: What is served; training saw 2x3.
GRID = Grid((4, 3))
SETTINGS = [
    *training_runs.TINY, "model.grid=[2,3]", "model.depth=1", "model.pool=class", "epochs=1",
]  # fmt: skip


@pytest.mark.parametrize("name", ENCODINGS)
def test_answer_is_the_checkpoints(pictures: Path, tmp_path: Path, name: str) -> None:
    """Its graphs have the form that the plan says, and answers over HTTP are torch's."""
    recipe = override(PRESETS["smoke"](str(pictures)), SETTINGS)
    model = dataclasses.replace(recipe.model, encoding=parse_encoding(name))
    train(dataclasses.replace(recipe, model=model), tmp_path / "run", report=False)
    options = Options(
        tmp_path / "run" / "best", (GRID,), tmp_path / "bundles", name, split="val", parity_items=12
    )
    bundle = make_bundle(options, Console(quiet=True))
    trained, description = load_checkpoint(tmp_path / "run" / "best")
    (entry,) = bundle.manifest.grids
    check_form(onnx.load(bundle.path(entry.graph)), plan_of(trained).form, trained, GRID)
    pixels = read(picture(), description.input, GRID, trained.spec.patch).pixels.copy()
    powers = np.exp(torch_logits(trained, pixels, GRID)[0])  # [classes]
    with serving(tmp_path / "bundles") as server:
        answer = server.classify(
            "/v1/classify/image", content=picture(), params={"top_k": str(len(powers))}
        )
        assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    found = {one["label"]: one["probability"] for one in result["predictions"]}
    expected = dict(zip(description.labels, powers / powers.sum(), strict=True))
    assert found == pytest.approx(expected, abs=1e-4)
