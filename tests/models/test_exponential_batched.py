"""The exponential of all positions at once, as a GPU computes it; here on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.exponential_calls import GRIDS, Meter, measure
from models.rotations import batched, chunked
from models.rotations.exponential import CACHEFUL, WHOLE, default_chunk, exponential, exponentials
from models.rotations.rays import find_rays, order_by_power
from models.rotations.skew import skew
from tests.models.test_exponential import grid_positions, random

CPU = torch.device("cpu")


def both_passes(
    positions: Tensor, generators: Tensor, seen: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """The table, and the gradient of its product with ``seen``."""
    leaf = generators.clone().requires_grad_()
    table = exponentials(positions, leaf, chunk)
    return table.detach(), torch.autograd.grad((table * seen).sum(), leaf)[0]


def positions_of(kind: str) -> Tensor:
    sizes = {"grid": (3, 5), "long": (40,), "clip": (3, 4, 5), "moved": (3, 4), "origin": (1, 1)}
    positions = grid_positions(*sizes[kind], prefix=1) / 5
    return positions + 0.03 * random(*positions.shape) if kind == "moved" else positions


@pytest.mark.parametrize("norm", [0.0, 1e-30, 1e-3, 1.0, 300.0])
@pytest.mark.parametrize("block", [3, 8])
@pytest.mark.parametrize("kind", ["grid", "long", "clip", "moved", "origin"])
def test_all_at_once_equals_a_cacheful_at_a_time(kind: str, block: int, norm: float) -> None:
    """Table and gradient, from small norms to large, on rays and off them, with layers first."""
    positions = positions_of(kind)
    axes, tokens = positions.shape[1], len(positions)
    generators = norm * skew(random(axes, 2, 3, block * (block - 1) // 2, seed=3), block)
    seen = random(2, tokens, 3, block, block, seed=4).transpose(0, 1)
    table, gradient = both_passes(positions, generators, seen, WHOLE)
    expected, wanted = both_passes(positions, generators, seen, CACHEFUL)
    length = generators.flatten(-2).norm(dim=-1).max().item() * positions.abs().max().item()
    torch.testing.assert_close(table, expected, rtol=0, atol=5e-7 * (1 + length))
    scale = wanted.abs().max().item()
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-6 * (1 + length) * scale)


def test_a_block_of_a_whole_head_equals_a_cacheful_at_a_time() -> None:
    """Block 64 as published, norm 160 and more."""
    positions = grid_positions(2, 3, prefix=1) / 2
    entries = torch.empty(2, 1, 1, 64 * 63 // 2).uniform_(0, 6.28)
    seen = random(7, 1, 1, 64, 64)
    results = [both_passes(positions, skew(entries, 64), seen, way) for way in (WHOLE, CACHEFUL)]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * other.abs().max().item())


def test_the_origin_is_exactly_the_identity() -> None:
    """Whatever the generators are, and though all else is not finite."""
    generators = torch.full((2, 3, 8, 8), torch.inf)
    table = exponentials(grid_positions(2, 3, prefix=2), generators, WHOLE)
    assert torch.equal(table[:3], torch.eye(8).expand(3, 3, 8, 8))
    assert table[3:].isnan().all()


@pytest.mark.parametrize("value", [torch.inf, torch.nan, 1e30, 1.01 * batched.LARGEST_NORM])
def test_what_squarings_do_not_reach_is_nan(value: float) -> None:
    """Never a wrong rotation; its neighbours are spared, in both passes."""
    entries = torch.zeros(4, 28)
    entries[1, 0] = value
    entries[2, 0] = 0.99 * batched.LARGEST_NORM
    leaf = skew(entries, 8).requires_grad_()
    table = exponential(leaf, WHOLE)
    table.sum().backward()
    assert leaf.grad is not None
    for matrices in (table, leaf.grad):
        assert matrices.isfinite().flatten(1).all(1).tolist() == [True, False, True, True]
        assert matrices[1].isnan().any()
    exact = torch.linalg.matrix_exp(leaf[2].double())
    assert (table[2] - exact).abs().max().item() < 0.01


# --- calls, memory, and who decides ---------------------------------------------------------------


@pytest.mark.parametrize("size", GRIDS)
def test_calls_and_memory_of_a_step_are_bounded(size: tuple[int, ...]) -> None:
    """At most 400 calls forward and backward, none that a host waits for, six tables of memory."""
    counted = measure(size, block=8, layers=1)
    assert counted["calls"] <= 400
    assert counted["waiting"] == 0
    assert max(counted["memory_forward"], counted["memory_backward"]) <= 6


def test_the_meter_counts_what_loops_call() -> None:
    """A cacheful at a time takes thousands of calls at the same grid, and reads norms."""
    counted = measure((8, 14), block=8, layers=1, chunk=CACHEFUL)
    assert counted["calls"] > 400


def test_the_same_calls_whatever_the_norms() -> None:
    """No value decides what is called: a GPU gets its work without being asked for one."""
    positions = grid_positions(3, 5) / 4
    seen = []
    for norm in (0.0, 1.0, 1e4, torch.nan):
        generators = (norm * skew(random(2, 3, 28), 8)).requires_grad_()
        with Meter() as meter:
            exponentials(positions, generators, WHOLE).sum().backward()
        seen.append(meter.take().calls)
    assert seen[0].total() > 50
    assert all(calls == seen[0] for calls in seen)


def test_each_device_has_its_chunk() -> None:
    """A CPU has caches; a GPU gets everything at once."""
    assert default_chunk(CPU) == CACHEFUL
    assert default_chunk(torch.device("cuda")) == WHOLE


# --- what is remembered of positions --------------------------------------------------------------


def test_rays_are_remembered_by_value() -> None:
    """The same values anywhere give the same answer; a tensor that changed in place does not."""
    positions = grid_positions(4, 6)
    rays = find_rays(positions)
    assert find_rays(positions.double()) is rays
    positions[1] += 0.3
    assert find_rays(positions) == [[token] for token in range(1, 24)]
    assert find_rays(grid_positions(6, 4)) != rays


@pytest.mark.parametrize("kind", ["grid", "long", "clip", "moved", "origin"])
def test_the_order_by_power_holds_every_ray(kind: str) -> None:
    """Every token is found in it again, at its power behind the first one of its ray."""
    positions = positions_of(kind)
    order = order_by_power(positions, CPU)
    moved = positions.any(1)
    assert sum(order.counts) == len(order.tokens) == moved.sum()
    assert torch.equal(order.tokens[order.places[moved]], moved.nonzero()[:, 0])
    assert (order.places[~moved] == len(order.tokens)).all()
    for power, tokens in enumerate(order.tokens.split(order.counts), start=1):
        torch.testing.assert_close(positions[tokens], power * order.firsts[: len(tokens)])


def test_what_is_remembered_from_inference_serves_training() -> None:
    """An evaluation that comes before the first step does no harm to its gradients."""
    positions, generators = grid_positions(2, 7) / 3, skew(random(2, 3, 28), 8)
    with torch.inference_mode():
        first = exponentials(positions, generators, WHOLE)
    table, gradient = both_passes(positions, generators, torch.ones(14, 3, 8, 8), WHOLE)
    assert torch.equal(table, first)
    assert gradient.any()


# --- precision and compilers ----------------------------------------------------------------------


def precision_of_products() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]


@pytest.mark.parametrize("chunk", [WHOLE, CACHEFUL])
def test_products_are_float32_whatever_is_allowed(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither autocast nor a lower precision of products goes in; both are as before after it."""
    module = batched if chunk == WHOLE else chunked
    seen: list[str | bool] = []

    def look(positions: Tensor, generators: Tensor, *_: int) -> Tensor:
        seen.append(precision_of_products())
        seen.append(torch.is_autocast_enabled("cpu"))
        return torch.zeros(len(positions), *generators.shape[1:])

    monkeypatch.setattr(module, "exponentials", look)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            exponentials(grid_positions(2, 3), torch.zeros(2, 8, 8), chunk)
            assert torch.is_autocast_enabled("cpu")
        assert precision_of_products() == "bf16"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == ["ieee", False]


def test_a_compiler_knows_where_the_table_is() -> None:
    """Positions on the CPU and generators elsewhere give a table elsewhere, without any values."""
    generators = torch.empty(2, 4, 8, 8, device="meta", requires_grad=True)
    table = exponentials(torch.empty(6, 2), generators)
    assert (table.shape, table.device.type) == ((6, 4, 8, 8), "meta")
    table.sum().backward()
    assert generators.grad is not None
    assert generators.grad.shape == generators.shape
    with FakeTensorMode():
        on_gpu = exponentials(torch.empty(6, 2), torch.empty(2, 4, 8, 8, device="cuda"))
        assert on_gpu.device.type == "cuda"


def test_the_operators_keep_their_promises_all_at_once() -> None:
    """Shapes without values, no aliases, a registered gradient: torch's own checks."""
    generators = skew(random(2, 4, 6), 4).requires_grad_()
    torch.library.opcheck(torch.ops.liere.exponentials, (grid_positions(3, 2), generators, WHOLE))
