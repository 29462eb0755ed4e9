"""Runs and comparisons that code of schema 1 began go on, and its checkpoints are fine-tuned."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from media.spec import SpecError
from models.checkpoint import load_tensors, read_description
from models.spec import EncodingSpec
from tests.helpers.older_files import DATA, RUN, SCHEMA_1, SETTINGS, copy_run
from tests.helpers.training_runs import Chatter, check_refused
from training.__main__ import main
from training.compare.comparison import join, load


def command(out: Path, *settings: str, resume: bool = False) -> list[str]:
    words = ["smoke", "--data", str(DATA), "--out", str(out)] + ["--resume"] * resume
    return words + [word for one in (*SETTINGS, *settings) for word in ("--set", one)]


def test_run_of_schema_1_goes_on(tmp_path: Path) -> None:
    """Stopped after two of six steps by older code, it ends with the weights of that code."""
    run = copy_run(tmp_path)
    assert main(command(run, resume=True)) == 0
    ended = load_tensors(run / "last" / "weights.safetensors")
    expected = load_tensors(SCHEMA_1 / "after-6-steps.safetensors")
    assert ended.keys() == expected.keys()
    for name, tensor in ended.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)
    described = read_description(run / "last")
    assert (described.schema, described.notes["step"]) == (2, 6)


def test_run_does_not_care_whether_a_default_is_said(tmp_path: Path) -> None:
    """An option that the encoding would have chosen itself is no other recipe; another one is."""
    run = copy_run(tmp_path)
    assert main(command(run, "model.encoding.per_head=true", resume=True)) == 0


def test_run_of_schema_1_knows_another_encoding(tmp_path: Path, capsys: Chatter) -> None:
    """What was said of the encoding then is compared with what is said now."""
    other = command(copy_run(tmp_path), "model.encoding.per_layer=true", resume=True)
    check_refused(other, capsys, "made with other values of: model.encoding.per_layer")


def test_checkpoint_of_schema_1_is_fine_tuned(tmp_path: Path) -> None:
    """Its model and its weights are taken over; what comes out is of schema 2."""
    words = ["smoke", "--data", str(DATA), "--out", str(tmp_path / "run"), "--init-from", str(RUN)]
    settings = ("epochs=1", "batch=4", "augment.crop_padding=0", "model.grid=3x2")
    assert main(words + [word for one in settings for word in ("--set", one)]) == 0
    described = read_description(tmp_path / "run" / "best")
    assert described.schema == 2
    assert described.model.encoding.options["position_rule"] == "published"
    origin = read_description(RUN / "best").weights_sha256
    assert described.notes["init"]["weights_sha256"] == origin


def test_comparison_of_schema_1_is_joined(tmp_path: Path) -> None:
    """Its recipe is the same recipe, and an encoding keeps the name that it was given then."""
    shutil.copy(SCHEMA_1 / "compare.json", tmp_path)
    old = load(tmp_path)
    assert old.recipe.config.model.encoding == EncodingSpec("absolute")
    joined = join(tmp_path, old.recipe, ["comrope_ap_4", "liere_8"], range(1))
    assert joined.encodings == ("absolute", "comrope_ap_4", "liere_8")
    assert json.loads((tmp_path / "compare.json").read_text())["schema"] == 2
    assert load(tmp_path) == joined


def test_encoding_keeps_the_name_that_its_runs_have(tmp_path: Path) -> None:
    """A comparison that left a block to its encoding trains nothing twice under a newer name."""
    document = json.loads((SCHEMA_1 / "compare.json").read_text())
    document["encodings"] = ["comrope_ap", "axial_rope:base=10000"]
    (tmp_path / "compare.json").write_text(json.dumps(document))
    joined = join(tmp_path, load(tmp_path).recipe, ["comrope_ap_8", "axial_rope"], range(1))
    assert joined.encodings == ("comrope_ap", "axial_rope:base=10000")


def test_comparison_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """Both numbers are named."""
    document = json.loads((SCHEMA_1 / "compare.json").read_text())
    (tmp_path / "compare.json").write_text(json.dumps(document | {"schema": 3}))
    with pytest.raises(SpecError, match="this code reads 1 to 2, got 3"):
        load(tmp_path)


def test_recipe_of_schema_1_that_is_not_the_same_is_refused(tmp_path: Path) -> None:
    """The upgrade changes how a recipe is written, not what it is."""
    shutil.copy(SCHEMA_1 / "compare.json", tmp_path)
    recipe = load(tmp_path).recipe
    other = dataclasses.replace(recipe, config=dataclasses.replace(recipe.config, epochs=2))
    with pytest.raises(SpecError, match="a comparison with other values of: epochs"):
        join(tmp_path, other, ["absolute"], range(1))
