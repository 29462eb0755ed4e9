"""The road from a checkpoint to a bundle, on pictures made here; every input is non-square."""

from __future__ import annotations

import io
import json
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from rich.console import Console

import export.measure
import export.remeasure
from export.__main__ import main
from export.check import check_graph
from export.freeze import FrozenAttention, FrozenTransformer
from export.generated import image
from export.graph import to_onnx
from export.make import Options, make_bundle
from export.parity import FP32, ParityError, compare, fp32_bound, graph_logits, open_graph
from export.plan import plan_of
from export.reference import torch_logits
from media import prepare
from media.dataset import Prepared, prepare_split
from media.files import sha256_file
from media.sources import SourceError, open_source
from media.spec import Grid, InputSpec, SpecError
from models.bundle import Bundle, read_bundle
from models.checkpoint import load_checkpoint
from models.encodings import short_name
from models.rotations.apply import Rotations
from models.spec import EncodingSpec
from tests.helpers.disks import small_disk
from tests.helpers.export_bundles import (
    GRIDS,
    LABELS,
    LIERE,
    checkpoint_of,
    know_graphs,
    loaded_tables,
    make_model,
    save,
    squares,
    squares_data,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return squares_data(tmp_path_factory)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return squares(tmp_path_factory)


@pytest.fixture(scope="module")
def checkpoint(bundle: Bundle) -> Path:
    return checkpoint_of(bundle)


@pytest.fixture
def known_graphs(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what else an export does."""
    know_graphs(monkeypatch, bundle)


def test_bundle_is_read_back_whole(bundle: Bundle) -> None:
    """What the exporter wrote passes the reader's checks and names both grids in order."""
    manifest = read_bundle(bundle.root).manifest
    assert [entry.grid for entry in manifest.grids] == ["3x2", "4x5"]
    assert manifest.labels == LABELS
    assert manifest.opset == 23


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_graph_answers_as_torch_at_any_batch(
    bundle: Bundle, checkpoint: Path, grid: Grid, batch: int
) -> None:
    """Every exported grid gives the checkpoint's logits, whatever the batch."""
    model, _ = load_checkpoint(checkpoint)
    shape = (batch, *grid.pixels(model.spec.patch), 3)
    pixels = np.random.default_rng(batch).integers(0, 256, shape, dtype=np.uint8)
    actual = graph_logits(open_graph(bundle.path(f"graphs/{grid}.onnx")), pixels)
    compare(actual, torch_logits(model, pixels, grid))


@pytest.mark.parametrize("pool", ["class", "mean"])
@pytest.mark.parametrize(
    "encoding",
    [
        EncodingSpec("absolute"),
        EncodingSpec("liere", block=2),
        EncodingSpec("liere", block=8, per_layer=False),
        EncodingSpec("liere", block=16, per_head=False),
        EncodingSpec("liere", block=32, per_layer=False, per_head=False),
    ],
    ids=short_name,
)
def test_frozen_transformer_equals_the_model(
    encoding: EncodingSpec, pool: Literal["class", "mean"]
) -> None:
    """Joining blocks and turning queries with keys changes no logit, for every sharing."""
    model = make_model(encoding, pool)
    grid = Grid((4, 3))
    pixels = torch.randint(0, 256, (3, *grid.pixels(model.spec.patch), 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = model(pixels, model.encode(grid, torch.float64))
        torch.testing.assert_close(
            FrozenTransformer(model, grid)(pixels), expected, atol=1e-5, rtol=1e-5
        )


def test_absolute_positions_export_at_another_grid() -> None:
    """Without rotations, with mean pooling, interpolated: the graph still answers as torch."""
    model, grid = make_model(EncodingSpec("absolute"), "mean"), Grid((5, 3))
    shape = (4, *grid.pixels(model.spec.patch), 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    graph = to_onnx(FrozenTransformer(model, grid), torch.from_numpy(pixels))
    check_graph(graph)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    compare(graph_logits(session, pixels), torch_logits(model, pixels, grid))


def test_runtime_folds_the_joined_blocks(
    bundle: Bundle, checkpoint: Path, tmp_path: Path
) -> None:
    """Joining small rotations costs nothing at a request: the loaded graph holds them joined."""
    tokens, heads, side = 1 + 20, 2, 32
    layer = (tokens, heads * 32 // side, side, side)
    assert loaded_tables(bundle.path("graphs/4x5.onnx"), tmp_path) == [layer, layer]
    plan = plan_of(load_checkpoint(checkpoint)[0])
    assert plan.loaded_bytes(GRIDS[1]) == 2 * 4 * math.prod(layer)


def test_graph_keeps_the_contract(bundle: Bundle) -> None:
    """Attention is one operator, positions are constants, and only the batch axis is free."""
    graph = onnx.load(bundle.path("graphs/4x5.onnx"), load_external_data=False)
    operators = {node.op_type for node in graph.graph.node}
    assert "Attention" in operators
    assert not operators & {"Conv", "Resize", "Einsum", "Loop", "If"}
    entry = graph.graph.input[0].type.tensor_type
    assert entry.elem_type == onnx.TensorProto.UINT8
    sides = [side.dim_param or side.dim_value for side in entry.shape.dim]
    assert sides == ["batch", 16, 30, 3]


def test_second_output_is_what_enters_the_head(bundle: Bundle, checkpoint: Path) -> None:
    """The features that torch computes, of every grid; asking for them changes no logit."""
    model = load_checkpoint(checkpoint)[0]
    seen: list[torch.Tensor] = []
    model.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for grid in GRIDS:
        shape = (3, *grid.pixels(model.spec.patch), 3)
        pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
        torch_logits(model, pixels, grid)
        session = onnxruntime.InferenceSession(bundle.path(f"graphs/{grid}.onnx"))
        alone = session.run(["logits"], {"pixels": pixels})[0]
        logits, embedding = session.run(["logits", "embedding"], {"pixels": pixels})
        np.testing.assert_array_equal(logits, alone)
        assert (embedding.dtype, embedding.shape) == (np.float32, (3, model.spec.width))
        np.testing.assert_allclose(embedding, seen.pop(), atol=1e-4, rtol=1e-4)


def test_check_graph_refuses_a_convolution() -> None:
    """The check that guards the contract can fail."""

    class Convolving(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = torch.nn.Conv2d(3, 2, 2), torch.nn.Linear(2, 2)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.head(self.layer(pixels.float().permute(0, 3, 1, 2)).mean((2, 3)))

    graph = to_onnx(Convolving(), torch.zeros(3, 4, 6, 3, dtype=torch.uint8))
    with pytest.raises(RuntimeError, match="Conv"):
        check_graph(graph)


def test_graphs_share_one_file_of_weights(bundle: Bundle, checkpoint: Path) -> None:
    """weights.bin holds the weights once and each grid's rotations once, nothing else."""
    model, _ = load_checkpoint(checkpoint)
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    tables = sum(map(plan_of(model).table_bytes, GRIDS))
    size = bundle.path("graphs/weights.bin").stat().st_size
    padding = 4096 * 40  # every tensor begins on a page
    assert tables < size < weights + tables + padding
    names = {path.name for path in (bundle.root / "graphs").iterdir()}
    assert names == {"3x2.onnx", "4x5.onnx", "weights.bin"}


def test_rotations_in_the_bundle_come_from_float64(bundle: Bundle, checkpoint: Path) -> None:
    """The stored table is the float64 exponential, rounded once."""
    model, _ = load_checkpoint(checkpoint)
    blocks = model.encode(GRIDS[1], torch.float64).blocks
    assert blocks is not None
    table = blocks[1]
    stored = bundle.path("graphs/weights.bin").read_bytes()
    assert table.mT.contiguous().detach().numpy().tobytes() in stored


def test_bundle_does_not_tell_where_it_was_made(
    bundle: Bundle, checkpoint: Path, data: Path
) -> None:
    """No file of a bundle holds the path of the checkpoint, the data, the code or a library."""
    code = Path(export.measure.__file__).parent.parent
    words = (str(data), str(checkpoint.parent), str(code), "site-packages", ".py")
    for path in bundle.root.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [word for word in words if word.encode() in content], path.name


def test_accuracy_is_that_of_the_graph_on_the_whole_split(
    bundle: Bundle, checkpoint: Path, data: Path
) -> None:
    """The manifest's accuracy equals one computed here from the checkpoint, item by item."""
    model, description = load_checkpoint(checkpoint)
    split = prepare_split(open_source(data), "test", description.input, GRIDS[0], (4, 6))
    right = torch_logits(model, split.pixels, GRIDS[0]).argmax(1) == split.labels
    measured = bundle.manifest.grids[0].accuracy
    assert measured is not None
    assert (measured.items, measured.top1) == (36, pytest.approx(right.mean()))
    assert measured.split_sha256 == split.sha256


def test_goldens_are_generated_and_replay(bundle: Bundle) -> None:
    """Each golden, through the decode path and the graph, gives the logits of the manifest."""
    manifest = bundle.manifest
    tolerance = manifest.tolerance("cpu")
    for golden in manifest.goldens:
        for grid in GRIDS:
            data = bundle.path(golden.file).read_bytes()
            pixels = prepare(data, manifest.input, grid, manifest.patch)
            session = open_graph(bundle.path(f"graphs/{grid}.onnx"))
            actual = graph_logits(session, pixels[np.newaxis])[0]
            expected = golden.logits[str(grid)]
            np.testing.assert_allclose(actual, expected, tolerance.rtol, tolerance.atol)


def test_generated_images_are_the_same_every_time() -> None:
    """Goldens do not depend on the moment or on the state of a random generator."""
    first = image.generated(InputSpec())
    np.random.default_rng().random()
    random.random()
    assert image.generated(InputSpec()) == first
    assert len({Image.open(io.BytesIO(data)).size for data in first.values()}) == 4


@pytest.mark.usefixtures("known_graphs")
def test_golden_files_replace_the_generated_ones(
    tmp_path: Path, checkpoint: Path, data: Path
) -> None:
    """--golden puts the chosen file, and no other, into the bundle."""
    chosen = data / "test" / "red" / "0.png"
    words = [str(checkpoint), "--grid", "3x2", "--out", str(tmp_path), "--name", "own"]
    assert main([*words, "--golden", str(chosen), "--parity-items", "36"]) == 0
    manifest = read_bundle(tmp_path / "own").manifest
    assert [golden.file for golden in manifest.goldens] == ["golden/0.png"]
    assert sha256_file(tmp_path / "own" / "golden" / "0.png") == sha256_file(chosen)


# --- bad input ----------------------------------------------------------------------------------


def fails(words: list[str], capsys: pytest.CaptureFixture[str], out: Path) -> str:
    """The message of a run that must fail and leave nothing behind."""
    before = sorted(out.rglob("*"))
    assert main(words) != 0
    assert sorted(out.rglob("*")) == before
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_table_over_the_limit_is_refused_first(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The size of the rotations is printed, then refused before any graph is made."""
    words = [str(checkpoint), "--grid", "40x50", "--out", str(tmp_path), "--max-table-mb", "2"]
    error = fails(words, capsys, tmp_path)
    assert "grid 40x50: 2000 tokens, rotation table 8.20 MB, 32.78 MB loaded" in error
    assert "over --max-table-mb 2" in error


def test_existing_bundle_is_never_overwritten(
    bundle: Bundle, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second export under the same name is refused and changes nothing."""
    words = [str(checkpoint), "--grid", "3x2", "--out", str(bundle.root.parent)]
    assert "choose another --name" in fails([*words, "--name", "squares"], capsys, bundle.root)


@pytest.mark.parametrize("grid", ["8", "0x4", "3x2x2", "axb", "3x-2"])
def test_grid_that_cannot_be_is_refused(
    grid: str, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A grid of another number of axes, or none at all, is named in the message."""
    words = [str(checkpoint), f"--grid={grid}", "--out", str(tmp_path)]
    assert "grid" in fails(words, capsys, tmp_path)


def test_labels_that_do_not_match_are_refused(
    tmp_path: Path, checkpoint: Path, data: Path
) -> None:
    """Accuracy is never measured on data with other classes than the checkpoint's."""
    other = tmp_path / "other"
    for label in ("red", "green"):
        (other / label).mkdir(parents=True)
        source = data / "test" / label / "0.png"
        (other / label / "0.png").write_bytes(source.read_bytes())
    options = Options(checkpoint, GRIDS, tmp_path, "x", data=other)
    with pytest.raises(SourceError, match="expected .'blue', 'green', 'red'.*got"):
        make_bundle(options, Console(quiet=True))


@pytest.mark.usefixtures("known_graphs")
def test_unreadable_test_image_stops_the_export(
    tmp_path: Path, checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broken image in the test split is named, not left out of the accuracy."""
    copy = tmp_path / "copy"
    for path in data.rglob("*.png"):
        target = copy / path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes()[: 60 if path.match("blue/3.png") else None])
    words = [str(checkpoint), "--grid", "3x2", "--out", str(tmp_path), "--data", str(copy)]
    error = fails([*words, "--parity-items", "36"], capsys, tmp_path)
    assert "1 of 36 items in split 'test' cannot be read: test/blue/3.png" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parity-items", "256"], "parity needs 256 items and the data have 36"),
        (["--parity-items", "0"], "parity needs 0 items"),
        (["--name", "Squares"], "--name: expected"),
        (["--version", "1 0"], "--version: expected"),
        (["--golden", __file__], "these are none of them"),
        (["--golden", "absent.png"], "absent.png"),
        (["--about", "absent.md"], "absent.md"),
        (["--data", "absent"], "got absent"),
        (["--split", "val"], "expected items in split 'val'"),
    ],
    ids=lambda value: value[0] + "=" + value[1][:10] if isinstance(value, list) else "",
)
def test_options_that_cannot_be_met_are_named(
    words: list[str],
    message: str,
    tmp_path: Path,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each ends with one line that says what was expected, and leaves nothing behind."""
    run = [str(checkpoint), "--grid", "3x2", "--out", str(tmp_path), "--name", "squares"]
    assert message in fails([*run, "--parity-items", "36", *words], capsys, tmp_path)


@pytest.mark.parametrize("threads", ["0", "-1", "two", "1.5", "9999999999"])
@pytest.mark.parametrize("command", [["verify", "BUNDLE"], ["RUN", "--grid", "3x2", "--out", "O"]])
def test_threads_that_cannot_be_are_refused(
    command: list[str], threads: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both commands say how many threads may decode, and what came."""
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--workers", threads])
    assert f"--workers: expected 1 to 1024 threads, got '{threads}'" in capsys.readouterr().err


@pytest.mark.usefixtures("known_graphs")
@pytest.mark.parametrize("threads", [1, 3])
def test_data_are_decoded_by_the_threads_that_were_asked_for(
    threads: int, tmp_path: Path, checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Export and proof decode with so many threads, and measure the same with any number."""
    asked: list[int] = []

    def noted(*rest: Any, workers: int, **named: Any) -> Prepared:
        asked.append(workers)
        return prepare_split(*rest, workers=workers, **named)

    monkeypatch.setattr(export.measure, "prepare_split", noted)
    monkeypatch.setattr(export.remeasure, "prepare_split", noted)
    words = [str(checkpoint), "--grid", "3x2", "--out", str(tmp_path), "--name", "squares"]
    assert main([*words, "--parity-items", "36", "--workers", str(threads)]) == 0
    assert asked == [threads]
    proof = ["verify", str(tmp_path / "squares"), "--data", str(data), "--workers", str(threads)]
    assert main(proof) == 0
    assert asked == [threads, threads]


@pytest.mark.usefixtures("known_graphs")
def test_split_that_does_not_fit_is_decoded_where_it_is_measured(
    tmp_path: Path, checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export and its proof say the same of it, to the last digit."""
    told = []
    for name, memory in (("whole", 2**40), ("little", 1)):
        monkeypatch.setattr("media.unread.memory_bytes", lambda memory=memory: memory)
        words = [str(checkpoint), "--grid", "3x2", "--out", str(tmp_path), "--name", name]
        assert main([*words, "--parity-items", "36", "--workers", "2"]) == 0
        told.append(read_bundle(tmp_path / name).manifest.grids)
        monkeypatch.setattr(export.measure, "prepare_split", None)
        monkeypatch.setattr(export.remeasure, "prepare_split", None)
    assert told[0] == told[1]
    assert main(["verify", str(tmp_path / "little"), "--data", str(data)]) == 0


def test_data_with_another_train_split_are_refused(
    tmp_path: Path, checkpoint: Path, data: Path
) -> None:
    """Test items that may have been trained on are never measured."""
    other = tmp_path / "other"
    for path in data.rglob("*.png"):
        split = "train" if path.stem in "13579" else "test"
        target = other / split / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    options = Options(checkpoint, GRIDS, tmp_path, "x", data=other)
    with pytest.raises(SourceError, match="may have been trained on"):
        make_bundle(options, Console(quiet=True))


@pytest.mark.parametrize(
    ("file", "spoil"),
    [
        ("weights.safetensors", lambda data: data[: len(data) // 2]),
        ("weights.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        ("checkpoint.json", lambda data: data[: len(data) // 2]),
        ("checkpoint.json", lambda data: json.dumps(json.loads(data) | {"extra": 1}).encode()),
    ],
    ids=["weights-cut", "weights-changed", "description-cut", "description-unknown-key"],
)
def test_spoilt_checkpoint_is_refused(
    file: str,
    spoil: Callable[[bytes], bytes],
    tmp_path: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A checkpoint cut short or changed never becomes a bundle."""
    folder = save(tmp_path / "run" / "best", make_model(), data)
    path = folder / file
    path.write_bytes(spoil(path.read_bytes()))
    words = [str(tmp_path / "run"), "--grid", "3x2", "--out", str(tmp_path / "bundles")]
    (tmp_path / "bundles").mkdir()
    assert "error:" in fails(words, capsys, tmp_path / "bundles")


def with_large_head(folder: Path, data: Path) -> Path:
    """A checkpoint whose logits go into the thousands; those of one picture cancel to nothing."""
    model, file = make_model(), min((data / "test" / "red").iterdir())
    pixels = prepare(file.read_bytes(), InputSpec(), GRIDS[0], model.spec.patch)[None].copy()
    with torch.no_grad():
        model.head.weight.mul_(1e3)
        model.head.bias.copy_(-model.features(torch.from_numpy(pixels))[0] @ model.head.weight.T)
    return save(folder, model, data)


def test_a_head_of_large_weights_is_held_to_its_own_numbers(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a linear probe with a weak penalty has: what is left of fp32 near 0 is less, so it is
    exported, states its largest logit and the bound that goes with it, and is verified.
    """
    words = [str(with_large_head(tmp_path / "run", data)), "--name", "large"]
    words += ["--grid", "3x2", "--out", str(tmp_path / "out"), "--parity-items", "36"]
    assert main(words) == 0
    parity = read_bundle(tmp_path / "out" / "large").manifest.grids[0].parity
    assert parity.largest > 1e3
    assert (parity.atol, parity.rtol) == (pytest.approx(1e-6 * parity.largest), 1e-4)
    assert main(["verify", str(tmp_path / "out" / "large")]) == 0
    assert "verified" in capsys.readouterr().out


def test_the_bound_goes_with_the_largest_logit_alone() -> None:
    """Up to 10 it is what it was; above, a wrong graph is as wrong under any head."""
    draw = np.random.default_rng(3)
    expected = draw.normal(0, 2, (40, 5)).astype("f4").clip(-10, 10)
    assert fp32_bound(float(np.abs(expected).max())) == FP32 == fp32_bound(10.0)
    rounded = expected + draw.uniform(-8e-6, 8e-6, expected.shape).astype("f4")
    wrong = expected + draw.uniform(-1e-3, 1e-3, expected.shape).astype("f4")
    for scale in (1, 1e3, 1e6):
        assert compare(scale * rounded, scale * expected).worst_ratio <= 1
        with pytest.raises(ParityError, match="times the bound"):
            compare(scale * wrong, scale * expected)


def test_graph_that_disagrees_leaves_nothing_behind(
    tmp_path: Path,
    checkpoint: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If what is turned were off by a thousandth, parity would stop the export, however large the
    weights of the head are.
    """
    honest = FrozenAttention.turned

    def off(self: FrozenAttention, part: torch.Tensor, rotations: Rotations) -> torch.Tensor:
        return honest(self, part, rotations) * 1.001

    monkeypatch.setattr(FrozenAttention, "turned", off)
    for run in (checkpoint, with_large_head(tmp_path / "large" / "best", data)):
        words = [str(run), "--grid", "3x2", "--out", str(tmp_path), "--parity-items", "36"]
        words += ["--name", "disagrees"]
        error = fails(words, capsys, tmp_path)
        assert "logits differ" in error
        assert "no bundle was written" in error


@pytest.mark.usefixtures("known_graphs")
def test_full_disk_leaves_no_bundle(
    disk: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A write that fails half way ends with a message and without litter."""
    with small_disk(disk, 200_000):  # less than weights.bin
        words = [str(checkpoint), "--grid", "3x2", "--out", str(disk), "--parity-items", "36"]
        error = fails(words, capsys, disk)
    assert re.search("No space left|File too large", error)


def test_compare_allows_a_flip_inside_the_margin_only() -> None:
    """Near a tie either class may come first; a difference beyond the bound is an error."""
    bound = FP32.atol + FP32.rtol * 1.0
    tie = np.array([[1.0, 1.0 - 0.5 * bound]], dtype=np.float64)
    assert compare(tie[:, ::-1].copy(), tie).top1_equal == 0
    with pytest.raises(ParityError, match="bound"):
        compare(np.array([[1.0, 0.0]]) + 1.1 * bound, np.array([[1.0, 0.0]]))
    with pytest.raises(ParityError, match="finite"):
        compare(np.array([[np.nan, 0.0]]), np.array([[1.0, 0.0]]))
    with pytest.raises(ParityError, match="finite"):
        compare(np.array([[1.0, 0.0]]), np.array([[np.nan, 0.0]]))


def test_table_bytes_are_those_of_the_table() -> None:
    """The size that is announced is the size that is stored."""
    shared = EncodingSpec("liere", block=4, per_layer=False)
    for encoding in (LIERE, shared, EncodingSpec("rope_mixed"), EncodingSpec("absolute")):
        model = make_model(encoding)
        held = FrozenTransformer(model, GRIDS[1])
        tables = (*held.tables, *held.cosines, *held.sines)
        assert plan_of(model).table_bytes(GRIDS[1]) == 4 * sum(map(torch.numel, tables))


def test_grid_with_wrong_axes_is_a_spec_error(tmp_path: Path, checkpoint: Path) -> None:
    """Three axes for an image model: what was expected and what came."""
    options = Options(checkpoint, (Grid((2, 2, 2)),), tmp_path, "x")
    with pytest.raises(SpecError, match="3 axes, the model 2"):
        make_bundle(options, Console(quiet=True))
