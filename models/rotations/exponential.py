"""The exponential of many small skew-symmetric matrices, and its gradient.

Shapes: T tokens, A coordinates of a position, M matrices a token, K their side. Everything here
runs in float32, outside autocast and without TF32. A compiler sees two opaque operators, which
work a cacheful at a time (``chunked.py``) or on everything at once (``batched.py``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from models.rotations import batched, chunked
from models.transfer import send

#: In place of a chunk: all matrices at once, and no value is read by the host.
WHOLE = 0
#: Matrix elements worked on at a time: small enough for a CPU core's second-level cache.
CACHEFUL = 2**17


def default_chunk(device: torch.device) -> int:
    """Matrix elements worked on at a time: a CPU has caches, all others want few large calls."""
    return CACHEFUL if device.type == "cpu" else WHOLE


def exponential(matrices: Tensor, chunk: int | None = None) -> Tensor:
    """Exponential of skew-symmetric float32 matrices, [..., K, K] -> [..., K, K], orthogonal.

    The gradient is the skew-symmetric part: all that skew-symmetric input can see.
    """
    return exponentials(torch.ones(1, 1), matrices[None], chunk)[0]


def exponentials(positions: Tensor, generators: Tensor, chunk: int | None = None) -> Tensor:
    """``exp(sum_a position_a * generator_a)``, differentiable with respect to the generators.

    Side 2 is a cosine and a sine. Else scaling and squaring around a degree-8 Taylor polynomial in
    three products (Bader, Blanes and Casas 2019, equation 15). Positions that are multiples of
    another one, as four of ten are on a square grid, get its powers, at one product each. The
    backward pass recomputes instead of storing, and works in the Lie algebra, where a squaring
    costs two products.

    Args:
        positions: float32 [T, A], on the CPU, since their values decide what is multiplied with
            what; wherever else they are, each pass waits for the device once.
        generators: float32 [A, ..., K, K], skew-symmetric.
        chunk: matrix elements worked on at a time, or ``WHOLE``; by default as the generators'
            device likes it. ``WHOLE`` squares all matrices equally often; beyond
            ``batched.LARGEST_NORM``, a hundred times what published ones begin with, they are NaN.

    Returns:
        [T, ..., K, K], orthogonal, on the generators' device; exactly the identity at the origin.
    """
    if generators.shape[-1] == 2:
        return _planes(send(positions, generators.device), generators)
    chunk = default_chunk(generators.device) if chunk is None else chunk
    return torch.ops.liere.exponentials(positions, generators, chunk)


def _planes(positions: Tensor, generators: Tensor) -> Tensor:
    """[T, A], [A, ..., 2, 2] -> [T, ..., 2, 2]; no product that autocast would round."""
    entries = (generators[..., 1, 0] - generators[..., 0, 1]).flatten(1) / 2  # [A, M]
    angles = (positions[..., None] * entries).sum(1)  # [T, M]
    cosine, sine = angles.cos(), angles.sin()
    rows = torch.stack([cosine, -sine, sine, cosine], dim=-1)  # [T, M, 4]
    return rows.view(len(positions), *generators.shape[1:])


# --- the operators ------------------------------------------------------------------------------
# Not by torch.library.custom_op, whose first call loads the compiler: a second and 90 MB.

TABLE = "(Tensor positions, Tensor generators, int chunk) -> Tensor"
GRADIENT = (
    "(Tensor positions, Tensor generators, Tensor table, Tensor gradient, int chunk) -> Tensor"
)
torch.library.define("liere::exponentials", TABLE)
torch.library.define("liere::exponentials_gradient", GRADIENT)


@torch.library.impl("liere::exponentials", "default")
def _exponentials(positions: Tensor, generators: Tensor, chunk: int) -> Tensor:
    """[T, A], [A, ..., K, K] -> [T, ..., K, K]."""
    with _whole_float32(generators.device):
        if chunk == WHOLE:
            return batched.exponentials(positions, generators)
        return chunked.exponentials(positions, generators, chunk)


@torch.library.impl("liere::exponentials_gradient", "default")
def _gradient(
    positions: Tensor, generators: Tensor, table: Tensor, gradient: Tensor, chunk: int
) -> Tensor:
    """With respect to the generators, [A, ..., K, K]; ``table`` is what came of them."""
    with _whole_float32(generators.device):
        if chunk == WHOLE:
            return batched.gradient(positions, generators, table, gradient)
        return chunked.gradient(positions, generators, table, gradient, chunk)


@torch.library.register_fake("liere::exponentials")
def _(positions: Tensor, generators: Tensor, chunk: int) -> Tensor:
    return generators.new_empty(len(positions), *generators.shape[1:])


@torch.library.register_fake("liere::exponentials_gradient")
def _(positions: Tensor, generators: Tensor, table: Tensor, gradient: Tensor, chunk: int) -> Tensor:
    return generators.new_empty(generators.shape)


def _keep(ctx, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    positions, generators, ctx.chunk = inputs
    ctx.save_for_backward(positions, generators, output)


def _backward(ctx, gradient: Tensor) -> tuple[None, Tensor, None]:
    asked = torch.ops.liere.exponentials_gradient(*ctx.saved_tensors, gradient, ctx.chunk)
    return None, asked, None


torch.library.register_autograd("liere::exponentials", _backward, setup_context=_keep)


@contextlib.contextmanager
def _whole_float32(device: torch.device) -> Iterator[None]:
    """Products of float32 are float32: neither autocast nor TF32 nor what a CPU has of the kind.

    Sixteen squarings in TF32's ten bits would leave no digit of a rotation.
    """
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    allowed = backend.matmul.fp32_precision
    reduced = allowed not in ("none", "ieee")
    try:
        if reduced:
            backend.matmul.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        if reduced:
            backend.matmul.fp32_precision = allowed
