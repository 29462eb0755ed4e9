"""Each encoding that is fixed or starts from a formula, against that formula written out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from media.spec import Grid
from models.encodings import Encoding, make_encoding, parse_encoding
from models.rotations.apply import turn
from models.spec import ModelSpec
from tests.helpers.rotation_matrices import blocks_of

GRIDS = ((7,), (3, 5), (2, 3, 4))


def make(name: str, grid: tuple[int, ...], head_dim: int = 20, **changes: Any) -> Encoding:
    torch.manual_seed(0)
    values = {"width": 2 * head_dim, "heads": 2, "depth": 3} | changes
    encoding = parse_encoding(name)
    spec = ModelSpec(patch=(2,) * len(grid), grid=grid, encoding=encoding, **values)
    return make_encoding(spec)


def angles_of(encoding: Encoding, grid: tuple[int, ...]) -> Tensor:
    """By how much each pair of channels of the first layer and head is turned, [T, P]."""
    blocks = blocks_of(encoding.rotations(encoding.positions(Grid(grid)), torch.float64))
    assert blocks.shape[-1] == 2
    table = blocks[0, :, 0].detach()  # [T, P, 2, 2]
    return torch.atan2(table[..., 1, 0], table[..., 0, 0])


def wrapped(angles: Any) -> np.ndarray:
    return np.angle(np.exp(1j * np.asarray(angles)))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("name", "base"), [("axial_rope", 1e4), ("axial_rope:base=100", 100.0)])
def test_axial_rope_turns_a_run_of_pairs_for_each_axis(
    name: str, base: float, grid: tuple[int, ...]
) -> None:
    """Pair k of axis a turns by index_a base^(-k / m); what is left over is not turned."""
    larger = tuple(side + 2 for side in grid)
    own = 10 // len(grid)
    expected = np.zeros((*larger, 10))
    for index in np.ndindex(*larger):
        for axis, position in enumerate(index):
            for k in range(own):
                expected[index][axis * own + k] = position / base ** (k / own)
    angles = angles_of(make(name, grid), larger)
    np.testing.assert_allclose(angles, wrapped(expected.reshape(-1, 10)), atol=1e-9)


def test_rope_1d_reads_the_grid_like_a_line() -> None:
    """Pair k of token t turns by t base^(-k / P), at every grid."""
    for grid in ((3, 5), (4, 2), (2, 3, 4)):
        expected = np.arange(math.prod(grid))[:, None] / 10000 ** (np.arange(10) / 10)
        angles = angles_of(make("rope_1d", (3, 5, 2)[: len(grid)]), grid)
        np.testing.assert_allclose(angles, wrapped(expected), atol=1e-9)


# --- DINOv3 ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("normalise", "rows", "columns"),
    [
        ("separate", [-2 / 3, 0, 2 / 3], [-0.8, -0.4, 0, 0.4, 0.8]),
        ("max", [-0.8, -0.4, 0], [-0.8, -0.4, 0, 0.4, 0.8]),
        ("min", [-2 / 3, 0, 2 / 3], [-2 / 3, 0, 2 / 3, 4 / 3, 2]),
    ],
)
def test_dinov3_positions_are_centres_of_patches(
    normalise: str, rows: list[float], columns: list[float]
) -> None:
    """The side that normalises spans [-1, 1] at every grid, whatever the training's."""
    positions = make(f"dinov3_rope:normalise={normalise}", (4, 2)).positions(Grid((3, 5)))
    expected = [[row, column] for row in rows for column in columns]
    np.testing.assert_allclose(positions, expected, atol=1e-12)


def test_dinov3_turns_as_the_published_layout_does() -> None:
    """Pairs (j, j + D / 2) there are pairs (2 j, 2 j + 1) here: one permutation of the channels."""
    head_dim, grid = 20, (3, 5)
    encoding = make("dinov3_rope", grid, head_dim)
    query = torch.randn(2, 15, 2, head_dim)  # [B, T, H, D]
    rotations = encoding.rotations(encoding.positions(Grid(grid)))
    assert rotations is not None
    ours = turn([query], rotations.by_layer(1)[0])[0]
    centres = np.array([[(r + 0.5) / 3, (c + 0.5) / 5] for r in range(3) for c in range(5)])
    periods = 100 ** (2 * np.arange(5) / 10)
    angles = 2 * math.pi * (2 * centres - 1)[..., None] / periods  # [T, 2, D / 4]
    half = torch.from_numpy(angles.reshape(15, 10)).float()[None, :, None]  # [1, T, 1, D / 2]
    order = [*range(0, head_dim, 2), *range(1, head_dim, 2)]  # where theirs has our channels
    first, second = query[..., order].chunk(2, dim=-1)
    theirs = torch.cat(
        [
            first * half.cos() - second * half.sin(),
            second * half.cos() + first * half.sin(),
        ],
        dim=-1,
    )
    torch.testing.assert_close(ours[..., order], theirs, rtol=0, atol=2e-6)


def test_stored_periods_are_part_of_the_state_and_turn_as_they_say() -> None:
    """They begin as those of the base; a file's rounded ones are used as they are."""
    names = "dinov3_rope", "dinov3_rope:periods=stored"
    computed, stored = (make(name, (3, 5), 64) for name in names)
    assert not computed.state_dict()
    assert set(stored.state_dict()) == {"periods"}
    torch.testing.assert_close(frequencies_of(stored), frequencies_of(computed), rtol=1e-6, atol=0)
    rounded = stored.state_dict()["periods"].bfloat16().float()
    stored.load_state_dict({"periods": rounded})
    turned = frequencies_of(stored)[1, 0, 0, 16:]  # of the columns
    torch.testing.assert_close(turned, 2 * math.pi / rounded.double(), rtol=1e-12, atol=0)
    assert (frequencies_of(stored) - frequencies_of(computed)).abs().max().item() > 1e-3


def test_reference_squeezes_the_indices_of_every_grid() -> None:
    """A side of s tokens has i r / s; without a reference i itself."""
    positions = make("axial_rope:reference=4", (3, 5)).positions(Grid((8, 5)))
    expected = [[row / 2, column * 4 / 5] for row, column in np.ndindex(8, 5)]
    np.testing.assert_allclose(positions, expected, rtol=0, atol=1e-15)
    plain = make("axial_rope", (3, 5)).positions(Grid((8, 5)))
    assert plain.tolist() == [list(index) for index in np.ndindex(8, 5)]


# --- RoPE-Mixed ------------------------------------------------------------------------------


def frequencies_of(encoding: Any) -> Tensor:
    """[A, L, H, P] or, of spherical RoPE, [A, L, H, N]."""
    return encoding.frequencies(torch.float64).detach()


def test_rope_mixed_starts_along_two_directions_at_a_right_angle() -> None:
    """Half of a head's pairs turn along a random angle, half along it plus 90 degrees."""
    table = frequencies_of(make("rope_mixed", (3, 5)))
    directions = torch.atan2(table[1], table[0])  # [L, H, P]
    first, second = directions[..., :5], directions[..., 5:]
    torch.testing.assert_close(first, first[..., :1].expand_as(first), rtol=0, atol=1e-5)
    quarter = (second - first + 2 * math.pi) % (2 * math.pi)
    torch.testing.assert_close(quarter, torch.full_like(quarter, math.pi / 2), rtol=0, atol=1e-5)
    assert len(first[..., 0].flatten().unique()) == 3 * 2  # every layer and head its own
    magnitudes = table.norm(dim=0).reshape(-1, 5)
    expected = 10.0 ** (-torch.arange(5, dtype=torch.float64) / 5)
    torch.testing.assert_close(magnitudes, expected.expand_as(magnitudes), rtol=0, atol=1e-6)


def test_rope_mixed_starts_along_a_rotated_frame_of_any_number_of_axes() -> None:
    """Directions are orthonormal and keep their handedness; every pair turns from the start."""
    table = frequencies_of(make("rope_mixed:base=100", (2, 3, 4)))  # [3, L, H, 10]
    magnitudes = table.norm(dim=0)  # [L, H, P]
    expected = 100.0 ** (-(torch.arange(10, dtype=torch.float64) % 4) / 4)
    torch.testing.assert_close(magnitudes, expected.expand(3, 2, 10), rtol=0, atol=1e-6)
    frames = (table / magnitudes)[..., [0, 4, 8]].permute(1, 2, 0, 3)  # [L, H, A, direction]
    identity = torch.eye(3, dtype=torch.float64).expand(3, 2, 3, 3)
    torch.testing.assert_close(frames.mT @ frames, identity, rtol=0, atol=1e-5)
    determinants = torch.linalg.det(frames)
    torch.testing.assert_close(determinants, torch.ones_like(determinants), rtol=0, atol=1e-5)


def test_rope_mixed_directions_favour_no_axis() -> None:
    """Over many heads the first direction is uniform: its angle's mean and spread say so."""
    table = frequencies_of(make("rope_mixed", (3, 5), 4, heads=64, width=256, depth=32))
    directions = torch.complex(table[0, ..., 0], table[1, ..., 0]).flatten()  # 2048 of length 1
    for power in (1, 2, 4):
        assert (directions**power).mean().abs().item() < 0.08


@pytest.mark.parametrize("grid", GRIDS)
def test_rope_mixed_has_the_parameters_that_it_says(grid: tuple[int, ...]) -> None:
    """A L H D / 2 frequencies."""
    (table,) = make("rope_mixed", grid).parameters()
    assert table.shape == (len(grid), 3, 2, 10)


# --- spherical RoPE --------------------------------------------------------------------------


def test_spherical_rope_leaves_channels_that_three_does_not_divide() -> None:
    """Of 20 channels 18 turn, in 6 blocks, and the last two pass."""
    encoding = make("spherical_rope", (3, 5))
    rotations = encoding.rotations(encoding.positions(Grid((3, 5))))
    assert rotations is not None
    assert rotations.blocks is not None
    assert rotations.blocks.shape == (1, 15, 1, 6, 3, 3)
    query = torch.randn(2, 15, 2, 20)
    turned = turn([query], rotations.by_layer(1)[0])[0]
    assert torch.equal(turned[..., 18:], query[..., 18:])
    assert (turned[..., :18] - query[..., :18]).abs().amax((0, 1, 2)).min().item() > 0.01


@pytest.mark.parametrize("other", [(9, 2), (3, 5), (1, 1)])
def test_spherical_positions_span_a_turn_and_keep_their_step(other: tuple[int, int]) -> None:
    """[-pi, pi] at the training grid; other grids have its step and its middle."""
    positions = make("spherical_rope", (3, 5)).positions(Grid(other))
    expected = [
        [(row - (other[0] - 1) / 2) * math.pi, (column - (other[1] - 1) / 2) * math.pi / 2]
        for row, column in np.ndindex(*other)
    ]
    np.testing.assert_allclose(positions, expected, atol=1e-12)


def test_spherical_rope_learns_a_frequency_for_every_axis_layer_head_and_block() -> None:
    """A L H (D // 3) numbers of U(0, 1); without ``learned`` a fixed series and none."""
    (table,) = make("spherical_rope:learned=true", (2, 3, 4)).parameters()
    assert table.shape == (3, 3, 2, 6)
    assert 0 < table.min().item() < table.max().item() < 1
    fixed = make("spherical_rope:base=50", (2, 3, 4))
    assert not list(fixed.parameters())
    series = 50.0 ** (-2 * torch.arange(6, dtype=torch.float64) / 20)
    torch.testing.assert_close(frequencies_of(fixed), series.expand(3, 1, 1, 6))


# --- the published baseline ------------------------------------------------------------------


def test_published_axial_turns_sixty_of_sixty_four_channels_in_three_axes() -> None:
    """Ten frequencies an axis from 1 to exp(-4); the last two pairs pass."""
    encoding = make("published_axial:per_head=false", (2, 3, 4), 64)
    table = frequencies_of(encoding)[:, 0, 0]  # [A, P]
    series = np.exp(-4 * np.linspace(0, 1, 10))
    np.testing.assert_allclose(table, np.pad(np.kron(np.eye(3), series), ((0, 0), (0, 2))))
    positions = encoding.positions(Grid((3, 3, 8)))[-1]
    np.testing.assert_allclose(positions, [1.5, 1.0, 2.0])
