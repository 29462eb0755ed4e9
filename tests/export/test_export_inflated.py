"""Graphs of inflated models: prefix tokens keep their weight in attention."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from export.freeze import FrozenTransformer
from export.graph import SharedWeights, write_graph
from export.parity import FP32, Bound, compare, fp16_bound, graph_logits, open_graph
from export.plan import plan_of
from export.reference import rounded_logits, torch_logits
from media.spec import Grid
from models.grow import SAME_ANSWERS
from models.inflate import Axis, Onto, inflate
from models.manifest import Precision
from models.spec import EncodingSpec
from tests.models.test_inflate import DEPTH, GRID, INPUT, PREFIX, make, random_pixels, repeated

#: Another grid than the one that models are made for, with more tokens along the new axis.
OTHER = Grid((5, 3, 4))


@pytest.mark.parametrize(
    ("encoding", "onto", "precision"),
    [
        (EncodingSpec("liere", block=8), "clips", "fp32"),
        (EncodingSpec("liere", block=8), "scans", "fp16"),
        (EncodingSpec("rope_mixed"), "clips", "fp16"),
        (EncodingSpec("rope_mixed"), "scans", "fp32"),
    ],
    ids=str,
)
def test_graph_of_an_inflated_model_answers_as_torch(
    encoding: EncodingSpec, onto: Onto, precision: Precision, tmp_path: Path
) -> None:
    """Of random clips as torch does, and of equal frames as the picture's model does."""
    old = make(encoding, depth=1, **PREFIX)
    model = inflate(old, INPUT, Axis(onto, GRID, DEPTH))
    frozen = FrozenTransformer(model, OTHER, precision, plan_of(model))
    with SharedWeights(tmp_path / "weights.bin") as weights:
        pixels = random_pixels(model, OTHER, 3)
        write_graph(frozen, pixels, tmp_path / "g.onnx", weights, precision)
    session = open_graph(tmp_path / "g.onnx")
    pixels = random_pixels(model, OTHER, 12)
    expected = torch_logits(model, pixels.numpy(), OTHER)
    bound = FP32 if precision == "fp32" else fp16_bound(expected)
    compare(graph_logits(session, pixels.numpy()), expected, bound)
    if precision == "fp16":
        compare(rounded_logits(frozen, pixels.numpy()), expected, bound)
    else:
        pictures = random_pixels(old, Grid((3, 4)), 12)
        pictures = pictures[..., :1].expand(-1, -1, -1, 3)  # grey
        clips = repeated(pictures, 5)[..., : model.spec.channels].contiguous()
        with torch.inference_mode():
            wanted = old(pictures).numpy()
        both = Bound(SAME_ANSWERS, FP32.rtol)  # of two networks, as when it is inflated
        compare(graph_logits(session, clips.numpy()), wanted, both)
