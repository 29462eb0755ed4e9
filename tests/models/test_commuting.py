"""Encodings with learned, commuting generators, each held against its definition."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag, circulant, expm
from torch import Tensor
from torch.nn import functional

from media.spec import Grid, InputSpec, SpecError
from models.encodings import make_encoding, parse_encoding
from models.encodings.base import Commuting
from models.encodings.comrope import ComRope, ComRopeLd
from models.encodings.masa import Masa, cayley, exponential_of, givens, householder
from models.encodings.string_cayley import StringCayley
from models.encodings.string_circulant import StringCirculant, fourier_basis
from models.rotations.apply import Rotations
from models.spec import ModelSpec
from models.vit import Encoded, VisionTransformer

Array = np.ndarray

BASES = ("cayley", "exponential", "givens", "householder")
NAMES = (
    *(f"masa:basis={basis}" for basis in BASES),
    "string_cayley",
    "string_circulant_8",
    "string_circulant_12",
    "comrope_ap_4",
    "comrope_ld_8",
)
GRIDS = {1: (5,), 2: (3, 4), 3: (2, 3, 4)}
QUARTER = np.array([[0.0, -1.0], [1.0, 0.0]])


def make_spec(name: str, axes: int = 2, **changes: object) -> ModelSpec:
    """Heads of 24 channels, which all of the encodings here divide."""
    values = {
        "patch": (2,) * axes,
        "grid": GRIDS[axes],
        "classes": 4,
        "width": 48,
        "depth": 2,
        "heads": 2,
        "mlp_dim": 32,
        "pool": "class",
        "encoding": parse_encoding(name),
    }
    return ModelSpec(**(values | changes))  # type: ignore[arg-type]


def make_commuting(name: str, axes: int = 2) -> Commuting:
    torch.manual_seed(0)
    encoding = make_encoding(make_spec(name, axes))
    assert isinstance(encoding, Commuting)
    return encoding


def make_batch(spec: ModelSpec, items: int = 6) -> tuple[Tensor, Tensor]:
    """Random pixels uint8 [B, *pixels per axis, C] and labels [B]."""
    generator = torch.Generator().manual_seed(1)
    shape = (items, *spec.training_grid.pixels(spec.patch), spec.channels)
    pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    return pixels, torch.randint(spec.classes, (items,), generator=generator)


@cache
def trained(name: str, axes: int = 2, query_key_norm: bool = False) -> VisionTransformer:
    """A small model after some optimiser steps on random data; read it, do not write."""
    torch.manual_seed(0)
    spec = make_spec(name, axes, query_key_norm=query_key_norm)
    model = VisionTransformer(spec, InputSpec()).train()
    pixels, labels = make_batch(spec)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.03)
    for _ in range(6):
        optimiser.zero_grad()
        functional.cross_entropy(model(pixels), labels).backward()
        optimiser.step()
    return model.eval()


def learned(name: str, axes: int = 2) -> Commuting:
    encoding = trained(name, axes).encoding
    assert isinstance(encoding, Commuting)
    return encoding


# --- the definitions, in numpy and float64, with loops ------------------------------------------


def upper(entries: Array, side: int) -> Array:
    """The skew-symmetric matrix with these entries above its diagonal."""
    matrix = np.zeros((side, side))
    matrix[np.triu_indices(side, 1)] = entries
    return matrix - matrix.T


def cayley_by_definition(numbers: Array, side: int) -> Array:
    generator = upper(numbers, side)
    return np.linalg.inv(np.eye(side) + generator) @ (np.eye(side) - generator)


def givens_by_definition(numbers: Array, side: int) -> Array:
    product = np.eye(side)
    for angle, (i, j) in zip(numbers, itertools.combinations(range(side), 2), strict=False):
        turn = np.eye(side)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = np.sin(angle), -np.sin(angle)
        product = turn @ product
    return product


def householder_by_definition(numbers: Array, side: int) -> Array:
    product = np.eye(side)
    for vector in numbers:
        product = product @ (np.eye(side) - 2 * np.outer(vector, vector) / (vector @ vector))
    return product


ORTHOGONAL: dict[str, tuple[Callable[[Tensor, int], Tensor], Callable[[Array, int], Array]]] = {
    "cayley": (cayley, cayley_by_definition),
    "exponential": (exponential_of, lambda numbers, side: expm(upper(numbers, side))),
    "givens": (givens, givens_by_definition),
    "householder": (householder, householder_by_definition),
}


def axial_generator(axis: int, axes: int, side: int) -> Array:
    """Axis a turns its own run of pairs, by 100^(-k / m)."""
    own = side // 2 // axes
    planes = [0.0] * (side // 2)
    for k in range(own):
        planes[axis * own + k] = 100.0 ** (-k / own)
    return block_diag(*(rate * QUARTER for rate in planes))


def of_one_head(encoding: Commuting, layer: int, head: int) -> list[Array]:
    """The generator [D, D] of each axis."""
    values = {name: p.detach().double().numpy() for name, p in encoding.named_parameters()}
    side, axes = encoding.shape.head_dim, range(encoding.axes)
    if isinstance(encoding, Masa):
        basis = ORTHOGONAL[encoding.options.basis][1](values["numbers"][layer, head], side)
        return [basis @ axial_generator(axis, len(axes), side) @ basis.T for axis in axes]
    if isinstance(encoding, StringCayley):
        before = cayley_by_definition(values["numbers"][layer, head], side)  # P
        rates = values["rates"][:, layer, head]
        return [before.T @ block_diag(*(r * QUARTER for r in rates[a])) @ before for a in axes]
    if isinstance(encoding, StringCirculant):
        numbers = values["numbers"][:, layer, head]  # [A, N, K / 2 - 1]
        return [block_diag(*(circulant_block(c, encoding.block) for c in numbers[a])) for a in axes]
    assert isinstance(encoding, ComRope)
    blocks = [upper(entries, encoding.block) for entries in values["entries"][layer, head]]
    if isinstance(encoding, ComRopeLd):
        theta = values["theta"][:, layer, head]  # [A, N]
        return [block_diag(*(t * b for t, b in zip(theta[a], blocks, strict=True))) for a in axes]
    return [block_diag(*(b * (j % len(axes) == a) for j, b in enumerate(blocks))) for a in axes]


def circulant_block(numbers: Array, side: int) -> Array:
    """C - C^T of the circulant matrix whose first column is 0, c_1, c_2, ..., 0, ..."""
    whole = circulant(np.pad(numbers, (1, side - 1 - len(numbers))))
    return whole - whole.T


def defined_generators(encoding: Commuting) -> Array:
    """[A, L, H, D, D]."""
    layers, heads = range(encoding.shape.layers), range(encoding.shape.heads)
    each = [[of_one_head(encoding, layer, head) for head in heads] for layer in layers]
    return np.moveaxis(np.array(each), 2, 0)


def defined_rotations(encoding: Commuting, positions: Tensor) -> Array:
    """exp(sum_a p_a A_a), [L, T, H, D, D]."""
    exponents = np.einsum("ta,alhij->lthij", positions.numpy(), defined_generators(encoding))
    return expm(exponents)


def whole(rotations: Rotations, heads: int = 2, layers: int = 2) -> Tensor:
    """R = Q turns Q^T of every token: [L, T, H, D, D]."""
    assert rotations.turns is not None
    cosine, sine = rotations.turns.unbind(-1)  # [L, T, H, P] each
    blocks = torch.stack([cosine, -sine, sine, cosine], -1).unflatten(-1, (2, 2))
    turned = dense(blocks).expand(layers, -1, heads, -1, -1)  # [L, T, H, D, D]
    assert rotations.basis is not None
    basis = dense(rotations.basis).expand(layers, heads, -1, -1)[:, None]  # [L, 1, H, D, D]
    return basis @ turned @ basis.mT


def dense(blocks: Tensor) -> Tensor:
    """Block-diagonal matrices: [..., N, K, K] -> [..., D, D]."""
    flat = blocks.reshape(-1, *blocks.shape[-3:])
    wide = torch.stack([torch.block_diag(*matrices) for matrices in flat])
    return wide.unflatten(0, blocks.shape[:-3])


# --- what must be true ----------------------------------------------------------------------------


@pytest.mark.parametrize("side", [2, 5, 12])
@pytest.mark.parametrize("basis", BASES)
def test_bases_are_orthogonal_and_what_their_definition_says(basis: str, side: int) -> None:
    """Q equals the plain product or quotient, Q^T Q = I and det Q = 1, for batches of numbers."""
    build, definition = ORTHOGONAL[basis]
    shape = {"givens": (7,), "householder": (4, side)}.get(basis, (side * (side - 1) // 2,))
    shape = (1,) if basis == "givens" and side == 2 else shape
    torch.manual_seed(0)
    numbers = torch.randn(2, 3, *shape, dtype=torch.float64)
    result = build(numbers, side)  # [2, 3, D, D]
    for index in itertools.product(range(2), range(3)):
        expected = torch.from_numpy(definition(numbers[index].numpy(), side))
        torch.testing.assert_close(result[index], expected, rtol=0, atol=1e-12)
    identity = torch.eye(side, dtype=torch.float64).expand_as(result)
    torch.testing.assert_close(result.mT @ result, identity, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.linalg.det(result), identity[..., 0, 0], rtol=0, atol=1e-12)
    single = build(numbers.float(), side).double()
    torch.testing.assert_close(single.mT @ single, identity, rtol=0, atol=2e-5)


@pytest.mark.parametrize("axes", GRIDS)
@pytest.mark.parametrize("name", NAMES)
def test_learned_rotations_are_those_of_the_definition(name: str, axes: int) -> None:
    """After training, Q turns Q^T and exp(sum p A) by scipy are the same rotation."""
    encoding = learned(name, axes)
    positions = encoding.positions(Grid(tuple(side + 1 for side in GRIDS[axes])))
    expected = torch.from_numpy(defined_rotations(encoding, positions))
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-4)):
        rotations = whole(encoding.rotations(positions, dtype))
        torch.testing.assert_close(rotations.double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_generators_commute_after_training(name: str, axes: int) -> None:
    """[A_k, A_l] is nothing beside |A_k| |A_l|, in the precision of training and of export."""
    fresh, encoding = make_commuting(name, axes), learned(name, axes)
    for before, after in zip(fresh.parameters(), encoding.parameters(), strict=True):
        assert (before - after).abs().mean().item() > 1e-3
    expected = torch.from_numpy(defined_generators(encoding))
    # squarings cost the float32 exponential one more digit than solves cost the others
    single = 5e-6 if name == "masa:basis=exponential" else 1e-6
    for dtype, tolerance, limit in (
        (torch.float64, 1e-12, 1e-13),
        (torch.float32, 1e-5, single),
    ):
        generators = encoding.generators(dtype).double()  # [A, L, H, N, K, K]
        wide = dense(generators).expand_as(expected)  # [A, L, H, D, D]
        torch.testing.assert_close(wide, expected, rtol=tolerance, atol=10 * tolerance)
        for one, other in itertools.combinations(generators, 2):
            commutator = torch.linalg.matrix_norm(one @ other - other @ one)
            norms = torch.linalg.matrix_norm(one) * torch.linalg.matrix_norm(other)
            assert (commutator <= limit * norms).all()


@pytest.mark.parametrize("query_key_norm", [False, True])
@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_model_equals_one_that_turns_by_whole_rotations(
    name: str, axes: int, query_key_norm: bool
) -> None:
    """Basis folded into weights and planes turned: the logits of exp(sum p A) on q and k."""
    model = trained(name, axes, query_key_norm)
    spec, encoding = model.spec, model.encoding
    assert isinstance(encoding, Commuting)
    grid = spec.training_grid
    prefix = torch.full((1, axes), encoding.PREFIX_POSITION, dtype=torch.float64)
    positions = torch.cat([prefix, encoding.positions(grid)])  # [S, A]
    table = torch.from_numpy(defined_rotations(encoding, positions))[:, :, :, None]
    pixels, _ = make_batch(spec)
    with torch.no_grad():
        plain = copy.deepcopy(model).double()(pixels, Encoded(blocks=table))
        logits = model(pixels)
    assert (logits[0] - logits[1]).abs().max().item() > 1e-2
    torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_scores_need_one_side_of_the_basis_only(name: str) -> None:
    """(turns Q^T q) . (turns Q^T k) equals (R q) . (R k) in float64, for all pairs of tokens."""
    encoding = learned(name)
    positions = encoding.positions(Grid(GRIDS[2]))
    rotations = encoding.rotations(positions, torch.float64)
    query, key = torch.randn(2, 12, 2, 24, 1, dtype=torch.float64)  # [T, H, D, 1] each
    full = torch.from_numpy(defined_rotations(encoding, positions))  # [L, T, H, D, D]
    assert rotations.basis is not None
    basis = dense(rotations.basis).expand(2, 2, -1, -1)[:, None]  # [L, 1, H, D, D]
    half = basis.mT @ whole(rotations)  # turns Q^T
    scores = [
        torch.einsum("lthi,lshi->lhts", (each @ query)[..., 0], (each @ key)[..., 0])
        for each in (half, full)
    ]
    torch.testing.assert_close(*scores, rtol=0, atol=1e-9)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("basis", BASES)
def test_masa_without_a_basis_is_axial_rope(basis: str, axes: int) -> None:
    """With Q = I the turns are axial RoPE's, and the basis changes nothing."""
    masa = make_commuting(f"masa:basis={basis}", axes)
    with torch.no_grad():
        for numbers in masa.parameters():
            if basis == "householder":  # a reflection, and itself again
                numbers[..., 1::2, :] = numbers[..., 0::2, :]
            else:
                numbers.zero_()
    axial = make_commuting("axial_rope:base=100", axes)
    positions = masa.positions(Grid(GRIDS[axes]))
    found = masa.rotations(positions, torch.float64)
    assert found.turns is not None
    assert found.basis is not None
    turns = axial.rotations(positions, torch.float64).turns
    assert turns is not None
    torch.testing.assert_close(found.turns, turns, rtol=0, atol=0)
    identity = torch.eye(24, dtype=torch.float64).expand_as(found.basis)
    torch.testing.assert_close(found.basis, identity, rtol=0, atol=1e-14)


@pytest.mark.parametrize("basis", BASES)
def test_masa_is_reversible(basis: str) -> None:
    """No two positions of a long grid have the same rotation."""
    encoding = learned(f"masa:basis={basis}")
    positions = encoding.positions(Grid((25, 23)))
    rotations = whole(encoding.rotations(positions, torch.float64))[0, :, 0].flatten(1)
    distances = torch.cdist(rotations, rotations) + 10 * torch.eye(len(rotations))
    assert distances.min().item() > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_finite_differences(name: str) -> None:
    """Of all parameters at once, in random directions, seen through the whole rotations."""
    encoding = copy.deepcopy(learned(name)).double()
    positions = encoding.positions(Grid(GRIDS[2]))
    parameters = list(encoding.parameters())
    torch.manual_seed(2)
    seen = torch.randn(2, 12, 2, 24, 24, dtype=torch.float64)

    def loss() -> Tensor:
        return (whole(encoding.rotations(positions, torch.float64)) * seen).sum()

    gradients = torch.autograd.grad(loss(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        for _ in range(3):
            direction = torch.randn_like(parameter)
            slope = (gradient * direction).sum().item()
            ends = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter.add_(step * direction)
                    ends.append(loss().item())
                    parameter.sub_(step * direction)
            measured = (ends[0] - ends[1]) / 2e-5
            scale = gradient.norm().item() * direction.norm().item()
            assert abs(measured - slope) < 1e-6 * scale, f"{measured} {slope}"


@pytest.mark.parametrize("name", NAMES)
def test_encoding_keeps_its_precision_under_autocast(name: str) -> None:
    """In a bfloat16 step the table is the float32 one, and every parameter gets its gradient."""
    model = copy.deepcopy(trained(name))
    pixels, labels = make_batch(model.spec)
    plain = model.encode(model.spec.training_grid)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = model.encode(model.spec.training_grid)
        loss = functional.cross_entropy(model(pixels, encoded), labels)
        loss.backward()
    assert encoded.turns is not None
    assert plain.turns is not None
    assert torch.equal(encoded.turns, plain.turns)
    rounded = [parameter.grad for parameter in model.encoding.parameters()]
    model.zero_grad()
    functional.cross_entropy(model(pixels), labels).backward()
    for parameter, gradient in zip(model.encoding.parameters(), rounded, strict=True):
        assert gradient is not None
        assert parameter.grad is not None
        likeness = functional.cosine_similarity(parameter.grad.flatten(), gradient.flatten(), 0)
        assert likeness.item() > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_rotations_trace(name: str) -> None:
    """torch.compile finds no graph break, and its graph gives eager's tables and gradients."""
    model = copy.deepcopy(trained(name))

    def tables() -> list[Tensor]:
        encoded = model.encode(model.spec.training_grid)
        return [table for table in encoded if table is not None]

    results = []
    torch.compiler.reset()
    for function in (tables, torch.compile(tables, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        made = function()
        sums = [(table * torch.linspace(-1, 1, table.shape[-1])).sum() for table in made]
        torch.stack(sums).sum().backward()
        results.append([*made, *(p.grad for p in model.encoding.parameters())])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block", [4, 8, 16])
def test_circulant_blocks_turn_in_the_fourier_basis(block: int) -> None:
    """The basis is orthogonal, its last plane is not turned, and it starts as axial RoPE's."""
    basis = fourier_basis(block)
    identity = torch.eye(block, dtype=torch.float64)
    torch.testing.assert_close(basis.T @ basis, identity, rtol=0, atol=1e-14)
    torch.manual_seed(0)
    encoding = make_encoding(make_spec(f"string_circulant_{block}", width=96, heads=2))
    assert isinstance(encoding, StringCirculant)
    found = encoding.frequencies(torch.float64).unflatten(-1, (-1, block // 2))
    axial = make_encoding(make_spec("axial_rope:base=100", width=96, heads=2))
    assert isinstance(axial, Commuting)
    expected = axial.frequencies(torch.float64).unflatten(-1, (-1, block // 2))
    assert (found[..., -1] == 0).all()
    turned = expected[..., :-1].expand_as(found[..., :-1])
    torch.testing.assert_close(found[..., :-1], turned, rtol=0, atol=1e-6)


@pytest.mark.parametrize("axes", GRIDS)
def test_comrope_jitter_stays_in_the_patch(axes: int) -> None:
    """Training moves every coordinate, up to the patch's edge and no further; 0 moves none."""
    for jitter in (1.0, 0.0):
        encoding = make_encoding(make_spec(f"comrope_ld:jitter={jitter}", axes))
        grid = Grid((7, 40, 30)[:axes])
        positions = encoding.positions(grid)
        torch.manual_seed(3)
        moved = encoding.moved(positions, grid)
        torch.manual_seed(3)
        assert torch.equal(moved, encoding.moved(positions, grid))
        patches = (moved - positions) * torch.tensor(grid.size)
        assert patches.abs().max().item() <= 0.5 + 1e-12
        assert moved.min().item() >= 0
        assert moved.max().item() <= 1
        if axes > 1:  # enough draws for their spread
            inside = patches[patches.abs() < 0.499]
            edge = 1 - inside.numel() / patches.numel()
            assert abs(edge - 0.317 * jitter) < 0.05  # beyond one deviation, half a patch
    assert torch.equal(moved, positions)


def test_comrope_draws_in_training_only() -> None:
    """The class token stays at 0.5, the patches move, and only where the model is in training."""
    model = copy.deepcopy(trained("comrope_ld_8"))
    grid = model.spec.training_grid
    still, again = model.encode(grid).turns, model.encode(grid).turns
    one, two = model.train().encode(grid).turns, model.encode(grid).turns
    assert still is not None and again is not None and one is not None and two is not None
    assert torch.equal(still, again)
    assert torch.equal(one[:, 0], two[:, 0])
    assert (one - two)[:, 1:].abs().amax((2, 3, 4)).min().item() > 0


@pytest.mark.parametrize("name", ["comrope_ap_4", "comrope_ld_8"])
def test_comrope_that_starts_at_zero_learns(name: str) -> None:
    """Plain attention at first; gradients are finite and lower the loss, and all planes start."""
    model = copy.deepcopy(trained(name))
    encoding = model.encoding
    assert isinstance(encoding, ComRope)
    pixels, labels = make_batch(model.spec)
    with torch.no_grad():
        encoding.entries.zero_()
    losses = []
    for _ in range(30):
        model.zero_grad()
        loss = functional.cross_entropy(model(pixels), labels)
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            assert encoding.entries.grad is not None
            assert encoding.entries.grad.isfinite().all()
            size = encoding.entries.grad.abs().max()
            encoding.entries.sub_(encoding.entries.grad * 0.05 / size)
    assert losses[1] < losses[0]
    assert losses[-1] < 0.9 * losses[0]
    planes = encoding.planes(torch.float64)[0].abs().amax(0)  # [L, H, P]
    assert (planes > 1e-6).all()


@pytest.mark.parametrize(
    ("name", "axes", "reason"),
    [
        ("masa:factors=4", 2, "basis cayley has no factors, got 4"),
        ("masa:basis=householder,factors=3", 2, "even, from 2 to 24, got 3"),
        ("masa:basis=householder,factors=26", 2, "even, from 2 to 24, got 26"),
        ("masa:basis=givens,factors=277", 2, "from 1 to 276, got 277"),
        ("masa:basis=givens,factors=0", 2, "from 1 to 276, got 0"),
        ("string_circulant_3", 2, "even block of at least 4.* got 3"),
        ("string_circulant_2", 2, "even block of at least 4.* got 2"),
        ("comrope_ld_3", 2, "even block.* got 3"),
        ("comrope_ld_8:jitter=-1", 2, "needs a jitter of at least 0, got -1"),
        ("comrope_ap_8", 2, "divisible by 2 axes, got 24 / 8; blocks that fit: 2, 4, 6, 12"),
        ("comrope_ap_12", 3, "divisible by 3 axes, got 24 / 12; blocks that fit: 2, 4, 8"),
    ],
)
def test_options_that_do_not_fit_are_refused(name: str, axes: int, reason: str) -> None:
    """The error says what the encoding needs and what it was given."""
    with pytest.raises(SpecError, match=reason):
        make_encoding(make_spec(name, axes))


def test_comrope_ap_says_where_no_block_fits() -> None:
    """64 channels cannot be shared by three axes in blocks; the error says what can."""
    with pytest.raises(SpecError, match="head_dim must be a multiple of 6"):
        make_encoding(make_spec("comrope_ap_8", 3, width=128, heads=2))


@pytest.mark.parametrize("name", ["masa", "string_cayley"])
def test_too_few_channels_for_the_axes_are_refused(name: str) -> None:
    """Every axis needs a pair of channels, or positions along it would all be alike."""
    with pytest.raises(SpecError, match="at least 6 for 3 axes, got 4"):
        make_encoding(make_spec(name, 3, width=8, heads=2))


@pytest.mark.parametrize("name", NAMES)
def test_layers_and_heads_share_where_told_to(name: str) -> None:
    """Without per_layer and per_head there is one set of numbers, and the model still answers."""
    joint = parse_encoding(f"{name}{',' if ':' in name else ':'}per_layer=false,per_head=false")
    spec = make_spec(name)
    shared = VisionTransformer(make_spec(name, encoding=joint), InputSpec()).eval()
    own = sum(p.numel() for p in make_encoding(spec).parameters())
    assert 4 * sum(p.numel() for p in shared.encoding.parameters()) == own
    pixels, _ = make_batch(spec)
    assert shared(pixels).isfinite().all()
