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
from torch import Tensor, nn

from models.prepared import Prepared, prepare_split
from models.sources import Source, SourceError, open_source
from models.spec import ModelSpec, SpecError, from_json, to_json
from models.vit import VisionTransformer
from training.augment import crop_and_flip, epoch_order, uniform
from training.config import TrainConfig, differences
from training.evaluate import evaluate
from training.progress import Progress
from training.run import Run


def train(config: TrainConfig, root: Path, resume: bool = False) -> dict[str, float]:
    """Train, or continue, one run; returns the metrics of its best checkpoint.

    Raises:
        SpecError, SourceError, CheckpointError: bad input, with what was expected and what came.
        FileExistsError: the run exists and ``resume`` was not asked for.
        FloatingPointError: the loss is not finite.
    """
    run = Run(root)
    if run.exists() and not resume:
        raise FileExistsError(f"{root} holds a run; continue it with --resume or choose another")
    if resume and not run.exists():
        raise FileNotFoundError(f"{root} holds no checkpoint to resume from")
    root.mkdir(parents=True, exist_ok=True)
    source = open_source(Path(config.data))
    config = dataclasses.replace(config, model=_with_classes(config.model, source))
    torch.manual_seed(config.seed)  # initial weights only; every later draw names its step
    device = pick_device(config.device)
    model = VisionTransformer(config.model, config.input).to(device)
    optimiser = make_optimiser(model, config)
    notes: dict[str, Any] = {"step": 0, "best": None, "config": to_json(config)}
    if resume:
        notes = run.notes()
        check_resume(notes, config, source)
        run.restore(model, optimiser)
    with Progress() as progress:
        training, validation = (_prepare(source, split, config, progress) for split in ("train", "val"))
        notes["data"] = describe_data(source, training, validation)
        fit(model, optimiser, config, training, validation, run, source.labels, notes, progress)
    return notes["best"]


def fit(
    model: VisionTransformer,
    optimiser: torch.optim.Optimizer,
    config: TrainConfig,
    training: Prepared,
    validation: Prepared,
    run: Run,
    labels: tuple[str, ...],
    notes: dict[str, Any],
    progress: Progress,
) -> None:
    """Every step from ``notes["step"]`` to the last; ``notes`` follows along."""
    per_epoch = len(training.ids) // config.batch
    if per_epoch == 0:
        raise SpecError(
            f"batch {config.batch} is larger than the training split ({len(training.ids)} items)"
        )
    total = per_epoch * config.epochs
    model.train()
    progress.start(total, notes["step"], config.batch)
    for step in range(notes["step"], total):
        epoch, position = divmod(step, per_epoch)
        if position == 0 or step == notes["step"]:
            order = epoch_order(config.seed, epoch, len(training.ids))
        samples = order[position * config.batch : (position + 1) * config.batch]
        rate = learning_rate(config, step, total)
        loss = train_step(model, optimiser, config, training, samples, step, rate)
        progress.step(loss)
        notes["step"] = step + 1
        last_of_epoch = position == per_epoch - 1
        if last_of_epoch:
            record = {"step": step + 1, "epoch": epoch + 1, "loss": loss, "rate": rate}
            record |= {f"val_{key}": value for key, value in evaluate(model, validation).items()}
            run.log(record | {"time": time.time()})
            progress.epoch(record)
        if last_of_epoch or (step + 1) % config.save_every == 0:
            better = last_of_epoch and _is_better(record, notes["best"])
            if better:
                notes["best"] = record
            run.save(model, optimiser, config.input, labels, notes, better)


def train_step(
    model: VisionTransformer,
    optimiser: torch.optim.Optimizer,
    config: TrainConfig,
    training: Prepared,
    samples: np.ndarray,
    step: int,
    rate: float,
) -> float:
    """One update on the given samples; the loss before it."""
    draws = uniform(config.seed, step, samples, 3)
    pixels = crop_and_flip(training.pixels[samples], draws, config.crop_padding, config.flip)
    device = model.head.weight.device
    inputs = torch.from_numpy(pixels).to(device)  # [B, *pixels per axis, C]
    targets = torch.from_numpy(training.labels[samples]).to(device)  # [B]
    with autocast(device, config.precision):
        encoded = model.encode(model.spec.training_grid)  # once, for all layers and heads
        logits = model(inputs, encoded)
    loss = nn.functional.cross_entropy(logits, targets, label_smoothing=config.label_smoothing)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    return _finite(loss, training, samples, step)


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """Linear warm-up, then a cosine to 0 at the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def make_optimiser(model: VisionTransformer, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; weight decay on the matrices of linear layers only."""
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
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


def check_resume(notes: dict[str, Any], config: TrainConfig, source: Source) -> None:
    """Refuse to continue another run: other settings or other labels."""
    old = from_json(TrainConfig, notes["config"], "config")
    if changed := differences(old, config):
        raise SpecError(f"the run to resume was made with other values of: {', '.join(changed)}")
    if notes["data"]["labels"] != list(source.labels):
        raise SourceError(
            f"labels do not match the run: expected {notes['data']['labels']}, "
            f"got {list(source.labels)}"
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
        return prepare_split(
            source,
            split,
            config.input,
            config.model.training_grid,
            config.model.patch,
            workers=config.workers,
            skip_unreadable=config.skip_unreadable,
            advance=advance,
        )


def _is_better(record: dict[str, Any], best: dict[str, Any] | None) -> bool:
    return best is None or record["val_top1"] > best["val_top1"]


def _finite(loss: Tensor, training: Prepared, samples: np.ndarray, step: int) -> float:
    value = loss.item()
    if not math.isfinite(value):
        names = ", ".join(training.ids[index] for index in samples[:8])
        raise FloatingPointError(f"loss is {value} at step {step}; the batch began with {names}")
    return value
