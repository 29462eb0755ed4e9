"""The Lightning file: tensors and plain values, read without running any code in it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.checkpoint import CheckpointError
from models.pretrained.pickled import load_plain

#: Every published model has one; what stands before it is the prefix of the Lightning module.
CLASS_TOKEN = "cls_token"


@dataclasses.dataclass(frozen=True)
class Published:
    """A published checkpoint.

    Attributes:
        weights: float32, finite, by name without the module's prefix.
        settings: what the Lightning module and the data module were made with, where saved.
        step: optimiser steps that it was trained for.
    """

    weights: dict[str, Tensor]
    settings: dict[str, Any]
    step: int | None


def read_published(path: Path) -> Published:
    """The file at ``path``; CheckpointError if it is not a Lightning checkpoint."""
    loaded = load_plain(path)
    state = loaded.get("state_dict") if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(
            f"{path}: expected a Lightning checkpoint (a dictionary with state_dict), "
            f"got {_kind(loaded)}"
        )
    settings: dict[str, Any] = {}
    for key in ("datamodule_hyper_parameters", "hyper_parameters"):
        saved = loaded.get(key)
        settings |= saved if isinstance(saved, dict) else {}
    step = loaded.get("global_step")
    return Published(_weights(state), settings, step if isinstance(step, int) else None)


def first(names: list[str], count: int = 3) -> str:
    """The first names of a list, and how many more there are."""
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return (", ".join(names[:count]) or "nothing") + rest


def _kind(loaded: object) -> str:
    if isinstance(loaded, dict):
        return f"one with {first(sorted(map(str, loaded)))}"
    return f"a {type(loaded).__name__}"


def _weights(state: dict[str, Any]) -> dict[str, Tensor]:
    prefixes = [name.removesuffix(CLASS_TOKEN) for name in state if name.endswith(CLASS_TOKEN)]
    if len(prefixes) != 1:
        raise CheckpointError(
            f"state_dict: expected one {CLASS_TOKEN}, as in a published model, got "
            f"{len(prefixes)} in {first(sorted(state))}"
        )
    prefix = prefixes[0]
    return {name.removeprefix(prefix): _checked(name, tensor) for name, tensor in state.items()}


def _checked(name: str, tensor: Any) -> Tensor:
    """Float32; CheckpointError if it is no such tensor, or not finite."""
    dense = isinstance(tensor, Tensor) and tensor.layout == torch.strided
    if not dense or not tensor.is_floating_point():
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise CheckpointError(f"{name}: expected a dense tensor of floating point, got {kind}")
    if wrong := int((~tensor.isfinite()).sum()):
        raise CheckpointError(f"{name}: expected finite weights, got {wrong} that are not")
    return tensor.float()
