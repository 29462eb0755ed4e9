"""Graphs of inflated models: prefix tokens keep their weight in attention."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console

from export.freeze import FrozenTransformer
from export.graph import SharedWeights, write_graph
from export.make import make_bundle
from export.options import Options
from export.parity import FP32, Bound, compare, fp16_bound, graph_logits, open_graph
from export.plan import plan_of
from export.reference import rounded_logits, torch_logits
from media.spec import Grid, InputSpec
from models.grow import SAME_ANSWERS
from models.inflate import Axis, Onto, inflate, input_of
from models.manifest import Precision
from models.spec import EncodingSpec
from tests.helpers.export_clips_and_scans import GRIDS, save, write_data
from tests.helpers.spoilt_bundles import verify
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


def test_inflated_model_becomes_a_bundle_that_proves_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the whole road of an export, on clips; its card tells of the option."""
    pictures = InputSpec()
    old = make(EncodingSpec("rope_mixed"), pictures, patch=(2, 3), grid=(3, 4), classes=3, **PREFIX)
    torch.nn.init.normal_(old.head.weight, std=1.0)  # logits as far apart as a trained model's
    model = inflate(old, pictures, Axis("clips", Grid((2, 3, 4)), 1))
    spec = input_of(pictures, "clips")
    data = write_data(tmp_path, spec)
    checkpoint = save(tmp_path / "run" / "best", model, spec, data)
    options = Options(checkpoint, GRIDS, tmp_path / "bundles", "inflated", parity_items=36)
    bundle = make_bundle(options, Console(quiet=True))
    assert verify([bundle.root], capsys)[0] == 0
    assert "prefix tokens balanced in attention" in (bundle.root / "README.md").read_text()
