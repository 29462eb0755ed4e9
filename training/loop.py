"""The training step and what surrounds it, in order."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models.prepared import Prepared, prepare_split
from models.sources import Source, SourceError, open_source
from models.spec import ModelSpec, SpecError, from_json, to_json
from models.vit import VisionTransformer
from training.augment import crop_and_flip, epoch_order, step_key, uniform
from training.config import TrainConfig, differences
from training.evaluate import evaluate
from training.progress import Progress
from training.run import Run


@dataclasses.dataclass(frozen=True)
class Setup:
    """What every step works with."""

    config: TrainConfig
    model: VisionTransformer
    optimiser: torch.optim.Optimizer
    training: Prepared
    validation: Prepared
    labels: tuple[str, ...]


def train(config: TrainConfig, root: Path, resume: bool = False) -> dict[str, Any]:
    """Train, or continue, one run; returns the metrics of its best checkpoint.

    Raises:
        SpecError, SourceError, CheckpointError: bad input, with what was expected and what came.
        FileExistsError: the folder is in use and ``resume`` was not asked for.
        FloatingPointError: the loss or a weight is not finite.
    """
    run = Run(root)
    run.check(resume)
    device = pick_device(config.device)
    source = open_source(Path(config.data))
    if resume:
        check_labels(run.notes(), source)
    config = dataclasses.replace(config, model=_with_classes(config.model, source))
    torch.manual_seed(config.seed)  # initial weights only; every later draw names its step
    model = VisionTransformer(config.model, config.input).to(device)
    optimiser = make_optimiser(model, config)
    notes: dict[str, Any] = {"step": 0, "best": None, "config": to_json(config)}
    if resume:
        notes = run.notes()
        check_config(notes, config)
        run.restore(model, optimiser)
    with Progress() as progress:
        training, validation = (_prepare(source, s, config, progress) for s in ("train", "val"))
        data = describe_data(source, training, validation)
        if resume:
            check_data(notes, data)
        notes["data"] = data
        setup = Setup(config, model, optimiser, training, validation, source.labels)
        fit(setup, run, notes, progress)
    return notes["best"]


def fit(setup: Setup, run: Run, notes: dict[str, Any], progress: Progress) -> None:
    """Every step from ``notes["step"]`` to the last; ``notes`` follows along."""
    config, items = setup.config, len(setup.training.ids)
    per_epoch = items // config.batch
    if per_epoch == 0:
        raise SpecError(f"batch {config.batch} is larger than the training split ({items} items)")
    if notes["step"] == 0 and not run.exists():
        run.begin()
        _save(setup, run, notes)
    total = per_epoch * config.epochs
    setup.model.train()
    progress.start(total, notes["step"], config.batch)
    for step in range(notes["step"], total):
        epoch, position = divmod(step, per_epoch)
        if position == 0 or step == notes["step"]:
            order = epoch_order(config.seed, epoch, items)
        samples = order[position * config.batch : (position + 1) * config.batch]
        rate = learning_rate(config, step, total)
        loss = train_step(setup, samples, step, rate)
        progress.step(loss)
        notes["step"] = step + 1
        last_of_epoch = position == per_epoch - 1
        if last_of_epoch:
            record = {"step": step + 1, "epoch": epoch + 1, "loss": loss, "rate": rate}
            _end_epoch(setup, run, notes, progress, record)
        if last_of_epoch or (step + 1) % config.save_every == 0:
            _save(setup, run, notes)


def train_step(setup: Setup, samples: np.ndarray, step: int, rate: float) -> float:
    """One update on the given samples; the loss before it."""
    config, model, training = setup.config, setup.model, setup.training
    draws = uniform(config.seed, step, samples, 3)
    torch.manual_seed(int(step_key(config.seed, step)))  # for dropout, the only draw in torch
    pixels = crop_and_flip(training.pixels[samples], draws, config.crop_padding, config.flip)
    device = model.head.weight.device
    inputs = torch.from_numpy(pixels).to(device)  # [B, *pixels per axis, C]
    targets = torch.from_numpy(training.labels[samples]).to(device)  # [B]
    with autocast(device, config.precision):
        encoded = model.encode(model.spec.training_grid)  # once, for all layers and heads
        logits = model(inputs, encoded)
    loss = nn.functional.cross_entropy(logits, targets, label_smoothing=config.label_smoothing)
    value = loss.item()
    if not math.isfinite(value):
        names = ", ".join(training.ids[index] for index in samples[:8])
        raise FloatingPointError(f"loss is {value} at step {step}; the batch began with {names}")
    setup.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    for group in setup.optimiser.param_groups:
        group["lr"] = rate
    setup.optimiser.step()
    return value


def _end_epoch(
    setup: Setup, run: Run, notes: dict[str, Any], progress: Progress, record: dict[str, Any]
) -> None:
    """Measure on the validation split, and remember the result if it is the best so far."""
    _check_finite(setup.model, notes["step"])
    measured = evaluate(setup.model, setup.validation)
    record |= {f"val_{key}": value for key, value in measured.items()}
    run.log(record | {"time": time.time()})
    progress.epoch(record)
    if notes["best"] is None or record["val_top1"] > notes["best"]["val_top1"]:
        notes["best"] = record


def _save(setup: Setup, run: Run, notes: dict[str, Any]) -> None:
    """A checkpoint of finite weights; anything else would replace the last good one."""
    _check_finite(setup.model, notes["step"])
    run.save(setup.model, setup.optimiser, setup.config.input, setup.labels, notes)


def _check_finite(model: VisionTransformer, step: int) -> None:
    """A loss can be finite while its gradient is not; FloatingPointError names the weight."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise FloatingPointError(f"{name} is not finite after step {step}")


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """Linear warm-up, then a cosine that would reach 0 one step after the last."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def make_optimiser(model: VisionTransformer, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; weight decay on the matrices of linear layers only."""
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    parameters = list(model.parameters())
    matrices = [p for p in parameters if id(p) in decayed]
    others = [p for p in parameters if id(p) not in decayed]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast, or nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def pick_device(name: str) -> torch.device:
    """``auto`` takes a GPU where there is one; an explicit ``cuda`` without one is an error."""
    if name == "cuda" and not torch.cuda.is_available():
        raise SpecError("device is cuda and torch sees no GPU")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def check_labels(notes: dict[str, Any], source: Source) -> None:
    """Refuse to continue a run on data with other labels."""
    expected = notes["data"]["labels"]
    if expected != list(source.labels):
        raise SourceError(
            f"labels do not match the run: expected {expected}, got {list(source.labels)}"
        )


def check_config(notes: dict[str, Any], config: TrainConfig) -> None:
    """Refuse to continue a run with other settings."""
    old = from_json(TrainConfig, notes["config"], "config")
    if changed := differences(old, config):
        raise SpecError(f"the run to resume was made with other values of: {', '.join(changed)}")


def check_data(notes: dict[str, Any], data: dict[str, Any]) -> None:
    """Refuse to continue a run on items that changed, came or went since it began."""
    for split in ("train", "val"):
        old, new = notes["data"][split], data[split]
        if old != new:
            raise SourceError(
                f"split {split!r} is not the one that the run began with: expected "
                f"{old['items']} items (sha256 {old['sha256'][:12]}...), "
                f"got {new['items']} ({new['sha256'][:12]}...)"
            )


def describe_data(source: Source, training: Prepared, validation: Prepared) -> dict[str, Any]:
    """What was trained on, without saying where it lay."""
    return {
        "name": source.name,
        "labels": list(source.labels),
        "train": {"items": len(training.ids), "sha256": training.sha256},
        "val": {"items": len(validation.ids), "sha256": validation.sha256},
        "skipped": [list(pair) for pair in training.skipped + validation.skipped],
    }


def _with_classes(model: ModelSpec, source: Source) -> ModelSpec:
    if model.classes in (0, len(source.labels)):
        return dataclasses.replace(model, classes=len(source.labels))
    raise SpecError(
        f"labels do not match the head: {source.name} has {len(source.labels)} classes, "
        f"model.classes is {model.classes}"
    )


def _prepare(source: Source, split: str, config: TrainConfig, progress: Progress) -> Prepared:
    with progress.decoding(split, len(source.split(split))) as advance:
        prepared = prepare_split(
            source,
            split,
            config.input,
            config.model.training_grid,
            config.model.patch,
            workers=config.workers,
            skip_unreadable=config.skip_unreadable,
            advance=advance,
        )
    progress.skipped(split, prepared.skipped)
    return prepared
