"""What is true of every encoding in the table, against a float64 oracle where there is one.

A new row of ``ENCODINGS`` is tested without a line here: by its defaults, for one to three axes.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torch.func import functional_call

from media.spec import Grid, InputSpec, SpecError
from media.strict_json import from_json, to_json
from models.checkpoint import load_checkpoint, save_checkpoint
from models.encodings import (
    ENCODINGS,
    Encoding,
    complete,
    make_encoding,
    options_help,
    options_of,
    parse_encoding,
    short_name,
)
from models.encodings.base import Options, Rotary
from models.rotations.apply import Rotations
from models.spec import EncodingSpec, ModelSpec
from models.vit import VisionTransformer
from tests.helpers.rotation_matrices import diagonal, full_rotations

#: Grids of one, two and three axes, no two sides alike.
GRIDS = ((7,), (3, 5), (2, 3, 4))
#: Every row with its defaults, and options that change what is computed.
NAMES = [
    *ENCODINGS,
    "absolute:per_head=false",
    "absolute:resize=bicubic-antialias",
    "axial_rope:reference=4",
    "dinov3_rope:normalise=max",
    "dinov3_rope:normalise=min",
    "dinov3_rope:periods=stored",
    "liere_2",
    "liere_8:per_layer=false",
    "liere_48:position_rule=published,per_head=false",
    "liere_2:position_rule=index",
    "liere_8:position_rule=centred",
    "masa:basis=exponential",
    "masa:basis=givens",
    "masa:basis=householder,per_layer=false",
    "published_axial:per_head=false",
    "rope_mixed:per_layer=false,per_head=false",
    "spherical_rope:learned=true",
]
ROTARY = [name for name in NAMES if not name.startswith(("absolute", "sinusoidal"))]
#: Rows whose rotations do not commute between axes.
CURVED = ("liere", "liere_8", "liere_48", "spherical_rope")
#: A value of every option, for encodings that must not take it.
FOREIGN: dict[str, Any] = {
    "block": 8,
    "position_rule": "published",
    "base": 3.0,
    "basis": "givens",
    "factors": 4,
    "normalise": "max",
    "periods": "stored",
    "reference": 4,
    "resize": "bicubic",
    "shift": 0.1,
    "jitter": 1.5,
    "rescale": 3.0,
    "learned": True,
}


def spec_of(name: str, grid: tuple[int, ...], **changes: Any) -> ModelSpec:
    """A small model whose head_dim of 48 every row can use."""
    values = {"width": 96, "heads": 2, "depth": 2, "mlp_dim": 32, "classes": 3} | changes
    return ModelSpec(patch=(2,) * len(grid), grid=grid, encoding=parse_encoding(name), **values)


def make(name: str, grid: tuple[int, ...], seed: int = 0, **changes: Any) -> Encoding:
    """In float64."""
    torch.manual_seed(seed)
    return make_encoding(spec_of(name, grid, **changes)).double()


def make_model(name: str, grid: tuple[int, ...], **changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(spec_of(name, grid, **changes), InputSpec()).eval()


def full(encoding: Encoding, positions: Tensor) -> Tensor:
    """Float64 rotations of whole heads, [L or 1, T, H or 1, D, D]."""
    rotations = encoding.rotations(positions, torch.float64)
    return full_rotations(rotations, encoding.shape.head_dim).detach()


def some_positions(encoding: Encoding, count: int = 6) -> Tensor:
    """Anywhere in the range that the training grid spans, and around it: [count, A]."""
    spanned = encoding.positions(encoding.shape.grid)  # [T, A]
    low, high = spanned.amin(0), spanned.amax(0)
    drawn = torch.rand(count, len(low), dtype=torch.float64, generator=seeded())
    return low - 0.5 + (high - low + 1) * drawn


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


#: Rows and options that are trained.
LEARNED = [name for name in NAMES if list(make(name, (3, 5)).parameters())]


def is_relative(name: str, grid: tuple[int, ...]) -> bool:
    return len(grid) == 1 or name.partition(":")[0] not in CURVED


# --- rotations -------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", ROTARY)
def test_rotations_equal_the_exponential(name: str, grid: tuple[int, ...]) -> None:
    """R(p) = exp(sum of p_a A_a) by scipy, in float64; spherical RoPE is a product of such."""
    encoding = make(name, grid)
    positions = some_positions(encoding)
    ours = full(encoding, positions)
    assert ours.dtype == torch.float64
    shape = encoding.layers, len(positions), encoding.heads, 48, 48
    torch.testing.assert_close(
        ours.expand(shape), exponentials(encoding, positions).expand(shape), rtol=0, atol=1e-9
    )


def exponentials(encoding: Encoding, positions: Tensor) -> Tensor:
    """[L or 1, T, H or 1, D, D], by scipy."""
    if not isinstance(encoding, Rotary):
        return spherical_exponentials(encoding, positions)
    generators = encoding.generators(torch.float64).detach()  # [A, L, H, N, K, K]
    exponents = torch.einsum("ta,alhnij->lthnij", positions, generators)
    blocks = torch.from_numpy(np.asarray(scipy.linalg.expm(exponents.numpy())))
    return diagonal(blocks, encoding.shape.head_dim)


def spherical_exponentials(encoding: Any, positions: Tensor) -> Tensor:
    """exp(x w Z) exp(z w Y) exp(y w X), with the cross products by unit vectors as generators."""
    axes = {"z": (0.0, 0.0, 1.0), "y": (0.0, 1.0, 0.0), "x": (1.0, 0.0, 0.0)}
    coordinates = dict(zip("xyz", positions.T.flip(0), strict=False))  # the last axis is x
    table = dict(zip("xyz", encoding.frequencies(torch.float64).detach().flip(0), strict=False))
    product = torch.eye(3, dtype=torch.float64)
    for coordinate, turned_about in (("x", "z"), ("z", "y"), ("y", "x")):
        if coordinate not in coordinates:
            continue
        generator = torch.from_numpy(np.cross(axes[turned_about], np.eye(3)).T.copy())
        angles = torch.einsum("t,lhn->lthn", coordinates[coordinate], table[coordinate])
        exponents = angles[..., None, None] * generator
        product = product @ torch.from_numpy(np.asarray(scipy.linalg.expm(exponents.numpy())))
    return diagonal(product, encoding.shape.head_dim)


@pytest.mark.parametrize("name", ENCODINGS)
def test_encodings_take_four_axes(name: str) -> None:
    """Nothing counts on three axes at most, but for spherical RoPE, which says so."""
    grid = (2, 2, 3, 2)
    if name == "spherical_rope":
        with pytest.raises(SpecError, match="1 to 3 axes.*got 4 axes"):
            make(name, grid)
        return
    encoding = make(name, grid, width=128)
    larger = Grid((3, 2, 4, 2))
    positions = encoding.positions(larger)
    if isinstance(encoding, Rotary):
        ours, oracle = full(encoding, positions), exponentials(encoding, positions)
        torch.testing.assert_close(ours, oracle.expand_as(ours), rtol=0, atol=1e-9)
    else:
        offset = encoding.token_offset(larger)
        assert offset is not None
        assert offset.shape == (larger.tokens, 128)
        assert len(offset.unique(dim=0)) == larger.tokens


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", ROTARY)
def test_rotations_in_float32_are_close_to_float64(name: str, grid: tuple[int, ...]) -> None:
    """What a model uses is rounded, not wrong."""
    torch.manual_seed(0)
    encoding = make_encoding(spec_of(name, grid))
    positions = some_positions(encoding)
    rotations = encoding.rotations(positions, torch.float32)
    assert rotations is not None
    assert all(part is None or part.dtype == torch.float32 for part in rotations)
    error = full_rotations(rotations, 48) - full(encoding, positions)
    assert error.abs().max().item() < 1e-4


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", ROTARY)
def test_rotations_are_orthogonal_with_determinant_one(name: str, grid: tuple[int, ...]) -> None:
    """They turn and neither stretch nor mirror."""
    encoding = make(name, grid)
    table = full(encoding, some_positions(encoding))
    identity = torch.eye(48, dtype=torch.float64).expand(table.shape)
    torch.testing.assert_close(table @ table.mT, identity, rtol=0, atol=1e-9)
    determinants = torch.linalg.det(table)
    torch.testing.assert_close(determinants, torch.ones_like(determinants), rtol=0, atol=1e-9)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", ROTARY)
def test_nothing_is_turned_at_the_origin(name: str, grid: tuple[int, ...]) -> None:
    """R(0) = I, and the class token has the rotation of PREFIX_POSITION."""
    encoding = make(name, grid)
    coordinates = encoding.positions(Grid(grid)).shape[1]
    origin = torch.zeros(1, coordinates, dtype=torch.float64)
    identity = torch.eye(48, dtype=torch.float64)
    at_origin = full(encoding, origin)
    torch.testing.assert_close(at_origin, identity.expand(at_origin.shape), rtol=0, atol=1e-12)
    model = make_model(name, grid, pool="class")
    encoded = full_rotations(model.encode(Grid(grid)).rotations, 48)
    prefix = full(model.encoding, origin + encoding.PREFIX_POSITION)
    torch.testing.assert_close(encoded[:, :1].detach(), prefix.float(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", ROTARY)
def test_exactly_the_commuting_encodings_are_relative(name: str, grid: tuple[int, ...]) -> None:
    """R(p)^T R(q) = R(q - p) where generators commute, and nowhere near it where they do not."""
    encoding = make(name, grid)
    positions = some_positions(encoding)
    offsets = positions[None] - positions[:, None]  # [p, q, A]
    table = full(encoding, positions)  # [L, T, H, D, D]
    products = torch.einsum("lphki,lqhkj->lpqhij", table, table)
    expected = full(encoding, offsets.flatten(0, 1)).unflatten(1, offsets.shape[:2])
    error = (products - expected).abs().max().item()
    assert (error < 1e-9) if is_relative(name, grid) else (error > 0.1), error


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", ROTARY)
def test_every_token_of_a_grid_is_turned_in_its_own_way(name: str, grid: tuple[int, ...]) -> None:
    """Reversibility: from the rotations of all layers and heads the position can be told."""
    encoding = make(name, grid)
    table = full(encoding, encoding.positions(Grid(grid)))
    rows = table.transpose(0, 1).flatten(1)  # [T, L H D D]
    nearest = torch.cdist(rows, rows).fill_diagonal_(torch.inf).min().item()
    assert nearest > 0.1


# --- equal to each other ---------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
def test_liere_with_blocks_of_two_is_rope_mixed(grid: tuple[int, ...]) -> None:
    """The same frequencies, in the unit of each, turn alike at every grid."""
    liere, mixed = make("liere_2", grid), make("rope_mixed", grid)
    steps = torch.tensor([side - 1.0 for side in grid], dtype=torch.float64)  # tokens a unit
    frequencies = mixed.frequencies(torch.float64)  # type: ignore[operator]  # [A, L, H, P]
    with torch.no_grad():  # skew() puts an entry above the diagonal, which turns backwards
        liere.entries.copy_(-(frequencies * steps[:, None, None, None])[..., None])  # type: ignore[operator]
    for other in (grid, tuple(2 * side + 1 for side in grid)):
        ours = full(liere, liere.positions(Grid(other)))
        torch.testing.assert_close(
            ours, full(mixed, mixed.positions(Grid(other))), rtol=0, atol=1e-9
        )


def test_liere_of_one_axis_is_rope_in_another_basis() -> None:
    """With A = Q W Q^T, queries and keys in the basis Q score under RoPE as they did before."""
    encoding = make("liere_8", (7,))
    positions = encoding.positions(Grid((9,)))
    table = full(encoding, positions)[0, :, 0]  # [T, D, D]
    generator = diagonal(encoding.generators(torch.float64)[0, 0, 0].detach(), 48)  # type: ignore[operator]
    query, key = torch.randn(2, 9, 48, dtype=torch.float64, generator=seeded())
    turned = torch.einsum("tij,tj->ti", table, query), torch.einsum("tij,tj->ti", table, key)
    planes, basis = map(torch.from_numpy, scipy.linalg.schur(generator.numpy(), output="real"))
    angles = positions * planes.diagonal(-1)[0::2]  # [T, P]: of planes (2i, 2i + 1)
    turns = Rotations(turns=torch.stack([angles.cos(), angles.sin()], -1)[None, :, None])
    rope = full_rotations(turns, 48)[0, :, 0]
    folded = [torch.einsum("tij,tj->ti", rope, part @ basis) for part in (query, key)]
    torch.testing.assert_close(folded[0] @ folded[1].T, turned[0] @ turned[1].T)


# --- gradients -------------------------------------------------------------------------------


class Scalar(nn.Module):
    """One number of an encoding: a random combination of its rotations or of its offset."""

    def __init__(self, encoding: Encoding, grid: Grid) -> None:
        super().__init__()
        self.encoding, self.grid = encoding, grid
        self.positions = some_positions(encoding, 3)

    def forward(self) -> Tensor:
        rotations = self.encoding.rotations(self.positions, torch.float64)
        if rotations is None:
            value = self.encoding.token_offset(self.grid)
            assert value is not None
        else:
            value = full_rotations(rotations, self.encoding.shape.head_dim)
        weights = torch.randn(value.shape, dtype=torch.float64, generator=seeded())
        return (weights * value).sum()


@pytest.mark.parametrize("grid", [(3,), (2, 3)])
@pytest.mark.parametrize("name", LEARNED)
def test_gradients_equal_finite_differences(name: str, grid: tuple[int, ...]) -> None:
    """The derivative of the rotations with respect to every parameter, in float64."""
    block = name if "_48" not in name else name.replace("_48", "_16")
    encoding = make(block, grid, width=32, depth=1)
    scalar = Scalar(encoding, Grid(tuple(side + 1 for side in grid)))
    names, values = zip(*scalar.named_parameters(), strict=True)

    def of_parameters(*parameters: Tensor) -> Tensor:
        return functional_call(scalar, dict(zip(names, parameters, strict=True)), ())

    inputs = tuple(value.detach().clone().requires_grad_() for value in values)
    assert torch.autograd.gradcheck(of_parameters, inputs, atol=1e-6, rtol=1e-5)


# --- positions -------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", NAMES)
def test_positions_rise_along_their_own_axis_alone(name: str, grid: tuple[int, ...]) -> None:
    """Tokens are in row-major order, at the training grid and at others; rope_1d counts them."""
    encoding = make(name, grid)
    for other in (grid, tuple(side + axis for axis, side in enumerate(grid, 2))):
        positions = encoding.positions(Grid(other))
        assert positions.dtype == torch.float64
        if name == "rope_1d":
            assert positions[:, 0].tolist() == list(range(Grid(other).tokens))
            continue
        shaped = positions.reshape(*other, len(grid))
        for axis in range(len(grid)):
            across = shaped[..., axis].movedim(axis, 0).reshape(other[axis], -1)
            assert (across.diff(dim=0) > 0).all()
            assert torch.equal(across, across[:, :1].expand_as(across))


@pytest.mark.parametrize("name", ROTARY)
def test_every_axis_turns_in_its_own_way(name: str) -> None:
    """A step along one axis is no step along another."""
    encoding = make(name, (3, 5))
    if name == "rope_1d":
        pytest.skip("rope_1d knows one axis, the raster")
    steps = torch.tensor([[0.4, 0.0], [0.0, 0.4]], dtype=torch.float64)
    table = full(encoding, steps)
    assert (table[:, 0] - table[:, 1]).abs().max().item() > 0.05


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", NAMES)
def test_positions_are_moved_in_training_alone(name: str, grid: tuple[int, ...]) -> None:
    """In training an encoding may draw new positions, by torch's seed; else it draws nothing."""
    model = make_model(name, grid)
    plain = model.encode(Grid(grid))
    before = torch.get_rng_state()
    assert same(model.encode(Grid(grid)), plain)
    assert torch.equal(torch.get_rng_state(), before)
    model.train()
    torch.manual_seed(1)
    first = model.encode(Grid(grid))
    torch.manual_seed(1)
    assert same(model.encode(Grid(grid)), first)
    moves = type(model.encoding).moved is not Encoding.moved
    assert same(first, plain) is not moves


def same(one: Any, other: Any) -> bool:
    pairs = zip(one, other, strict=True)
    return all(a is b if a is None else torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("seed", range(20))
def test_dinov3_moves_positions_within_its_options(seed: int) -> None:
    """One shift and factor an axis, one factor for all, each within what the spec says."""
    name = "dinov3_rope:shift=0.25,jitter=1.5,rescale=2"
    encoding, grid = make(name, (3, 5)), Grid((3, 5))
    positions = encoding.positions(grid)
    torch.manual_seed(seed)
    moved = encoding.moved(positions, grid)
    slopes = (moved[-1] - moved[0]) / (positions[-1] - positions[0])  # [A]: jitter times rescale
    assert (slopes > 1 / 3).all()
    assert (slopes < 3).all()
    assert 1 / 2.25 < (slopes[0] / slopes[1]).item() < 2.25
    shifts = (moved / slopes - positions)[0]
    assert (shifts.abs() <= 0.25).all()
    torch.testing.assert_close(moved, (positions + shifts) * slopes)


@pytest.mark.parametrize("seed", range(5))
def test_dinov3_rescales_all_axes_alike_by_default(seed: int) -> None:
    """As in the released models: one factor between a half and two, no shift, no jitter."""
    encoding, grid = make("dinov3_rope", (2, 3, 4)), Grid((2, 3, 4))
    positions = encoding.positions(grid)
    torch.manual_seed(seed)
    ratios = (encoding.moved(positions, grid) / positions)[positions != 0]
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios))
    assert 0.5 < ratios[0].item() < 2


@pytest.mark.parametrize("name", [name for name in ROTARY if name.startswith("comrope")])
def test_comrope_jitters_within_half_a_patch(name: str) -> None:
    """A token stays inside its own patch."""
    encoding, grid = make(name, (3, 5)), Grid((3, 5))
    positions = encoding.positions(grid)
    torch.manual_seed(0)
    away = (encoding.moved(positions, grid) - positions).abs() * torch.tensor([3.0, 5.0])
    assert 0.1 < away.max().item() < 0.5 + 1e-12


@pytest.mark.parametrize("name", ROTARY)
def test_a_shift_of_all_positions_is_seen_only_where_nothing_is_relative(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commuting encoding gives the same logits wherever the picture lies, LieRE does not."""
    model = make_model(name, (3, 5), pool="mean")
    pixels = torch.randint(256, (2, 6, 10, 3), dtype=torch.uint8)
    with torch.no_grad():
        before = model(pixels)
        plain = model.encoding.positions
        monkeypatch.setattr(model.encoding, "positions", lambda grid: plain(grid) + 0.7)
        change = (model(pixels) - before).abs().max().item()
    assert (change < 2e-5) if is_relative(name, (3, 5)) else (change > 1e-3), change


# --- grids -----------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", NAMES)
def test_models_answer_at_other_grids(name: str, grid: tuple[int, ...]) -> None:
    """Larger, smaller and one token wide: logits are finite and depend on the order of tokens."""
    model = make_model(name, grid)
    for other in (tuple(2 * side + 1 for side in grid), (*grid[:-1], 2), (1,) * len(grid)):
        pixels = torch.randint(256, (2, *(2 * side for side in other), 3), dtype=torch.uint8)
        with torch.no_grad():
            logits, mirrored = model(pixels), model(pixels.flip(-2))
        assert logits.isfinite().all()
        assert not torch.allclose(logits, mirrored, atol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", NAMES)
def test_encodings_adopt_what_was_learned_at_another_grid(
    name: str, grid: tuple[int, ...]
) -> None:
    """Afterwards the new training grid is encoded as the old model encodes that grid."""
    other = tuple(side + axis for axis, side in enumerate(grid, 2))
    trained, new = make(name, grid, seed=1), make(name, other, seed=2)
    new.adopt(trained)
    for wanted in (Grid(other), Grid(tuple(side + 1 for side in other))):
        ours = new.rotations(new.positions(wanted), torch.float64)
        theirs = trained.rotations(trained.positions(wanted), torch.float64)
        if ours is not None:
            torch.testing.assert_close(
                full_rotations(ours, 48), full_rotations(theirs, 48), rtol=0, atol=1e-9
            )
        offsets = new.token_offset(wanted), trained.token_offset(wanted)
        if offsets[0] is not None and wanted == Grid(other):
            torch.testing.assert_close(*offsets)


# --- sharing, options, checkpoints -----------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", ENCODINGS)
def test_encodings_share_what_their_spec_says(name: str, grid: tuple[int, ...]) -> None:
    """Unshared parameters are as many times as many as there are layers and heads."""
    counts = {}
    for per_layer in (True, False):
        for per_head in (True, False):
            spec = spec_of(name, grid, depth=3)
            spec = dataclasses.replace(
                spec, encoding=EncodingSpec(name, per_layer=per_layer, per_head=per_head)
            )
            encoding = make_encoding(spec)
            counts[per_layer, per_head] = sum(p.numel() for p in encoding.parameters())
            rotations = encoding.rotations(encoding.positions(Grid(grid)))
            for part in (rotations.blocks, rotations.turns) if rotations else ():
                if part is not None:
                    assert part.shape[0] in (1, 3 if per_layer else 1)
                    assert part.shape[2] in (1, 2 if per_head else 1)
    ratio = 1 if name == "absolute" else 3
    assert counts[True, False] == ratio * counts[False, False]
    assert counts[True, True] == ratio * counts[False, True]
    if name != "absolute" and counts[True, True]:
        assert counts[False, True] > counts[False, False]


@pytest.mark.parametrize("name", ENCODINGS)
def test_options_of_other_encodings_are_refused(name: str) -> None:
    """What is not beside an encoding's class is named, with what it can be told."""
    own = {field.name for field in dataclasses.fields(ENCODINGS[name].OPTIONS)}
    for option in sorted(set(FOREIGN) - own):
        encoding = EncodingSpec(name, **{option: FOREIGN[option]})
        spec = dataclasses.replace(spec_of(name, (3, 5)), encoding=encoding)
        known = f"{name} has no {option}, got .*its options: per_layer, per_head"
        with pytest.raises(SpecError, match=known):
            make_encoding(spec)


def test_every_option_has_a_default_and_says_what_it_is() -> None:
    """--help tells each one with its default, and each has a value that others must refuse."""
    told = " ".join(options_help().split())
    for name, encoding in ENCODINGS.items():
        assert f" {name} " in f" {told}"
        for field in dataclasses.fields(encoding.OPTIONS):
            assert field.default is not dataclasses.MISSING
            assert f": {field.metadata['meaning']}" in told
            assert field.name in {*FOREIGN, *vars(Options())}


@pytest.mark.parametrize("name", NAMES)
def test_every_encoding_survives_schema_2(name: str) -> None:
    """Flat in JSON, and back: what was said, and the same encoding with every option said."""
    spec = parse_encoding(name)
    data = json.loads(json.dumps(to_json(spec)))
    assert data == {"name": spec.name, **spec.options}
    assert from_json(EncodingSpec, data, "encoding") == spec
    whole = complete(spec)
    told = {key for key, value in vars(options_of(spec)).items() if value is not None}
    assert set(whole.options) == told
    assert from_json(EncodingSpec, to_json(whole), "encoding") == whole
    assert short_name(whole) == short_name(spec)
    assert complete(parse_encoding(short_name(spec))) == whole


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_hold_every_encoding(name: str, grid: tuple[int, ...], tmp_path: Path) -> None:
    """A model that was saved gives the same logits, bit for bit, when it is loaded."""
    model = make_model(name, grid, pool="class")
    save_checkpoint(tmp_path, model, InputSpec(), ("a", "b", "c"), {})
    torch.manual_seed(5)  # what loading draws before it reads must not matter
    loaded, _ = load_checkpoint(tmp_path)
    pixels = torch.randint(256, (2, *(2 * side for side in grid), 3), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(loaded(pixels), model(pixels))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", NAMES)
def test_encodings_follow_their_model_to_a_gpu(name: str) -> None:
    """Everything that an encoding gives is where the model is, forward and backward."""
    model = make_model(name, (3, 5), pool="class")
    pixels = torch.randint(256, (2, 6, 10, 3), dtype=torch.uint8)
    expected = model(pixels)
    model.cuda()
    logits = model(pixels.cuda())
    logits.sum().backward()
    torch.testing.assert_close(logits.cpu(), expected, rtol=1e-3, atol=1e-3)
    assert all(value.grad is not None for value in model.encoding.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_grid_of_other_axes_is_refused(name: str) -> None:
    """A model of two axes has no positions for three: said by name, before any arithmetic."""
    model = make_model(name, (3, 5))
    with pytest.raises(SpecError, match="expected a grid of 2 axes, got 3x4x5"):
        model.encode(Grid((3, 4, 5)))
