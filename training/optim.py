"""What moves the weights: rates, groups of parameters, their moving average.

Nothing here waits for a GPU: whether a step is taken is decided where its gradient is.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from models.vit import VisionTransformer
from training.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """Linear warm-up, then the schedule; what falls would reach 0 one step after the last."""
    warmup = min(config.warmup_steps, total // 5)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    share = (step - warmup) / (total - warmup)  # of the steps after the warm-up
    match config.schedule:
        case "cosine":
            return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
        case "linear":
            return config.learning_rate * (1 - share)
        case "wsd":
            cooldown = min(config.cooldown * total, total - warmup)  # steps
            return config.learning_rate * min(1.0, (total - step) / cooldown)
        case "constant":
            return config.learning_rate


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


def make_optimiser(
    model: VisionTransformer, config: TrainConfig, fused: bool | None = None
) -> torch.optim.AdamW:
    """AdamW over what is not frozen; weight decay on the matrices of linear layers only.

    Every group has a ``scale``, its share of the learning rate (``layer_decay``).

    Args:
        fused: one kernel for all parameters, which also can skip a step by itself; None for where
            the model is on a GPU. On a CPU its last bits are others than those of all runs so far.
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
        betas=config.betas,  # type: ignore[arg-type]  # two, as the config has checked
        fused=model.device.type == "cuda" if fused is None else fused,
    )


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["scale"]


def step_unless(skipped: Tensor, optimiser: torch.optim.Optimizer) -> None:
    """One step of AdamW, or none at all where ``skipped`` [], 0 or 1, is 1."""
    if optimiser.defaults["fused"]:
        optimiser.found_inf = skipped  # type: ignore[attr-defined]  # read by its kernel
        optimiser.step()
    elif not skipped:  # on a CPU, which is not waited for
        optimiser.step()


class Average:
    """The exponential moving average of a model's weights.

    Attributes:
        module: the average.
        updates: how many it has seen, [] on the device; the first is taken over as it is.
        fused: whether by a few kernels for all parameters: ``lerp`` has one for each where its
            weight is on the device. The last bits are others.
    """

    def __init__(self, model: VisionTransformer, decay: float) -> None:
        self.module, self.decay = copy.deepcopy(model), decay
        self.fused = model.device.type == "cuda"
        self.updates = torch.zeros((), dtype=torch.int64, device=model.device)

    @torch.no_grad()
    def update_parameters(self, model: VisionTransformer, skipped: Tensor | None = None) -> None:
        """Follow the model by one step, or not at all where ``skipped`` [] is 1."""
        seen = self.updates.double()
        way = 1 - ((1 + seen) / (10 + seen)).clamp(max=self.decay)  # [], to the model's weights
        way = torch.where(seen == 0, 1.0, way)
        if skipped is not None:
            way = way * (1 - skipped)
        average, current = tuple(self.module.parameters()), tuple(model.parameters())
        if self.fused:
            apart = torch._foreach_sub(current, average)
            torch._foreach_mul_(apart, way.float())
            torch._foreach_add_(average, apart)
        else:
            torch._foreach_lerp_(average, current, [way.float()] * len(average))
        self.updates += 1 if skipped is None else 1 - skipped.long()


def make_average(model: VisionTransformer, decay: float) -> Average | None:
    """The moving average of the weights, or None where there shall be none."""
    return Average(model, decay) if decay else None


class LossScale:
    """What an fp16 loss is multiplied by, so that small gradients do not vanish; on the device.

    Halved where a gradient overflows, doubled after ``GROWS_AFTER`` steps without.

    Attributes:
        factor: float32 [], a power of two: gradients are divided by it without an error.
        steps: int32 [], since it changed.
    """

    FIRST, GROWS_AFTER = 2.0**16, 2000

    def __init__(self, device: torch.device) -> None:
        self.factor = torch.full((), self.FIRST, device=device)
        self.steps = torch.zeros((), dtype=torch.int32, device=device)

    def update(self, skipped: Tensor) -> None:
        """After a step, which was skipped [] or was not."""
        torch._amp_update_scale_(self.factor, self.steps, skipped, 2.0, 0.5, self.GROWS_AFTER)

    def tensors(self) -> dict[str, Tensor]:
        """What a run needs to go on."""
        return {"factor": self.factor, "steps": self.steps}


def make_loss_scale(config: TrainConfig, device: torch.device) -> LossScale | None:
    """Of fp16; None for every other precision, whose exponents reach as far as float32's."""
    return LossScale(device) if config.precision == "fp16" else None
