"""The bundle: one writer, one reader, and everything that makes a bundle unfit to serve."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from media.files import sha256_file
from media.spec import InputSpec, SpecError
from models.bundle import Bundle, BundleError, read_bundle, write_bundle
from models.manifest import Accuracy, Golden, GridEntry, Parity, Tolerance
from models.spec import EncodingSpec

GRIDS = ("3x5", "4x2")


def fill(folder: Path, **changes: Any) -> dict[str, Any]:
    (folder / "graphs").mkdir()
    (folder / "golden").mkdir()
    for grid in GRIDS:
        (folder / f"graphs/{grid}.onnx").write_bytes(f"graph of {grid}".encode())
    (folder / "graphs/weights.bin").write_bytes(bytes(range(200)))
    (folder / "golden/0.png").write_bytes(b"a picture")
    (folder / "README.md").write_text("A model card.\n")
    return fields(**changes)


def fields(**changes: Any) -> dict[str, Any]:
    """Manifest fields of a valid bundle with two grids and three labels."""
    return {
        "name": "tiny",
        "version": "1.0",
        "modality": "image",
        "input": InputSpec(),
        "patch": (4, 6),
        "encoding": EncodingSpec("liere", block=8),
        "labels": ("cat", "dog", "Ähre"),
        "precision": "fp32",
        "opset": 20,
        "grids": tuple(
            GridEntry(
                grid, f"graphs/{grid}.onnx", Parity(4, 1e-6, 0.1, 4), Accuracy("test", 4, 1.0, "")
            )
            for grid in GRIDS
        ),
        "goldens": (Golden("golden/0.png", {grid: (0.5, -1.0, 2.25) for grid in GRIDS}),),
        "tolerances": (Tolerance("cpu", "fp32", 1e-4, 1e-4), Tolerance("cpu", "fp16", 1e-2, 1e-2)),
        "source": {"commit": "abc", "date": None},
    } | changes


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "bundles" / "tiny", fill)


def edit(bundle: Bundle, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest as JSON, by hand."""
    path = bundle.root / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_bundle_reads_back_as_written(bundle: Bundle) -> None:
    """Every field and every file of a written bundle is read back, and can be looked up."""
    again = read_bundle(bundle.root)
    assert again == bundle
    assert "graphs/4x2.onnx" in {entry.graph for entry in again.manifest.grids}
    assert again.manifest.tolerance("cpu").atol == 1e-4
    assert again.path("README.md").read_text() == "A model card.\n"
    assert set(again.manifest.files) == {
        *(f"graphs/{grid}.onnx" for grid in GRIDS),
        "graphs/weights.bin",
        "golden/0.png",
        "README.md",
    }
    with pytest.raises(KeyError):
        again.manifest.tolerance("abacus")


def test_bundle_holds_no_path_of_the_machine_that_wrote_it(bundle: Bundle) -> None:
    """The manifest names files relative to itself only."""
    assert str(bundle.root.parent) not in (bundle.root / "manifest.json").read_text()


def test_bundle_can_be_moved(bundle: Bundle, tmp_path: Path) -> None:
    """A bundle is its content: renamed, it reads the same."""
    moved = bundle.root.rename(tmp_path / "elsewhere")
    assert read_bundle(moved).manifest == bundle.manifest


@pytest.mark.parametrize("name", ["README.md", "graphs/weights.bin", "graphs/3x5.onnx"])
def test_changed_byte_is_refused(bundle: Bundle, name: str) -> None:
    """One flipped bit in any file is found by its hash, and the file is named."""
    data = bytearray(bundle.path(name).read_bytes())
    data[-1] ^= 1
    bundle.path(name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} has sha256 .*expected"):
        read_bundle(bundle.root)


def test_missing_file_is_refused(bundle: Bundle) -> None:
    """A file that is listed has to be there."""
    bundle.path("golden/0.png").unlink()
    with pytest.raises(BundleError, match=r"golden/0\.png is listed and missing"):
        read_bundle(bundle.root)


def test_extra_file_is_refused(bundle: Bundle) -> None:
    """A file that is there has to be listed, wherever it hides."""
    bundle.path("graphs/.hidden").write_bytes(b"")
    with pytest.raises(BundleError, match=r"graphs/\.hidden is there and not listed"):
        read_bundle(bundle.root)


def test_symbolic_links_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    """No link is followed: not for a file of the same content, a folder, manifest or root."""
    target = tmp_path / "copy"
    path = bundle.path("README.md")
    path.rename(target)
    path.symlink_to(target)
    with pytest.raises(BundleError, match=r"README\.md is a link"):
        read_bundle(bundle.root)
    path.unlink()
    target.rename(path)
    (bundle.root / "more").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(BundleError, match="more is a link"):
        read_bundle(bundle.root)
    (bundle.root / "more").unlink()
    root = tmp_path / "link"
    root.symlink_to(bundle.root, target_is_directory=True)
    with pytest.raises(BundleError, match="not a link"):
        read_bundle(root)
    (bundle.root / "manifest.json").rename(target)
    (bundle.root / "manifest.json").symlink_to(target)
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        read_bundle(bundle.root)


@pytest.mark.parametrize("name", ["README.md", "manifest.json"])
def test_hard_links_are_refused(bundle: Bundle, tmp_path: Path, name: str) -> None:
    """A file that has a second name elsewhere could be changed from there."""
    os.link(bundle.path(name), tmp_path / "second")
    with pytest.raises(BundleError, match=f"{name} is not a plain file with one name"):
        read_bundle(bundle.root)


def test_special_files_are_refused(bundle: Bundle) -> None:
    """A pipe would make the reader wait for ever; it is refused unread."""
    os.mkfifo(bundle.path("pipe"))
    with pytest.raises(BundleError, match="pipe is not a plain file"):
        read_bundle(bundle.root)


@pytest.mark.parametrize("outside", ["../outside", "graphs/../../outside", "{absolute}"])
def test_paths_that_leave_the_bundle_are_refused(
    bundle: Bundle, tmp_path: Path, outside: str
) -> None:
    """A listed path cannot name a file elsewhere, though it exists and its hash is right."""
    target = bundle.root.parent / "outside"
    target.write_bytes(b"secret")
    name = outside.format(absolute=target)
    digest = sha256_file(target)
    edit(bundle, lambda data: data["files"].update({name: digest}))
    with pytest.raises(BundleError, match="outside is listed and missing"):
        read_bundle(bundle.root)


def test_graph_that_leaves_the_bundle_is_refused(bundle: Bundle) -> None:
    """Graphs and goldens are files of the manifest and nothing else."""
    (bundle.root.parent / "x.onnx").write_bytes(b"")
    edit(bundle, lambda data: data["grids"][0].update(graph="../x.onnx"))
    with pytest.raises(BundleError, match=r"\.\./x\.onnx is not among the files"):
        read_bundle(bundle.root)


#: Of a grid, as a manifest states them.
ONE = {"value": 0.5, "low": 0.25, "high": 0.75, "draws": 1000, "reason": ""}
ROW = {"threshold": 0.5, "share": 0.75, "accuracy": None}
FIGURES: dict[str, Any] = {
    "top1": ONE, "top5": None, "balanced_accuracy": ONE, "roc_auc": ONE, "drawn": "items",
    "units": 4, "confidence": 0.7, "mix": [0.25, 0.25, 0.5],
    "coverage": [ROW],
}  # fmt: skip
BEFORE = {"ece": 0.1, "nll": 1.0, "brier": 0.5}
CALIBRATION: dict[str, Any] = {
    "calibrated": False, "temperature": 1.0, "reason": "none was fitted", "fitted_on": None,
    "before": BEFORE, "after": None,
}  # fmt: skip
MEASURED: dict[str, Any] = {
    "figures": FIGURES,
    "calibration": CALIBRATION,
    "abstain": 0.5,
}


def measure(change: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Let the first grid state what was measured, with a change."""
    manifest["grids"][0].update(MEASURED | change)


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown key": (lambda m: m.update(code="print()"), "unknown key 'code'"),
    "unknown inner key": (lambda m: m["grids"][0].update(x=1), r"grids\[0\]: unknown key 'x'"),
    "missing key": (lambda m: m.pop("opset"), "missing key 'opset'"),
    "newer schema": (
        lambda m: m.update(schema=3),
        r"manifest.json\.schema: this code reads 1 to 2, got 3, which newer code wrote: update",
    ),
    "no schema": (lambda m: m.pop("schema"), r"manifest.json\.schema: expected 1 to 2, got None"),
    "wrong schema": (lambda m: m.update(schema="2"), r"schema: expected 1 to 2, got '2'"),
    "place of a key": (
        lambda m: m["input"]["mean"].__setitem__(1, "0.5"),
        r"manifest\.json\.input\.mean\[1\]: expected float, got str '0\.5'",
    ),
    "encoding": (lambda m: m["encoding"].update(block=[8]), r"encoding\.block: expected a bool, "),
    "wrong type": (lambda m: m.update(opset="20"), "opset: expected int, got str"),
    "name": (lambda m: m.update(name="../tiny"), "name: expected"),
    "version": (lambda m: m.update(version=""), "version: expected"),
    "modality": (lambda m: m.update(modality="smell"), "modality: 'smell' is unknown"),
    "input": (lambda m: m["input"].update(channels=2), "json.input: channels must be 1"),
    "patch axes": (lambda m: m.update(patch=[4]), "patch: .* is not pixels per axis of image"),
    "patch size": (lambda m: m.update(patch=[4, 0]), "patch: .* is not pixels per axis of image"),
    "precision": (lambda m: m.update(precision="int8"), "precision: expected one of fp32, fp16"),
    "fp16 that was not rounded": (
        lambda m: m.update(precision="fp16"),
        "3x5 must state rounded if, and only if, it is fp16",
    ),
    "fp32 that was rounded": (
        lambda m: m["grids"][1].update(rounded=m["grids"][1]["parity"]),
        "4x2 must state rounded if, and only if, it is fp16",
    ),
    "unknown key of parity": (
        lambda m: m["grids"][0]["parity"].update(bound=1.0),
        r"grids\[0\]\.parity: unknown key 'bound'",
    ),
    "no grids": (lambda m: m.update(grids=[]), "grids: expected at least one"),
    "grid twice": (lambda m: m["grids"].append(m["grids"][0]), "grids: expected .* each once"),
    "grid axes": (
        lambda m: m["grids"][0].update(grid="3x5x2"),
        "3x5x2 has the wrong number of axes",
    ),
    "grid text": (lambda m: m["grids"][0].update(grid="3 by 5"), "a grid is written like 8x8"),
    "no labels": (lambda m: m.update(labels=["cat"]), "labels: expected at least two"),
    "label twice": (
        lambda m: m.update(labels=["cat", "dog", "cat"]),
        "labels: expected .* each once",
    ),
    "label count": (lambda m: m["labels"].append("cow"), r"golden/0\.png needs 4 logits a grid"),
    "no goldens": (lambda m: m.update(goldens=[]), "goldens: expected at least one"),
    "golden file": (
        lambda m: m["goldens"][0].update(file="golden/9.png"),
        "golden/9.png is not listed",
    ),
    "golden grid": (lambda m: m["goldens"][0]["logits"].pop("4x2"), "lacks logits for a grid"),
    "golden logit": (lambda m: m["goldens"][0]["logits"]["4x2"].pop(), "needs 3 logits a grid"),
    "temperature": (
        lambda m: m["grids"][0]["calibration"].update(temperature=0),
        r"grids\[0\]\.calibration: a temperature must be above 0, got 0",
    ),
    "temperature of nothing": (
        lambda m: m["grids"][0]["calibration"].update(temperature=2.0),
        r"grids\[0\]\.calibration: what is not calibrated says why, and its temperature is 1",
    ),
    "calibrated on nothing": (
        lambda m: m["grids"][0]["calibration"].update(calibrated=True),
        r"grids\[0\]\.calibration: what is calibrated says on what and how well",
    ),
    "unknown key of calibration": (
        lambda m: m["grids"][0]["calibration"].update(method="platt"),
        r"grids\[0\]\.calibration: unknown key 'method'",
    ),
    "figures without calibration": (
        lambda m: m["grids"][0].update(figures=FIGURES),
        "3x5 must state figures if, and only if, calibration",
    ),
    "mix of fewer labels": (
        lambda m: m["grids"][0].update(MEASURED | {"figures": FIGURES | {"mix": [0.5, 0.5]}}),
        "3x5 needs a share of answers for each of 3 labels",
    ),
    "threshold without its share": (
        lambda m: m["grids"][0].update(MEASURED | {"abstain": 0.6}),
        "3x5 does not say what is left above 0.6",
    ),
    "drawn": (
        lambda m: m["grids"][0].update(MEASURED | {"figures": FIGURES | {"drawn": "lots"}}),
        r"grids\[0\]\.figures\.drawn: expected one of items, groups",
    ),
    "share of accuracy": (
        lambda m: m["grids"][0]["accuracy"].update(top1=88.5),
        r"grids\[0\]\.accuracy: top1: expected 0 to 1, got 88\.5",
    ),
    **{
        f"{name} of figures": (
            partial(measure, {"figures": FIGURES | change}),
            rf"grids\[0\]\.figures{told}",
        )
        for name, change, told in (
            ("threshold", {"coverage": [ROW | {"threshold": 1.5}]},
             r"\.coverage\[0\]: threshold: expected 0 to 1, got 1\.5"),
            ("share left", {"coverage": [ROW, ROW | {"share": -0.1}]},
             r"\.coverage\[1\]: share: expected 0 to 1, got -0\.1"),
            ("accuracy left", {"coverage": [ROW | {"accuracy": 75}]},
             r"\.coverage\[0\]: accuracy: expected 0 to 1, got 75"),
            ("mix", {"mix": [0.5, -0.5, 1.0]}, r": mix: expected 0 to 1, got -0\.5"),
            ("confidence", {"confidence": 70.0}, ": confidence: expected 0 to 1, got 70"),
            ("value", {"roc_auc": ONE | {"value": 1.1}}, r": roc_auc: expected 0 to 1, got 1\.1"),
            ("high", {"top5": ONE | {"high": 9.0}}, r": top5\.high: expected 0 to 1, got 9"),
            ("low above value", {"top1": ONE | {"low": 0.6}},
             r": top1: expected low <= value <= high, got 0\.5 in 0\.6 to 0\.75"),
            ("high below value", {"balanced_accuracy": ONE | {"high": 0.4}},
             ": balanced_accuracy: expected low <= value <= high"),
            ("half an interval", {"top1": ONE | {"high": None}},
             ": top1: expected value, low and high, or no interval"),
        )
    },
    **{
        f"{name} of calibration": (
            partial(measure, {"calibration": CALIBRATION | {"before": BEFORE | {name: value}}}),
            rf"calibration\.before: {name}: expected 0 to {most}, got {value:g}",
        )
        for name, value, most in (("ece", 1.5, 1), ("nll", -1.0, "inf"), ("brier", 2.5, 2))
    },
    "infinite": (
        lambda m: m["tolerances"][0].update(atol=float("inf")),
        "expected a finite number",
    ),
}  # fmt: skip


def test_bundle_that_states_no_bound_was_held_to_the_first_one(bundle: Bundle) -> None:
    """Bundles written before bounds and fp16 can be read, and mean what they meant."""

    def age(manifest: dict[str, Any]) -> None:
        for entry in manifest["grids"]:
            del entry["rounded"], entry["parity"]["atol"], entry["parity"]["rtol"]

    edit(bundle, age)
    for entry in read_bundle(bundle.root).manifest.grids:
        assert (entry.parity.atol, entry.parity.rtol, entry.rounded) == (1e-5, 1e-4, None)


def test_figures_and_calibration_read_back_as_stated(bundle: Bundle) -> None:
    """What a manifest states of a grid is there; where it states none, the temperature is 1."""
    edit(bundle, lambda data: data["grids"][1].update(MEASURED))
    plain, stated = read_bundle(bundle.root).manifest.grids
    assert stated.figures is not None
    assert stated.figures.roc_auc.high == 0.75
    assert stated.figures.coverage[0].accuracy is None
    assert (stated.abstain, stated.calibration.reason) == (0.5, "none was fitted")
    assert (plain.figures, plain.abstain, plain.calibration.temperature) == (None, None, 1)


def test_encoding_that_nobody_here_knows_is_kept(tmp_path: Path) -> None:
    """Who serves needs nothing of it: name and options are read as they were written, flat."""
    unheard = EncodingSpec("unheard_of", pitch=1.5, block=3, left=True, thread="fine")
    written = write_bundle(tmp_path / "tiny", partial(fill, encoding=unheard))
    stated = json.loads((written.root / "manifest.json").read_text())["encoding"]
    assert stated == {"name": "unheard_of", "pitch": 1.5, "block": 3, "left": True,
                      "thread": "fine"}  # fmt: skip
    assert read_bundle(written.root).manifest.encoding == unheard


def test_shipped_bundles_can_be_read(repo_root: Path) -> None:
    """What this checkout serves was written by older code."""
    for root in sorted((repo_root / "bundles").iterdir()):
        assert read_bundle(root).manifest.name == root.name


@pytest.mark.parametrize("name", ["adrenal", "lung-ultrasound"])
def test_shipped_bundles_of_clips_and_scans_are_small(name: str, repo_root: Path) -> None:
    """Every checkout carries them: at most 8 MiB each."""
    files = [path for path in (repo_root / "bundles" / name).rglob("*") if path.is_file()]
    assert files
    assert sum(path.stat().st_size for path in files) <= 8 * 2**20


def test_fp16_bundle_reads_back_as_written(tmp_path: Path) -> None:
    """Precision, bound and figures of rounding survive; the precision picks the tolerance."""
    parity = Parity(4, 1e-3, 0.4, 4, atol=0.01, rtol=1e-3)
    measured = Accuracy("test", 4, 1.0, "")
    entries = tuple(
        GridEntry(grid, f"graphs/{grid}.onnx", parity, measured, rounded=parity) for grid in GRIDS
    )
    written = write_bundle(tmp_path / "tiny", partial(fill, precision="fp16", grids=entries))
    again = read_bundle(written.root)
    assert again == written
    assert again.manifest.grids[1].rounded == parity
    assert again.manifest.tolerance("cpu").atol == 1e-2


@pytest.mark.parametrize("change", CHANGES)
def test_manifest_that_does_not_fit_is_refused(bundle: Bundle, change: str) -> None:
    """Every inconsistency of a manifest is refused, named, and prefixed with the bundle's name."""
    alter, message = CHANGES[change]
    edit(bundle, alter)
    with pytest.raises(BundleError, match=f"^tiny: .*{message}"):
        read_bundle(bundle.root)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b" " * (8 * 2**20 + 1)])
def test_manifest_that_is_no_json_object_is_refused(bundle: Bundle, data: bytes) -> None:
    """Cut, empty, oversized or foreign manifests are refused, never crashed on."""
    (bundle.root / "manifest.json").write_bytes(data)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        read_bundle(bundle.root)


def test_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    """An empty folder, a file and nothing at all are no bundles."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name in ("file", "empty", "nothing"):
        with pytest.raises(BundleError, match=name):
            read_bundle(tmp_path / name)


def fill_and_fail(folder: Path) -> dict[str, Any]:
    fill(folder)
    raise KeyboardInterrupt


def fill_and_link(folder: Path) -> dict[str, Any]:
    (folder / "link").symlink_to("README.md")
    return fill(folder)


@pytest.mark.parametrize(
    ("filler", "error"),
    [
        (fill_and_fail, KeyboardInterrupt),
        (fill_and_link, BundleError),
        (partial(fill, labels=("cat",)), SpecError),
        (partial(fill, source={"value": float("nan")}), ValueError),
        (partial(fill, wrong=1), TypeError),
    ],
)
def test_writer_leaves_nothing_behind_on_an_error(
    tmp_path: Path, filler: Callable[[Path], dict[str, Any]], error: type[BaseException]
) -> None:
    """Whatever goes wrong while a bundle is written, there is no bundle and no litter."""
    with pytest.raises(error):
        write_bundle(tmp_path / "tiny", filler)
    assert list(tmp_path.iterdir()) == []


def test_writer_never_overwrites(bundle: Bundle) -> None:
    """A bundle is immutable: writing to its name again is refused before anything is filled."""

    def never(folder: Path) -> dict[str, Any]:
        raise AssertionError("filled")

    with pytest.raises(FileExistsError, match="never overwritten"):
        write_bundle(bundle.root, never)
    assert read_bundle(bundle.root) == bundle
