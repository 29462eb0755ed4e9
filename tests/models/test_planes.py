"""Planes of skew-symmetric matrices: angles, basis, and gradients through them."""

from __future__ import annotations

import pytest
import torch
from scipy.linalg import expm
from torch import Tensor

from models.rotations.planes import skew_planes
from models.rotations.skew import skew

SIDES = (2, 4, 8, 16)
#: Angles of four planes: distinct, coinciding, zero, far apart, and all but zero.
SPECTRA = (
    (3.0, 2.0, 1.0, 0.5),
    (1.0, 1.0, 1.0, 1.0),
    (2.0, 1.0, 1.0, 0.0),
    (1.0, 1.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 0.0),
    (1e8, 1.0, 1e-8, 0.0),
    (1.0, 1e-9, 1e-9, 1e-16),
    (1e-13, 1e-13, 1e-13, 0.0),
)
DEGENERATE = SPECTRA[1:5]


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def skew_matrices(*batch: int, side: int = 8, seed: int = 0) -> Tensor:
    """Float64 [*batch, K, K]."""
    return skew(random(*batch, side * (side - 1) // 2, seed=seed), side)


def planar(angles: Tensor, basis: Tensor) -> Tensor:
    """Q (sum of w_i J) Q^T, written plane by plane: [..., K, K]."""
    total = torch.zeros_like(basis)
    for i in range(angles.shape[-1]):
        even, odd = basis[..., 2 * i, None], basis[..., 2 * i + 1, None]  # [..., K, 1] each
        total = total + angles[..., i, None, None] * (odd @ even.mT - even @ odd.mT)
    return total


def with_spectrum(spectrum: tuple[float, ...], count: int = 20) -> Tensor:
    """Float64 skew-symmetric [count, 8, 8] with the given angles in random planes."""
    basis = torch.linalg.qr(random(count, 8, 8, seed=3)).Q
    matrices = planar(torch.tensor(spectrum, dtype=torch.float64).expand(count, 4), basis)
    return (matrices - matrices.mT) / 2


def seen_through(matrices: Tensor, seen: Tensor, scales: Tensor) -> Tensor:
    """A loss of exp(s B) for several s, by way of the planes; seen [S, M, K, K]."""
    angles, basis = skew_planes(matrices)
    total = torch.zeros((), dtype=matrices.dtype)
    for scale, weight in zip(scales, seen, strict=True):
        wide = (scale * angles).repeat_interleave(2, -1)[..., None, :]  # [M, 1, K]
        quarter = torch.stack([basis[..., 1::2], -basis[..., 0::2]], -1).flatten(-2)  # Q J
        total = total + ((basis * wide.cos() + quarter * wide.sin()) @ basis.mT * weight).sum()
    return total


def gradients(matrices: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of one loss, through the planes in ``dtype`` and through matrix_exp in float64."""
    scales = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    seen = random(3, *matrices.shape, seed=5)
    leaf = matrices.to(dtype, copy=True).requires_grad_()
    seen_through(leaf, seen.to(dtype), scales.to(dtype)).backward()
    exact = matrices.clone().requires_grad_()
    whole = torch.linalg.matrix_exp(scales[:, None, None, None] * exact)
    (whole * seen).sum().backward()
    assert leaf.grad is not None
    assert exact.grad is not None
    return leaf.grad.double(), (exact.grad - exact.grad.mT) / 2


@pytest.mark.parametrize("side", SIDES)
def test_planes_give_the_matrix_and_its_exponential(side: int) -> None:
    """B = Q (sum of w J) Q^T and exp(B) turns each plane by w, as scipy's exponential does."""
    matrices = skew_matrices(3, 5, side=side)
    angles, basis = skew_planes(matrices)
    torch.testing.assert_close(planar(angles, basis), matrices, rtol=0, atol=1e-12)
    quarter = torch.stack([basis[..., 1::2], -basis[..., 0::2]], -1).flatten(-2)
    wide = angles.repeat_interleave(2, -1)[..., None, :]
    whole = (basis * wide.cos() + quarter * wide.sin()) @ basis.mT
    torch.testing.assert_close(whole, torch.from_numpy(expm(matrices.numpy())), rtol=0, atol=1e-12)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_basis_is_orthogonal_whatever_the_angles(spectrum: tuple[float, ...]) -> None:
    """Coinciding, tiny and absent angles are found in falling order, in orthogonal planes."""
    matrices = with_spectrum(spectrum)
    angles, basis = skew_planes(matrices)
    identity = torch.eye(8, dtype=torch.float64)
    assert (basis.mT @ basis - identity).abs().max().item() < 1e-13
    expected = torch.tensor(spectrum, dtype=torch.float64).expand_as(angles)
    torch.testing.assert_close(angles, expected, rtol=0, atol=1e-13 * max(1e-3, spectrum[0]))
    error = (planar(angles, basis) - matrices).abs().max().item()
    assert error <= 1e-14 * max(spectrum), f"{error:.1e}"


def test_planes_are_found_in_float64_and_given_in_the_precision_of_the_matrix() -> None:
    """Float32 loses no more than the last rounding; the same matrix always gives the same Q."""
    matrices = skew_matrices(7).float()
    angles, basis = skew_planes(matrices)
    exact_angles, exact_basis = skew_planes(matrices.double())
    assert torch.equal(angles, exact_angles.float())
    assert torch.equal(basis, exact_basis.float())
    assert all(map(torch.equal, skew_planes(matrices), (angles, basis)))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-4)])
def test_gradient_is_that_of_matrix_exp(side: int, dtype: torch.dtype, tolerance: float) -> None:
    """A loss of exp(s B) has the same gradient through the planes as through the exponential."""
    found, exact = gradients(skew_matrices(30, side=side), dtype)
    error = (found - exact).abs().max().item() / exact.abs().max().item()
    assert error < tolerance, f"{error:.1e}"


@pytest.mark.parametrize("spectrum", DEGENERATE)
def test_gradient_where_planes_coincide_is_a_part_of_the_true_one(
    spectrum: tuple[float, ...],
) -> None:
    """At coinciding angles, and at B = 0, it is the true gradient on some directions, else 0."""
    found, exact = gradients(with_spectrum(spectrum), torch.float64)
    own, true = found.flatten(1), exact.flatten(1)
    assert own.isfinite().all()
    assert (own.norm(dim=1) > 0.1 * true.norm(dim=1)).all()
    # an orthogonal projection: what is missing is at right angles to what is there
    overlap = (own * (true - own)).sum(1).abs() / true.square().sum(1)
    assert overlap.max().item() < 1e-6


@pytest.mark.parametrize("gap", [1e-3, 1e-5, 1e-7, 1e-9])
def test_gradient_stays_bounded_as_angles_meet(gap: float) -> None:
    """In float32 no closeness of angles lets rounding errors grow beyond the gradient itself."""
    found, exact = gradients(with_spectrum((2.0, 1.0 + gap, 1.0, gap)), torch.float32)
    ratio = (found.norm(dim=(-2, -1)) / exact.norm(dim=(-2, -1))).max().item()
    assert ratio < 1.01, f"{ratio:.3f}"


def test_what_is_not_finite_gives_nan_for_itself_alone() -> None:
    """A run whose weights diverged sees NaN in its loss, not an error; neighbours are spared."""
    matrices = skew_matrices(3)
    expected = skew_planes(matrices)
    matrices[1, 0, 1] = torch.inf
    for result, plain in zip(skew_planes(matrices), expected, strict=True):
        assert result[1].isnan().all()
        assert torch.equal(result[[0, 2]], plain[[0, 2]])


def test_an_odd_side_is_refused() -> None:
    """An odd number of channels is not made of planes, and the message says how many there were."""
    with pytest.raises(ValueError, match="even number of channels, got 3"):
        skew_planes(torch.zeros(2, 3, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_operator_is_registered_soundly(dtype: torch.dtype) -> None:
    """torch's own checks of a custom operator hold: schema, fake tensors, autograd, tracing."""
    matrices = skew_matrices(2, 3, side=4).to(dtype).requires_grad_()
    torch.library.opcheck(torch.ops.liere.skew_planes.default, (matrices,))
