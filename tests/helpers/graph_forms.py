"""What the tables of a graph must be, by the form that its rotations have."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from export.constants import plane_tables, rotation_tables
from export.plan import plan_of
from media.spec import Grid
from models.manifest import RotationForm
from models.vit import VisionTransformer


def check_form(graph: ModelProto, form: RotationForm, model: VisionTransformer, grid: Grid) -> None:
    """Tables of the form alone, in every layer, of the sizes that were announced."""
    blocks, planes = rotation_tables(graph), plane_tables(graph)
    twice = 2 * model.spec.depth  # queries and keys of each layer
    assert len(blocks) == (twice if form.form == "blocks" else 0)
    assert len(planes) == (twice if form.form == "planes" else 0)
    tables = [*blocks, *(part for pair in planes for part in pair)]
    own = {id(table): table.nbytes for table in tables}  # layers may share one
    assert sum(own.values()) == plan_of(model).loaded_bytes(grid)
    for cosine, sine in planes:
        np.testing.assert_allclose(cosine**2 + sine**2, 1, atol=1e-6)
