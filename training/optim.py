"""What moves the weights: rates, groups of parameters, their moving average."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.vit import VisionTransformer
from training.config import TrainConfig

Tensors = tuple[Tensor, ...] | list[Tensor]


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """Linear warm-up, then a cosine that would reach 0 one step after the last."""
    warmup = min(config.warmup_steps, total // 5)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    share = (step - warmup) / (total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def stage(name: str, depth: int) -> int:
    """How far a parameter is from the pixels: 0 before the layers, 1 to depth, the head last."""
    parts = name.split(".")
    if parts[0] == "layers":
        return int(parts[1]) + 1
    return depth + 1 if parts[0] in ("norm", "head") else 0


def freeze(model: VisionTransformer, layers: int) -> None:
    """Keep the first ``layers`` as they are, and what comes before them; 0 for none."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not layers or stage(name, model.spec.depth) > layers)


def make_optimiser(model: VisionTransformer, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over what is not frozen; weight decay on the matrices of linear layers only.

    Every group has a ``scale``, its share of the learning rate (``layer_decay``).
    """
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    depth = model.spec.depth
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = config.layer_decay ** (depth + 1 - stage(name, depth))
            groups.setdefault((scale, id(parameter) in decayed), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "scale": scale,
                "weight_decay": config.weight_decay if is_matrix else 0.0,
            }
            for (scale, is_matrix), parameters in sorted(groups.items(), key=lambda item: item[0])
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
    )


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["scale"]


def make_average(model: VisionTransformer, decay: float) -> AveragedModel | None:
    """The exponential moving average of the weights, or None where there shall be none."""
    if not decay:
        return None

    def follow(average: Tensors, current: Tensors, updates: Tensor | int) -> None:
        share = min(decay, (1 + float(updates)) / (10 + float(updates)))
        torch._foreach_lerp_(average, current, 1 - share)

    return AveragedModel(model, multi_avg_fn=follow)
