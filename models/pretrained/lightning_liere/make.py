"""Published file -> checkpoint folder, in order: read, described, checked, written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from media.files import atomic_directory, sha256_file
from media.spec import SpecError
from models.checkpoint import save_checkpoint
from models.pretrained.lightning_liere.file import Published, read_published
from models.pretrained.lightning_liere.spec import Options, input_spec, model_spec
from models.pretrained.lightning_liere.weights import check_shapes, converted
from models.spec import ModelSpec
from models.vit import VisionTransformer


def import_published(path: Path, out: Path, options: Options) -> ModelSpec:
    """Write the checkpoint folder ``out``, whole or not at all; returns what the model is.

    Raises:
        CheckpointError: the file is no published checkpoint, or its tensors do not fit.
        SpecError: something is not told, or cannot be met.
        FileNotFoundError, FileExistsError: there is no file, or ``out`` is there already.
    """
    if out.exists():
        raise FileExistsError(f"expected a new folder, got {out}, which exists")
    published = read_published(path)
    spec = model_spec(published, options)
    described = input_spec(spec, options)
    check_labels(options.labels, spec.classes)
    check_shapes(published.weights, spec, described)
    parameters = converted(published.weights, spec)
    model = VisionTransformer(spec, described)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameters[name])
    with atomic_directory(out) as folder:
        notes = _notes(path, published, options)
        save_checkpoint(folder, model, described, options.labels, notes)
    return spec


def check_labels(labels: tuple[str, ...], classes: int) -> None:
    """SpecError unless there is one name a class."""
    different = len(set(labels) - {""})
    if (len(labels), different) != (classes, classes):
        raise SpecError(
            f"--labels: expected {classes} different names, one a line, got {len(labels)} lines "
            f"with {different}"
        )


def _notes(path: Path, published: Published, options: Options) -> dict[str, Any]:
    """Which items it was trained on is not known, so export takes test items alone."""
    unknown = {"items": None, "sha256": None}
    return {
        "step": published.step,
        "imported": {"mode": options.mode, "file_sha256": sha256_file(path)},
        "data": {"name": options.trained_on, "train": unknown, "val": unknown},
    }
