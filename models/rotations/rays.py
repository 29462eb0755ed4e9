"""Positions that are multiples of one another, whose rotations are powers of one another."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

#: Relative distance from a multiple of another position that rounding to float32 explains.
ROUNDING = 2.5e-7
#: Powers beyond this one are not taken: they would multiply the first one's rounding error.
HIGHEST_POWER = 16


def find_rays(positions: Tensor) -> list[list[int]]:
    """Tokens in groups whose positions are p, 2 p, 3 p and so on; those at the origin in none.

    On a grid whose coordinates are whole multiples of the smallest of their axis, the greatest
    common divisor of a position tells which multiple it is, and of which other one. Elsewhere
    every token is a group of its own.

    Args:
        positions: [T, A]; read on the CPU.
    """
    positions = positions.detach().to("cpu", torch.float64)
    moved = positions.any(1).nonzero()[:, 0].tolist()
    steps = torch.where(positions == 0, torch.inf, positions.abs()).amin(0)  # [A]
    indices = (positions / steps).round()  # [T, A]
    if ((positions / steps - indices).abs() > ROUNDING * indices.abs()).any():
        return [[token] for token in moved]
    divisors = functools.reduce(torch.gcd, indices.long().abs().unbind(1))  # [T]
    directions = (indices.long() // divisors.clamp(min=1)[:, None]).tolist()
    multiples = divisors.tolist()
    rays: dict[tuple[int, ...], list[int]] = {}
    alone = []
    for token in sorted(moved, key=multiples.__getitem__):
        ray = rays.setdefault(tuple(directions[token]), [])
        if multiples[token] == len(ray) + 1 <= HIGHEST_POWER:
            ray.append(token)
        else:  # after a gap, at the same place as another one, or too far out
            alone.append([token])
    return [ray for ray in rays.values() if ray] + alone
