"""Tensors of the host, where the network is."""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor there, of its own type or another one that it is given before.

    A GPU takes it when it comes to it; the host goes on at once. On a CPU the memory is shared
    where the type stays.
    """
    tensor = tensor.to(dtype)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # from other memory it would wait
    return tensor.to(device, non_blocking=True)
