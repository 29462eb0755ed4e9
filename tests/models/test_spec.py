"""Specifications: grid arithmetic, what may not be built, strict JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.spec import Grid, InputSpec, SpecError, VideoSpec
from media.strict_json import from_json, read_json, to_json
from models.spec import EncodingSpec, ModelSpec


@given(st.lists(st.integers(1, 99_999), min_size=1, max_size=4))
def test_grid_survives_being_written(sides: list[int]) -> None:
    """A grid reads back from its own text."""
    grid = Grid(tuple(sides))
    assert Grid.parse(str(grid)) == grid


@pytest.mark.parametrize("text", ["", "8", "8x8", "12x8x4"])
def test_grid_has_as_many_axes_as_its_text(text: str) -> None:
    """12x8x4 has three axes and 384 tokens; the empty text is no grid."""
    if not text:
        with pytest.raises(SpecError, match="written like 8x8"):
            Grid.parse(text)
        return
    grid = Grid.parse(text)
    assert (grid.axes, grid.tokens) == {"8": (1, 8), "8x8": (2, 64), "12x8x4": (3, 384)}[text]


@pytest.mark.parametrize(
    "text", ["0x8", "8x", "8×8", "8 x8", "-1x8", "08x8", "123456", "1x1x1x1x1"]
)
def test_grid_refuses_other_spellings(text: str) -> None:
    """A grid has one spelling, so that it can be a name."""
    with pytest.raises(SpecError, match="written like 8x8"):
        Grid.parse(text)


def test_grid_counts_pixels_per_axis() -> None:
    """Pixels are tokens times patch, axis by axis; another number of axes is an error."""
    assert Grid((3, 5)).pixels((4, 2)) == (12, 10)
    with pytest.raises(SpecError, match="grid 3x5 has 2 axes, patch"):
        Grid((3, 5)).pixels((4,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 100, "heads": 3}, "width 100 is not divisible by heads 3"),
        ({"patch": (4,)}, "same axes"),
        ({"grid": (8, 0)}, "at least one token"),
        ({"patch": (4, 0)}, "at least one pixel"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"classes": -1}, "classes must not be negative"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
    ],
)
def test_model_spec_refuses_what_cannot_be_built(changes: dict[str, Any], message: str) -> None:
    """Each mistake is named with the value that came."""
    with pytest.raises(SpecError, match=message):
        ModelSpec(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 2}, "channels must be 1"),
        ({"mean": (0.5,)}, "need 3 values"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be positive"),
        ({"std": (0.5, float("inf"), 0.5)}, "must be finite"),
        ({"mean": (float("nan"),) * 3}, "must be finite"),
        ({"background": (0, 0, 256)}, "background"),
    ],
)
def test_input_spec_refuses_what_cannot_be_prepared(changes: dict[str, Any], message: str) -> None:
    """Each mistake is named with the value that came."""
    with pytest.raises(SpecError, match=message):
        InputSpec(**changes)


def test_specs_survive_json() -> None:
    """Every field of a model and an input reads back as it was, tuples as tuples."""
    model = ModelSpec(patch=(4, 2), grid=(3, 5), pool="class", dropout=0.25, classes=7)
    assert from_json(ModelSpec, json.loads(json.dumps(to_json(model))), "model") == model
    absolute = dataclasses.replace(model, encoding=EncodingSpec("absolute"))
    assert from_json(ModelSpec, to_json(absolute), "model") == absolute
    grey = InputSpec(channels=1, mean=(0.1,), std=(0.2,), fit="stretch")
    assert from_json(InputSpec, to_json(grey), "input") == grey


@dataclasses.dataclass(frozen=True)
class Sample:
    """One field of every kind that a document may have."""

    whole: int
    real: float
    word: Literal["a", "b"]
    pair: tuple[int, ...]
    table: dict[str, float]
    inner: VideoSpec
    encoding: EncodingSpec
    maybe: int | None = None
    other: VideoSpec | None = None


GOOD = {
    "whole": 1, "real": 2, "word": "a", "pair": [1, 2], "table": {"x": 1}, "inner": {},
    "encoding": {"block": 8, "base": None},
}  # fmt: skip


def test_json_fills_what_has_a_default() -> None:
    """Whole numbers serve as real ones, and only fields with a default may be missing."""
    sample = from_json(Sample, GOOD, "doc")
    spec = EncodingSpec(block=8)
    assert sample == Sample(1, 2.0, "a", (1, 2), {"x": 1.0}, VideoSpec(), spec)
    assert isinstance(sample.real, float)
    assert isinstance(sample.table["x"], float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, r"doc: unknown key 'extra'; known: encoding, inner, maybe"),
        ({"whole": 1.5}, r"doc\.whole: expected int, got float 1\.5"),
        ({"whole": True}, r"doc\.whole: expected int, got bool True"),
        ({"whole": None}, r"doc\.whole: expected int, got NoneType"),
        ({"real": "2"}, r"doc\.real: expected float, got str"),
        ({"real": True}, r"doc\.real: expected float, got bool"),
        ({"real": float("nan")}, r"doc\.real: expected a finite number, got nan"),
        ({"real": float("inf")}, r"doc\.real: expected a finite number, got inf"),
        ({"real": 10**400}, r"doc\.real: expected a finite number, got 1000"),
        ({"word": "c"}, r"doc\.word: expected one of a, b, got 'c'"),
        ({"pair": 3}, r"doc\.pair: expected a list, got int"),
        ({"pair": [1, "2"]}, r"doc\.pair\[1\]: expected int, got str"),
        ({"table": []}, r"doc\.table: expected an object, got list"),
        ({"table": {"x": "1"}}, r"doc\.table\.x: expected float, got str"),
        ({"inner": {"view": 8}}, r"doc\.inner: unknown key 'view'; known: stride, views"),
        ({"inner": {"views": 0}}, r"doc\.inner: video\.views must be from 1 to 8, got 0"),
        ({"other": {"views": "2"}}, r"doc\.other\.views: expected int, got str '2'"),
        ({"other": {"view": 2}}, r"doc\.other: unknown key 'view'; known: stride, views"),
        ({"encoding": {"name": 5}}, r"doc\.encoding\.name: expected str, got int 5"),
        (
            {"encoding": {"block": [8]}},
            r"doc\.encoding\.block: expected a bool, a number, a str or null, got list \[8\]",
        ),
        ({"encoding": {"x": float("inf")}}, r"doc\.encoding\.x: expected a finite number, got inf"),
        ({"encoding": [1]}, r"doc\.encoding: expected an object, got list \[1\]"),
        ({"word": "b" * 999}, r"doc\.word: expected one of a, b, got '.{,40}'$"),
        ({"table": {"y": "\ud800"}}, r"doc: Invalid JSON"),
        ({"whole": 1.5, "wole": 1}, r"doc: unknown key 'wole'"),
        ({"inner": 5}, r"doc\.inner: expected an object, got int"),
        ({"maybe": "x"}, r"doc\.maybe: expected int, got str"),
    ],
)
def test_json_refuses_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    """The message names the place, what was expected and what came."""
    with pytest.raises(SpecError, match=message):
        from_json(Sample, GOOD | change, "doc")


@pytest.mark.parametrize("key", GOOD)
def test_json_refuses_a_missing_key(key: str) -> None:
    """A field without a default is asked for by name."""
    rest = {name: value for name, value in GOOD.items() if name != key}
    with pytest.raises(SpecError, match=f"doc: missing key '{key}'"):
        from_json(Sample, rest, "doc")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000])
def test_read_json_refuses_what_is_not_json(tmp_path: Path, data: bytes) -> None:
    """Cut, mis-encoded or absurdly nested text is one kind of error, named after the file."""
    path = tmp_path / "doc.json"
    path.write_bytes(data)
    with pytest.raises(SpecError, match=r"doc\.json: not valid JSON"):
        read_json(path)


def test_encodings_are_compared_and_hashed_by_what_they_say() -> None:
    """The order of options and those left to the encoding make no difference; values do."""
    spec = EncodingSpec("masa", basis="givens", factors=8)
    other = EncodingSpec("masa", factors=8, basis="givens", base=None)
    assert spec == other
    assert hash(spec) == hash(other)
    assert spec != EncodingSpec("masa", factors=9, basis="givens")
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "liere"  # type: ignore[misc]


@pytest.mark.parametrize("value", [float("nan"), Path("x"), {1, 2}])
def test_what_is_not_json_is_not_written(value: Any) -> None:
    """Neither numbers that JSON has not nor objects that only Python has reach a file."""
    with pytest.raises((ValueError, TypeError), match="JSON"):
        to_json(Holder(value))


@dataclasses.dataclass(frozen=True)
class Holder:
    value: Any
