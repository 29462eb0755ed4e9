"""Small checkpoints for clips and scans, and data to export them with; nothing is cubic."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from rich.console import Console

from export.make import Options, make_bundle
from media.spec import Grid, InputSpec, VideoSpec, VolumeSpec
from models.bundle import Bundle, read_bundle
from models.checkpoint import save_checkpoint
from models.spec import EncodingSpec, ModelSpec
from models.vit import VisionTransformer
from tests.helpers.export_bundles import held_out
from tests.helpers.made_once import made_once

LABELS = ("falls", "rests", "rises")
PATCH = (1, 2, 3)
GRIDS = (Grid((2, 3, 4)), Grid((4, 3, 2)))
#: One set of generators for all layers: the table is small.
SHARED = EncodingSpec("liere", block=8, per_layer=False)
ITEMS, VIEWS = 36, 2

CLIPS = InputSpec(modality="video", video=VideoSpec(views=VIEWS))
#: float32, of files that tell the size of their voxels
SCANS = InputSpec(
    modality="volume", channels=1, dtype="float32", fit="stretch", mean=(0.4,), std=(0.3,),
    volume=VolumeSpec(spacing=(2.5, 1.5, 1.0), window=(10.0, 180.0)),
)  # fmt: skip


def make_model(
    spec: InputSpec, encoding: EncodingSpec = SHARED, seed: int = 1
) -> VisionTransformer:
    torch.manual_seed(seed)
    model = ModelSpec(
        patch=PATCH, grid=GRIDS[0].size, channels=spec.channels, classes=len(LABELS), width=64,
        depth=2, heads=2, mlp_dim=96, pool="mean", encoding=encoding,
    )  # fmt: skip
    made = VisionTransformer(model, spec)
    torch.nn.init.normal_(made.head.weight, std=1.0)  # logits as far apart as a trained model's
    return made.eval()


def noise(channels: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [36, 5, 9, 13(, 3)], each of its own brightness along the first axis; labels."""
    generator = np.random.default_rng(0)
    shape = (ITEMS, 5, 9, 13) + ((3,) if channels == 3 else ())
    levels = generator.uniform(0, 1, (*shape[:2], *(1 for _ in shape[2:])))
    pixels = generator.integers(60, 256, shape) * levels
    return pixels.astype(np.uint8), np.arange(ITEMS) % len(LABELS)


def write_data(root: Path, spec: InputSpec) -> Path:
    """Clips in an npz, scans as files of classes; all in the test split."""
    items, labels = noise(spec.channels)
    if spec.video:
        path = root / "noise.npz"
        np.savez(path, test_images=items, test_labels=labels, classes=np.array(LABELS))
        return path
    for number, (item, label) in enumerate(zip(items, labels, strict=True)):
        folder = root / "noise" / "test" / LABELS[label]
        folder.mkdir(parents=True, exist_ok=True)
        affine = np.diag((1.5, -1.0, 2.0 + number / 10, 1.0))
        nibabel.Nifti1Image(item.T, affine).to_filename(folder / f"{number}.nii.gz")
    return root / "noise"


def save(folder: Path, model: VisionTransformer, spec: InputSpec, data: Path) -> Path:
    folder.mkdir(parents=True)
    notes = {
        "step": 7,
        "config": {"data": str(data), "cache": str(data.parent / "cache"), "epochs": 1},
        "data": {
            "name": "noise",
            "train": {"items": 9, "sha256": "0" * 64},
            "val": held_out(data),
        },
    }
    save_checkpoint(folder, model, spec, LABELS, notes)
    return folder


def exported_clips(factory: pytest.TempPathFactory) -> Bundle:
    """Clips at both grids, parity over every view; exported once for a run of tests."""

    def make(folder: Path) -> None:
        export_bundle(folder, CLIPS, parity_items=ITEMS * VIEWS)

    return read_bundle(made_once(factory, "exported-clips", make) / "bundles" / "noise")


def exported_scans(factory: pytest.TempPathFactory) -> Bundle:
    """Scans at one grid; exported once for a run of tests."""

    def make(folder: Path) -> None:
        export_bundle(folder, SCANS, GRIDS[:1])

    return read_bundle(made_once(factory, "exported-scans", make) / "bundles" / "noise")


def export_bundle(
    folder: Path, spec: InputSpec, grids: tuple[Grid, ...] = GRIDS, parity_items: int = 36
) -> Bundle:
    """The bundle ``folder / "bundles" / "noise"`` of a new model; its data lie in ``folder``."""
    data = write_data(folder, spec)
    checkpoint = save(folder / "run" / "best", make_model(spec), spec, data)
    options = Options(checkpoint, grids, folder / "bundles", "noise", parity_items=parity_items)
    return make_bundle(options, Console(quiet=True))
