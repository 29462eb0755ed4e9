"""How much of each patch is in what the head reads, as far as attention tells: its rollout.

After S. Abnar and W. Zuidema, "Quantifying Attention Flow in Transformers" (arXiv 2005.00928). A
layer adds to every token what attention mixes from all of them, so half of it is taken to be the
token and half the mixture, whose shares are the weights of attention in the mean over its heads:
(I + A) / 2. The product over the layers says how much of each token of the input is in each of the
output. What values and MLPs do to it is left out, and no label is asked about.

Shapes as in ``models.vit``: B batch, L layers, H heads, S = prefix + T sequence, T patch tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from media.spec import Grid
from models.rotations.apply import Rotations
from models.spec import ModelSpec
from models.vit import Attention, Encoded, VisionTransformer


def shares_read(spec: ModelSpec, grid: Grid) -> Tensor:
    """How much of each token the head reads, float32 [S], 1 together; of ``both`` half of each."""
    shares = torch.zeros(spec.prefix_tokens + grid.tokens)  # [S]
    if spec.pool != "mean":
        shares[0] = 1.0
    if spec.pool != "class":
        shares[spec.prefix_tokens :] = 1.0 / grid.tokens
    return shares / shares.sum()


def rolled_out(weights: Sequence[Tensor], read: Tensor) -> Tensor:
    """What the head reads as shares of the tokens that entered the first layer: [B, S].

    From the last layer to the first, as one row: the whole product would take S times as long.

    Args:
        weights: of every layer in order, the mean over its heads [B, S, S]; rows add up to 1.
        read: as ``shares_read`` has it, [S].
    """
    row = read.expand(weights[0].shape[0], 1, -1)  # [B, 1, S]
    for layer in reversed(weights):
        row = (row + row @ layer) * 0.5  # [B, 1, S]
    return row.flatten(1)  # [B, S]


@torch.inference_mode()
def attention_rollout(
    model: VisionTransformer, pixels: Tensor, encoded: Encoded | None = None
) -> Tensor:
    """Float32 [B, T] for pixels [B, *pixels per axis, C]; the rest of 1 went to prefix tokens.

    Every layer's weights are computed a second time, beside its pass.

    Args:
        encoded: as of ``VisionTransformer.features``.
    """
    grid, weights = model.grid_of(pixels), list[Tensor]()
    encoded = encoded or model.encode(grid)
    watched = [part for part in model.modules() if isinstance(part, Attention)]
    hooks = [part.register_forward_pre_hook(partial(_watch, weights)) for part in watched]
    try:
        model(pixels, encoded)
    finally:
        for hook in hooks:
            hook.remove()
    read = shares_read(model.spec, grid).to(model.device)
    return rolled_out(weights, read)[:, model.spec.prefix_tokens :]


def _watch(
    weights: list[Tensor], attention: nn.Module, given: tuple[Tensor, Rotations, Tensor | None]
) -> None:
    assert isinstance(attention, Attention)
    tokens, rotations, towards = given
    query, key, _ = attention.projected(tokens, rotations)  # [B, H, S, D]
    scores = query.float() @ key.float().mT * attention.head_dim**-0.5  # [B, H, S, S]
    scores = scores if towards is None else scores + towards
    weights.append(scores.softmax(-1).mean(1))  # [B, S, S]
