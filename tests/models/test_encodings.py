"""The family of encodings: positions, what is relative, what is shared."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from media.spec import Grid, SpecError
from models.encodings import ENCODINGS, make_encoding, parse_encoding, short_name
from models.encodings.base import lattice
from models.encodings.liere import Liere
from models.spec import EncodingSpec, ModelSpec
from tests.helpers.rotation_matrices import blocks_of

#: Grids of one, two and three axes, no two sides alike.
GRIDS = ((6,), (3, 5), (2, 3, 4))


def model_spec(grid: tuple[int, ...], encoding: EncodingSpec, **changes: Any) -> ModelSpec:
    values = {"width": 48, "depth": 3, "heads": 2, "mlp_dim": 32} | changes
    return ModelSpec(patch=(2,) * len(grid), grid=grid, encoding=encoding, **values)


def make_liere(grid: tuple[int, ...], block: int | None = 8, **changes: Any) -> Liere:
    torch.manual_seed(0)
    encoding = make_encoding(model_spec(grid, EncodingSpec("liere", block=block, **changes)))
    assert isinstance(encoding, Liere)
    return encoding


def float64_blocks(encoding: Liere, positions: Tensor) -> Tensor:
    """Rotations, [L or 1, T, H or 1, N, K, K]."""
    return blocks_of(encoding.rotations(positions, torch.float64)).detach()


def test_encodings_know_the_names_that_specs_use() -> None:
    """Every row of the table builds, and an unknown name is refused with the known ones."""
    for name, encoding in ENCODINGS.items():
        spec = model_spec((3, 5), EncodingSpec(name), width=96)
        assert type(make_encoding(spec)) is encoding
    with pytest.raises(SpecError, match="unknown encoding 'rope'.*absolute.*liere"):
        make_encoding(model_spec((3, 5), EncodingSpec("rope")))


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        (EncodingSpec("absolute", block=8), "absolute has no block, got 8; its options: per_"),
        (EncodingSpec("liere", base=10.0), "liere has no base, got 10.0; its options: per_.*block"),
        (EncodingSpec("axial_rope", base=0.5), "axial_rope: needs a base of at least 1, got 0.5"),
        (EncodingSpec("dinov3_rope", rescale=0.5), "needs a rescale of at least 1, got 0.5"),
        (EncodingSpec("dinov3_rope", shift=-1.0), "needs a shift of at least 0, got -1.0"),
        (EncodingSpec("liere", block=7), "liere: block must .* divide head_dim 24, got 7"),
        (EncodingSpec("liere", block=1), "block must be at least 2"),
        (EncodingSpec("liere", block=8.0), r"liere.block: expected int, got float 8\.0"),
        (EncodingSpec("liere", block=True), "liere.block: expected int, got bool True"),
        (EncodingSpec("axial_rope", base=True), "axial_rope.base: expected float, got bool"),
        (EncodingSpec("masa", factors=4), "masa: basis cayley has no factors, got 4"),
        (
            EncodingSpec("masa", basis="qr"),
            "masa.basis: expected one of cayley, exponential, givens, householder, got 'qr'",
        ),
    ],
)
def test_encodings_refuse_options_that_are_not_theirs(
    encoding: EncodingSpec, message: str
) -> None:
    """A mistake is answered with what was expected and what came."""
    with pytest.raises(SpecError, match=message):
        make_encoding(model_spec((3, 5), encoding))


def test_encodings_check_the_block_that_they_choose_themselves() -> None:
    """LieRE takes blocks of 8 unless told otherwise, and says so where they do not fill a head."""
    assert make_liere((3, 5), None).block == 8
    with pytest.raises(SpecError, match="divide head_dim 20, got 8"):
        make_encoding(model_spec((3, 5), EncodingSpec("liere"), width=40))


@pytest.mark.parametrize(
    ("name", "width", "message"),
    [
        ("sinusoidal", 4, "width of at least 6 for 3 axes, got 4"),
        ("axial_rope", 8, "even head_dim of at least 6 for 3 axes, got 4"),
        ("dinov3_rope", 8, "even head_dim of at least 6 for 3 axes, got 4"),
        ("rope_mixed", 14, "even head_dim of at least 6 for 3 axes, got 7"),
        ("published_axial", 8, "even head_dim of at least 6 for 3 axes, got 4"),
        ("rope_1d", 6, "even head_dim of at least 2 for 1 axes, got 3"),
        ("spherical_rope", 4, "1 to 3 axes and a head_dim of at least 3, got 3 axes and 2"),
    ],
)
def test_encodings_refuse_too_few_channels(name: str, width: int, message: str) -> None:
    """Every axis needs channels of its own to turn."""
    with pytest.raises(SpecError, match=message):
        make_encoding(model_spec((2, 3, 4), EncodingSpec(name), width=width))


def test_published_axial_names_the_heads_that_its_turns_cannot_be_dealt_to() -> None:
    """Where the published code would fail over the number of heads, a spec is refused."""
    with pytest.raises(SpecError, match="16 turns to the heads.*got 3 heads; per_head=false"):
        make_encoding(model_spec((3, 5), EncodingSpec("published_axial"), width=96, heads=3))


# --- short names -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("absolute", EncodingSpec("absolute")),
        ("liere_16", EncodingSpec("liere", block=16)),
        ("liere_8:per_head=false", EncodingSpec("liere", block=8, per_head=False)),
        ("axial_rope:base=100", EncodingSpec("axial_rope", base=100.0)),
        ("rope_1d", EncodingSpec("rope_1d")),
        (
            "dinov3_rope:normalise=max,shift=0.1",
            EncodingSpec("dinov3_rope", normalise="max", shift=0.1),
        ),
        ("spherical_rope:learned=true", EncodingSpec("spherical_rope", learned=True)),
    ],
)
def test_short_names_say_the_whole_spec(text: str, encoding: EncodingSpec) -> None:
    """A name, a block and options are read as a spec, which is written the same way again."""
    assert parse_encoding(text) == encoding
    assert short_name(encoding) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rope", "unknown encoding 'rope'; known: absolute, .*liere"),
        ("", "unknown encoding ''"),
        ("absolute_8", "absolute takes .* of per_layer, per_head, resize; got 'block=8'"),
        ("liere_8:block=4", "each key once.*got 'block=4'"),
        ("liere:bas=3", "of per_layer, per_head, block, position_rule; got 'bas=3'"),
        ("liere:", "key=value.*got ''"),
        ("axial_rope:base=much", "axial_rope.base: expected float, got str 'much'"),
        ("axial_rope:base=NaN", "expected a finite number"),
        ("dinov3_rope:normalise=mean", "expected one of separate, max, min, got 'mean'"),
    ],
)
def test_short_names_that_cannot_be_read_say_what_can(text: str, message: str) -> None:
    """Unknown names list the known ones, unknown options those that the encoding takes."""
    with pytest.raises(SpecError, match=message):
        parse_encoding(text)


# --- LieRE -----------------------------------------------------------------------------------


def test_lattice_runs_in_row_major_order() -> None:
    """Tokens are numbered like the pixels of an array: the last axis fastest."""
    sides = (2, 3, 4)
    indices = lattice([torch.arange(side) for side in sides])
    assert indices.tolist() == [list(index) for index in np.ndindex(*sides)]


@pytest.mark.parametrize("grid", GRIDS)
def test_positions_span_the_unit_cube_at_the_training_grid(grid: tuple[int, ...]) -> None:
    """Both position rules give [0, 1], ends included, at the grid of the training."""
    for rule in ("constant-step", "published"):
        positions = make_liere(grid, position_rule=rule).positions(Grid(grid))
        assert positions.dtype == torch.float64
        corners = positions[0].tolist(), positions[-1].tolist()
        assert corners == ([0.0] * len(grid), [1.0] * len(grid))


@pytest.mark.parametrize("other", [(9, 2), (3, 7), (1, 1)])
def test_positions_keep_their_step_at_other_grids(other: tuple[int, int]) -> None:
    """With a constant step, neighbours are as far apart at any grid as they were in training."""
    positions = make_liere((3, 5)).positions(Grid(other))
    expected = [[row / 2, column / 4] for row, column in np.ndindex(*other)]
    np.testing.assert_allclose(positions.numpy(), expected, rtol=0, atol=1e-15)


def test_positions_of_the_published_rule_drift_in_their_step() -> None:
    """The published rule is linspace(0, s / s0, s): the range grows in proportion, not the step."""
    positions = make_liere((3, 5), position_rule="published").positions(Grid((9, 2)))
    expected = [[3 * row / 8, 0.4 * column] for row, column in np.ndindex(9, 2)]
    np.testing.assert_allclose(positions.numpy(), expected, rtol=0, atol=1e-15)


def test_positions_by_index_count_tokens_and_entries_are_frequencies() -> None:
    """Unit one token at every grid; blocks of 2 turn backwards by their entry for each token."""
    encoding = make_liere((3, 5), 2, position_rule="index")
    positions = encoding.positions(Grid((9, 2)))
    assert positions.tolist() == [list(index) for index in np.ndindex(9, 2)]
    rotations = encoding.rotations(positions, torch.float64)
    assert rotations.turns is not None
    angles = torch.einsum("ta,alhn->lthn", positions, -encoding.entries[..., 0].double())
    turns = torch.stack([angles.cos(), angles.sin()], -1)
    torch.testing.assert_close(rotations.turns, turns, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", [(3, 5), (4, 1), (9, 2)])
def test_centred_positions_are_those_of_dinov3(grid: tuple[int, int]) -> None:
    """Middles of patches in [-1, 1] at any grid, with the prefix tokens' origin in the middle."""
    positions = make_liere((3, 5), position_rule="centred").positions(Grid(grid))
    spec = model_spec((3, 5), EncodingSpec("dinov3_rope"))
    np.testing.assert_allclose(positions, make_encoding(spec).positions(Grid(grid)), atol=1e-15)
    np.testing.assert_allclose(positions.mean(0), [0, 0], atol=1e-15)


@pytest.mark.parametrize("rule", ["index", "centred"])
def test_units_of_other_rules_turn_the_training_grid_as_far_at_first(rule: Any) -> None:
    """Entries are drawn so that corner to corner is the same rotation as with a constant step."""
    made = []
    for named in ("constant-step", rule):
        torch.manual_seed(0)
        encoding = make_liere((3, 5), position_rule=named)
        first, last = encoding.positions(Grid((3, 5)))[[0, -1]].float()  # [A] each
        spans = torch.full((2,), 2.0) if named == "centred" else last - first  # patches and all
        made.append(encoding.entries * spans[:, None, None, None, None])
    torch.testing.assert_close(*made, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", ["index", "centred"])
def test_units_that_no_grid_changes_are_adopted_as_they_are(rule: Any) -> None:
    """Entries go over to another training grid bit for bit, and every rotation with them."""
    trained = make_liere((3, 5), position_rule=rule)
    new = make_liere((4, 7), position_rule=rule)
    new.adopt(trained)
    assert torch.equal(new.entries, trained.entries)


@pytest.mark.parametrize("rule", ["constant-step", "published"])
def test_positions_of_a_single_token_axis_are_zero(rule: Any) -> None:
    """An axis of one token sits at 0, in training and later: nothing is divided by zero."""
    trained_flat = make_liere((1, 5), position_rule=rule)
    assert trained_flat.positions(Grid((1, 5)))[:, 0].tolist() == [0.0] * 5
    assert (
        make_liere((3, 5), position_rule=rule).positions(Grid((1, 5)))[:, 0].tolist() == [0.0] * 5
    )


@pytest.mark.parametrize("grid", GRIDS)
def test_generators_are_skew_symmetric(grid: tuple[int, ...]) -> None:
    """Every generator equals minus its transpose exactly, so every exponential is a rotation."""
    generators = make_liere(grid).generators()
    assert torch.equal(generators, -generators.transpose(-1, -2))
    assert generators.abs().amax().item() > 1


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("block", [2, 4, 8, 24])
@pytest.mark.parametrize("per_layer", [True, False])
@pytest.mark.parametrize("per_head", [True, False])
def test_liere_shares_what_its_spec_says(
    grid: tuple[int, ...], block: int, per_layer: bool, per_head: bool
) -> None:
    """Tables have one row per layer and head that learns its own; n L H d (b - 1) / 2 numbers."""
    encoding = make_liere(grid, block, per_layer=per_layer, per_head=per_head)
    layers, heads, head_dim = (3 if per_layer else 1), (2 if per_head else 1), 24
    table = blocks_of(encoding.rotations(encoding.positions(Grid(grid))))
    tokens = Grid(grid).tokens
    assert table.shape == (layers, tokens, heads, head_dim // block, block, block)
    count = sum(parameter.numel() for parameter in encoding.parameters())
    assert count == len(grid) * layers * heads * head_dim * (block - 1) // 2


def offset_scores(block: int, grid: tuple[int, ...]) -> dict[tuple[float, ...], list[Tensor]]:
    """R(p)^T R(q) for every pair of tokens, gathered by q - p in grid steps."""
    encoding = make_liere(grid, block)
    positions = encoding.positions(Grid(grid))
    table = float64_blocks(encoding, positions)[0, :, 0]  # [T, N, K, K]
    steps = torch.tensor([max(1, side - 1) for side in grid])
    found: dict[tuple[float, ...], list[Tensor]] = {}
    for p in range(len(positions)):
        for q in range(len(positions)):
            offset = tuple(((positions[q] - positions[p]) * steps).round().tolist())
            found.setdefault(offset, []).append(table[p].transpose(-1, -2) @ table[q])
    return found


@pytest.mark.parametrize(("block", "grid"), [(2, (3, 5)), (2, (2, 3, 4)), (8, (6,))])
def test_commuting_generators_are_relative(block: int, grid: tuple[int, ...]) -> None:
    """With block 2, or one axis, scores depend on the offset between two tokens alone."""
    for products in offset_scores(block, grid).values():
        torch.testing.assert_close(
            torch.stack(products), products[0].expand(len(products), *products[0].shape)
        )


def test_block_eight_generators_are_not_relative() -> None:
    """With block 8 and two axes the same offset scores differently at different places."""
    products = torch.stack(offset_scores(8, (3, 5))[0.0, 1.0])
    assert (products - products[0]).abs().max().item() > 0.1


def test_liere_turns_tokens_differently_along_each_axis() -> None:
    """The first axis and the second have generators of their own."""
    encoding = make_liere((3, 5))
    table = float64_blocks(encoding, torch.tensor([[0.5, 0.0], [0.0, 0.5]], dtype=torch.float64))
    assert (table[:, 0] - table[:, 1]).abs().max().item() > 0.1


# --- positions that are added ----------------------------------------------------------------


def test_absolute_adds_its_table_at_the_training_grid() -> None:
    """At the grid of the training the learned table is added as it is."""
    encoding = make_encoding(model_spec((3, 5), EncodingSpec("absolute")))
    assert encoding.token_offset(Grid((3, 5))) is next(encoding.parameters())
    assert encoding.rotations(encoding.positions(Grid((3, 5)))) is None


@pytest.mark.parametrize("grid", [*GRIDS, (2, 3, 2, 4)])
def test_absolute_interpolates_along_the_right_axes(grid: tuple[int, ...]) -> None:
    """A table that is linear in one axis stays linear in it, and constant in the others.

    Pixel centres at (i + 1/2) / side make a linear ramp resize to a ramp, away from the borders.
    """
    encoding = make_encoding(model_spec(grid, EncodingSpec("absolute")))
    (table,) = encoding.parameters()
    centres = lattice([(torch.arange(side) + 0.5) / side for side in grid])  # [T, A]
    with torch.no_grad():
        table.zero_()
        table[:, : len(grid)] = centres
    larger = Grid(tuple(2 * side + 1 for side in grid))
    offset = encoding.token_offset(larger)
    assert offset is not None
    assert offset.shape == (larger.tokens, 48)
    wanted = lattice([(torch.arange(side) + 0.5) / side for side in larger.size])
    middle = Grid(larger.size).tokens // 2  # the centre of an odd grid
    torch.testing.assert_close(offset[middle, : len(grid)], wanted[middle].float())
    shaped = offset[:, : len(grid)].detach().reshape(*larger.size, len(grid))
    for axis in range(len(grid)):
        others = tuple(other for other in range(len(grid)) if other != axis)
        if others:
            spread = shaped[..., axis].amax(others) - shaped[..., axis].amin(others)
            assert spread.abs().max().item() < 1e-5
        assert (shaped[..., axis].diff(dim=axis) > -1e-6).all()


@pytest.mark.parametrize("grid", [*GRIDS, (2, 3, 2, 4)])
def test_sinusoidal_gives_every_axis_waves_of_its_own(grid: tuple[int, ...]) -> None:
    """Axis a has m sines and m cosines of its own index, and channels left over get zero."""
    width, axes = 44, len(grid)
    encoding = make_encoding(model_spec(grid, EncodingSpec("sinusoidal"), width=width))
    larger = tuple(side + 1 for side in grid)
    offset = encoding.token_offset(Grid(larger))
    assert offset is not None
    assert encoding.rotations(encoding.positions(Grid(grid))) is None
    count = width // (2 * axes)
    expected = np.zeros((*larger, width))
    for index in np.ndindex(*larger):
        for axis, position in enumerate(index):
            for k in range(count):
                angle = position / 10000 ** (k / count)
                expected[index][2 * count * axis + k] = math.sin(angle)
                expected[index][2 * count * axis + count + k] = math.cos(angle)
    np.testing.assert_allclose(offset.numpy(), expected.reshape(-1, width), atol=1e-6)
