"""Rotations: skew-symmetric generators, tables, turning queries and keys, changing the basis."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from models.rotations.apply import Rotations, fold_basis, planar_rotations, to_basis, turn
from models.rotations.skew import planar_generators, rotations, skew
from tests.helpers.rotation_matrices import blocks_of, diagonal, full_rotations

BLOCKS = (2, 3, 4, 8, 16, 64)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("block", BLOCKS)
def test_skew_fills_the_upper_triangle_row_by_row(block: int) -> None:
    """Entry by entry the matrix is what a plain loop writes, and equals minus its transpose."""
    entries = random(3, 2, block * (block - 1) // 2)
    expected = torch.zeros(3, 2, block, block)
    places = [(row, column) for row in range(block) for column in range(row + 1, block)]
    for index, (row, column) in enumerate(places):
        expected[..., row, column] = entries[..., index]
        expected[..., column, row] = -entries[..., index]
    assert torch.equal(skew(entries, block), expected)


@given(
    block=st.sampled_from((2, 3, 4, 8)),
    scale=st.floats(0, 50, allow_subnormal=False),
    seed=st.integers(0, 2**31),
)
def test_rotations_are_orthogonal_with_determinant_one(block: int, scale: float, seed: int) -> None:
    """R^T R is the identity and no rotation mirrors, whatever the generators."""
    generators = scale * skew(random(2, 1, 3, block * (block - 1) // 2, seed=seed), block)
    table = rotations(random(5, 2, seed=seed + 1), generators)  # [T, L, H, K, K]
    identity = torch.eye(block)
    assert (table.transpose(-1, -2) @ table - identity).abs().max().item() < 1e-3
    assert (torch.linalg.det(table) - 1).abs().max().item() < 1e-3


def test_rotations_weight_the_generators_by_the_position() -> None:
    """R(p) = exp(p_1 A_1 + p_2 A_2 + p_3 A_3), for every token, layer, head and block."""
    positions = random(4, 3, dtype=torch.float64)
    generators = skew(random(3, 2, 3, 2, 6, dtype=torch.float64), 4)  # [A, L, H, N, K, K]
    table = rotations(positions, generators)
    assert table.shape == (4, 2, 3, 2, 4, 4)
    for token in range(4):
        exponent = sum(positions[token, axis] * generators[axis] for axis in range(3))
        assert isinstance(exponent, Tensor)
        torch.testing.assert_close(table[token], torch.linalg.matrix_exp(exponent))


def test_rotations_differentiate_in_float32_as_in_float64() -> None:
    """Both branches, the fast one and torch's own, give the generators the same gradient."""
    entries = random(2, 1, 2, 3, 28)
    seen = random(6, 1, 2, 3, 8, 8, seed=1)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        leaf = entries.to(dtype, copy=True).requires_grad_()
        table = rotations(random(6, 2, seed=2).to(dtype), skew(leaf, 8))
        (table * seen.to(dtype)).sum().backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad.double())
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


# --- turning ----------------------------------------------------------------------------------


def plain_turn(x: Tensor, rotations: Rotations) -> Tensor:
    """Token by token and head by head, by whole matrices of one head."""
    matrices = diagonal(blocks_of(rotations), x.shape[-1])  # [S, H or 1, D, D]
    turned = torch.empty_like(x)
    for token in range(x.shape[1]):
        for head in range(x.shape[2]):
            matrix = matrices[token, head % matrices.shape[1]]
            for item in range(len(x)):
                turned[item, token, head] = matrix @ x[item, token, head]
    return turned


def make_rotations(heads: int, block: int, blocks: int) -> Rotations:
    """Of five tokens; block 2 stands for pairs. Not orthogonal: turning must not rely on it."""
    if block == 2:
        return Rotations(turns=random(5, heads, blocks, 2, seed=1))
    return Rotations(blocks=random(5, heads, blocks, block, block, seed=1))


#: Heads of the table, block side, blocks: all of head_dim 12, or with channels left over.
TURNS = [(3, 2, 6), (1, 2, 6), (3, 4, 3), (1, 4, 3), (3, 12, 1), (1, 12, 1), (3, 3, 4)]
REMAINDERS = [(3, 5, 2), (1, 5, 2), (3, 3, 3), (3, 8, 1)]


@pytest.mark.parametrize(("heads", "block", "blocks"), TURNS + REMAINDERS)
def test_turn_equals_a_plain_loop(heads: int, block: int, blocks: int) -> None:
    """Each block of each head of each token meets its own rotation; what is left over passes."""
    x = random(2, 5, 3, 12)
    rotations = make_rotations(heads, block, blocks)
    turned = turn([x], rotations)[0]
    torch.testing.assert_close(turned, plain_turn(x, rotations))
    assert torch.equal(turned[..., block * blocks :], x[..., block * blocks :])


@pytest.mark.parametrize(("heads", "block", "blocks"), TURNS + REMAINDERS)
def test_turn_differentiates_like_a_plain_loop(heads: int, block: int, blocks: int) -> None:
    """Gradients of the input and of rotations shared by heads are those of the definition."""
    x, rotations = random(2, 5, 3, 12), make_rotations(heads, block, blocks)
    seen = random(2, 5, 3, 12, seed=2)

    def gradients(way: Callable[[Tensor, Rotations], Tensor]) -> tuple[Tensor, ...]:
        given = x.clone().requires_grad_()
        leaves = [None if one is None else one.clone().requires_grad_() for one in rotations]
        wanted = [given, *(leaf for leaf in leaves if leaf is not None)]
        return torch.autograd.grad((way(given, Rotations(*leaves)) * seen).sum(), wanted)

    fastest = gradients(lambda given, own: turn([given], own)[0])
    for fast, plain in zip(fastest, gradients(plain_turn), strict=True):
        torch.testing.assert_close(fast, plain)


@pytest.mark.parametrize("heads", [3, 1])
@pytest.mark.parametrize("block", [4, 8, 24])
def test_turn_does_not_depend_on_how_many_tokens_it_takes(
    heads: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results and gradients are the same however the sequence is cut, of any layout."""
    shape = 24 // block, block, block
    wide = random(2, 5, 3, 3, 24).requires_grad_()  # queries, keys and values side by side
    tables = random(2, *shape, 5, heads, seed=1).requires_grad_()  # nothing of it contiguous
    seen = random(2, 2, 5, 3, 24, seed=2)

    def results(way: Callable[..., Sequence[Tensor]]) -> tuple[Tensor, ...]:
        rotations = Rotations(blocks=tables[1].permute(3, 4, 0, 1, 2))  # [S, H', N, K, K]
        turned = way(wide.unbind(2)[:2], rotations)
        return *turned, *torch.autograd.grad(list(turned), [wide, tables], list(seen))

    plain = results(lambda parts, own: [plain_turn(part, own) for part in parts])
    for one, other in zip(results(turn), plain, strict=True):
        torch.testing.assert_close(one, other)
    monkeypatch.setattr("models.rotations.turned_blocks.CHUNK_ELEMENTS", 2 * 2 * 2 * 3 * 24)
    for one, other in zip(results(turn), plain, strict=True):
        torch.testing.assert_close(one, other)


def test_turning_both_equals_turning_each() -> None:
    """Queries and keys together are what each is alone, by blocks and by pairs."""
    query, key = random(2, 5, 3, 12), random(2, 5, 3, 12, seed=5)
    for block in (2, 4):
        rotations = make_rotations(3, block, 12 // block)
        for turned, part in zip(turn([query, key], rotations), (query, key), strict=True):
            torch.testing.assert_close(turned, turn([part], rotations)[0])


@pytest.mark.parametrize("layers", [1, 4])
def test_by_layer_gives_every_layer_its_row(layers: int) -> None:
    """One row serves all layers; what is not there is there in no layer."""
    rotations = Rotations(turns=random(layers, 5, 3, 6, 2), basis=random(1, 3, 2, 6, 6))
    for layer, own in enumerate(rotations.by_layer(4)):
        assert own.blocks is None
        assert own.turns is not None
        assert own.basis is not None
        assert torch.equal(own.turns, rotations.turns[layer % layers])  # type: ignore[index]
        assert torch.equal(own.basis, rotations.basis[0])  # type: ignore[index]


def test_turn_needs_no_gradient_of_fixed_rotations() -> None:
    """Tables that nobody learns ask for none; the input's gradient is the same."""
    for block in (2, 4):
        rotations = make_rotations(3, block, 12 // block)
        x = random(2, 5, 3, 12).requires_grad_()
        turn([x], rotations)[0].sum().backward()
        expected = random(2, 5, 3, 12).requires_grad_()
        plain_turn(expected, rotations).sum().backward()
        torch.testing.assert_close(x.grad, expected.grad)


def test_turn_without_rotations_returns_its_input() -> None:
    """Absolute positions cost nothing in attention."""
    x = random(2, 5, 3, 12)
    assert turn([x], Rotations())[0] is x


@pytest.mark.parametrize("block", [2, 4])
def test_turn_keeps_the_precision_of_its_input(block: int) -> None:
    """A bfloat16 query stays bfloat16, and so does its gradient; the table's is float32."""
    rotations = make_rotations(3, block, 12 // block)
    wide = random(2, 5, 3, 12)
    narrow = wide.bfloat16().requires_grad_()
    tables = [one for one in rotations if one is not None]
    tables[0].requires_grad_()
    turned = turn([narrow], rotations)[0]
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned.float(), turn([wide], rotations)[0], rtol=0.05, atol=0.05)
    turned.float().sum().backward()
    assert narrow.grad is not None
    assert tables[0].grad is not None
    assert (narrow.grad.dtype, tables[0].grad.dtype) == (torch.bfloat16, torch.float32)


# --- changing the basis -------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [3, 1])
def test_folding_a_basis_equals_applying_it(heads: int) -> None:
    """Q^T (W x) and (Q^T W) x agree, for the bias as for the weight, by blocks of a head."""
    basis = torch.linalg.qr(random(heads, 2, 6, 6, seed=3))[0]
    weight, bias, tokens = random(36, 10), random(36, seed=1), random(2, 5, 10, seed=2)
    plain = functional.linear(tokens, weight, bias).unflatten(-1, (3, 12))  # [B, S, H, D]
    folded = functional.linear(tokens, fold_basis(weight, basis), fold_basis(bias, basis))
    torch.testing.assert_close(folded.unflatten(-1, (3, 12)), to_basis(plain, basis))
    matrix = diagonal(basis, 12)[1 % heads]
    torch.testing.assert_close(to_basis(plain, basis)[0, 3, 1], matrix.T @ plain[0, 3, 1])


def test_planar_generators_give_the_planar_rotations() -> None:
    """exp(sum of p A) is Q turns Q^T, with a basis and without."""
    positions = random(5, 2, dtype=torch.float64)
    frequencies = random(2, 2, 3, 6, seed=1, dtype=torch.float64)
    for basis in (None, torch.linalg.qr(random(2, 1, 3, 4, 4, dtype=torch.float64))[0]):
        generators = planar_generators(frequencies, basis)  # [A, L, H, N, K, K]
        table = rotations(positions, generators).transpose(0, 1)  # [L, T, H, N, K, K]
        turned = full_rotations(planar_rotations(positions, frequencies, basis), 12)
        torch.testing.assert_close(turned, diagonal(table, 12))
