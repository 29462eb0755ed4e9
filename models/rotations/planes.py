"""The planes that skew-symmetric matrices turn, and gradients through them.

Shapes: K side of a matrix, even.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.transfer import send


def skew_planes(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """B = Q (sum of w_i J) Q^T, with J = [[0, -1], [1, 0]] in the plane of columns 2i and 2i + 1.

    Q is not unique: a plane may be turned in itself, and planes with the same w mix. The gradient
    takes losses for granted that do not see this, as all that depend on B alone through exp(s B)
    do. Where two angles coincide, or two are zero, what mixes their planes is left out of it;
    so at B = 0 it is the part of the true gradient that lies in the planes of Q. Planes are
    found in float64 whatever the precision of B; the gradient is taken in the precision of B.

    Args:
        matrices: [..., K, K], skew-symmetric, float32 or float64, K even.

    Returns:
        angles w [..., K / 2], not negative, largest first, and Q [..., K, K], orthogonal; NaN for
        a matrix that is not finite.
    """
    if matrices.shape[-1] % 2:
        raise ValueError(f"planes need an even number of channels, got {matrices.shape[-1]}")
    return torch.ops.liere.skew_planes(matrices)


# --- the operator: see exponential.py for why not by torch.library.custom_op ----------------

torch.library.define("liere::skew_planes", "(Tensor matrices) -> (Tensor, Tensor)")


@torch.library.impl("liere::skew_planes", "default")
def _planes(matrices: Tensor) -> tuple[Tensor, Tensor]:
    finite = matrices.isfinite().all(-1).all(-1)[..., None]  # [..., 1]
    exact = matrices.double().where(finite[..., None], 0.0)
    # B (u + i v) = -i w (u + i v): the upper half of the spectrum of i B holds all of Q
    vectors = torch.linalg.eigh(1j * exact).eigenvectors
    upper = vectors[..., matrices.shape[-1] // 2 :].flip(-1).mH  # [..., K / 2, K], conjugates
    columns = torch.stack([upper.real, -upper.imag], dim=-2).flatten(-3, -2).mT  # [..., K, K]
    # planes with w = 0, the last ones, are not orthogonal yet
    basis = torch.linalg.qr(columns).Q
    even, odd = basis[..., 0::2], basis[..., 1::2]  # [..., K, K / 2] each
    angles = (odd * (exact @ even)).sum(-2)  # [..., K / 2]
    odd *= torch.where(angles < 0, -1.0, 1.0)[..., None, :]
    angles = angles.abs().where(finite, torch.nan)
    basis = basis.where(finite[..., None], torch.nan).contiguous()  # linalg's is by columns
    return angles.to(matrices.dtype), basis.to(matrices.dtype)


@torch.library.register_fake("liere::skew_planes")
def _(matrices: Tensor) -> tuple[Tensor, Tensor]:
    angles = matrices.new_empty(*matrices.shape[:-2], matrices.shape[-1] // 2)
    return angles, torch.empty_like(matrices, memory_format=torch.contiguous_format)


def _keep(ctx, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output)


def _backward(ctx, angles_gradient: Tensor, basis_gradient: Tensor) -> Tensor:
    """Skew-symmetric: all that skew-symmetric input can see.

    With dB = Q X Q^T and dQ = Q Z, X = dW + Z W - W Z for W = sum of w_i J. Block (i, j) of Z
    commutes with J in one part, which X divided by w_j - w_i gives, and anticommutes in the
    other, X divided by w_i + w_j; this is the transpose of that.
    """
    angles, basis = ctx.saved_tensors
    with torch.autocast(basis.device.type, enabled=False):
        wide = angles.repeat_interleave(2, dim=-1)  # [..., K]
        rows, columns = wide[..., :, None], wide[..., None, :]
        floor = torch.finfo(wide.dtype).eps ** 0.5 * wide.amax(-1)[..., None, None]
        turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        quarter = torch.block_diag(*[turn] * (basis.shape[-1] // 2))  # J in every plane, [K, K]
        quarter = send(quarter, basis.device, basis.dtype)
        seen = basis.mT @ basis_gradient
        seen = (seen - seen.mT) / 2  # [..., K, K]
        mirrored = quarter @ seen @ quarter
        apart = (seen - mirrored) / 2 * _inverse(columns - rows, floor)
        together = (seen + mirrored) / 2 * _inverse(columns + rows, floor)
        turned = quarter * angles_gradient.repeat_interleave(2, dim=-1)[..., None] / 2
        return basis @ (quarter @ (apart - together) + turned) @ basis.mT


torch.library.register_autograd("liere::skew_planes", _backward, setup_context=_keep)


def _inverse(values: Tensor, floor: Tensor) -> Tensor:
    """1 / values, fading to 0 below ``floor``, where it would magnify rounding errors."""
    return values / (values.square() + floor.square()).clamp(min=torch.finfo(values.dtype).tiny)
