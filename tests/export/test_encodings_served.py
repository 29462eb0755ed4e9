"""Every encoding of the table walks the whole road: a training step, a bundle, an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from export.make import Options, make_bundle
from export.reference import torch_logits
from media import read
from media.spec import Grid
from models.checkpoint import load_checkpoint
from models.encodings import ENCODINGS, parse_encoding
from tests.helpers.service_fixtures import RunningServer, picture, serving
from tests.helpers.training_runs import COLOURS, TINY, make_data
from training.loop import train
from training.presets import PRESETS
from training.settings import override

#: Trained at the first, served at both; not square.
GRIDS = (Grid((2, 3)), Grid((4, 3)))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and a bundle of every encoding: ROOT/NAME and ROOT/bundles/NAME."""
    root = tmp_path_factory.mktemp("road")
    pictures = make_data(root / "data", COLOURS)
    recipe = override(PRESETS["smoke"](str(pictures)), [*TINY, "model.grid=[2,3]", "epochs=1"])
    for name in ENCODINGS:
        model = dataclasses.replace(recipe.model, encoding=parse_encoding(name))
        train(dataclasses.replace(recipe, model=model), root / name, report=False)
        options = Options(
            root / name / "best", GRIDS, root / "bundles", name, split="val", parity_items=12
        )
        make_bundle(options, Console(quiet=True))
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[RunningServer]:
    """All of them, behind one server."""
    with serving(root / "bundles") as running:
        yield running


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", ENCODINGS)
def test_answer_is_the_checkpoints(
    root: Path, server: RunningServer, name: str, grid: Grid
) -> None:
    """A picture over HTTP gets the probabilities that torch gives for it."""
    model, description = load_checkpoint(root / name / "best")
    pixels = read(picture(), description.input, grid, model.spec.patch).pixels.copy()
    powers = np.exp(torch_logits(model, pixels, grid)[0])  # [classes]
    answer = server.classify(
        "/v1/classify/image",
        content=picture(),
        params={"bundle": name, "grid": str(grid), "top_k": str(len(powers))},
    )
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    found = {one["label"]: one["probability"] for one in result["predictions"]}
    expected = dict(zip(description.labels, powers / powers.sum(), strict=True))
    assert found == pytest.approx(expected, abs=1e-4)
