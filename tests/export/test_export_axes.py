"""Clips and scans on the road from a checkpoint to a bundle; no grid and no patch is cubic."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path

import av
import numpy as np
import onnx
import pytest
import torch

from export.__main__ import main
from export.check import GraphError, check_graph
from export.freeze import FrozenTransformer
from export.golden import golden_files
from export.graph import to_onnx
from export.parity import batch_of, compare, fp16_bound, graph_logits, open_graph
from export.plan import plan_of
from export.reference import rounded_logits, torch_logits
from media import read
from media.files import sha256_file
from media.sources import open_source
from media.spec import Grid, InputSpec, VideoSpec, VolumeSpec
from models.bundle import Bundle, read_bundle
from models.checkpoint import load_checkpoint
from models.spec import EncodingSpec
from models.vit import VisionTransformer
from tests.helpers.export_bundles import loaded_tables
from tests.helpers.export_clips_and_scans import (
    CLIPS,
    GRIDS,
    ITEMS,
    LABELS,
    PATCH,
    SCANS,
    VIEWS,
    exported_clips,
    exported_scans,
    make_model,
    save,
    write_data,
)

ARRAYS = dataclasses.replace(SCANS, dtype="uint8", volume=VolumeSpec())


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported_clips(tmp_path_factory)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported_scans(tmp_path_factory)


def model_of(bundle: Bundle) -> VisionTransformer:
    """The checkpoint that a bundle was made from."""
    return load_checkpoint(bundle.root.parent.parent / "run" / "best")[0]


def pixels_for(spec: InputSpec, grid: Grid, count: int) -> np.ndarray:
    shape = (count, *grid.pixels(PATCH), spec.channels)
    random = np.random.default_rng(count)
    if spec.dtype == "uint8":
        return random.integers(0, 256, shape, dtype=np.uint8)
    return random.uniform(0, 255, shape).astype(np.float32)


# --- graphs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_graph_of_clips_answers_as_torch(clips: Bundle, grid: Grid, batch: int) -> None:
    """Every grid of three axes gives the checkpoint's logits, whatever the batch."""
    pixels = pixels_for(CLIPS, grid, batch)
    actual = graph_logits(open_graph(clips.path(f"graphs/{grid}.onnx")), pixels)
    compare(actual, torch_logits(model_of(clips), pixels, grid))


def test_graph_of_scans_takes_what_lies_between_whole_numbers(scans: Bundle) -> None:
    """float32 pixels enter unrounded: the graph answers as torch, and not as for rounded ones."""
    pixels, session = pixels_for(SCANS, GRIDS[0], 3), open_graph(scans.path("graphs/2x3x4.onnx"))
    assert session.get_inputs()[0].type == "tensor(float)"
    actual = graph_logits(session, pixels)
    compare(actual, torch_logits(model_of(scans), pixels, GRIDS[0]))
    assert np.abs(actual - graph_logits(session, pixels.round())).max() > 1e-3


def test_graph_of_another_type_than_the_manifest_says_is_refused(
    clips: Bundle, scans: Bundle
) -> None:
    """What the InputSpec calls uint8 cannot be a graph of float32, nor the other way round."""
    for bundle, own, other in ((clips, "uint8", "float32"), (scans, "float32", "uint8")):
        graph = onnx.load(bundle.path("graphs/2x3x4.onnx"), load_external_data=False)
        check_graph(graph, dtype=own)
        with pytest.raises(GraphError, match=f"expected {other} pixels"):
            check_graph(graph, dtype=other)


@pytest.mark.parametrize("per_head", [True, False])
@pytest.mark.parametrize("per_layer", [True, False])
def test_frozen_transformer_equals_the_model(per_layer: bool, per_head: bool) -> None:
    """Whoever shares generators, logits stay; in half precision they stay within the bound."""
    shared = EncodingSpec("liere", block=8, per_layer=per_layer, per_head=per_head)
    model = make_model(CLIPS, shared)
    grid = Grid((3, 2, 5))
    pixels = pixels_for(CLIPS, grid, 4)
    expected = torch_logits(model, pixels, grid)
    with torch.inference_mode():
        actual = FrozenTransformer(model, grid)(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(actual, expected, 1e-5, 1e-5)
    rounded = rounded_logits(FrozenTransformer(model, grid, "fp16"), pixels)
    compare(rounded, expected, fp16_bound(expected))


def test_fp16_graph_of_scans_keeps_the_contract(tmp_path: Path) -> None:
    """Half precision, float32 pixels and rotations shared by heads alone go together."""
    grid = Grid((4, 2, 3))
    model = make_model(SCANS, EncodingSpec("liere", block=8, per_head=False))
    pixels = pixels_for(SCANS, grid, 5)
    graph = to_onnx(FrozenTransformer(model, grid, "fp16"), torch.from_numpy(pixels))
    check_graph(graph, "fp16", "float32")
    onnx.save(graph, tmp_path / "graph.onnx")
    expected = torch_logits(model, pixels, grid)
    actual = graph_logits(open_graph(tmp_path / "graph.onnx"), pixels)
    compare(actual, expected, fp16_bound(expected))
    sizes = loaded_tables(tmp_path / "graph.onnx", tmp_path)  # one a layer, heads share it
    assert sizes == [(grid.tokens, 1, 32, 32)] * 2
    assert plan_of(model).loaded_bytes(grid) == 4 * sum(map(math.prod, sizes))


# --- what rotations weigh -----------------------------------------------------------------------


def test_shared_table_is_stored_once(clips: Bundle) -> None:
    """Layers that share generators cost a bundle one table a grid."""
    model = model_of(clips)
    stored = clips.path("graphs/weights.bin").read_bytes()
    for grid in GRIDS:
        blocks = model.encode(grid, torch.float64).blocks
        assert blocks is not None
        content = blocks[0].mT.contiguous().detach().numpy().tobytes()
        assert (len(content), stored.count(content)) == (plan_of(model).table_bytes(grid), 1)
        assert len(content) == 4 * grid.tokens * 64 * 8  # width 64, block 8


def test_shared_table_is_loaded_once(clips: Bundle, tmp_path: Path) -> None:
    """A runtime holds one joined table for all layers, as many bytes as is announced."""
    sizes = loaded_tables(clips.path("graphs/2x3x4.onnx"), tmp_path)
    assert sizes == [(GRIDS[0].tokens, 2, 32, 32)]  # two heads
    assert plan_of(model_of(clips)).loaded_bytes(GRIDS[0]) == 4 * math.prod(sizes[0])


def test_grids_of_three_axes_are_announced(
    clips: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tokens and tables of a grid are printed, and one over the limit ends before any graph."""
    run, out = str(clips.root.parent.parent / "run"), str(tmp_path)
    words = [run, "--grid", "20x30x40", "--out", out, "--max-table-mb", "196"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "grid 20x30x40: 24000 tokens, rotation table 49.15 MB, 196.61 MB loaded" in error
    assert "over --max-table-mb 196" in error
    assert main([run, "--grid", "3x4", "--out", out]) == 2
    assert "grid 3x4 has 2 axes, the model 3" in capsys.readouterr().err


def test_rows_that_run_together_fit_into_memory() -> None:
    """Scores of all rows of a batch are bounded: few tokens run many together, many tokens few."""
    assert batch_of(Grid((2, 3, 4))) == 64
    assert batch_of(Grid((8, 14, 14))) * 1568**2 <= 2**22
    assert batch_of(Grid((40, 50, 60))) == 1


# --- views --------------------------------------------------------------------------------------


def views_of(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """The checkpoint's logits of every view of the test clips, [N, V, classes], and labels [N]."""
    source = open_source(bundle.root.parent.parent / "noise.npz")
    model, items = model_of(bundle), source.split("test")
    samples = [read(source.read(item.id), CLIPS, GRIDS[0], PATCH) for item in items]
    logits = [torch_logits(model, sample.pixels, GRIDS[0]) for sample in samples]
    return np.stack(logits), np.array([item.label for item in items])


def test_accuracy_counts_clips_by_the_mean_of_their_views(clips: Bundle) -> None:
    """A clip is one item, judged by the mean logits of its views; parity compares every view."""
    logits, labels = views_of(clips)
    found = logits.mean(1).argmax(1)
    assert len(set(found)) > 1  # not one answer for everything
    assert (logits.argmax(2) != found[:, None]).any()  # a single view would judge otherwise
    entry = clips.manifest.grids[0]
    assert entry.accuracy is not None
    assert (entry.accuracy.items, entry.parity.items) == (ITEMS, ITEMS * VIEWS)
    assert entry.accuracy.top1 == pytest.approx((found == labels).mean())


def test_manifest_states_the_views(clips: Bundle) -> None:
    """Who serves the bundle reads from its input how often a clip is looked at."""
    assert read_bundle(clips.root).manifest.input.video == VideoSpec(stride=0.0, views=VIEWS)


def test_parity_can_ask_for_as_many_inputs_as_there_are_views(
    clips: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """36 clips of two views are 72 inputs; one more is refused before anything is written."""
    run = str(clips.root.parent.parent / "run")
    words = [run, "--grid", "2x3x4", "--out", str(tmp_path), "--parity-items", "73"]
    assert main(words) == 2
    assert "parity needs 73 items and the data have 72" in capsys.readouterr().err


# --- goldens ------------------------------------------------------------------------------------


def test_golden_logits_are_means_over_views(clips: Bundle) -> None:
    """What a manifest states of a clip is the mean of torch's logits of its views."""
    model = model_of(clips)
    for golden in clips.manifest.goldens:
        for grid in GRIDS:
            sample = read(clips.path(golden.file).read_bytes(), CLIPS, grid, PATCH)
            assert len(sample.pixels) == VIEWS
            expected = torch_logits(model, sample.pixels, grid)
            assert np.abs(expected[0] - expected[1]).max() > 1e-3  # the views do differ
            np.testing.assert_allclose(golden.logits[str(grid)], expected.mean(0), 1e-5, 1e-5)


def test_generated_clips_are_the_same_every_time() -> None:
    """Same bytes at every call, small, of several shapes, rates, containers and codecs."""
    files = golden_files(CLIPS, [])
    assert golden_files(CLIPS, []) == files
    assert len(files) >= 4 and sum(map(len, files.values())) < 300_000
    shapes, codecs, steps = set(), set(), set()
    for data in files.values():
        with av.open(io.BytesIO(data)) as clip:
            video = clip.streams.video[0]
            times = [frame.time for frame in clip.decode(video)]  # type: ignore[union-attr]
            shapes.add((video.width, video.height))
            codecs.add(video.codec.name)
            steps.add(tuple(np.diff(times[:4]).round(2).tolist()))
    assert (len(shapes), codecs, len(steps)) == (4, {"h264", "vp9"}, 4)
    assert {width > height for width, height in shapes} == {True, False}
    assert any(len(set(own)) > 1 for own in steps)  # one has a rate that varies


def test_other_moments_of_a_generated_clip_look_different() -> None:
    """A clip that stood still would not show that the wrong frames were taken."""
    strided = dataclasses.replace(CLIPS, video=VideoSpec(stride=0.2))
    for data in golden_files(CLIPS, []).values():
        whole, near = (read(data, spec, GRIDS[1], PATCH, 1).pixels for spec in (CLIPS, strided))
        moments = whole[0].astype(float)  # [time, height, width, C]
        assert all(np.abs(a - b).mean() > 5 for a, b in zip(moments[1:], moments[:-1], strict=True))
        assert np.abs(moments - near[0]).mean() > 5


@pytest.mark.parametrize("spec", [SCANS, ARRAYS], ids=["spacing", "stretched"])
def test_generated_scans_fit_their_input(spec: InputSpec) -> None:
    """Same bytes every time; not cubic, and with intensities below, inside and above the window."""
    files = golden_files(spec, [])
    assert golden_files(spec, []) == files
    assert len(files) >= 4
    sizes = set()
    for name, data in files.items():
        sample = read(data, spec, Grid((6, 5, 4)), (2, 3, 5))
        sizes.add(tuple(sample.evidence["size"]))
        assert len(set(sample.evidence["size"])) == 3, name
        assert (sample.evidence["spacing_mm"] is None) == name.endswith(".npy")
        inside = (sample.pixels > 0) & (sample.pixels < 255)
        assert inside.mean() > 0.05 and (sample.pixels == 255).any(), name
    assert len(sizes) == len(files)


@pytest.mark.parametrize("other", ["spacing", "window", "turned"])
def test_generated_scans_show_another_input(other: str) -> None:
    """Another spacing, another window or a file without its directions is another array."""
    changes = {
        "spacing": VolumeSpec((2.5, 1.0, 1.5), window=(10.0, 180.0)),
        "window": VolumeSpec((2.5, 1.5, 1.0), window=(10.0, 200.0)),
        "turned": SCANS.volume,
    }
    changed = dataclasses.replace(SCANS, volume=changes[other])
    for name, data in golden_files(SCANS, []).items():
        own, found = (read(data, spec, GRIDS[1], (3, 4, 5)).pixels for spec in (SCANS, changed))
        if other == "turned":
            found = found[:, :, ::-1]
        assert np.abs(own - found).mean() > 1, name


def test_chosen_scans_replace_the_generated_ones(tmp_path: Path) -> None:
    """--golden takes scans as it takes pictures, and their logits are torch's."""
    data = write_data(tmp_path, SCANS)
    checkpoint = save(tmp_path / "run" / "best", make_model(SCANS), SCANS, data)
    chosen = [data / "test" / "falls" / "0.nii.gz", data / "test" / "rises" / "5.nii.gz"]
    words = [str(checkpoint), "--grid", "4x3x2", "--out", str(tmp_path), "--name", "own"]
    words += [word for path in chosen for word in ("--golden", str(path))]
    assert main([*words, "--parity-items", "36"]) == 0
    bundle = read_bundle(tmp_path / "own")
    names = [golden.file for golden in bundle.manifest.goldens]
    assert names == ["golden/0.nii.gz", "golden/1.nii.gz"]
    for name, path in zip(names, chosen, strict=True):
        assert sha256_file(bundle.path(name)) == sha256_file(path)
    pixels = read(chosen[0].read_bytes(), SCANS, GRIDS[1], PATCH).pixels
    expected = torch_logits(make_model(SCANS), pixels, GRIDS[1])
    np.testing.assert_allclose(bundle.manifest.goldens[0].logits["4x3x2"], expected[0], 1e-6)
    assert "golden inputs are chosen by its maker" in bundle.path("README.md").read_text()


def test_golden_of_another_modality_is_refused(
    clips: Bundle, scans: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A scan is no clip and a clip is no scan: named as such, and no bundle is written."""
    for own, other, types in ((clips, scans, "MP4"), (scans, clips, "NIfTI")):
        golden = other.path(other.manifest.goldens[0].file)
        words = [str(own.root.parent.parent / "run"), "--grid", "2x3x4", "--out", str(tmp_path)]
        assert main([*words, "--parity-items", "36", "--golden", str(golden)]) == 2
        assert f"expected {types}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- the card -----------------------------------------------------------------------------------


def test_card_tells_how_a_clip_is_seen(clips: Bundle) -> None:
    """Axes, frames and views stand in the card; where the maker's caches lie does not."""
    card = clips.path("README.md").read_text()
    assert "pixels are time x height x width" in card.replace("\n", " ")
    assert "| 2x3x4 | 2x6x12 |" in card
    assert "looked at 2 times" in card
    assert "mean of the logits of its 2 views" in card
    assert "golden inputs are generated clips" in card
    assert "cache" not in card


def test_card_tells_how_a_scan_is_seen(scans: Bundle) -> None:
    """Orientation, spacing and window stand in the card."""
    card = scans.path("README.md").read_text()
    assert "pixels are depth x height x width" in card.replace("\n", " ")
    assert "depth runs to the patient's head, height to the back, width to the left" in card
    assert "every 2.5 x 1.5 x 1 mm" in card
    assert "intensities of 10 to 180 become 0 to 255, as float32" in card
    assert "golden inputs are generated scans" in card
    assert LABELS[0] in card


def test_help_teaches_grids_of_three_axes(capsys: pytest.CaptureFixture[str]) -> None:
    """Who asks for help learns how a grid of a clip or scan is written."""
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "4x7x7" in told and "time x height x width" in told and "depth x height x width" in told
