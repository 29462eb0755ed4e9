"""Bundles of clips and of scans prove themselves again; another input than theirs is found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from models.bundle import Bundle
from tests.helpers.export_clips_and_scans import exported_clips, exported_scans
from tests.helpers.spoilt_bundles import Spoil, change_graph, seal, stating, verify

EXPORTED = {"clips": exported_clips, "scans": exported_scans}
GRID = "graphs/2x3x4.onnx"


@pytest.fixture
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    return lambda name: EXPORTED[name](tmp_path_factory)


def data_of(bundle: Bundle) -> Path:
    folder = bundle.root.parent.parent
    return folder / ("noise.npz" if bundle.manifest.modality == "video" else "noise")


def asking(**changes: Any) -> Spoil:
    """The manifest's input says something else."""
    return stating(lambda manifest: manifest["input"].update(changes))


def scanning(**changes: Any) -> Spoil:
    return stating(lambda manifest: manifest["input"]["volume"].update(changes))


def rename_grid(manifest: dict[str, Any]) -> None:
    """Height and width of the first grid swapped, in the manifest alone."""
    manifest["grids"][0]["grid"] = "2x4x3"
    for golden in manifest["goldens"]:
        golden["logits"]["2x4x3"] = golden["logits"].pop("2x3x4")


def swap_axes(root: Path) -> None:
    """The graph takes its tokens with the first two axes swapped: same shapes, other places."""

    def swap(graph: onnx.GraphProto) -> None:
        cut = next(node for node in graph.node if node.op_type == "Transpose")
        axes = cut.attribute[0].ints
        assert list(axes) == [0, 1, 3, 5, 2, 4, 6, 7]
        axes[1], axes[2] = axes[2], axes[1]

    change_graph(root, swap, GRID)
    seal(root)


#: Bundle and what was done -> (how, the proof that must fail, its words).
MUTANTS: dict[tuple[str, str], tuple[Spoil, str, str]] = {
    ("clips", "patch axes swapped"): (
        stating(lambda m: m.update(patch=[2, 1, 3])), "graph 2x3x4", "expected pixels"),
    ("clips", "grid axes swapped"): (stating(rename_grid), "graph 2x4x3", "expected pixels"),
    ("clips", "graph axes swapped"): (swap_axes, "goldens 2x3x4", "of the tolerance"),
    ("clips", "stride"): (
        asking(video={"stride": 0.3, "views": 2}), "goldens 2x3x4", "of the tolerance"),
    ("clips", "fewer views"): (
        asking(video={"stride": 0.0, "views": 1}), "goldens 4x3x2", "of the tolerance"),
    ("clips", "more views"): (
        asking(video={"stride": 0.0, "views": 3}), "goldens 4x3x2", "of the tolerance"),
    ("clips", "more frames than a clip may give"): (
        asking(video={"stride": 0.0, "views": 8}), "goldens 4x3x2", "of the tolerance"),
    ("clips", "no video"): (asking(video=None), "files", "video must be given"),
    ("clips", "views that cannot be"): (
        asking(video={"stride": 0.0, "views": 0}), "files", "video.views must be from 1"),
    ("clips", "float32"): (asking(dtype="float32"), "files", "dtype float32 is for volumes"),
    ("clips", "modality"): (
        stating(lambda m: m.update(modality="volume")), "files", "not that of the input"),
    ("clips", "fit"): (asking(fit="stretch"), "goldens 4x3x2", "of the tolerance"),
    ("clips", "filter"): (asking(interpolation="bilinear"), "goldens 4x3x2", "of the tolerance"),
    ("clips", "mean"): (asking(mean=[0.5, 0.5, 0.4]), "pixels 2x3x4", "mean"),
    ("clips", "views counted as items"): (
        stating(lambda m: m["grids"][0]["accuracy"].update(items=72)),
        "accuracy 2x3x4", "is not the one measured"),
    ("clips", "a golden's logit"): (
        stating(lambda m: m["goldens"][3]["logits"]["4x3x2"].__setitem__(0, 9.0)),
        "goldens 4x3x2", "of the tolerance"),
    ("scans", "patch axes swapped"): (
        stating(lambda m: m.update(patch=[3, 2, 1])), "graph 2x3x4", "expected pixels"),
    ("scans", "graph axes swapped"): (swap_axes, "goldens 2x3x4", "of the tolerance"),
    ("scans", "spacing of the axes swapped"): (
        scanning(spacing=[1.5, 2.5, 1.0]), "goldens 2x3x4", "of the tolerance"),
    ("scans", "spacing"): (
        scanning(spacing=[2.5, 1.5, 1.1]), "goldens 2x3x4", "of the tolerance"),
    ("scans", "no spacing"): (scanning(spacing=[]), "goldens 2x3x4", "of the tolerance"),
    ("scans", "window"): (scanning(window=[10.0, 190.0]), "goldens 2x3x4", "of the tolerance"),
    ("scans", "no window"): (scanning(window=[]), "goldens 2x3x4", "of the tolerance"),
    ("scans", "window upside down"): (
        scanning(window=[180.0, 10.0]), "files", "two rising intensities"),
    ("scans", "rounded"): (asking(dtype="uint8"), "graph 2x3x4", "expected uint8 pixels"),
    ("scans", "filter"): (asking(interpolation="bilinear"), "goldens 2x3x4", "of the tolerance"),
    ("scans", "fit"): (asking(fit="crop"), "files", "volumes need channels 1 and fit stretch"),
    ("scans", "std"): (asking(std=[0.31]), "pixels 2x3x4", "std"),
}  # fmt: skip

#: What the manifest may say otherwise, because nothing depends on it.
HARMLESS: dict[tuple[str, str], Spoil] = {
    ("clips", "background of frames that have no transparency"): asking(background=[0, 99, 0]),
    ("scans", "percentiles beside a window"): scanning(percentiles=[10.0, 90.0]),
}


def words_for(name: str, exported: Callable[[str], Bundle], folder: Path) -> list[str | Path]:
    """The command for a copy of a bundle, with the data of the original."""
    bundle = exported(name)
    root = shutil.copytree(bundle.root, folder / bundle.root.name)
    return [root, "--data", data_of(bundle)]


@pytest.mark.parametrize(("name", "proofs"), [("clips", 2 + 2 * 7), ("scans", 2 + 7)])
def test_honest_bundle_is_verified(
    name: str,
    proofs: int,
    exported: Callable[[str], Bundle],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every proof holds for clips and for scans, accuracy is found exactly and counts items."""
    bundle = exported(name)
    status, out, _ = verify([bundle.root, "--data", data_of(bundle)], capsys)
    lines = out.splitlines()
    assert (status, lines[-1]) == (0, "verified")
    assert len([line for line in lines if line.startswith("ok")]) == proofs
    measured = bundle.manifest.grids[0].accuracy
    assert measured is not None
    stated = round(measured.top1 * 36)
    assert f"{stated} of 36 right, {stated} stated" in out
    assert "1 of 48x32x32 for 2 layers" in out  # one table for all


@pytest.mark.parametrize(("name", "what"), MUTANTS, ids=map(": ".join, MUTANTS))
def test_mutant_is_refused(
    name: str,
    what: str,
    exported: Callable[[str], Bundle],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever was changed, the right proof fails, is named, and the exit status is 1."""
    spoil, proof, words = MUTANTS[name, what]
    given = words_for(name, exported, tmp_path)
    spoil(Path(given[0]))
    status, out, err = verify(given, capsys)
    assert status == 1
    assert "verified" not in out.splitlines()
    failed = [line.partition("not verified: ")[2] for line in err.splitlines()]
    assert [line for line in failed if line.startswith(proof) and words in line], err


@pytest.mark.parametrize(("name", "what"), HARMLESS, ids=map(": ".join, HARMLESS))
def test_what_nothing_depends_on_is_no_fault(
    name: str,
    what: str,
    exported: Callable[[str], Bundle],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A change that no input can show leaves every proof standing."""
    given = words_for(name, exported, tmp_path)
    HARMLESS[name, what](Path(given[0]))
    status, _, err = verify(given, capsys)
    assert (status, err) == (0, "")
