"""What a run needs and can be asked before anything is decoded."""

from __future__ import annotations

import difflib
import math
import shutil

import numpy as np
import torch

from media import MediaError, UnsupportedMedia, read
from media.index import Dataset
from media.limits import TRAINER
from media.spec import Grid, SpecError
from training.augment.mixing import circle_of
from training.config import TrainConfig
from training.processes import ALONE, Processes

#: Items that are tried before all are decoded.
TRIED = 8


def pick_device(name: str, processes: Processes = ALONE) -> torch.device:
    """``auto`` takes a GPU where there is one; an explicit ``cuda`` without one is an error.

    Every process of several takes the GPU of its place on the machine.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise SpecError("device is cuda and torch sees no GPU")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu" or processes.size == 1:
        return torch.device(name)
    if processes.local_size > torch.cuda.device_count():
        raise SpecError(
            f"{processes.local_size} processes on this machine need as many GPUs, and torch sees "
            f"{torch.cuda.device_count()}: expected fewer processes (torchrun --nproc-per-node)"
        )
    return torch.device(name, processes.local_rank)


def check_processes(config: TrainConfig, processes: Processes) -> None:
    """SpecError where a batch cannot be shared among so many processes."""
    count, batch = processes.size, config.batch
    if batch % (count * config.accumulate):
        parts = f" in {config.accumulate} parts each (accumulate)" * (config.accumulate > 1)
        raise SpecError(
            f"batch {batch} cannot be shared alike by {count} processes{parts}: expected a "
            f"multiple of {count * config.accumulate}"
        )
    circles = batch // circle_of(batch)
    if config.augment.mixes and circles % count:
        able = ", ".join(str(n) for n in range(1, circles + 1) if circles % n == 0)
        raise SpecError(
            f"augment.mixup and augment.cutmix mix the items of batch {batch} within {circles} "
            f"parts of it, which no two processes may share: expected {able} processes, got {count}"
        )


def check_compiler(config: TrainConfig, device: torch.device) -> None:
    """torch.compile for a CPU writes C++; without a compiler it would fail at the first step."""
    if config.compile and device.type == "cpu" and not shutil.which("g++"):
        raise SpecError("compile=true on a CPU needs a C++ compiler: expected g++, found none")


def check_precision(config: TrainConfig, device: torch.device) -> None:
    """SpecError where the precision is of another device."""
    if config.precision == "tf32" and device.type != "cuda":
        raise SpecError(f"precision tf32 is of GPUs: expected fp32 or bf16 on a {device.type}")


def check_modality(config: TrainConfig, dataset: Dataset) -> None:
    """SpecError where the first training items are all of another kind than the model takes.

    One that is read ends it: files of another kind among those of the right one are told later,
    all of them.
    """
    reason, one = "", (1,) * len(config.model.grid)  # pixel is enough
    for item in dataset.split("train")[:TRIED].tolist():
        try:
            read(dataset.read(item), config.input, Grid(one), one, limits=TRAINER)
        except UnsupportedMedia as error:
            reason = reason or f"{dataset.columns.ids[item]}: {error}"
        except (MediaError, OSError):
            return
        else:
            return
    raise SpecError(f"the items are no {config.input.modality} input as it is asked for; {reason}")


def check_steps(config: TrainConfig, items: int, step: int) -> None:
    """SpecError where an epoch has no step, or a run has taken more steps than it shall have."""
    if items < config.batch:
        raise SpecError(f"batch {config.batch} is larger than the training split ({items} items)")
    per_epoch = items // config.batch
    if per_epoch * config.epochs < step:
        raise SpecError(
            f"the run has taken {step} steps, {per_epoch} an epoch: expected epochs to be at least "
            f"{math.ceil(step / per_epoch)}, got {config.epochs}"
        )


def check_skipped(config: TrainConfig, dataset: Dataset, used: Dataset) -> None:
    """SpecError where ``skip`` names no training item, or all of a class that are trained on."""
    if not config.skip:
        return
    known = set(dataset.columns.ids.picked(dataset.split("train")))
    for id_ in config.skip:
        if id_ not in known:
            near = difflib.get_close_matches(id_, known, n=1) or sorted(known)[:1]
            raise SpecError(f"skip: expected ids of training items like {near[0]!r}, got {id_!r}")
    items, skipped = used.split("train"), set(config.skip)
    kept = np.array([id_ not in skipped for id_ in used.columns.ids.picked(items)])
    left = set(used.columns.labels[items[kept]].tolist())
    for label, name in enumerate(dataset.labels):
        if label not in left:
            raise SpecError(f"skip: expected to leave items of class {name!r} to train on")
