"""The model card tells how the checkpoint was made."""

from __future__ import annotations

from typing import Any

from export.card import model_card
from media.spec import InputSpec
from models.checkpoint import Description
from models.manifest import Accuracy, GridEntry, Parity, RotationForm
from models.spec import ModelSpec


def card(**notes: Any) -> str:
    """Of a checkpoint that remembers this."""
    description = Description(1, ModelSpec(), InputSpec(), ("a",) * 10, "0" * 64, notes)
    entry = GridEntry("8x8", "g.onnx", Parity(1, 0.0, 0.0, 1), Accuracy("val", 12, 0.5, "0" * 64))
    source = {
        "data": {"train": {"items": 42}, "val": {"items": 12}},
        "measured_on": "data",
        "goldens": "pictures",
        "checkpoint_sha256": "0" * 64,
        "step": 15,
    }
    form = RotationForm("none", False, "there are none")
    return model_card("a", description, form, [entry], source, "")


def test_settings_that_changed_are_shown_step_by_step() -> None:
    """What was and what is; ids of items that were left out may name people and are counted."""
    text = card(
        config={"learning_rate": 0.0001, "skip": ["anna.png"]},
        history=[
            {"step": 7, "time": "", "changed": {"learning_rate": [0.001, 0.0005]}},
            {"step": 9, "time": "", "changed": {"learning_rate": [0.0005, 0.0001],
                                                "skip": [[], ["anna.png"]]}},
        ],
    )  # fmt: skip
    for row in ("| 7 | learning_rate | 0.001 | 0.0005 |", "| 9 | learning_rate | 0.0005 | 0.0001 |",
                "| 9 | skip | 0 items | 1 items |", "| skip | 1 items |"):  # fmt: skip
        assert row in text
    assert "anna" not in text


def test_run_that_never_changed_has_no_table_of_it() -> None:
    """Also one of before there was a history."""
    for notes in ({"config": {"epochs": 3}}, {"config": {"epochs": 3}, "history": []}):
        assert "changed while it was trained" not in card(**notes)
