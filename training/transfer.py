"""Numbers of the host, where the network is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.transfer import send


def to_device(
    array: np.ndarray | Tensor, device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """The array as a tensor there, of its own type or another one that it is given before.

    A GPU takes it when it comes to it; the host goes on at once. On a CPU the memory is shared
    where the type stays.
    """
    return send(torch.as_tensor(array), device, dtype)
