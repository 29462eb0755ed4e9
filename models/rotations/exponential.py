"""The exponential of many small skew-symmetric matrices, and its gradient.

Shapes: T tokens, A coordinates of a position, M matrices a token, K their side. Everything here
runs in float32 and outside autocast. A compiler sees two opaque operators, since what they do
depends on the norms of their input.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from models.rotations.rays import find_rays

#: Matrix elements worked on at a time: small enough for a core's second-level cache.
CHUNK_ELEMENTS = 2**17
#: Matrix elements that the backward pass has room for beside the table and its gradient.
GROUP_ELEMENTS = 2**22
#: Largest spectral norm for which the degree-8 Taylor polynomial is exact to float32 rounding
#: (remainder theta^9 / 9! below 2^-24).
TAYLOR_RADIUS = 0.65
#: Terms of the commutator series in the backward pass; the next is below 1e-5 at that radius.
COMMUTATOR_TERMS = 9
#: Squarings that bring any finite float32 norm inside the radius are fewer.
MANY = 140


def exponential(matrices: Tensor) -> Tensor:
    """Exponential of skew-symmetric float32 matrices, [..., K, K] -> [..., K, K], orthogonal.

    The gradient is the skew-symmetric part: all that skew-symmetric input can see.
    """
    return exponentials(matrices.new_ones(1, 1), matrices[None])[0]


def exponentials(positions: Tensor, generators: Tensor) -> Tensor:
    """``exp(sum_a position_a * generator_a)``, differentiable with respect to the generators.

    Side 2 is a cosine and a sine. Else scaling and squaring around a degree-8 Taylor polynomial in
    three products (Bader, Blanes and Casas 2019, equation 15), each matrix with as many squarings
    as its own norm asks for. Positions that are multiples of another one, as four of ten are on a
    square grid, get its powers, at one product each. The backward pass recomputes instead
    of storing, and works in the Lie algebra, where a squaring costs two products.

    Args:
        positions: float32 [T, A].
        generators: float32 [A, ..., K, K], skew-symmetric.

    Returns:
        [T, ..., K, K], orthogonal; exactly the identity at the origin.
    """
    if generators.shape[-1] == 2:
        return _planes(positions, generators)
    return torch.ops.liere.exponentials(positions, generators)


def _planes(positions: Tensor, generators: Tensor) -> Tensor:
    """[T, A], [A, ..., 2, 2] -> [T, ..., 2, 2]; no product that autocast would round."""
    entries = (generators[..., 1, 0] - generators[..., 0, 1]).flatten(1) / 2  # [A, M]
    angles = (positions[..., None] * entries).sum(1)  # [T, M]
    cosine, sine = angles.cos(), angles.sin()
    rows = torch.stack([cosine, -sine, sine, cosine], dim=-1)  # [T, M, 4]
    return rows.view(len(positions), *generators.shape[1:])


# --- the operators ------------------------------------------------------------------------------
# Not by torch.library.custom_op, whose first call loads the compiler: a second and 90 MB.

TABLE = "(Tensor positions, Tensor generators) -> Tensor"
GRADIENT = "(Tensor positions, Tensor generators, Tensor table, Tensor gradient) -> Tensor"
torch.library.define("liere::exponentials", TABLE)
torch.library.define("liere::exponentials_gradient", GRADIENT)


@torch.library.impl("liere::exponentials", "default")
def _exponentials(positions: Tensor, generators: Tensor) -> Tensor:
    """[T, A], [A, ..., K, K] -> [T, ..., K, K]."""
    rays = find_rays(positions)
    with torch.autocast(positions.device.type, enabled=False):
        table = _exponents(positions, generators)  # [T, M, K, K]; exponentials take their place
        flat = table.flatten(0, 1)  # [T M, K, K]
        for rows, squarings in _alike(flat, _rows([ray[0] for ray in rays], table)):
            small = flat.index_select(0, rows).mul_(2.0**-squarings)
            flat.index_copy_(0, rows, _squared(small, squarings))
        for ray in rays:
            for before, token in itertools.pairwise(ray):
                torch.bmm(table[before], table[ray[0]], out=table[token])
    table[~positions.any(1)] = torch.eye(table.shape[-1], device=table.device)
    return table.view(-1, *generators.shape[1:])


@torch.library.impl("liere::exponentials_gradient", "default")
def _gradient(positions: Tensor, generators: Tensor, table: Tensor, gradient: Tensor) -> Tensor:
    """With respect to the generators, [A, ..., K, K]; ``table`` is what came of them."""
    rays = find_rays(positions)
    result = torch.zeros_like(generators).flatten(1)  # [A, M K K]
    step = max(1, GROUP_ELEMENTS // table[0].numel())
    with torch.autocast(positions.device.type, enabled=False):
        for start in range(0, len(rays), step):
            group = rays[start : start + step]
            firsts = positions[[ray[0] for ray in group]]  # [F, A]
            values = _gather_all(group, table, gradient)  # [F, M, K, K]
            asked = _pull_all(_exponents(firsts, generators), values)
            result.addmm_(firsts.T, asked.flatten(1))
    return result.view(generators.shape)


def _pull_all(exponents: Tensor, values: Tensor) -> Tensor:
    """From values of the Lie algebra to exponents, in whose place they come; [F, M, K, K]."""
    flat, values = exponents.flatten(0, 1), values.flatten(0, 1)  # [F M, K, K]
    for rows, squarings in _alike(flat, torch.arange(len(flat), device=flat.device)):
        small = flat.index_select(0, rows).mul_(2.0**-squarings)
        pulled = _pull_back(small, squarings, values.index_select(0, rows))
        flat.index_copy_(0, rows, pulled.mul_(2.0**-squarings))
    return exponents


@torch.library.register_fake("liere::exponentials")
def _(positions: Tensor, generators: Tensor) -> Tensor:
    return generators.new_empty(len(positions), *generators.shape[1:])


@torch.library.register_fake("liere::exponentials_gradient")
def _(positions: Tensor, generators: Tensor, table: Tensor, gradient: Tensor) -> Tensor:
    return generators.new_empty(generators.shape)


def _backward(ctx, gradient: Tensor) -> tuple[None, Tensor]:
    return None, torch.ops.liere.exponentials_gradient(*ctx.saved_tensors, gradient)


torch.library.register_autograd(
    "liere::exponentials",
    _backward,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs, output),
)


def _exponents(positions: Tensor, generators: Tensor) -> Tensor:
    """[T, A], [A, ..., K, K] -> [T, M, K, K]."""
    sums = positions @ generators.flatten(1)
    return sums.view(len(positions), -1, *generators.shape[-2:])


# --- rays -------------------------------------------------------------------------------------


def _gather_all(rays: list[list[int]], table: Tensor, gradient: Tensor) -> Tensor:
    """What every ray asks of its first token's exponents: of [T, ..., K, K] each, [F, M, K, K].

    Token by token and a cacheful at a time: a gradient whose layers come first stays as it is.
    """
    side = table.shape[-1]
    values = table.new_empty(len(rays), table[0].numel() // side**2, side, side)
    step = _cacheful(table)
    for value, ray in zip(values, rays, strict=True):
        rotations, asked = ([x[token].flatten(0, -3) for token in ray] for x in (table, gradient))
        for start in range(0, len(value), step):
            part = slice(start, start + step)
            value[part] = _gather([r[part] for r in rotations], [g[part] for g in asked])
    return values


def _gather(powers: list[Tensor], gradients: list[Tensor]) -> Tensor:
    """What the powers of R = exp(X) ask of X, as a value of its Lie algebra.

    With dR = R W, the k-th power turns by sum_(j < k) of R^-j W R^j; transposed, all of them
    together take their gradients V_k to sum_j R^j (sum_(k > j) V_k) R^-j, here by Horner's rule.

    Args:
        powers, gradients: of R, R^2, R^3 and so on, each [M, K, K].

    Returns:
        [M, K, K], skew-symmetric.
    """
    first = powers[0]
    total = value = _in_algebra(powers.pop(), gradients.pop())
    while powers:
        total = total + _in_algebra(powers.pop(), gradients.pop())
        value = torch.baddbmm(total, torch.bmm(first, value), first.mT)
    return value


def _in_algebra(rotation: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with respect to the skew-symmetric W, where dR = R W; [M, K, K]."""
    product = torch.bmm(rotation.mT, gradient)
    return (product - product.mT).mul_(0.5)


# --- one exponential ----------------------------------------------------------------------------


def _rows(tokens: Iterable[int], table: Tensor) -> Tensor:
    """Where the matrices of some tokens are among those of all, [T M, K, K]."""
    count = table.shape[1]
    starts = count * torch.tensor([*tokens], dtype=torch.long, device=table.device)
    return (starts[:, None] + torch.arange(count, device=table.device)).flatten()


def _cacheful(matrices: Tensor) -> int:
    """How many matrices [..., K, K] are worked on at a time; a GPU wants few large calls."""
    elements = CHUNK_ELEMENTS if matrices.device.type == "cpu" else GROUP_ELEMENTS
    return max(1, elements // matrices.shape[-1] ** 2)


def _alike(flat: Tensor, rows: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Those rows of [M, K, K] that need the same number of squarings, a cacheful at a time.

    Eigenvalues of a skew-symmetric matrix come in pairs +-i w, so its spectral norm is at most
    its Frobenius norm / sqrt(2). Nothing helps what is not finite, whose result is NaN.
    """
    norms = torch.linalg.vector_norm(flat, dim=(-2, -1))[rows] / (math.sqrt(2) * TAYLOR_RADIUS)
    halvings = torch.frexp(norms).exponent.clamp(min=0)  # norm = mantissa below 1 * 2^exponent
    ordered, order = torch.where(norms.isfinite(), halvings, 0).sort()
    limits = torch.arange(MANY, dtype=ordered.dtype, device=ordered.device)
    ends = torch.searchsorted(ordered, limits, right=True).tolist()  # one transfer from the device
    step = _cacheful(flat)
    for squarings, (start, end) in enumerate(itertools.pairwise([0, *ends])):
        for first in range(start, end, step):
            yield rows[order[first : min(first + step, end)]], squarings


_ROOT = math.sqrt(177.0)
_X3 = 2.0 / 3.0
_X1 = _X3 * (1 + _ROOT) / 88
_X2 = _X3 * (1 + _ROOT) / 352
_X4 = (-271 + 29 * _ROOT) / (315 * _X3)
_X5 = 11 * (-1 + _ROOT) / (1260 * _X3)
_X6 = 11 * (-9 + _ROOT) / (5040 * _X3)
_X7 = (89 - _ROOT) / (5040 * _X3**2)
_Y2 = (857 - 58 * _ROOT) / 630


def _taylor(small: Tensor) -> Tensor:
    """exp(small) - I, [M, K, K]."""
    x2 = torch.bmm(small, small)
    x4 = torch.bmm(x2, (_X1 * small).add_(x2, alpha=_X2))
    left = torch.add(x4, x2, alpha=_X3)
    right = (_X7 * x4).add_(x2, alpha=_X6).add_(small, alpha=_X5)
    right.diagonal(dim1=1, dim2=2).add_(_X4)
    return torch.add(small, x2, alpha=_Y2).baddbmm_(left, right)


def _squared(small: Tensor, count: int) -> Tensor:
    """exp(2^count small), [M, K, K].

    (I + E)^2 = I + 2 E + E^2: without the ones on the diagonal, whose rounding every squaring
    would double, the result is several times as exact.
    """
    rest = _taylor(small)
    for _ in range(count):
        rest = torch.baddbmm(rest, rest, rest, beta=2)
    rest.diagonal(dim1=1, dim2=2).add_(1.0)
    return rest


def _chain(small: Tensor, count: int) -> list[Tensor]:
    """exp(small), exp(2 small), exp(4 small), ``count`` of them, each [M, K, K]."""
    chain = [_squared(small, 0)] if count else []
    while len(chain) < count:
        chain.append(torch.bmm(chain[-1], chain[-1]))
    return chain


def _pull_back(small: Tensor, count: int, value: Tensor) -> Tensor:
    """From exp(2^count small), as ``_in_algebra`` has it, to ``small``; all [M, K, K] and skew.

    With dR = R W and W skew-symmetric, R -> R R turns W into W + R^T W R, so its transpose
    takes a gradient V to V + R V R^T; and exp takes dX to the series of nested commutators
    sum_n (-1)^n [X, [X, ... dX]] / (n + 1)! (e.g. Hall, Lie Groups, theorem 5.4), whose
    transpose is the same series with plus signs.
    """
    chain = _chain(small, count)
    while chain:
        rotation = chain.pop()
        value = torch.baddbmm(value, torch.bmm(rotation, value), rotation.mT)
    series = value
    for order in range(COMMUTATOR_TERMS, 1, -1):
        # of skew matrices [X, V] = XV - (XV)^T
        half = torch.baddbmm(value, small, series, beta=0.5, alpha=1 / order)
        series = half - half.mT
    return series
