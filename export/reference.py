"""What torch answers: the checkpoint's own logits, and those of a network that is all fp16."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from export.freeze import FrozenTransformer
from export.parity import ParityError, batch_of
from media.spec import Grid
from media.unread import Views
from models.attention_rollout import attention_rollout
from models.vit import VisionTransformer

#: The largest value that fp16 may meet here: half of its range stays free for other inputs.
FP16_MOST = torch.finfo(torch.float16).max / 2


#: Told how many rows were just done.
Advance = Callable[[int], None]


@torch.inference_mode()
def torch_logits(
    model: VisionTransformer,
    pixels: np.ndarray | Views,
    grid: Grid,
    advance: Advance = lambda rows: None,
) -> np.ndarray:
    """Float32 logits [N, classes] of the checkpoint, rotations in float64."""
    encoded = model.encode(grid, torch.float64)
    return _in_batches(lambda batch: model(batch, encoded), pixels, batch_of(grid), advance)


@torch.inference_mode()
def torch_rollout(model: VisionTransformer, pixels: np.ndarray, grid: Grid) -> np.ndarray:
    """Float32 rollout of attention [N, T] of the checkpoint, rotations in float64."""
    encoded = model.encode(grid, torch.float64)
    return _in_batches(
        lambda batch: attention_rollout(model, batch, encoded), pixels, batch_of(grid)
    )


@torch.inference_mode()
def rounded_logits(
    frozen: FrozenTransformer, pixels: np.ndarray, advance: Advance = lambda rows: None
) -> np.ndarray:
    """Logits [N, classes] of an fp16 network each of whose results is rounded to fp16.

    That is what a GPU computes. A runtime on a CPU joins operators in fp32, where neither the
    rounding nor an overflow shows.

    Raises:
        ParityError: a value comes near the end of fp16's range; the layer is named.
    """
    peaks: dict[str, float] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(_: nn.Module, __: tuple[Tensor, ...], result: Tensor) -> None:
            peaks[name] = max(peaks.get(name, 0.0), _largest(result))

        return note

    leaves = [(name, part) for name, part in frozen.named_modules() if not [*part.children()]]
    hooks = [part.register_forward_hook(watch(name)) for name, part in leaves]
    try:
        logits = _in_batches(frozen, pixels, batch_of(frozen.grid), advance)
    finally:
        for hook in hooks:
            hook.remove()
    if over := [(name, peak) for name, peak in peaks.items() if peak > FP16_MOST]:
        name, peak = over[0]  # in the order of the network: the first one is the cause
        raise ParityError(
            f"fp16 overflows: {name.removeprefix('model.')} reaches {peak:.3g} on these items, "
            f"fp16 ends at 65504 and half of that is kept for others: export --precision fp32"
        )
    return logits


def _largest(result: Tensor) -> float:
    """The largest magnitude of a half-precision result; infinity where it is no number."""
    if result.dtype != torch.float16:
        return 0.0
    return float(result.abs().nan_to_num(nan=torch.inf, posinf=torch.inf).max())


def _in_batches(
    call: Callable[[Tensor], Tensor],
    pixels: np.ndarray | Views,
    batch: int,
    advance: Advance = lambda rows: None,
) -> np.ndarray:
    """What a call gives, [N, ...], for [N, *pixels per axis, C]."""
    pieces = []
    for start in range(0, len(pixels), batch):
        piece = pixels[start : start + batch]
        pieces.append(call(torch.from_numpy(piece)).numpy())
        advance(len(piece))
    return np.concatenate(pieces)
