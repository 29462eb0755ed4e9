"""A bundle without labels: its checkpoint has no head and was trained elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from export.make import make_bundle
from export.options import Options
from media.spec import Grid, InputSpec
from models.bundle import Bundle, read_bundle
from models.checkpoint import save_checkpoint
from models.manifest import Precision
from models.spec import EncodingSpec, ModelSpec
from models.vit import VisionTransformer
from tests.helpers.export_bundles import squares_data
from tests.helpers.made_once import made_once

GRIDS = (Grid((3, 2)), Grid((4, 5)))
FEATURES = 2 * 32
SPEC = ModelSpec(
    patch=(4, 6), grid=(3, 2), classes=0, width=32, depth=2, heads=2, mlp_dim=40, pool="both",
    query_bias=True, value_bias=True, layer_scale=0.6, registers=2, mlp="gated",
    norm_epsilon=1e-6, norm_before_pool=True, encoding=EncodingSpec("dinov3_rope"),
)  # fmt: skip


def make_model() -> VisionTransformer:
    torch.manual_seed(2)
    return VisionTransformer(SPEC, InputSpec()).eval()


def save(folder: Path) -> Path:
    """The checkpoint; nothing is known of its data."""
    folder.mkdir(parents=True)
    save_checkpoint(folder, make_model(), InputSpec(), (), {})
    return folder


def pictures(factory: pytest.TempPathFactory) -> Path:
    """Twelve of the coloured squares, in one folder and without labels."""

    def write(root: Path) -> None:
        for path in (squares_data(factory) / "test" / "red").iterdir():
            shutil.copy(path, root / path.name)

    return made_once(factory, "unlabelled", write)


def features_bundle(factory: pytest.TempPathFactory, precision: Precision = "fp32") -> Bundle:
    """``bundles/features`` of both grids, exported once for a run of tests."""
    data = pictures(factory)

    def write(folder: Path) -> None:
        checkpoint = save(folder / "run")
        options = Options(
            checkpoint, GRIDS, folder / "bundles", "features", precision=precision, data=data,
            parity_items=10,
        )  # fmt: skip
        make_bundle(options, Console(quiet=True))

    return read_bundle(made_once(factory, f"features-{precision}", write) / "bundles" / "features")
