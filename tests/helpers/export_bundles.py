"""A small checkpoint and pictures to export it with; pixels and grids are non-square."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from rich.console import Console

from export.freeze import FrozenTransformer
from export.make import Options, make_bundle
from media.contents import split_contents
from media.sources import open_source
from media.spec import Grid, InputSpec
from models.bundle import Bundle, read_bundle
from models.checkpoint import save_checkpoint
from models.manifest import Precision
from models.spec import EncodingSpec, ModelSpec
from models.vit import VisionTransformer
from tests.helpers.made_once import made_once

LABELS = ("blue", "green", "red")
GRIDS = (Grid((3, 2)), Grid((4, 5)))
LIERE = EncodingSpec("liere", block=8)


def make_model(
    encoding: EncodingSpec = LIERE, pool: Literal["class", "mean"] = "class", seed: int = 1
) -> VisionTransformer:
    torch.manual_seed(seed)
    spec = ModelSpec(
        patch=(4, 6), grid=(3, 2), classes=len(LABELS), width=64, depth=2, heads=2, mlp_dim=96,
        pool=pool, encoding=encoding,
    )  # fmt: skip
    model = VisionTransformer(spec, InputSpec())
    torch.nn.init.normal_(model.head.weight, std=1.0)  # logits as far apart as a trained model's
    return model.eval()


def save(folder: Path, model: VisionTransformer, data: Path) -> Path:
    folder.mkdir(parents=True)
    notes = {
        "step": 7,
        "config": {"data": str(data), "epochs": 1},
        "data": {
            "name": "squares",
            "train": {"items": 9, "sha256": "0" * 64},
            "val": held_out(data),
            "skipped": [[str(data / "lost.png"), "truncated"]],
        },
    }
    save_checkpoint(folder, model, InputSpec(), LABELS, notes)
    return folder


def held_out(data: Path) -> dict[str, Any]:
    """What a run's notes say of its validation split: that of the data, where there is one."""
    source = open_source(data)
    if "val" not in source.present():
        return {"items": 3, "sha256": "1" * 64}
    contents = split_contents(source, "val")
    return {"items": len(contents.ids), "sha256": contents.sha256}


def write_pictures(root: Path) -> Path:
    """36 coloured noise pictures in three classes, all in the test split."""
    generator = np.random.default_rng(0)
    for channel, label in enumerate(LABELS):
        folder = root / "test" / label
        folder.mkdir(parents=True)
        for number in range(12):
            pixels = generator.integers(0, 160, (20 + number, 30, 3), dtype=np.uint8)
            pixels[..., channel] += 90
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def squares_data(factory: pytest.TempPathFactory) -> Path:
    """Those pictures, written once for a run of tests."""
    return made_once(factory, "squares", write_pictures)


def squares(
    factory: pytest.TempPathFactory, precision: Precision = "fp32", explain: bool = False
) -> Bundle:
    """The bundle of ``make_model()``, exported once for a run of tests."""
    data, model = squares_data(factory), make_model()
    folder = made_once(
        factory,
        f"squares-{precision}{'-explain' * explain}",
        lambda folder: export_bundle(folder, model, data, precision, explain),
    )
    return read_bundle(folder / "bundles" / "squares")


def know_graphs(patched: pytest.MonkeyPatch, bundle: Bundle) -> None:
    """Let who exports the checkpoint of a bundle again have its graphs, not made another time."""

    def known(
        module: FrozenTransformer, example: torch.Tensor, head: bool, attention: bool
    ) -> onnx.ModelProto:
        assert not attention  # those bundles do not explain
        return onnx.load(bundle.path(f"graphs/{module.grid}.onnx"))

    patched.setattr("export.graph.to_onnx", known)


def checkpoint_of(bundle: Bundle) -> Path:
    """What ``export_bundle`` made it from."""
    return bundle.root.parent.parent / "run" / "best"


def loaded_tables(graph: Path, folder: Path) -> list[tuple[int, ...]]:
    """Sides of the stacks of matrices that a runtime holds once it has loaded a graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "loaded.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(graph), options)
    loaded = onnx.load(folder / "loaded.onnx", load_external_data=False)
    return [tuple(held.dims) for held in loaded.graph.initializer if len(held.dims) > 2]


def export_bundle(
    folder: Path,
    model: VisionTransformer,
    data: Path,
    precision: Precision = "fp32",
    explain: bool = False,
) -> Bundle:
    """The bundle ``folder / "bundles" / "squares"`` of a model, both grids."""
    checkpoint = save(folder / "run" / "best", model, data)
    options = Options(
        checkpoint, GRIDS, folder / "bundles", "squares", precision=precision, parity_items=36,
        explain=explain,
    )  # fmt: skip
    return make_bundle(options, Console(quiet=True))
