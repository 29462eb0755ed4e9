"""Graphs of what public pretrained families have: the answers of torch, and nothing left over."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from export.check import EMBEDDING
from export.freeze import FrozenTransformer
from export.graph import SharedWeights, write_graph
from export.parity import FP32, compare, fp16_bound, graph_logits, open_graph
from export.plan import plan_of
from export.reference import rounded_logits, torch_logits
from media.spec import Grid
from models.manifest import Precision
from models.vit import VisionTransformer
from tests.models.test_vit_families import FAMILIES, make_model, make_pixels

#: Another grid than the one that the models are made for: their tables are resized.
GRID = Grid((3, 5))


def exported(
    folder: Path, model: VisionTransformer, precision: Precision = "fp32"
) -> tuple[Path, FrozenTransformer]:
    """The graph of one grid, and what it was made from."""
    frozen = FrozenTransformer(model, GRID, precision, plan_of(model))
    with SharedWeights(folder / "weights.bin") as weights:
        write_graph(frozen, make_pixels(model, 3, GRID), folder / "g.onnx", weights, precision)
    return folder / "g.onnx", frozen


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_graph_of_a_family_answers_as_torch(
    family: str, precision: Precision, tmp_path: Path
) -> None:
    """Within the bound of every export, fp16 with every result rounded too."""
    model = make_model(family)
    path, frozen = exported(tmp_path, model, precision)
    pixels = make_pixels(model, 16, GRID).numpy()
    expected = torch_logits(model, pixels, GRID)
    bound = FP32 if precision == "fp32" else fp16_bound(expected)
    compare(graph_logits(open_graph(path), pixels), expected, bound)
    if precision == "fp16":
        compare(rounded_logits(frozen, pixels), expected, bound)
    features = open_graph(path).run([EMBEDDING], {"pixels": pixels})[0]
    wanted = model.features(torch.from_numpy(pixels)).detach().numpy()
    assert abs(features - wanted).max() < (1e-4 if precision == "fp32" else 2e-2)


def additions(path: Path, width: int) -> int:
    """How many operators of a graph add a bias of that many numbers."""
    graph = onnx.load(path, load_external_data=False).graph
    sides = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    return sum(
        node.op_type == "Add" and any(sides.get(name) == [width] for name in node.input)
        for node in graph.node
    )


def test_layer_scale_and_biases_of_values_cost_nothing(tmp_path: Path) -> None:
    """In fp32 both are in other weights: no product by gains, and no bias of the projection."""
    model = make_model("dinov3", query_bias=False)
    path, frozen = exported(tmp_path, model)
    for layer in frozen.model.layers:
        assert layer.attention_scale is layer.mlp_scale is None
    assert additions(path, 3 * model.spec.width) == 0


def test_bias_of_keys_stays_where_something_turns(tmp_path: Path) -> None:
    """Without rotations it changes no score and is gone; with them it is kept."""
    plain = make_model("dinov2, class token and mean", query_bias=False)
    path, _ = exported(tmp_path, plain)
    assert additions(path, 3 * plain.spec.width) == 0
    turned = make_model("rope-vit with a table", query_bias=False)
    path, _ = exported(tmp_path, turned)
    assert additions(path, 3 * turned.spec.width) == turned.spec.depth


def test_small_gains_survive_half_precision(tmp_path: Path) -> None:
    """Layer scale of 1e-5 stays float32, where folding it would round weights to nothing."""
    model = make_model("dinov3")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".attention_scale"):
                parameter.mul_(1e-5)
            elif name.endswith(".attention.out.weight"):
                parameter.mul_(1e4)
    path, _ = exported(tmp_path, model, "fp16")
    pixels = make_pixels(model, 16, GRID).numpy()
    expected = torch_logits(model, pixels, GRID)
    compare(graph_logits(open_graph(path), pixels), expected, fp16_bound(expected))
