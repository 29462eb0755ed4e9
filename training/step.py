"""The training step, in order.

Nothing in a step waits for a GPU: it is told what to compute, and looked at once in a while
(``Setup.log_every``). So what was not finite is skipped there, and found out here by ``check``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from media.dataset import Prepared
from models.vit import Encoded, VisionTransformer
from training.augment.augment import augment, change
from training.augment.draws import Draws, step_key
from training.augment.mixing import circle_of, mix
from training.augment.moving import draw_views
from training.batches import Batch, Batches
from training.config import TrainConfig
from training.identity import Pending
from training.listed import Listed
from training.optim import set_rate, step_unless
from training.processes import ALONE, Processes
from training.run import State
from training.stopping import Stop
from training.transfer import to_device

#: Steps between looks at a GPU, unless ``log_every`` says it.
LOG_EVERY = 25
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Reader(Protocol):
    """Who has the batches of a listed split."""

    def take(self, step: int, samples: np.ndarray) -> Batch:
        """That of a step and its samples [B]; NoBatch where there is none."""
        ...


@dataclasses.dataclass(frozen=True)
class Setup:
    """What every step works with.

    Attributes:
        weights: of the classes in the loss, [classes], or None.
        pending: what is still to be read of the data, beside the steps.
        loader: reads batches of a listed split ahead; without it they are read in the step.
        processes: that take every step together, each its rows of the batch.
    """

    config: TrainConfig
    state: State
    training: Prepared | Listed
    validation: Prepared | Listed
    labels: tuple[str, ...]
    weights: Tensor | None
    pending: Pending | None = None
    loader: Reader | None = None
    processes: Processes = ALONE

    @property
    def model(self) -> VisionTransformer:
        return self.state.model

    @property
    def log_every(self) -> int:
        """Steps between looks at what they came to."""
        return self.config.log_every or (LOG_EVERY if self.model.device.type == "cuda" else 1)


class Taken(NamedTuple):
    """What one update came to, on the device: whoever reads it waits for the update."""

    losses: Tensor  # [B], before the update; of this process's rows
    loss: Tensor  # [], the mean over the batch
    gradient_norm: Tensor  # [], before clipping


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
    """One update on the given samples, a whole batch, computed in ``accumulate`` parts.

    Every process computes its rows, B of them, and the gradient is the sum. Where the loss or the
    gradient is not finite, nothing moves: weights, means of the optimiser, average and counters
    are as before. ``check`` says so.

    Raises:
        Stopped: between two parts, or before them all; the weights are as before.
    """
    config, model, state, processes = setup.config, setup.model, setup.state, setup.processes
    with stop.together() if stop else contextlib.nullcontext():
        inputs, targets = make_batch(setup, samples, step)
    model.train()
    for layer in model.layers[: config.freeze]:
        layer.eval()  # as they are: neither dropout nor drop_path
    state.optimiser.zero_grad(set_to_none=True)
    device = model.device
    seed_torch(config, step)
    draws = Draws(config.seed, step, samples, rows=processes.rows(len(samples)))
    keys = to_device(draws.keys(), device)  # [B]
    with autocast(device, config.precision):
        encoded = model.encode(model.spec.training_grid)  # once, for all parts, layers and heads
    shared = Encoded(*map(_cut, encoded))  # parts leave their gradients here
    losses = []
    part = len(inputs) // config.accumulate
    for index in range(config.accumulate):
        if stop:
            stop.check()
        rows = slice(index * part, (index + 1) * part)
        with tf32(config.precision):
            with autocast(device, config.precision):
                logits = model(inputs[rows], shared, keys[rows], config.recompute)
            each = item_losses(setup, logits, targets[rows])  # [B / accumulate]
            share = each.sum() / len(samples)
            (share * state.loss_scale.factor if state.loss_scale else share).backward()
        losses.append(each.detach())
    _pass_on(encoded, shared)
    every = torch.cat(losses)  # [B]
    loss = every.mean() / processes.size  # []
    processes.add_up([loss, *gradients(model)])
    taken = Taken(every, loss, finish_gradient(state, config.clip_norm))
    skipped = 1 - (taken.loss.isfinite() & taken.gradient_norm.isfinite()).float()  # []
    set_rate(state.optimiser, rate)
    step_unless(skipped, state.optimiser)
    if state.average:
        state.average.update_parameters(model, skipped)
    if state.loss_scale:
        state.loss_scale.update(skipped)
    return taken


def seed_torch(config: TrainConfig, step: int) -> None:
    """Encodings that move positions draw by torch: once a step, and alike in every process."""
    torch.manual_seed(int(step_key(config.seed, step)) ^ 1)  # so runs without parts always drew


def make_batch(setup: Setup, samples: np.ndarray, step: int) -> tuple[Tensor, Tensor]:
    """Augmented pixels [B, *pixels per axis, C] and targets [B] or, where items mix, [B, classes].

    Of this process's rows, but drawn for the whole batch: neither the number of parts nor that of
    processes changes any.

    Raises:
        NoBatch: items are read in the step and cannot be.
    """
    config, spec, training = setup.config, setup.model.spec, setup.training
    device = setup.model.device
    where = config.input, spec.training_grid.pixels(spec.patch), device
    rows = setup.processes.rows(len(samples))
    own = samples[rows]
    if isinstance(training, Listed):
        batch = (
            setup.loader.take(step, own)
            if setup.loader
            else Batches(training, config, rows).read(step, samples)
        )
        draws = Draws(config.seed, step, samples, batch.taken, rows)
        inputs = change(batch.pixels, draws, config.augment, *where)
    else:
        draws = Draws(config.seed, step, samples, rows=rows)
        pixels = training.pixels[one_view(own, training.views, draws)]
        inputs = augment(pixels, draws, config.augment, *where)
    labels = training.labels[own]
    if config.augment.mixes:
        circle = circle_of(len(samples))
        return mix(inputs, labels, spec.classes, draws, config.augment, circle)
    return inputs, to_device(labels, device)


def one_view(samples: np.ndarray, views: int, draws: Draws) -> np.ndarray:
    """The row of the split that each sample [B] is shown by, in this step; int64 [B]."""
    return samples * views + draw_views(draws, views)


def item_losses(setup: Setup, logits: Tensor, targets: Tensor) -> Tensor:
    """The loss of every item [b], of logits [b, classes] and targets [b] or [b, classes]."""
    smoothing = setup.config.label_smoothing
    each = nn.functional.cross_entropy(
        logits, targets, label_smoothing=smoothing, reduction="none"
    )  # [b]
    return each if setup.weights is None else each * item_weights(targets, setup.weights)


def item_weights(targets: Tensor, weights: Tensor) -> Tensor:
    """Of every item the weight of its class, of a mixed one the mean by its shares; [B].

    Not cross_entropy's own ``weight``: that one weighs the smoothed part by all classes, and where
    one of them is rare the best answer to every item is then the rare class.
    """
    return weights[targets] if targets.dim() == 1 else targets @ weights


def gradients(model: VisionTransformer) -> list[Tensor]:
    """Of all parameters that have one."""
    return [p.grad for p in model.parameters() if p.grad is not None]


def finish_gradient(state: State, clip_norm: float) -> Tensor:
    """The length [] of the gradient; it is as if never scaled, and shortened to ``clip_norm``."""
    found = gradients(state.model)
    if state.loss_scale:
        torch._foreach_mul_(found, 1 / state.loss_scale.factor)
    norm = nn.utils.get_total_norm(found)
    if clip_norm:
        shorter = torch.where(norm > clip_norm, clip_norm / (norm + 1e-6), 1.0)
        torch._foreach_mul_(found, shorter)
    return norm


def check(setup: Setup, samples: np.ndarray, step: int, taken: Taken) -> None:
    """NotFinite where the step was skipped, but for one that a smaller ``loss_scale`` may mend.

    Args:
        samples: of the whole batch.
    """
    losses = taken.losses
    if setup.processes.size > 1:
        losses = setup.processes.gather_rows(losses.cpu())  # [batch]
    check_loss(losses, setup, samples, step)
    norm, scale = taken.gradient_norm.item(), setup.state.loss_scale
    if math.isfinite(norm) or (scale and scale.factor >= 1):
        return
    names = [setup.training.ids[i] for i in samples]
    raise NotFinite(f"the length of the gradient is {norm}", step, names)


def check_loss(losses: Tensor, setup: Setup, samples: np.ndarray, step: int) -> float:
    """The mean of the losses [B] before the update; NotFinite names the items that broke it."""
    value = losses.mean().item()
    if not math.isfinite(value):
        guilty = samples[~losses.isfinite().cpu().numpy()]
        if not len(guilty):  # each is finite, their sum is too large
            guilty = samples
        raise NotFinite(f"the loss is {value}", step, [setup.training.ids[i] for i in guilty])
    return value


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """bf16 or fp16 autocast, or nothing."""
    return torch.autocast(device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST)


@contextlib.contextmanager
def tf32(precision: str) -> Iterator[None]:
    """Within this block, if asked for, products of float32 may take 10 bits of their factors.

    Around the network and its gradient alone: a rotation that is computed so is none.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


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
