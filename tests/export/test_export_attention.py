"""Graphs that also tell where the model looked: the rollout of torch, and all that is proved."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest

from export.__main__ import main
from export.check import GraphError, check_graph
from export.freeze import FrozenWithRollout
from export.graph import SharedWeights, write_graph
from export.measure import attention_path
from export.parity import FP32, compare, fp16_bound, graph_rollout, open_graph
from export.plan import plan_of
from export.reference import torch_logits, torch_rollout
from media.spec import Grid, SpecError
from media.strict_json import read_json
from models.bundle import Bundle
from models.manifest import Precision, parse_manifest
from models.vit import VisionTransformer
from tests.helpers.export_bundles import GRIDS, checkpoint_of, squares, squares_data
from tests.helpers.features_bundles import features_bundle
from tests.helpers.spoilt_bundles import Spoil, change_graph, edit, seal, verify
from tests.models.test_vit import make_model as make_plain
from tests.models.test_vit_families import make_model, make_pixels

GRID = Grid((3, 5))
SECOND = attention_path(GRIDS[1])


def exported(
    folder: Path, model: VisionTransformer, precision: Precision, grid: Grid = GRID
) -> Path:
    """The graph of one grid."""
    frozen, path = FrozenWithRollout(model, grid, precision, plan_of(model)), folder / "g.onnx"
    pixels = make_pixels(model, 3, grid)
    with SharedWeights(folder / "weights.bin") as weights:
        write_graph(frozen, pixels, path, weights, precision, attention=True)
    return path


@pytest.mark.parametrize(
    ("family", "precision"),
    [
        ("dinov3", "fp32"),
        ("dinov3 gated, mean of patches", "fp16"),
        ("dinov2, class token and mean", "fp32"),
        ("both, pooled and then normalised", "fp16"),
        ("a basis and biases", "fp32"),
        ("normalised queries", "fp16"),
        ("inflated", "fp32"),
        ("inflated", "fp16"),
    ],
)
def test_graph_gives_torchs_rollout_and_logits(
    family: str, precision: Precision, tmp_path: Path
) -> None:
    """Of planes, blocks and tables, with a mask or without; as multiples of an even share."""
    if family == "inflated":
        grid, model = Grid((3, 2, 5)), make_plain(3, balance_prefix=True, registers=2)
    else:
        grid, model = GRID, make_model(family)
    pixels = make_pixels(model, 16, grid).numpy()
    session = open_graph(exported(tmp_path, model, precision, grid))
    logits, rollout = graph_rollout(session, pixels, batch=5)
    assert rollout.shape == (16, grid.tokens)
    wanted = torch_logits(model, pixels, grid)
    compare(logits, wanted, FP32 if precision == "fp32" else fp16_bound(wanted))
    even = grid.tokens * torch_rollout(model, pixels, grid)
    compare(grid.tokens * rollout, even, FP32 if precision == "fp32" else fp16_bound(even))
    assert even.std() > 0.01  # or nothing was compared


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of both precisions; not to be written to."""
    return squares(tmp_path_factory, request.param, explain=True)


def test_bundle_states_what_was_proved(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two graphs a grid over one file of weights, which is hardly larger than without."""
    manifest = bundle.manifest
    for entry in manifest.grids:
        assert entry.attention is not None
        assert entry.graphs == (entry.graph, attention_path(Grid.parse(entry.grid)))
        for parity in (entry.attention.parity, entry.attention.rollout):
            assert parity.items == 36
            assert parity.worst_ratio <= 1
        assert entry.attention.parity.atol == entry.parity.atol
    plain = squares(tmp_path_factory, manifest.precision)
    sizes = [one.path("graphs/weights.bin").stat().st_size for one in (bundle, plain)]
    assert sizes[0] - sizes[1] < 2**15
    assert all(entry.attention is None for entry in plain.manifest.grids)
    cards = [one.path("README.md").read_text(encoding="utf-8") for one in (bundle, plain)]
    assert ["\n## Where it looked\n" in card for card in cards] == [True, False]
    for entry in manifest.grids:
        assert entry.attention is not None
        rollout = entry.attention.rollout
        row = f"| {entry.grid} | 36 | {rollout.max_abs:.2g} | {rollout.worst_ratio:.2f} |"
        assert row in cards[0]


def test_rollout_that_is_none_is_refused_by_name(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not as logits, which are right."""
    wrong = lambda *said: 1.01 * torch_rollout(*said)  # noqa: E731
    monkeypatch.setattr("export.measure.torch_rollout", wrong)
    run = checkpoint_of(squares(tmp_path_factory)).parent
    words = ["--grid", "3x2", "--out", tmp_path / "bundles", "--parity-items", "9", "--explain"]
    data = squares_data(tmp_path_factory)
    assert main([str(one) for one in (run, "--name", "squares", "--data", data, *words)]) != 0
    assert "rollouts of attention differ by up to" in capsys.readouterr().err


def test_verify_proves_both_graphs(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    """Contract, pixels, rotations and goldens of each."""
    status, told, _ = verify([bundle.root], capsys)
    assert status == 0, told
    for what in ("graph", "pixels", "rotations", "goldens"):
        assert f"ok     {what} 4x5: " in told
        assert f"ok     {what} 4x5 with attention: " in told


def twice_as_large(root: Path) -> None:
    """The logits are twice as large."""

    def change(graph: onnx.GraphProto) -> None:
        head = next(node for node in graph.node if node.op_type == "Gemm")
        alpha = next(one for one in head.attribute if one.name == "alpha")
        alpha.f = 2.0

    change_graph(root, change, SECOND)


def not_told(root: Path) -> None:
    shutil.copyfile(root / "graphs/4x5.onnx", root / SECOND)


def stated(part: str, ratio: float) -> Spoil:
    def change(root: Path) -> None:
        edit(root, lambda m: m["grids"][1]["attention"][part].update(worst_ratio=ratio))

    return change


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (twice_as_large, "goldens 4x5 with attention: 4 together and alone"),
        (not_told, "graph 4x5 with attention: GraphError: unexpected operators {'Attention'}"),
        (stated("rollout", 1.5), "parity at 4x5 is outside its bound"),
        (stated("parity", 1.5), "parity at 4x5 is outside its bound"),
        (lambda root: (root / SECOND).unlink(), f"{SECOND} is listed and missing"),
    ],
)
def test_verify_names_what_is_wrong_with_it(
    spoil: Spoil, reason: str, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the second graph as of the first."""
    root = shutil.copytree(bundle.root, tmp_path / "squares")
    spoil(root)
    if (root / SECOND).exists():
        seal(root)
    status, _, told = verify([root], capsys)
    assert status == 1
    assert reason in told


def test_plain_graph_does_not_pass_for_one_that_explains(bundle: Bundle) -> None:
    """Nor the other way round: operators and outputs are looked at."""
    manifest = bundle.manifest
    graphs = [
        onnx.load(bundle.path(path), load_external_data=False) for path in manifest.grids[0].graphs
    ]
    for graph, attention in zip(graphs, (True, False), strict=True):
        with pytest.raises(GraphError, match="unexpected operators"):
            check_graph(graph, manifest.precision, attention=attention)


def test_manifest_refuses_a_graph_that_is_not_there(bundle: Bundle) -> None:
    document = read_json(bundle.path("manifest.json"))
    del document["files"][SECOND]
    with pytest.raises(SpecError, match=f"{SECOND} is not among the files"):
        parse_manifest(document)


def test_command_exports_it_and_says_so(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person reads how near the checkpoint's attention it is."""
    run = checkpoint_of(squares(tmp_path_factory)).parent
    words = ["--grid", "3x2", "--out", tmp_path, "--parity-items", "9", "--explain"]
    data = squares_data(tmp_path_factory)
    assert main([str(one) for one in (run, "--name", "squares", "--data", data, *words)]) == 0
    assert "grid 3x2: attention as the checkpoint's, largest difference" in capsys.readouterr().err


def test_without_a_head_there_is_nothing_to_explain(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused before anything is written."""
    bundle = features_bundle(tmp_path_factory, "fp32")
    words = ["--grid", "3x2", "--out", str(tmp_path / "bundles"), "--explain"]
    assert main([str(bundle.root.parent.parent / "run"), *words]) == 2
    assert "--explain is for answers with labels" in capsys.readouterr().err
    assert not (tmp_path / "bundles").exists()


def test_an_fp16_rollout_is_taken_in_float32(tmp_path: Path) -> None:
    """Scores, softmax and shares: a share of many patches would lose its digits in half."""
    model = make_model("dinov3")
    graph = onnx.load(exported(tmp_path, model, "fp16"), load_external_data=False)
    check_graph(graph, "fp16", attention=True)
    types = onnx.shape_inference.infer_shapes(graph).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in types.value_info}
    softmax = [node for node in graph.graph.node if node.op_type == "Softmax"]
    assert len(softmax) == len(model.layers)
    assert {kinds[node.input[0]] for node in softmax} == {onnx.TensorProto.FLOAT}
