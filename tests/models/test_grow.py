"""Growing: larger blocks of rotation, with the same answers, that go on learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from media.spec import Grid, InputSpec, SpecError
from models.checkpoint import load_checkpoint, read_description, save_checkpoint
from models.encodings.liere import Liere
from models.grow import (
    SAME_ANSWERS,
    check_same,
    grids_of,
    grow,
    main,
    rotations_apart,
    whole_rotations,
)
from models.rotations.apply import Rotations
from models.spec import EncodingSpec, ModelSpec
from models.vit import Attention, Layer, VisionTransformer
from tests.models.test_vit_families import FAMILIES

LABELS = ("ant", "bee", "cat", "dog", "eel")
#: From an encoding, to a block; head_dim is 24, so that three axes have four pairs each.
GROWTHS = [
    (EncodingSpec("axial_rope"), 4),
    (EncodingSpec("axial_rope", base=100.0), 8),
    (EncodingSpec("axial_rope"), 24),
    (EncodingSpec("axial_rope"), 2),
    (EncodingSpec("dinov3_rope"), 6),
    (EncodingSpec("dinov3_rope", periods="stored"), 8),
    (EncodingSpec("rope_mixed"), 4),
    (EncodingSpec("rope_mixed", per_layer=False), 12),
    (EncodingSpec("rope_mixed", per_head=False), 2),
    (EncodingSpec("masa", basis="cayley"), 24),
    (EncodingSpec("masa", basis="householder"), 24),
    (EncodingSpec("liere", block=3), 12),
    (EncodingSpec("liere", block=4), 8),
    (EncodingSpec("liere", block=2, position_rule="published", per_head=False), 4),
    (EncodingSpec("liere", block=4, position_rule="centred"), 24),
]


def make(encoding: EncodingSpec, **changes: Any) -> VisionTransformer:
    """Random weights, biases and gains; everything that grows is told from its neighbour."""
    values: dict[str, Any] = {
        "patch": (2, 3), "grid": (4, 3), "classes": 5, "width": 72, "depth": 2, "heads": 3,
        "mlp_dim": 40, "pool": "class", "registers": 2, "query_bias": True, "key_bias": True,
        "value_bias": True, "norm_epsilon": 1e-6,
    }  # fmt: skip
    torch.manual_seed(0)
    model = VisionTransformer(ModelSpec(**(values | {"encoding": encoding} | changes)), INPUT)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("encoding."):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


INPUT = InputSpec()


def described(model: VisionTransformer, tmp_path: Path) -> Path:
    tmp_path.mkdir(exist_ok=True)
    save_checkpoint(
        tmp_path, model, INPUT, LABELS, {"step": 3, "training_sha256": "x", "imported": {"a": 1}}
    )
    return tmp_path


def grown_of(model: VisionTransformer, block: int, tmp_path: Path) -> VisionTransformer:
    return grow(model, read_description(described(model, tmp_path / "old")), block)


@pytest.mark.parametrize(("encoding", "block"), GROWTHS, ids=str)
def test_rotations_and_answers_stay(encoding: EncodingSpec, block: int, tmp_path: Path) -> None:
    """At the training grid and two others: 1e-6 in float64, 2e-5 in float32, logits 5e-5."""
    old = make(encoding)
    new = grown_of(old, block, tmp_path)
    assert isinstance(new.encoding, Liere)
    assert new.encoding.block == block
    for grid in grids_of(old.spec):
        assert rotations_apart(old, new, grid) < 1e-6
        assert rotations_apart(old, new, grid, torch.float32) < 2e-5
        pixels = pixels_at(old, grid)
        with torch.inference_mode():
            torch.testing.assert_close(new(pixels), old(pixels), atol=5e-5, rtol=0)
    assert check_same(old, new) < 5e-5


def test_the_check_holds_one_layer_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole rotations of all layers and heads of a large model would not fit into memory."""
    old = make(EncodingSpec("rope_mixed"), depth=3)
    new, layers = grown_of(old, 8, tmp_path), []

    def watched(rotations: Rotations | None) -> torch.Tensor:
        whole = whole_rotations(rotations)
        layers.append(len(whole))
        return whole

    monkeypatch.setattr("models.grow.whole_rotations", watched)
    assert rotations_apart(old, new, Grid(old.spec.grid)) < 1e-6
    assert layers == [1] * 6


def pixels_at(model: VisionTransformer, grid: Grid) -> torch.Tensor:
    sides = grid.pixels(model.spec.patch)
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (3, *sides, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("encoding", "block"), GROWTHS, ids=str)
def test_every_score_stays(
    encoding: EncodingSpec, block: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Turned queries times turned keys of random tokens, in every layer and head."""
    old = make(encoding)
    new = grown_of(old, block, tmp_path)
    tokens = torch.randn(14, 72, generator=torch.Generator().manual_seed(2), dtype=dtype)
    bound = 1e-5 if dtype == torch.float64 else 2e-3  # weights are float32; scores reach 100
    for layer in range(2):
        before, after = (scores(model, layer, tokens, dtype) for model in (old, new))
        assert (before - after).abs().max() < bound * before.abs().max()


def attention_of(model: VisionTransformer, layer: int) -> Attention:
    own = model.layers[layer]
    assert isinstance(own, Layer)
    return own.attention


def scores(
    model: VisionTransformer, layer: int, tokens: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """[H, S, S], by matrices alone."""
    attention = attention_of(model, layer)
    weight, bias = attention.query_key_value.weight, attention.bias
    assert bias is not None
    parts = functional.linear(tokens, weight.to(dtype), bias.to(dtype))  # [S, 3 W]
    query, key, _ = parts.unflatten(-1, (3, 3, 24)).unbind(-3)  # [S, H, D] each
    grid = Grid((4, 3))
    table = whole_rotations(model.encoding.rotations(model.positions(grid), dtype))
    own = table[layer % len(table)].expand(-1, 3, -1, -1)[:14]  # [S, H, D, D]
    query, key = (torch.einsum("shij,shj->hsi", own, part) for part in (query, key))
    return query @ key.mT


@pytest.mark.parametrize("encoding", ["axial_rope", "dinov3_rope"])
@pytest.mark.parametrize(("axes", "block"), [(2, 4), (2, 8), (3, 6), (3, 12)])
def test_every_block_holds_all_axes(encoding: str, axes: int, block: int, tmp_path: Path) -> None:
    """Pairs of every axis are in each of them, else axes would never meet."""
    grid, patch = ((4, 3), (2, 3)) if axes == 2 else ((2, 4, 3), (1, 2, 3))
    torch.manual_seed(0)
    spec = ModelSpec(
        patch=patch, grid=grid, classes=5, width=72, depth=1, heads=3, mlp_dim=8,
        encoding=EncodingSpec(encoding),
    )  # fmt: skip
    old = VisionTransformer(spec, INPUT).eval()
    new = grown_of(old, block, tmp_path)
    assert isinstance(new.encoding, Liere)
    lengths = new.encoding.entries.detach().abs().sum(-1)  # [A, L, H, N]
    assert (lengths > 0).all()
    assert rotations_apart(old, new, Grid(grid)) < 1e-6


def test_new_entries_are_zero_and_learn(tmp_path: Path) -> None:
    """Entries between pairs begin at nothing and have a gradient; a step moves all of them."""
    new = grown_of(make(EncodingSpec("axial_rope")), 8, tmp_path)
    assert isinstance(new.encoding, Liere)
    entries = new.encoding.entries
    rows, columns = torch.triu_indices(8, 8, offset=1)
    pairs = (rows % 2 == 0) & (columns == rows + 1)
    assert not entries[..., ~pairs].any()
    optimiser = torch.optim.SGD([entries], lr=1.0)
    new.train()(pixels_at(new, Grid((4, 3)))).square().sum().backward()
    optimiser.step()
    assert (entries[..., ~pairs] != 0).all()


@pytest.mark.parametrize("family", ["dinov3", "rope-vit with a table", "a basis and biases"])
def test_public_families_grow(family: str, tmp_path: Path) -> None:
    """With their registers, tables, biases and gains; also where queries are normalised."""
    for norm in (False, True):
        torch.manual_seed(0)
        spec = ModelSpec(
            patch=(2, 3), grid=(4, 3), classes=5, width=48, depth=2, heads=3, mlp_dim=40,
            **(FAMILIES[family] | {"query_key_norm": norm}),
        )  # fmt: skip
        old = VisionTransformer(spec, INPUT)
        with torch.no_grad():
            for name, parameter in old.named_parameters():
                if not name.startswith("encoding."):
                    parameter.add_(0.2 * torch.randn_like(parameter))
        check_same(old.eval(), grown_of(old, 16, tmp_path))


def test_gains_and_biases_move_with_their_channels(tmp_path: Path) -> None:
    """Were they left behind, answers would be others: the check says so."""
    old = make(EncodingSpec("axial_rope"), query_key_norm=True)
    new = grown_of(old, 8, tmp_path)
    with torch.no_grad():
        attention_of(new, 0).query_bias.copy_(attention_of(old, 0).query_bias)  # type: ignore[union-attr, arg-type]
    with pytest.raises(SpecError, match="answers at grid .* would differ by"):
        check_same(old, new)
    wrong = grown_of(old, 8, tmp_path)
    assert isinstance(wrong.encoding, Liere)
    with torch.no_grad():
        wrong.encoding.entries[0, 0, 0, 0, 0] += 1e-3
    with pytest.raises(SpecError, match="rotations at grid .* would differ by"):
        check_same(old, wrong)


def test_large_logits_are_held_to_as_many_digits(tmp_path: Path) -> None:
    """Their rounding grows with them; the same difference of small ones is a fault."""
    old = make(EncodingSpec("rope_mixed"))
    with torch.no_grad():
        for parameter in old.head.parameters():
            parameter.mul_(1e4)
    new = grown_of(old, 8, tmp_path)
    assert check_same(old, new) > SAME_ANSWERS
    with torch.no_grad():
        new.head.weight.mul_(1.001)
    with pytest.raises(SpecError, match="answers at grid .* would differ by"):
        check_same(old, new)


@pytest.mark.parametrize(
    ("encoding", "block", "message"),
    [
        (EncodingSpec("absolute"), 8, "Absolute has no generators that LieRE could hold"),
        (EncodingSpec("string_cayley"), 8, "has no generators"),
        (EncodingSpec("axial_rope", reference=16), 8, "squeezed to a reference of 16 tokens"),
        (EncodingSpec("dinov3_rope", normalise="max"), 8, "normalised by the max of the sides"),
        (EncodingSpec("masa"), 8, "couples all channels of a head: expected block 24, got 8"),
        (EncodingSpec("liere", block=4), 6, "blocks of 4 grow into multiples of it, got 6"),
        (EncodingSpec("liere", block=4), 16, "must be at least 4 and divide head_dim 24, got 16"),
        (EncodingSpec("rope_mixed"), 3, "pairs of channels fill blocks of an even side, got 3"),
        (EncodingSpec("axial_rope"), 10, "divide head_dim 24, got 10"),
    ],
)
def test_what_cannot_be_had_exactly_is_refused(
    encoding: EncodingSpec, block: int, message: str, tmp_path: Path
) -> None:
    """With the reason."""
    with pytest.raises(SpecError, match=message):
        grown_of(make(encoding), block, tmp_path)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["head.bias", "encoding.table"])
def test_answers_that_are_no_numbers_are_not_the_same(
    name: str, number: float, tmp_path: Path
) -> None:
    """Broken weights are refused, though no difference can be told to be large."""
    old = make(EncodingSpec("rope_mixed"))
    with torch.no_grad():
        old.get_parameter(name).flatten()[0] = number
    with pytest.raises(SpecError, match="would differ by nan"):
        check_same(old, grown_of(old, 8, tmp_path))


def test_blocks_that_cannot_hold_three_axes_are_refused(tmp_path: Path) -> None:
    """Two pairs have no room for three axes."""
    spec = ModelSpec(
        patch=(1, 2, 3), grid=(2, 4, 3), classes=5, width=72, depth=1, heads=3, mlp_dim=8,
        encoding=EncodingSpec("axial_rope"),
    )  # fmt: skip
    with pytest.raises(SpecError, match="cannot hold all 3 axes: expected at least 6, or 2"):
        grown_of(VisionTransformer(spec, INPUT), 4, tmp_path)


# --- the command ------------------------------------------------------------------------------


def test_command_writes_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That keeps labels, licence and input, and says where it came from."""
    run = tmp_path / "run"
    run.mkdir()
    old = make(EncodingSpec("axial_rope"))
    described(old, run / "best")
    out = tmp_path / "grown"
    assert main([str(run), "--encoding", "liere", "--block", "8", "--out", str(out)]) == 0
    assert "axial_rope is liere_8" in capsys.readouterr().out
    new, description = load_checkpoint(out)
    assert description.labels == LABELS
    assert description.notes["imported"] == {"a": 1}
    assert description.notes["grown"]["from"] == "axial_rope"
    assert "training_sha256" not in description.notes
    check_same(old, new)
    assert main([str(run), "--block", "8", "--out", str(out)]) == 2
    assert "exists already and is never overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--encoding", "masa"), "encodings grow into liere, got 'masa'"),
        (("--block", "7"), "pairs of channels fill blocks of an even side"),
    ],
)
def test_command_refuses_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    """Exit status 2, and one error."""
    described(make(EncodingSpec("axial_rope")), tmp_path / "old")
    out = tmp_path / "grown"
    assert main([str(tmp_path / "old"), "--block", "8", "--out", str(out), *options]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_folders_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run without a best, and an --out below a file: one line each, and nothing is written."""
    (tmp_path / "run").mkdir()
    (tmp_path / "file").touch()
    words = [str(tmp_path / "run"), "--block", "8"]
    for out, told in (("new", "a run whose first epoch"), ("file/new", "file is a file")):
        assert main([*words, "--out", str(tmp_path / out)]) == 2
        line = capsys.readouterr().err
        assert told in line
        assert line.count("\n") == 1
    assert not (tmp_path / "new").exists()
