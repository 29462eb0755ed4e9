"""What older code wrote can be read, means what it meant, and what newer code wrote is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from media import read
from media.spec import Grid
from models import checkpoint, manifest
from models.bundle import read_bundle
from models.checkpoint import load_checkpoint, save_checkpoint
from models.encodings import complete, parse_encoding
from models.spec import EncodingSpec, encoding_from_schema_1
from models.vit import VisionTransformer
from tests.helpers.older_files import BUNDLE, RUN, SCHEMA_1

#: Schema 1: every encoding wrote these, whichever it was.
ALL = {
    "block": None, "per_layer": True, "per_head": True, "position_rule": "constant-step",
    "base": None, "basis": None, "factors": None, "normalise": None, "shift": None,
    "jitter": None, "rescale": None, "learned": None,
}  # fmt: skip


def golden_logits(model: VisionTransformer, described: checkpoint.Description) -> list[np.ndarray]:
    """What a checkpoint says to the goldens of the bundle made of it, in the manifest's order."""
    made, found = read_bundle(BUNDLE), []
    for golden in made.manifest.goldens:
        for text in golden.logits:
            grid, data = Grid.parse(text), made.path(golden.file).read_bytes()
            pixels = read(data, described.input, grid, model.spec.patch).pixels.copy()
            with torch.no_grad():
                found.append(model(torch.from_numpy(pixels)).numpy()[0])
    return found


def test_checkpoint_of_schema_1_gives_its_answers() -> None:
    """Options that were left to the encoding still are; logits are those that were exported."""
    model, described = load_checkpoint(RUN / "best")
    assert described.schema == 2
    told = EncodingSpec("liere", block=4, per_layer=False, position_rule="published")
    assert described.model.encoding == told
    assert described.notes["config"]["model"]["encoding"] == {"name": "liere", **told.options}
    stated = [
        logits
        for golden in read_bundle(BUNDLE).manifest.goldens
        for logits in golden.logits.values()
    ]
    np.testing.assert_allclose(golden_logits(model, described), stated, rtol=1e-4, atol=1e-5)


def test_checkpoint_is_written_in_the_new_schema(tmp_path: Path) -> None:
    """Read, written and read again, a model of schema 1 says every option, and the same."""
    model, old = load_checkpoint(RUN / "best")
    save_checkpoint(tmp_path, model, old.input, old.labels, old.notes)
    written = json.loads((tmp_path / "checkpoint.json").read_text())
    assert (written["schema"], written["model"]["encoding"]) == (2, {
        "name": "liere", "per_layer": False, "per_head": True, "block": 4,
        "position_rule": "published",
    })  # fmt: skip
    again, described = load_checkpoint(tmp_path)
    for one, other in zip(
        golden_logits(again, described), golden_logits(model, old), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_bundle_of_schema_1_is_read() -> None:
    """Every file still has its hash, and the manifest says what it said."""
    stated = json.loads((BUNDLE / "manifest.json").read_text())
    assert stated["schema"] == 1
    found = read_bundle(BUNDLE).manifest
    assert found.schema == 2
    told = {"block": 4, "per_layer": False, "position_rule": "published"}
    assert (found.encoding.name, found.encoding.options) == ("liere", told)
    assert found.turning.block == 4
    assert found.goldens[0].logits["2x3"] == tuple(stated["goldens"][0]["logits"]["2x3"])


@pytest.mark.parametrize("module", [checkpoint, manifest])
def test_upgrade_changes_neither_its_argument_nor_what_is_new(module: Any) -> None:
    """It is a function of one document: what came stays, and schema 2 passes through."""
    path = RUN / "best/checkpoint.json" if module is checkpoint else BUNDLE / "manifest.json"
    document = json.loads(path.read_text())
    before = copy.deepcopy(document)
    upgraded = module.upgrade(document)
    assert document == before
    assert upgraded["schema"] == module.SCHEMA == 2
    assert module.upgrade(upgraded) == upgraded


@pytest.mark.parametrize("notes", [{}, {"config": 3}, {"config": {"model": []}}, {"config": {}}])
def test_upgrade_leaves_what_is_not_there(notes: dict[str, Any]) -> None:
    """A model that was imported has no config; nothing is made up, and nothing fails."""
    assert checkpoint.upgrade({"schema": 1, "notes": notes})["notes"] == notes
    assert checkpoint.upgrade({"schema": 1}) == {"schema": 2}
    assert manifest.upgrade({"schema": 1, "encoding": 5}) == {"schema": 2, "encoding": 5}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absolute:per_head=false", {"per_head": False}),
        ("axial_rope:base=100", {"base": 100.0}),
        ("comrope_ld_16:jitter=0", {"block": 16, "jitter": 0.0}),
        ("dinov3_rope:normalise=max,shift=0.5", {"normalise": "max", "shift": 0.5}),
        ("liere_2:position_rule=published", {"block": 2, "position_rule": "published"}),
        ("liere", {}),
        ("masa:basis=givens,factors=8", {"basis": "givens", "factors": 8}),
        ("spherical_rope:learned=true,base=50", {"learned": True, "base": 50.0}),
    ],
)
def test_encoding_of_schema_1_keeps_what_was_said(name: str, said: dict[str, Any]) -> None:
    """Options of other encodings, and those left open, are not there; what was said is."""
    parsed = parse_encoding(name)
    document = {"encoding": {"name": parsed.name, **ALL, **said}, "other": ALL}
    upgraded = encoding_from_schema_1(document, "encoding")
    assert upgraded == {"encoding": {"name": parsed.name, **said}, "other": ALL}
    assert complete(EncodingSpec(**upgraded["encoding"])) == complete(parsed)


@pytest.mark.parametrize(
    "odd",
    [
        {"per_layer": 1}, {"per_layer": 1.0}, {"per_head": 1}, {"position_rule": True},
        {"zzz": 3}, {"block": True}, {"basis": 0},
    ],
)  # fmt: skip
def test_what_schema_1_never_wrote_is_left_for_the_reader(
    odd: dict[str, Any], tmp_path: Path
) -> None:
    """Values of another type and names that it did not know are neither dropped nor accepted."""
    assert encoding_from_schema_1({"name": "liere", **ALL, **odd}) == {"name": "liere", **odd}
    document = json.loads((RUN / "best/checkpoint.json").read_text())
    document["model"]["encoding"] |= odd
    (tmp_path / "checkpoint.json").write_text(json.dumps(document))
    with pytest.raises(checkpoint.CheckpointError, match=next(iter(odd))):
        checkpoint.read_description(tmp_path)


def test_null_of_another_name_is_no_option_of_schema_1() -> None:
    """The upgrade takes away what schema 1 wrote and nothing else."""
    odd = {"name": "liere", "zzz": None}
    assert encoding_from_schema_1(odd | ALL) == odd


def test_schemas_are_named_where_one_is_newer(tmp_path: Path) -> None:
    """The message says which schemas are read, which came, and what to do."""
    (tmp_path / "checkpoint.json").write_text(json.dumps({"schema": 7, "unheard": "of"}))
    with pytest.raises(checkpoint.CheckpointError, match="reads 1 to 2, got 7.*update this one"):
        load_checkpoint(tmp_path)


def test_fixture_names_no_machine() -> None:
    """What is carried along tells nothing of where it was made."""
    for path in SCHEMA_1.rglob("*.json"):
        assert "/tmp" not in path.read_text()
