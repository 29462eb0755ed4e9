"""The exponential of skew-symmetric matrices: exact, differentiable, traceable."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.rotations.exponential import CACHEFUL, exponential, exponentials
from models.rotations.rays import HIGHEST_POWER, find_rays
from models.rotations.skew import skew

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
    """Every matrix gets its own number of squarings, whatever lies beside it, in order."""
    block = 8
    count = 2 * CACHEFUL // block**2 + 5
    matrices = skew_matrices(count, block, 1.0)
    norms = torch.logspace(-3, 1.5, count, dtype=torch.float64)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(2))
    matrices *= norms[order][:, None, None]
    difference = exponential(matrices.float()) - torch.linalg.matrix_exp(matrices)
    assert difference.abs().max().item() < 5e-5


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results and gradients do not depend on how many matrices are worked on at a time."""
    positions, generators = grid_positions(3, 2), skew(random(2, 7, 28), 8)
    seen = random(6, 7, 8, 8, seed=1)

    def both(chunk: int) -> tuple[Tensor, Tensor]:
        leaf = generators.clone().requires_grad_()
        table = exponentials(positions, leaf, chunk)
        return table.detach(), torch.autograd.grad((table * seen).sum(), leaf)[0]

    large = both(CACHEFUL)
    monkeypatch.setattr("models.rotations.chunked.GROUP_ELEMENTS", 2 * 7 * 8 * 8)
    for one, other in zip(both(3 * 8 * 8), large, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e30])
def test_exponential_of_what_is_not_finite_is_not_finite(value: float) -> None:
    """A run whose weights diverged sees NaN and stops by its loss; its neighbours are spared."""
    matrices = torch.zeros(3, 8, 8)
    matrices[1, 0, 1], matrices[1, 1, 0] = value, -value
    finite = exponential(matrices).isfinite().all(-1).all(-1)
    assert finite.tolist() == [True, False, True]


# --- the published initialisation ---------------------------------------------------------------


def published(block: int, scale: float) -> tuple[Tensor, Tensor]:
    """Positions [65, 2] of an 8x8 grid and a class token, generators [2, M, K, K] as drawn."""
    entries = torch.empty(2, 256 // block, block * (block - 1) // 2)
    entries.uniform_(0, 2 * math.pi, generator=torch.Generator().manual_seed(0))
    return grid_positions(8, 8, prefix=1) / 7, scale * skew(entries, block)


@pytest.mark.parametrize("block", [4, 8, 16, 32, 64])
def test_error_is_at_most_that_of_matrix_exp(block: int) -> None:
    """At the published initialisation, of given matrices as of positions and generators."""
    positions, generators = published(block, 1.0)
    matrices = torch.einsum("ta,amij->tmij", positions, generators).contiguous()
    expected = torch.linalg.matrix_exp(matrices.double())
    allowed = (torch.linalg.matrix_exp(matrices) - expected).abs().max().item()
    error = (exponential(matrices) - expected).abs().max().item()
    assert error <= allowed, f"{error:.2e}, torch {allowed:.2e}"
    error = (exponentials(positions, generators) - expected).abs().max().item()
    assert error <= allowed, f"on the grid {error:.2e}, torch {allowed:.2e}"


@pytest.mark.parametrize("block", [4, 8, 16, 32, 64])
def test_error_is_small_at_four_times_the_published_norm(block: int) -> None:
    """At most 5e-5, which no longer training is expected to reach."""
    positions, generators = published(block, 4.0)
    matrices = torch.einsum("ta,amij->tmij", positions, generators).contiguous()
    expected = torch.linalg.matrix_exp(matrices.double())
    assert (exponential(matrices) - expected).abs().max().item() <= 5e-5
    exact = torch.einsum("ta,amij->tmij", positions.double(), generators.double()).contiguous()
    difference = exponentials(positions, generators) - torch.linalg.matrix_exp(exact)
    assert difference.abs().max().item() <= 5e-5


# --- positions on rays --------------------------------------------------------------------------


def grid_positions(*size: int, prefix: int = 0) -> Tensor:
    """Indices [prefix + T, A], after ``prefix`` tokens at the origin."""
    mesh = torch.meshgrid([torch.arange(float(side)) for side in size], indexing="ij")
    tokens = torch.stack(mesh, dim=-1).flatten(0, -2)
    return torch.cat([torch.zeros(prefix, len(size)), tokens])


@pytest.mark.parametrize("size", [(7,), (40,), (5, 8), (1, 6), (3, 4, 5), (2, 3, 2, 3)])
@pytest.mark.parametrize("unit", [1.0, 1 / 7, 0.1])
def test_rays_hold_every_moved_token_once(size: tuple[int, ...], unit: float) -> None:
    """The k-th token of a ray stands at k times the first one's position."""
    positions = grid_positions(*size, prefix=2) * unit
    rays = find_rays(positions)
    assert sorted(sum(rays, [])) == positions.any(1).nonzero()[:, 0].tolist()
    for ray in rays:
        steps = torch.arange(1.0, len(ray) + 1)[:, None]
        torch.testing.assert_close(positions[ray], steps * positions[ray[0]])
    assert max(map(len, rays)) == min(HIGHEST_POWER, max(size) - 1)


def test_rays_of_a_square_grid_are_few() -> None:
    """Of the 63 tokens of 8x8 that are turned at all, 37 need an exponential of their own."""
    assert len(find_rays(grid_positions(8, 8, prefix=1) / 7)) == 37


def test_rays_go_in_both_directions() -> None:
    """Coordinates around a centre: p and -p are no powers of each other, 2 p and p are."""
    positions = torch.tensor([[-1.0], [-0.5], [0.0], [0.5], [1.0]])
    assert sorted(find_rays(positions)) == [[1, 0], [3, 4]]


@pytest.mark.parametrize(
    "positions",
    [
        [[0.0, 0.0], [0.1, 0.2], [0.21, 0.4]],  # moved off the grid
        [[2.0, 0.0], [3.0, 0.0], [5.0, 0.0]],  # no multiples of the smallest
        [[3.0, 3.0], [1.0, 3.0], [3.0, 1.0]],  # multiples whose first is missing
        [[1.0, 2.0], [1.0, 2.0], [1.0, 0.0]],  # two at the same place
    ],
)
def test_tokens_on_no_ray_are_alone(positions: list[list[float]]) -> None:
    """A token whose place is no power of another one has an exponential of its own."""
    rays = find_rays(torch.tensor(positions))
    moved = [[token] for token, place in enumerate(positions) if any(place)]
    assert sorted(rays) == moved


@pytest.mark.parametrize("block", [2, 3, 8])
@pytest.mark.parametrize("kind", ["grid", "long", "clip", "moved"])
def test_exponentials_equal_the_float64_ones(kind: str, block: int) -> None:
    """Values and gradients, on rays and off them, agree with torch's exponential in float64."""
    sizes = {"grid": (5, 8), "long": (40,), "clip": (3, 4, 5), "moved": (5, 4)}
    positions = grid_positions(*sizes[kind], prefix=1) / 5
    if kind == "moved":
        positions = positions + 0.03 * random(*positions.shape)
    axes, tokens = positions.shape[1], len(positions)
    entries = random(axes, 2, 3, block * (block - 1) // 2, seed=3)
    seen = random(tokens, 2, 3, block, block, seed=4)
    exact, fast = entries.double().requires_grad_(), entries.clone().requires_grad_()
    exponents = (positions.double() @ skew(exact, block).flatten(1)).unflatten(
        1, (2, 3, block, block)
    )
    expected = torch.linalg.matrix_exp(exponents)
    table = exponentials(positions, skew(fast, block))
    torch.testing.assert_close(table.double(), expected, rtol=0, atol=1e-5)
    (expected * seen).sum().backward()
    (table * seen).sum().backward()
    assert exact.grad is not None
    assert fast.grad is not None
    scale = exact.grad.abs().max().item()
    assert (fast.grad - exact.grad).abs().max().item() < 2e-5 * scale


# --- precision and compilers --------------------------------------------------------------------


@pytest.mark.parametrize("block", [2, 8])
def test_autocast_changes_neither_result_nor_gradient(block: int) -> None:
    """Both passes stay float32, to the last bit, where everything around them is bfloat16."""
    entries = random(3, block * (block - 1) // 2)
    seen = random(3, block, block, seed=1)
    results = []
    for enabled in (False, True):
        leaf = entries.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            table = exponential(skew(leaf, block))
            (table * seen).sum().backward()
        assert table.dtype == torch.float32
        assert leaf.grad is not None
        results.append((table, leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("block", [2, 8])
def test_a_compiler_traces_it_in_one_graph(block: int) -> None:
    """torch.compile(fullgraph=True) gives the same values and gradients."""
    entries, seen = random(2, 4, block * (block - 1) // 2), random(6, 4, block, block, seed=1)
    positions = grid_positions(3, 2)

    def loss(leaf: Tensor) -> Tensor:
        return (exponentials(positions, skew(leaf, block)) * seen).sum()

    traced = torch.compile(loss, fullgraph=True, backend="aot_eager")
    leaves = [entries.clone().requires_grad_() for _ in range(2)]
    values = [way(leaf) for way, leaf in zip((loss, traced), leaves, strict=True)]
    for value in values:
        value.backward()
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


def test_the_operators_keep_what_they_promise_to_a_compiler() -> None:
    """Shapes without values, no aliases, a registered gradient: torch's own checks."""
    generators = skew(random(2, 4, 6), 4).requires_grad_()
    torch.library.opcheck(
        torch.ops.liere.exponentials, (grid_positions(3, 2), generators, CACHEFUL)
    )
