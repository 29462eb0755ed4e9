"""What a training step leaves out of the residual branches: a function of item, layer and place.

Every item comes with a key, 64 bits that belong to it in this step. A counter through the
splitmix64 finaliser (Steele, Lea and Flood 2014) makes all else of them, in whole numbers and so
alike on every device, however a batch is split, and again where a layer is computed twice.

Shapes: B batch, S sequence, W width, L layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Residual branches of a layer: attention and MLP.
BRANCHES = 2
_GOLDEN, _FIRST, _SECOND = (
    bits - 2**64 for bits in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def branch_keys(keys: Tensor, layers: int) -> Tensor:
    """Of every residual branch the keys of its own: int64 [B] -> [L, 2, B]."""
    places = torch.arange(1, layers * BRANCHES + 1, device=keys.device)
    return mixed(keys + _GOLDEN * places[:, None]).unflatten(0, (layers, BRANCHES))


class DropPath(nn.Module):
    """Leaves whole items out of a residual branch, each with its own draw (arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor, keys: Tensor | None) -> Tensor:
        """[B, S, W] -> [B, S, W]; what is kept is scaled up, so that the mean stays.

        Args:
            keys: of this branch, int64 [B], any bits as likely as any others.
        """
        if not self.training or not self.rate:
            return branch
        assert keys is not None
        dropped = keys < int((self.rate - 0.5) * 2**64)  # [B]
        return (branch / (1.0 - self.rate)).masked_fill(dropped[:, None, None], 0.0)


class Dropout(nn.Module):
    """Leaves single numbers out of a residual branch, with 16 bits drawn for each."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor, keys: Tensor | None) -> Tensor:
        """[B, S, W] -> [B, S, W]; what is kept is scaled up, so that the mean stays.

        Args:
            keys: of this branch, int64 [B].
        """
        threshold = min(round(self.rate * 2**16), 2**16 - 1)  # the rate is met to 2 ** -17
        if not self.training or not threshold:
            return branch
        assert keys is not None
        sizes = branch.shape[1:]
        words = torch.arange(1, -(-sizes.numel() // 4) + 1, device=keys.device)
        bits = mixed(keys[:, None] + _GOLDEN * words).view(torch.int16)  # [B, 4 words]
        drawn = bits[:, : sizes.numel()].unflatten(1, sizes)  # [B, S, W]
        return (branch / (1.0 - threshold / 2**16)).masked_fill(drawn < threshold - 2**15, 0.0)


def mixed(x: Tensor) -> Tensor:
    """splitmix64's finaliser: every bit of the int64 reaches every bit of the result."""
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, places: int) -> Tensor:
    """To the right, filled with zeros; torch's own shift repeats the sign."""
    return (x >> places) & (2 ** (64 - places) - 1)
