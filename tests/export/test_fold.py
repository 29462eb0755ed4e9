"""Folding a shared basis into the projections: scores stay, and what does not commute is refused.

Everything is compared in float64 with whole rotations by the matrix exponential.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from export.fold import TOLERANCE, FoldError, folded, shared_planes
from export.freeze import FrozenTransformer
from export.layout import halves, turn_planes
from export.plan import Plan, plan_of
from media.spec import Grid, InputSpec
from models.encodings import ENCODINGS, parse_encoding
from models.encodings.base import Rotary
from models.encodings.liere import Liere
from models.manifest import Precision
from models.rotations.apply import planar_rotations
from models.spec import ModelSpec
from models.vit import VisionTransformer
from tests.helpers.rotation_matrices import diagonal

GRIDS = ((3, 5), (2, 3, 4))
#: Tokens [S, W], a projection [3 W, W] and a bias [3 W].
Values = tuple[Tensor, Tensor, Tensor]
#: Rows with their defaults, options that share parameters or change the basis, and one axis.
NAMES = [
    *ENCODINGS,
    "comrope_ld:block=4,per_layer=false",
    "liere_2",
    "masa:basis=exponential,per_head=false",
    "masa:basis=givens,per_layer=false",
    "masa:basis=householder",
    "string_cayley:per_layer=false,per_head=false",
]


def make_model(name: str, grid: tuple[int, ...], **changes: Any) -> VisionTransformer:
    """head_dim 48, which every row can use."""
    torch.manual_seed(0)
    spec = ModelSpec(
        patch=(2,) * len(grid), grid=grid, classes=3, width=96, depth=2, heads=2, mlp_dim=32,
        pool="class", encoding=parse_encoding(name), **changes,
    )  # fmt: skip
    model = VisionTransformer(spec, InputSpec()).eval()
    torch.nn.init.normal_(model.head.weight, std=1.0)
    return model


def makes_planes(name: str) -> bool:
    model = make_model(name, GRIDS[0])
    return isinstance(model.encoding, Rotary) and plan_of(model).form.form == "planes"


COMMUTING = [name for name in NAMES if makes_planes(name)]


def commuting_liere(family: str, grid: tuple[int, ...], block: int = 8) -> VisionTransformer:
    """A LieRE model, float64 entries, whose generators commute by chance."""
    model = make_model(f"liere_{block}", grid)
    encoding = model.encoding.double()
    assert isinstance(encoding, Liere)
    with torch.no_grad():
        generators = joint_family(encoding.generators(torch.float64), family)
        rows, columns = torch.triu_indices(block, block, offset=1)
        encoding.entries.copy_(generators[..., rows, columns])
    return model


def joint_family(generators: Tensor, family: str) -> Tensor:
    """Generators [A, L, H, N, K, K] of the same shape that commute."""
    side = generators.shape[-1]
    share = torch.linspace(0.5, 2.0, len(generators), dtype=torch.float64)[:, None]
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    speeds = torch.rand(*generators.shape[:-2], side // 2, dtype=torch.float64) * 6
    if family == "proportional":  # the second is half of the first, and so on
        return generators[:1] * share.reshape(-1, 1, 1, 1, 1, 1)
    if family == "coinciding":  # all planes of a block turn alike
        speeds = torch.ones_like(speeds) * share.reshape(-1, 1, 1, 1, 1)
    if family == "still":  # half of the planes are not turned, nor anything by the last axis
        speeds[..., ::2] = 0.0
        speeds[-1] = 0.0
    basis = torch.linalg.qr(torch.randn(generators.shape[1:], dtype=torch.float64)).Q
    planes = torch.kron(torch.eye(side // 2, dtype=torch.float64), quarter)  # [K, K]
    return basis @ (planes * speeds.repeat_interleave(2, -1)[..., None]) @ basis.mT


FAMILIES = ("proportional", "rotated", "coinciding", "still")


# --- scores -------------------------------------------------------------------------------------


def inputs(model: VisionTransformer, grid: Grid) -> Values:
    """In float64."""
    width, tokens = model.spec.width, 1 + grid.tokens
    shapes = (tokens, width), (3 * width, width), (3 * width,)
    x, weight, bias = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    return x, weight * width**-0.5, bias


def project(x: Tensor, weight: Tensor, bias: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Queries and keys, [S, H, D] each."""
    pair = (x @ weight.T + bias).chunk(3, dim=-1)[:2]
    return pair[0].unflatten(-1, (heads, -1)), pair[1].unflatten(-1, (heads, -1))


def scores_before(model: VisionTransformer, grid: Grid, layer: int, values: Values) -> Tensor:
    """[H, S, S], with R(p) = exp(sum of p_a A_a) on queries and keys as they are."""
    encoding = model.encoding
    assert isinstance(encoding, Rotary)
    generators = encoding.generators(torch.float64)  # [A, L, H, N, K, K]
    generators = generators[:, layer % generators.shape[1]]
    exponents = torch.einsum("sa,ahnij->shnij", model.positions(grid), generators)
    turns = diagonal(torch.linalg.matrix_exp(exponents), model.spec.head_dim)  # [S, H or 1, D, D]
    query, key = ((turns @ part[..., None])[..., 0] for part in project(*values, model.spec.heads))
    return torch.einsum("shd,thd->hst", query, key)


def scores_after(plan: Plan, grid: Grid, layer: int, values: Values) -> Tensor:
    """[H, S, S], with the basis folded, channels as halves, and cosines and sines alone."""
    spec, (x, weight, bias) = plan.model.spec, values
    basis = None if plan.basis is None else plan.basis[layer % len(plan.basis)]
    weight, bias = (
        folded(rows, spec.heads, basis, halves(spec.head_dim)) for rows in (weight, bias)
    )
    turns = plan.rotations(grid).turns
    assert turns is not None and plan.rotations(grid).blocks is None
    cosine, sine = turns[layer % len(turns)].unbind(-1)  # [S, H or 1, P] each
    query, key = (
        turn_planes(part[None], cosine, sine)[0] for part in project(x, weight, bias, spec.heads)
    )  # [H, S, D] each
    return query @ key.mT


def check_scores(model: VisionTransformer, plan: Plan, grid: Grid) -> None:
    for layer in range(model.spec.depth):
        values = inputs(model, grid)
        expected = scores_before(model, grid, layer, values)
        actual = scores_after(plan, grid, layer, values)
        assert actual.dtype == torch.float64
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)
        unturned = torch.einsum("shd,thd->hst", *project(*values, model.spec.heads))
        assert (expected - unturned).abs().max() > 0.1  # something was turned


@torch.no_grad()
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", COMMUTING)
def test_scores_stay_when_the_basis_is_folded(name: str, grid: tuple[int, ...]) -> None:
    """Every commuting row keeps its scores to 1e-9, with a bias, at another grid, in each layer."""
    model = make_model(name, grid)
    plan = plan_of(model)
    assert plan.form.folded == (plan.basis is not None)
    check_scores(model, plan, Grid(tuple(side + 1 for side in reversed(grid))))


@torch.no_grad()
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", COMMUTING)
def test_planes_are_found_from_the_generators_alone(name: str, grid: tuple[int, ...]) -> None:
    """Who knows nothing but the generators finds planes that keep every score to 1e-9."""
    model = make_model(name, grid)
    encoding = model.encoding
    assert isinstance(encoding, Rotary)
    frequencies, basis = shared_planes(encoding.generators(torch.float64))
    found = Plan(model, plan_of(model).form, basis, frequencies)
    check_scores(model, found, Grid(grid))


@torch.no_grad()
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_liere_that_commutes_by_chance_is_folded(family: str, grid: tuple[int, ...]) -> None:
    """LieRE with generators in one basis becomes planes, coinciding and still ones as well."""
    model = commuting_liere(family, grid)
    plan = plan_of(model)
    assert (plan.form.form, plan.form.folded) == ("planes", True)
    check_scores(model, plan, Grid(grid[::-1]))


@torch.no_grad()
def test_liere_of_one_axis_is_folded() -> None:
    """A single generator commutes with itself: LieRE on one axis is RoPE in another basis."""
    model = make_model("liere_8", (7,))
    plan = plan_of(model)
    assert (plan.form.form, plan.form.folded) == ("planes", True)
    check_scores(model, plan, Grid((9,)))


def test_generators_that_are_zero_turn_nothing() -> None:
    """Nothing to find planes in: frequencies are 0 and the basis is still orthogonal."""
    frequencies, basis = shared_planes(torch.zeros(2, 1, 1, 3, 8, 8, dtype=torch.float64))
    assert not frequencies.any()
    identity = torch.eye(8, dtype=torch.float64).expand_as(basis)
    torch.testing.assert_close(basis @ basis.mT, identity, rtol=0, atol=1e-14)


def test_planes_are_named_pair_by_pair() -> None:
    """Q^T A Q is the plane rotation of the stated frequency, of every axis, and nothing else."""
    generators = torch.zeros(2, 1, 1, 1, 4, 4, dtype=torch.float64)
    for axis, (near, far) in enumerate(((1.0, 3.0), (2.0, -0.5))):  # planes (0, 2) and (1, 3)
        generators[axis, ..., 2, 0], generators[axis, ..., 3, 1] = near, far
    generators = generators - generators.mT
    frequencies, basis = shared_planes(generators)
    inside = (basis.mT @ generators @ basis)[:, 0, 0, 0]  # [A, 4, 4]
    found = torch.stack([inside[:, 1, 0], inside[:, 3, 2]], -1)
    torch.testing.assert_close(found, frequencies[:, 0, 0], rtol=0, atol=1e-14)
    # one turn of the planes shows in all axes: (1, 2) and (3, -1/2) up to the sense of each
    pairs = sorted(((a, b) if a > 0 else (-a, -b) for a, b in found.T.tolist()), key=lambda p: p[0])
    assert torch.allclose(torch.tensor(pairs), torch.tensor([[1.0, 2.0], [3.0, -0.5]]))


# --- refused ------------------------------------------------------------------------------------


def test_generators_that_do_not_commute_are_refused_with_the_figure() -> None:
    """The largest relative commutator is told, and the layer, head and block where it is."""
    generators = joint_family(torch.zeros(2, 3, 2, 4, 8, 8, dtype=torch.float64), "rotated")
    noise = torch.randn(8, 8, dtype=torch.float64)
    generators[1, 2, 1, 3] += 1e-6 * (noise - noise.T)
    norms = torch.linalg.matrix_norm(generators)[:, 2, 1, 3]
    product = generators[0, 2, 1, 3] @ generators[1, 2, 1, 3]
    share = float((product - product.T).norm() / norms.prod())
    assert share > 1e-8
    with pytest.raises(FoldError, match=f"{share:.2g} of .* in layer 2, head 1, block 3, at most"):
        shared_planes(generators)


def test_tolerance_is_a_choice() -> None:
    """A family that float32 rounded commutes to 1e-8: refused, unless more is allowed."""
    exact = joint_family(torch.zeros(3, 2, 2, 4, 8, 8, dtype=torch.float64), "rotated")
    rounded = exact.float().double()
    with pytest.raises(FoldError, match="do not commute"):
        shared_planes(rounded)
    frequencies, _ = shared_planes(rounded, tolerance=1e-5)
    assert frequencies.shape == (3, 2, 2, 16)
    shared_planes(exact)  # what float64 rounds is allowed
    assert TOLERANCE == 1e-11


def test_liere_that_does_not_commute_stays_blocks() -> None:
    """The manifest says why, with the number."""
    form = plan_of(make_model("liere_8", GRIDS[0])).form
    assert (form.form, form.block, form.folded) == ("blocks", 8, False)
    assert "do not commute: ||[A, B]|| is 0." in form.reason


def test_odd_blocks_are_refused() -> None:
    """A block of odd side has a channel that no plane holds."""
    form = plan_of(make_model("liere_3", (7,))).form
    assert (form.form, form.block) == ("blocks", 3)
    assert "odd side 3" in form.reason


@pytest.mark.parametrize("name", ["masa", "string_cayley", "comrope_ld"])
def test_norm_between_projection_and_rotation_refuses_the_fold(name: str) -> None:
    """Gains per channel do not pass a basis: whole matrices instead, with the same answers."""
    model = make_model(name, GRIDS[0], query_key_norm=True)
    scatter_gains(model)
    plan, grid = plan_of(model), Grid((4, 3))
    assert plan.form.form == "blocks" and not plan.form.folded
    assert "query_key_norm scales channels" in plan.form.reason
    generators = model.encoding.generators(torch.float64)  # type: ignore[operator]
    assert plan.form.block == generators.shape[-1]
    check_answers(model, grid)


@pytest.mark.parametrize("name", ["absolute", "axial_rope", "liere_2", "liere_8", "rope_mixed"])
def test_norm_is_no_obstacle_where_nothing_is_folded(name: str) -> None:
    """Planes of channels are turned after the norm, whose gains take the new order of channels."""
    model = make_model(name, GRIDS[1], query_key_norm=True)
    scatter_gains(model)
    forms = {"absolute": "none", "liere_8": "blocks"}
    assert plan_of(model).form.form == forms.get(name, "planes")
    assert "query_key_norm" not in plan_of(model).form.reason
    check_answers(model, Grid((2, 4, 3)))


@torch.no_grad()
def scatter_gains(model: VisionTransformer) -> None:
    """As different as trained ones: gains of 1 would pass any order of channels."""
    for layer in model.layers:
        for norm in layer.attention.query_key_norms:  # type: ignore[union-attr]
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)


@torch.no_grad()
def check_answers(model: VisionTransformer, grid: Grid) -> None:
    pixels = torch.randint(0, 256, (3, *grid.pixels(model.spec.patch), 3), dtype=torch.uint8)
    expected = model(pixels, model.encode(grid, torch.float64))
    actual = FrozenTransformer(model, grid)(pixels)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


# --- what is left -------------------------------------------------------------------------------


def test_layers_share_tables_where_they_share_frequencies() -> None:
    """MASA has a basis for each layer and head and one set of turns for all of them."""
    plan = plan_of(make_model("masa", GRIDS[0]))
    assert plan.basis is not None and plan.basis.shape == (2, 2, 1, 48, 48)
    frozen = FrozenTransformer(plan.model, Grid((4, 3)), plan=plan)
    assert [tuple(table.shape) for table in frozen.cosines] == [(13, 1, 24)]
    assert len(frozen.tables) == 0
    assert plan.table_bytes(Grid((4, 3))) == plan.loaded_bytes(Grid((4, 3))) == 4 * 2 * 13 * 24


@torch.no_grad()
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("fp16", torch.float16)])
def test_fold_is_rounded_once(precision: Precision, dtype: torch.dtype) -> None:
    """What is stored is the float64 fold, rounded to the graph's type; the checkpoint's stays."""
    model = make_model("masa", GRIDS[0])
    plan, weight = plan_of(model), projection(model, 1)
    before = weight.clone()
    assert plan.basis is not None
    expected = folded(weight, 2, plan.basis[1], halves(48)).to(dtype)
    held = projection(FrozenTransformer(model, Grid((3, 5)), precision).model, 1)
    assert torch.equal(held, expected)
    assert torch.equal(weight, before)


def projection(model: VisionTransformer, layer: int) -> Tensor:
    return model.layers[layer].attention.query_key_value.weight  # type: ignore[union-attr, return-value]


def test_halves_turn_as_pairs_do() -> None:
    """Channels of a head in the order of halves turn by the same angles as neighbouring pairs."""
    x, angles = torch.randn(2, 5, 3, 8, dtype=torch.float64), torch.randn(5, 3, 4)
    turns = torch.polar(torch.ones(5, 3, 4, dtype=torch.float64), angles.double())
    pairs = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (4, 2))) * turns).flatten(-2)
    assert halves(8).tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    actual = turn_planes(x[..., halves(8)], turns.real, turns.imag)  # [B, H, S, D]
    torch.testing.assert_close(actual, pairs[..., halves(8)].transpose(1, 2), rtol=0, atol=1e-15)


def test_found_frequencies_give_the_tables_of_any_grid() -> None:
    """Frequencies that were found serve every grid: no exponential is taken again."""
    model = commuting_liere("rotated", GRIDS[0])
    plan, grid = plan_of(model), Grid((6, 2))
    assert plan.frequencies is not None
    expected = planar_rotations(model.positions(grid), plan.frequencies).turns
    assert torch.equal(plan.rotations(grid).turns, expected)  # type: ignore[arg-type]
