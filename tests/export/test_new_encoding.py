"""A new encoding is one file and one row: here a toy, through every room that meets encodings."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from export.__main__ import main as export
from media.spec import Grid, SpecError
from models.checkpoint import load_checkpoint
from models.encodings import ENCODINGS, options_help, parse_encoding, short_name
from models.encodings.base import Commuting, Options, TransformerShape, option, token_indices
from tests.helpers.older_files import DATA
from training.__main__ import main as train


@dataclasses.dataclass(frozen=True)
class ScrewOptions(Options):
    """An option that no other encoding has, of a type that few have."""

    pitch: float = option(2.0, "tokens per turn of the first pair; above 0")
    thread: str = option("right", "right or left")

    def __post_init__(self) -> None:
        if not self.pitch > 0:
            raise SpecError(f"needs a pitch above 0, got {self.pitch}")


class Screw(Commuting):
    """Every pair turns along all axes alike, each slower than the one before, times a gain."""

    OPTIONS = ScrewOptions
    options: ScrewOptions

    def __init__(self, options: ScrewOptions, shape: TransformerShape) -> None:
        super().__init__(options, shape)
        if shape.head_dim % 2:
            raise SpecError(f"needs an even head_dim, got {shape.head_dim}")
        self.gain = nn.Parameter(torch.ones(self.layers, self.heads, 1))

    def positions(self, grid: Grid) -> Tensor:
        return token_indices(grid)

    def frequencies(self, dtype: torch.dtype = torch.float32) -> Tensor:
        pairs = torch.arange(1, self.shape.head_dim // 2 + 1, dtype=dtype)  # [P]
        sign = 1 if self.options.thread == "right" else -1
        own = sign * self.gain.to(dtype) * 2 * torch.pi / (self.options.pitch * pairs)  # [L, H, P]
        return own.expand(self.axes, -1, -1, -1)  # [A, L, H, P]


@pytest.fixture(autouse=True)
def row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line that a new encoding needs outside its file."""
    monkeypatch.setitem(ENCODINGS, "screw", Screw)


def command(out: Path, *settings: str) -> list[str]:
    words = ["smoke", "--data", str(DATA), "--out", str(out)]
    usual = (
        "model.width=16", "model.heads=2", "model.grid=2x3", "model.patch=4x4", "epochs=1",
        "batch=4", "augment.crop_padding=0", "model.encoding.name=screw",
        "model.encoding.block=null",
    )  # fmt: skip
    return words + [word for one in (*usual, *settings) for word in ("--set", one)]


def test_new_encoding_is_trained_and_exported(tmp_path: Path) -> None:
    """Its option is set on the command line, kept in the checkpoint and in the bundle."""
    run = tmp_path / "run"
    assert train(command(run, "model.encoding.pitch=3", "model.encoding.thread=left")) == 0
    model, described = load_checkpoint(run / "best")
    told = {"pitch": 3.0, "thread": "left", "per_layer": True, "per_head": True}
    assert described.model.encoding.options == told
    assert (model.encoding.get_parameter("gain") != 1).any()  # it was trained
    words = [str(run), "--grid", "2x3", "--grid", "3x2", "--out", str(tmp_path), "--name", "screw"]
    assert export([*words, "--data", str(DATA), "--parity-items", "8"]) == 0
    manifest = json.loads((tmp_path / "screw" / "manifest.json").read_text())
    assert manifest["encoding"] == {"name": "screw", **told}
    assert manifest["rotations"]["form"] == "planes"
    assert "Positions: `screw:pitch=3,thread=left`" in (tmp_path / "screw/README.md").read_text()


def test_new_encoding_has_a_short_name_and_help() -> None:
    """Both are made of its options."""
    assert parse_encoding("screw:pitch=3").options == {"pitch": 3}
    assert short_name(parse_encoding("screw:thread=left,pitch=2.0")) == "screw:thread=left"
    assert "  screw\n    pitch=2.0: tokens per turn of the first pair; above 0\n" in options_help()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.encoding.pitch=0"], "screw: needs a pitch above 0, got 0"),
        (["model.encoding.pitch=wide"], "screw.pitch: expected float, got str 'wide'"),
        (["model.encoding.pitsch=2"], "screw has no pitsch, got 2; its options: .*pitch, thread"),
        (["model.encoding.base=100"], "screw has no base, got 100; its options: .*pitch, thread"),
        (["model.encoding.block=8"], "screw has no block, got 8"),
        (["model.encoding.pitch=[2]"], r"encoding\.pitch: expected a bool, a number, a str or"),
        (["model.width=14"], "screw: needs an even head_dim, got 7"),
    ],
)
def test_new_encoding_refuses_as_every_other(
    settings: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own checks, its types and its names are told before anything is trained."""
    assert train(command(tmp_path / "run", *settings)) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (tmp_path / "run").exists()
