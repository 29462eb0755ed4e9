"""Rotations: skew-symmetric generators, their exponential, and turning queries and keys."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.rotations import CHUNK_ELEMENTS, apply_rotations, exponential, rotations, skew

BLOCKS = (2, 3, 4, 8, 16, 64)
#: Frobenius norms: nothing, far below and far above the radius of one Taylor polynomial.
NORMS = (0.0, 1e-30, 1e-3, 0.5, 3.0, 40.0)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def skew_matrices(count: int, block: int, norm: float, seed: int = 0) -> Tensor:
    """Float64 [count, K, K], each with the given Frobenius norm."""
    matrices = skew(random(count, block * (block - 1) // 2, seed=seed, dtype=torch.float64), block)
    return matrices * (norm / matrices.square().sum((-2, -1), keepdim=True).sqrt())


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


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("block", BLOCKS)
def test_exponential_equals_the_float64_exponential(block: int, norm: float) -> None:
    """The float32 exponential stays within float32 rounding of torch's in float64."""
    matrices = skew_matrices(5, block, norm)
    expected = torch.linalg.matrix_exp(matrices)
    difference = (exponential(matrices.float()) - expected).abs().max().item()
    assert difference < 2e-6 * (1 + norm), f"largest difference {difference:.2e}"


@pytest.mark.parametrize("block", BLOCKS)
def test_exponential_of_zero_is_exactly_the_identity(block: int) -> None:
    """A token at the origin is not turned at all, not even by a rounding error."""
    zero = torch.zeros(2, 3, block, block)
    assert torch.equal(exponential(zero), torch.eye(block).expand(2, 3, block, block))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("block", BLOCKS)
def test_exponential_gradient_equals_the_float64_gradient(block: int, norm: float) -> None:
    """Gradients of the entries agree with autograd through torch's exponential in float64."""
    matrices = skew_matrices(3, block, norm)
    rows, columns = torch.triu_indices(block, block, offset=1)
    entries = matrices[:, rows, columns]
    seen = random(3, block, block, seed=1, dtype=torch.float64)
    exact = entries.clone().requires_grad_()
    (torch.linalg.matrix_exp(skew(exact, block)) * seen).sum().backward()
    fast = entries.float().requires_grad_()
    (exponential(skew(fast, block)) * seen.float()).sum().backward()
    assert exact.grad is not None
    assert fast.grad is not None
    scale = exact.grad.abs().max().item()
    difference = (fast.grad - exact.grad).abs().max().item()
    assert difference < 3e-6 * (1 + norm) * scale, f"{difference:.2e} of {scale:.2e}"


def test_exponential_handles_chunks_of_different_size_and_norm() -> None:
    """Matrices that lie in different chunks get their own number of squarings, in order."""
    block = 8
    count = 2 * CHUNK_ELEMENTS // block**2 + 5
    matrices = skew_matrices(count, block, 1.0)
    matrices *= torch.logspace(-3, 1.5, count, dtype=torch.float64)[:, None, None]
    difference = exponential(matrices.float()) - torch.linalg.matrix_exp(matrices)
    assert difference.abs().max().item() < 5e-5


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e30])
def test_exponential_of_what_is_not_finite_is_not_finite(value: float) -> None:
    """A run whose weights diverged sees NaN and stops by its loss; its neighbours are spared."""
    matrices = torch.zeros(3, 8, 8)
    matrices[1, 0, 1], matrices[1, 1, 0] = value, -value
    finite = exponential(matrices).isfinite().all(-1).all(-1)
    assert finite.tolist() == [True, False, True]


@given(
    block=st.sampled_from((2, 3, 4, 8)),
    scale=st.floats(0, 50, allow_subnormal=False),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
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


@pytest.mark.parametrize(("table_heads", "block"), [(3, 2), (3, 4), (1, 4), (3, 12), (1, 12)])
def test_apply_rotations_equals_a_plain_loop(table_heads: int, block: int) -> None:
    """Each block of each head of each token is multiplied by its own rotation, shared or not."""
    batch, tokens, heads, head_dim = 2, 5, 3, 12
    blocks = head_dim // block
    x = random(batch, tokens, heads, head_dim)
    table = random(tokens, table_heads, blocks, block, block, seed=1)
    expected = torch.empty_like(x)
    for token in range(tokens):
        for head in range(heads):
            for index in range(blocks):
                part = slice(index * block, (index + 1) * block)
                rotation = table[token, head if table_heads > 1 else 0, index]
                for item in range(batch):
                    expected[item, token, head, part] = rotation @ x[item, token, head, part]
    torch.testing.assert_close(apply_rotations(x, table), expected)


def test_apply_rotations_differentiates_like_an_einsum() -> None:
    """Gradients of the input and of a table shared by all heads are those of the definition."""
    x, table = random(2, 5, 3, 12), random(5, 1, 3, 4, 4, seed=1)
    seen = random(2, 5, 3, 12, seed=2)

    def gradients(plain: bool) -> tuple[Tensor, ...]:
        leaves = x.clone().requires_grad_(), table.clone().requires_grad_()
        if plain:
            wide = leaves[1].expand(5, 3, 3, 4, 4)
            parts = leaves[0].unflatten(-1, (3, 4))  # [B, T, H, N, K]
            turned = torch.einsum("thnij,bthnj->bthni", wide, parts).flatten(-2)
        else:
            turned = apply_rotations(*leaves)
        return torch.autograd.grad((turned * seen).sum(), leaves)

    for fast, plain in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(fast, plain)


def test_apply_rotations_keeps_the_precision_of_its_input() -> None:
    """A bfloat16 query stays bfloat16: the table is cast once, the result is not widened."""
    x, table = random(2, 5, 3, 8).bfloat16(), random(5, 3, 2, 4, 4)
    turned = apply_rotations(x, table)
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(
        turned.float(), apply_rotations(x.float(), table), rtol=0.05, atol=0.05
    )
