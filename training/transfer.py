"""Numbers of the host, where the network is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_device(
    array: np.ndarray | Tensor, device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """The array as a tensor there, of its own type or another one that it is given before.

    A GPU takes it when it comes to it; the host goes on at once. On a CPU the memory is shared
    where the type stays.
    """
    tensor = torch.as_tensor(array).to(dtype)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)  # from other memory it would wait
