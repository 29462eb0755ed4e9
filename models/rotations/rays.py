"""Positions that are multiples of one another, whose rotations are powers of one another.

Which they are is found in numpy, once for the same values: a training step that comes back with
them neither searches nor sends anything to a device.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.transfer import send

#: Relative distance from a multiple of another position that rounding to float32 explains.
ROUNDING = 2.5e-7
#: Powers beyond this one are not taken: they would multiply the first one's rounding error.
HIGHEST_POWER = 16
#: Sets of positions that are remembered: those of a few grids, at a megabyte for 10,000 tokens.
REMEMBERED = 16


class RayOrder(NamedTuple):
    """Rays as tensors on a device, for work on all of them at once.

    Tokens are sorted by the power that they are of the first one of their ray; within a power
    rays keep one order, the longest first. So the rays that reach a power come before the others.
    P tokens are on a ray, all but those at the origin; F rays.

    Attributes:
        firsts: positions of the first tokens, float32 [F, A].
        tokens: int64 [P].
        places: where each token is in that order, P for those at the origin; int64 [T].
        counts: how many rays reach the first power (F), the second and so on; P together.
    """

    firsts: Tensor
    tokens: Tensor
    places: Tensor
    counts: tuple[int, ...]


def find_rays(positions: Tensor) -> list[list[int]]:
    """Tokens in groups whose positions are p, 2 p, 3 p and so on; those at the origin in none.

    On a grid whose coordinates are whole multiples of the smallest of their axis, the greatest
    common divisor of a position tells which multiple it is, and of which other one. Elsewhere
    every token is a group of its own.

    Args:
        positions: [T, A]; read on the CPU.

    Returns:
        The same lists for the same positions: not to be changed.
    """
    return _rays(_values(positions), positions.shape[1])


def order_by_power(positions: Tensor, device: torch.device) -> RayOrder:
    """Of the rays of positions [T, A], which are read on the CPU."""
    return _order(_values(positions), positions.shape[1], device)


def _values(positions: Tensor) -> bytes:
    return positions.detach().to("cpu", torch.float64).numpy().tobytes()


@functools.lru_cache(maxsize=REMEMBERED)
def _rays(values: bytes, axes: int) -> list[list[int]]:
    positions = np.frombuffer(values).reshape(-1, axes)  # [T, A]
    moved = np.flatnonzero(positions.any(1)).tolist()
    distances = np.where(positions == 0, np.inf, np.abs(positions))
    with np.errstate(invalid="ignore"):  # of positions that are not finite: each is alone
        multiples = positions / distances.min(0, initial=np.inf)  # [T, A]
        indices = multiples.round()
        whole = (np.abs(multiples - indices) <= ROUNDING * np.abs(indices)).all()
    if not whole:
        return [[token] for token in moved]
    divisors = np.gcd.reduce(indices.astype(np.int64), axis=1)  # [T]
    directions = (indices.astype(np.int64) // divisors.clip(min=1)[:, None]).tolist()
    powers = divisors.tolist()
    rays: dict[tuple[int, ...], list[int]] = {}
    alone = []
    for token in sorted(moved, key=powers.__getitem__):
        ray = rays.setdefault(tuple(directions[token]), [])
        if powers[token] == len(ray) + 1 <= HIGHEST_POWER:
            ray.append(token)
        else:  # after a gap, at the same place as another one, or too far out
            alone.append([token])
    return [ray for ray in rays.values() if ray] + alone


@functools.lru_cache(maxsize=REMEMBERED)
def _order(values: bytes, axes: int, device: torch.device) -> RayOrder:
    rays = sorted(_rays(values, axes), key=len, reverse=True)
    longest = len(rays[0]) if rays else 0
    by_power = [[ray[power] for ray in rays if len(ray) > power] for power in range(longest)]
    tokens = np.array(sum(by_power, []), dtype=np.int64)  # [P]
    positions = np.frombuffer(values).reshape(-1, axes)  # [T, A]
    places = np.full(len(positions), len(tokens))
    places[tokens] = np.arange(len(tokens))
    firsts = positions[tokens[: len(rays)]].astype(np.float32)
    with torch.inference_mode(False):  # what is remembered is for training too
        return RayOrder(
            firsts=send(torch.from_numpy(firsts), device),
            tokens=send(torch.from_numpy(tokens), device),
            places=send(torch.from_numpy(places), device),
            counts=tuple(map(len, by_power)),
        )
