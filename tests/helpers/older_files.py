"""A run, a bundle and a comparison that the last code of schema 1 wrote."""

from __future__ import annotations

import shutil
from pathlib import Path

SCHEMA_1 = Path(__file__).parent.parent / "models" / "fixtures" / "schema-1"
DATA = SCHEMA_1 / "shades.npz"
RUN = SCHEMA_1 / "run"
BUNDLE = SCHEMA_1 / "shades"
#: What the run was begun with, but for the data and the folder.
SETTINGS = (
    "model.width=8", "model.depth=1", "model.heads=1", "model.mlp_dim=8", "model.grid=2x3",
    "model.patch=4x4", "model.encoding.block=4", "model.encoding.per_layer=false",
    "model.encoding.position_rule=published", "epochs=3", "batch=4", "save_every=1",
    "augment.crop_padding=0",
)  # fmt: skip


def copy_run(folder: Path) -> Path:
    """The run, links as links, to go on with."""
    return shutil.copytree(RUN, folder / "run", symlinks=True)
