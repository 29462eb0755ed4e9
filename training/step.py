"""The training step, in order."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from media.dataset import Prepared
from models.vit import Encoded, VisionTransformer
from training.augment.augment import augment
from training.augment.draws import Draws, step_key
from training.augment.mixing import mix
from training.config import TrainConfig
from training.optim import set_rate
from training.run import State
from training.stopping import Stop


@dataclasses.dataclass(frozen=True)
class Setup:
    """What every step works with.

    Attributes:
        weights: of the classes in the loss, [classes], or None.
    """

    config: TrainConfig
    state: State
    training: Prepared
    validation: Prepared
    labels: tuple[str, ...]
    weights: Tensor | None

    @property
    def model(self) -> VisionTransformer:
        return self.state.model


class Taken(NamedTuple):
    """What one update came to."""

    loss: float  # mean over the batch, before the update
    gradient_norm: float  # before clipping


class NotFinite(FloatingPointError):
    """A loss, a gradient or a weight is infinite or not a number.

    Attributes:
        what: in words.
        samples: ids of the items that it came from; none where nobody knows.
        then: what became of the run because of it, in words.
    """

    def __init__(self, what: str, step: int, samples: list[str], then: str = "") -> None:
        shown = ", ".join(samples[:8]) + (", ..." if len(samples) > 8 else "")
        known = f" at step {step}; from {len(samples)} items: {shown}" if samples else ""
        super().__init__(what + known + then)
        self.what, self.step, self.samples = what, step, samples


def train_step(
    setup: Setup, samples: np.ndarray, step: int, rate: float, stop: Stop | None = None
) -> Taken:
    """One update on the given samples, B of them, computed in ``accumulate`` parts.

    Raises:
        NotFinite: the loss or the gradient; the weights are as before.
        Stopped: between two parts; the weights are as before.
    """
    config, model = setup.config, setup.model
    inputs, targets = make_batch(setup, samples, step)
    model.train()
    for layer in model.layers[: config.freeze]:
        layer.eval()  # as they are: neither dropout nor drop_path
    setup.state.optimiser.zero_grad(set_to_none=True)
    device = model.head.weight.device
    seed_torch(config, step, config.accumulate)  # encodings that move positions
    with autocast(device, config.precision):
        encoded = model.encode(model.spec.training_grid)  # once, for all parts, layers and heads
    shared = Encoded(*map(_cut, encoded))  # parts leave their gradients here
    losses = []
    part = len(samples) // config.accumulate
    for index in range(config.accumulate):
        if stop:
            stop.check()
        seed_torch(config, step, index)  # dropout and drop_path
        rows = slice(index * part, (index + 1) * part)
        with autocast(device, config.precision):
            logits = model(inputs[rows], shared)  # [B / accumulate, classes]
        each = nn.functional.cross_entropy(
            logits,
            targets[rows],
            label_smoothing=config.label_smoothing,
            reduction="none",
        )  # [B / accumulate]
        if setup.weights is not None:
            each = each * item_weights(targets[rows], setup.weights)
        (each.sum() / len(samples)).backward()
        losses.append(each.detach())
    _pass_on(encoded, shared)
    loss = check_loss(torch.cat(losses), setup, samples, step)
    norm = clip_gradient(setup, samples, step)
    set_rate(setup.state.optimiser, rate)
    setup.state.optimiser.step()
    if setup.state.average:
        setup.state.average.update_parameters(model)
    return Taken(loss, norm)


def seed_torch(config: TrainConfig, step: int, part: int) -> None:
    """What torch draws next depends on the seed, the step and the part alone."""
    torch.manual_seed(int(step_key(config.seed, step)) ^ part)


def make_batch(setup: Setup, samples: np.ndarray, step: int) -> tuple[Tensor, Tensor]:
    """Augmented pixels [B, *pixels per axis, C] and targets [B] or, where items mix, [B, classes].

    Drawn for the whole batch, so that neither depends on the number of parts.
    """
    config, spec = setup.config, setup.model.spec
    device = setup.model.head.weight.device
    draws = Draws(config.seed, step, samples)
    pixels = setup.training.pixels[one_view(samples, setup.training.views, draws)]
    labels = setup.training.labels[samples]
    size = spec.training_grid.pixels(spec.patch)
    inputs = augment(pixels, draws, config.augment, config.input, size, device)
    if config.augment.mixes:
        return mix(inputs, labels, spec.classes, draws, config.augment)
    return inputs, torch.from_numpy(labels).to(device)


def one_view(samples: np.ndarray, views: int, draws: Draws) -> np.ndarray:
    """The row of the split that each sample [B] is shown by, in this step; int64 [B]."""
    if views == 1:
        return samples
    view = np.floor(draws.take(1)[:, 0] * views).astype(np.int64)  # [B]
    return samples * views + view


def item_weights(targets: Tensor, weights: Tensor) -> Tensor:
    """Of every item the weight of its class, of a mixed one the mean by its shares; [B].

    Not cross_entropy's own ``weight``: that one weighs the smoothed part by all classes, and where
    one of them is rare the best answer to every item is then the rare class.
    """
    return weights[targets] if targets.dim() == 1 else targets @ weights


def check_loss(losses: Tensor, setup: Setup, samples: np.ndarray, step: int) -> float:
    """The mean of the losses [B] before the update; NotFinite names the items that broke it."""
    value = losses.mean().item()
    if not math.isfinite(value):
        guilty = samples[~losses.isfinite().cpu().numpy()]
        if not len(guilty):  # each is finite, their sum is too large
            guilty = samples
        raise NotFinite(f"the loss is {value}", step, [setup.training.ids[i] for i in guilty])
    return value


def clip_gradient(setup: Setup, samples: np.ndarray, step: int) -> float:
    """The length of the gradient, shortened afterwards to ``clip_norm``; NotFinite if it has none.

    A loss can be finite while its gradient is not.
    """
    parameters = [p for p in setup.model.parameters() if p.grad is not None]
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    value = norm.item()
    if not math.isfinite(value):
        names = [setup.training.ids[i] for i in samples]
        raise NotFinite(f"the length of the gradient is {value}", step, names)
    if 0 < setup.config.clip_norm < value:
        nn.utils.clip_grads_with_norm_(parameters, setup.config.clip_norm, norm)
    return value


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast, or nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _cut(tensor: Tensor | None) -> Tensor | None:
    """The same values as the start of a new graph, where gradients matter."""
    if tensor is None or not tensor.requires_grad:
        return tensor
    return tensor.detach().requires_grad_()


def _pass_on(encoded: Encoded, shared: Encoded) -> None:
    """What all parts together want of the encoding goes through it once."""
    wanted = [
        (tensor, cut.grad)
        for tensor, cut in zip(encoded, shared, strict=True)
        if tensor is not None and cut is not None and cut.grad is not None
    ]
    if wanted:  # at once: its tensors may come out of one computation
        tensors, gradients = zip(*wanted, strict=True)
        torch.autograd.backward(tensors, gradients)
