"""Half precision: where it is used, how near its answers stay, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from export.__main__ import main
from export.check import GraphError, check_graph
from export.freeze import FrozenAttention, FrozenTransformer
from export.graph import to_onnx
from export.parity import Bound, ParityError, compare, fp16_bound, graph_logits, open_graph
from export.plan import plan_of
from export.reference import rounded_logits, torch_logits
from media import prepare
from media.dataset import prepare_split
from media.sources import open_source
from media.spec import Grid, InputSpec
from models.bundle import Bundle, read_bundle
from models.rotations.apply import Rotations
from models.spec import EncodingSpec
from models.vit import VisionTransformer
from service.engine.device.session import open_session
from tests.helpers.export_bundles import (
    GRIDS,
    LIERE,
    make_model,
    save,
    squares,
    squares_data,
)

PATCH = (4, 6)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return squares_data(tmp_path_factory)


@pytest.fixture(scope="module")
def model() -> VisionTransformer:
    return make_model()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return squares(tmp_path_factory, "fp16")


def pixels_for(model: VisionTransformer, grid: Grid, count: int) -> np.ndarray:
    shape = (count, *grid.pixels(model.spec.patch), 3)
    return np.random.default_rng(count).integers(0, 256, shape, dtype=np.uint8)


def graph_of(model: VisionTransformer, grid: Grid) -> onnx.ModelProto:
    example = torch.zeros(3, *grid.pixels(model.spec.patch), 3, dtype=torch.uint8)
    return to_onnx(FrozenTransformer(model, grid, "fp16"), example)


def test_weights_are_half_and_rotations_are_not(bundle: Bundle, model: VisionTransformer) -> None:
    """Weights take two bytes a number, rotations four, and nothing is stored twice."""
    halved = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if "norm" not in name and "head" not in name and "encoding" not in name
        and parameter.numel() >= 512  # smaller ones stay in the graph
    )  # fmt: skip
    tables = sum(map(plan_of(model).table_bytes, GRIDS))
    size = bundle.path("graphs/weights.bin").stat().st_size
    assert 2 * halved + tables <= size <= 2 * halved + tables + 4096 * 30  # page by page


def test_what_is_decided_in_float32_stays_there(bundle: Bundle) -> None:
    """Pixels, LayerNorm, rotations, softmax and head are float32; the other products are half."""
    graph = onnx.load(bundle.path("graphs/4x5.onnx"), load_external_data=False)
    check_graph(graph, "fp16")
    products = [node for node in graph.graph.node if node.op_type == "MatMul"]
    halves = {t.name for t in graph.graph.initializer if t.data_type == TensorProto.FLOAT16}
    layers = 2
    assert len([node for node in products if node.input[1] in halves]) == 1 + 4 * layers
    assert len(products) == 1 + 6 * layers  # and two rotations in each layer
    attention = next(node for node in graph.graph.node if node.op_type == "Attention")
    given = {found.name: helper.get_attribute_value(found) for found in attention.attribute}
    assert given["softmax_precision"] == TensorProto.FLOAT


def test_no_value_is_cast_to_and_fro(bundle: Bundle) -> None:
    """A layer casts eight times: into and out of attention and MLP, around both rotations."""
    graph = onnx.load(bundle.path("graphs/4x5.onnx"), load_external_data=False)
    casts = [node for node in graph.graph.node if node.op_type == "Cast"]
    assert len(casts) == 3 + 8 * 2  # pixels, then into and out of the patch embedding


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_graph_answers_as_the_checkpoint_at_any_batch(
    bundle: Bundle, model: VisionTransformer, grid: Grid, batch: int
) -> None:
    """Every fp16 grid stays within its stated bound of torch in fp32, whatever the batch."""
    entry = next(entry for entry in bundle.manifest.grids if entry.grid == str(grid))
    pixels = pixels_for(model, grid, batch)
    actual = graph_logits(open_graph(bundle.path(entry.graph)), pixels)
    bound = Bound(entry.parity.atol, entry.parity.rtol)
    assert compare(actual, torch_logits(model, pixels, grid), bound).max_abs > 1e-5  # not fp32


def test_tables_that_all_heads_and_layers_share_keep_the_contract_in_fp16() -> None:
    """One table of matrices too large to be joined: types are right, answers near torch's."""
    encoding = EncodingSpec("liere", block=32, per_layer=False, per_head=False)
    model, grid = make_model(encoding, "mean"), Grid((5, 3))
    pixels = pixels_for(model, grid, 5)
    graph = graph_of(model, grid)
    check_graph(graph, "fp16")
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    expected = torch_logits(model, pixels, grid)
    bound = fp16_bound(expected)
    compare(graph_logits(session, pixels), expected, bound)
    compare(rounded_logits(FrozenTransformer(model, grid, "fp16"), pixels), expected, bound)


def test_graphs_of_one_precision_are_refused_as_the_other(
    bundle: Bundle, model: VisionTransformer
) -> None:
    """A manifest cannot call a half-precision graph fp32, nor an fp32 graph half precision."""
    half = onnx.load(bundle.path("graphs/3x2.onnx"), load_external_data=False)
    with pytest.raises(GraphError, match="float16 in an fp32 graph"):
        check_graph(half, "fp32")
    example = torch.zeros(3, *GRIDS[0].pixels(PATCH), 3, dtype=torch.uint8)
    single = to_onnx(FrozenTransformer(model, GRIDS[0]), example)
    check_graph(single, "fp32")
    with pytest.raises(GraphError, match="expected MatMul of float16, got float"):
        check_graph(single, "fp16")


def test_manifest_states_the_agreement_on_the_whole_split(
    bundle: Bundle, model: VisionTransformer, data: Path
) -> None:
    """Parity, first classes, accuracy and bound are those computed here, item by item."""
    for entry in bundle.manifest.grids:
        grid = Grid.parse(entry.grid)
        split = prepare_split(open_source(data), "test", InputSpec(), grid, PATCH)
        expected = torch_logits(model, split.pixels, grid)
        actual = graph_logits(open_graph(bundle.path(entry.graph)), split.pixels)
        parity = entry.parity
        assert parity.items == len(expected) == 36
        assert parity.top1_equal == (actual.argmax(1) == expected.argmax(1)).sum()
        assert parity.max_abs == pytest.approx(np.abs(actual - expected).max(), rel=1e-3)
        assert (parity.atol, parity.rtol) == (pytest.approx(8e-3 * expected.std()), 1e-3)
        assert entry.accuracy is not None
        assert entry.accuracy.top1 == pytest.approx((actual.argmax(1) == split.labels).mean())


def test_manifest_states_what_rounding_every_result_costs(
    bundle: Bundle, model: VisionTransformer, data: Path
) -> None:
    """The figure that stands for a GPU is that of torch in half precision, and within the bound."""
    entry = bundle.manifest.grids[1]
    split = prepare_split(open_source(data), "test", InputSpec(), GRIDS[1], PATCH)
    rounded = rounded_logits(FrozenTransformer(model, GRIDS[1], "fp16"), split.pixels)
    difference = np.abs(rounded - torch_logits(model, split.pixels, GRIDS[1]))
    assert entry.rounded is not None
    assert entry.rounded.items == 36
    assert entry.rounded.max_abs == pytest.approx(difference.max(), rel=1e-3)
    assert (entry.rounded.atol, entry.rounded.rtol) == (entry.parity.atol, entry.parity.rtol)


def test_tolerances_follow_from_the_bound(bundle: Bundle) -> None:
    """A server allows twice the widest grid's bound on a CPU and four times on a GPU."""
    manifest = read_bundle(bundle.root).manifest
    assert manifest.precision == "fp16"
    widest = max(entry.parity.atol for entry in manifest.grids)
    assert manifest.tolerance("cpu").atol == pytest.approx(2 * widest)
    assert manifest.tolerance("cuda").atol == pytest.approx(4 * widest)
    assert {one.precision for one in manifest.tolerances} == {"fp16"}


def test_goldens_replay_in_the_session_that_serves(bundle: Bundle) -> None:
    """A server's own session gives the checkpoint's fp32 logits within the stated tolerance."""
    manifest, grid = bundle.manifest, GRIDS[1]
    tolerance = manifest.tolerance("cpu")
    session = open_session(bundle.path(f"graphs/{grid}.onnx"), "cpu", 1)
    for golden in manifest.goldens:
        media = bundle.path(golden.file).read_bytes()
        pixels = prepare(media, manifest.input, grid, manifest.patch)
        actual, expected = session.run(pixels[np.newaxis])[0], golden.logits[str(grid)]
        np.testing.assert_allclose(actual, expected, tolerance.rtol, tolerance.atol)


def test_card_states_precision_and_agreement(bundle: Bundle) -> None:
    """Who reads only the card learns that it is fp16, how near it is, and that no GPU ran it."""
    card = bundle.path("README.md").read_text()
    assert "Precision: fp16" in card
    assert "not run on a GPU" in card
    for entry in bundle.manifest.grids:
        assert f"| {entry.parity.top1_equal} of 36 | {entry.parity.max_abs:.2g} |" in card


def test_bound_follows_the_spread_of_logits() -> None:
    """Logits ten times as far apart may differ ten times as much: fp16 errors are relative."""
    logits = np.array([[1.0, -1.0, 0.5], [2.0, 0.0, -2.5]])
    assert fp16_bound(10 * logits).atol == pytest.approx(10 * fp16_bound(logits).atol)


# --- refused ------------------------------------------------------------------------------------


def overflowing() -> VisionTransformer:
    """One hidden unit of the second MLP reaches 1e5, which its next weight takes back."""
    model = make_model()
    with torch.no_grad():
        first, _, second = model.layers[1].mlp  # type: ignore[misc]
        first.weight[7] = 0.0
        first.weight[7, :3] = 6e4  # LayerNorm's outputs are of order 1
        second.weight[:, 7] = 1e-6
    return model


def test_overflow_shows_in_rounding_and_not_on_a_cpu() -> None:
    """A runtime on a CPU may hide what is infinite on a GPU; torch in half precision does not."""
    model, grid = overflowing(), GRIDS[1]
    pixels = pixels_for(model, grid, 4)
    session = onnxruntime.InferenceSession(graph_of(model, grid).SerializeToString())
    assert np.isfinite(graph_logits(session, pixels)).all()
    with pytest.raises(ParityError, match=r"fp16 overflows: layers\.1\.mlp\.inner\.0 reaches inf"):
        rounded_logits(FrozenTransformer(model, grid, "fp16"), pixels)


def test_overflowing_checkpoint_leaves_no_bundle(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What overflows fp16 is refused with the layer and the way out, and exports as fp32."""
    checkpoint, out = save(tmp_path / "best", overflowing(), data), tmp_path / "out"
    words = [str(checkpoint), "--grid", "3x2", "--out", str(out), "--parity-items", "36"]
    assert main([*words, "--precision", "fp16", "--name", "squares-fp16"]) == 1
    error = capsys.readouterr().err
    assert "fp16 overflows: layers.1.mlp.inner.0" in error
    assert "export --precision fp32\nno bundle was written" in error
    assert list(out.iterdir()) == []
    assert main([*words, "--name", "squares"]) == 0
    assert read_bundle(out / "squares").manifest.precision == "fp32"


def test_weight_beyond_fp16_is_refused() -> None:
    """A weight that half precision cannot hold is found like an activation that overflows."""
    model = make_model()
    with torch.no_grad():
        model.patch_embedding.bias[3] = 1e6
    pixels = pixels_for(model, GRIDS[0], 2)
    with pytest.raises(ParityError, match="patch_embedding"):
        rounded_logits(FrozenTransformer(model, GRIDS[0], "fp16"), pixels)


def test_value_near_the_end_of_fp16_is_refused() -> None:
    """Half of the range is kept for inputs that were not tried."""
    model = make_model()
    with torch.no_grad():
        model.patch_embedding.weight[3] = 0.0
        model.patch_embedding.bias[3] = 4e4
    pixels = pixels_for(model, GRIDS[0], 2)
    with pytest.raises(ParityError, match=r"patch_embedding\.inner reaches 4e\+04"):
        rounded_logits(FrozenTransformer(model, GRIDS[0], "fp16"), pixels)


def test_graph_that_is_off_by_more_than_rounding_is_refused(
    tmp_path: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wider bound of fp16 still sees scores that are off by a tenth."""
    honest = FrozenAttention.turned

    def off(self: FrozenAttention, part: torch.Tensor, rotations: Rotations) -> torch.Tensor:
        return honest(self, part, rotations) * 1.05

    monkeypatch.setattr(FrozenAttention, "turned", off)
    checkpoint, out = save(tmp_path / "best", make_model(LIERE), data), tmp_path / "out"
    words = [str(checkpoint), "--grid", "3x2", "--out", str(out), "--parity-items", "36"]
    assert main([*words, "--precision", "fp16"]) == 1
    assert "logits differ" in capsys.readouterr().err
    assert list(out.iterdir()) == []


def test_unknown_precision_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The command names the precisions that there are."""
    with pytest.raises(SystemExit, match="2"):
        main(["run", "--grid", "3x2", "--out", "out", "--precision", "int8"])
    assert "fp32" in capsys.readouterr().err
