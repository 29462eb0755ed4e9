"""A bundle proves itself again; whatever was done to it since, a proof finds and names."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_model

from export.remeasure import judged
from media.dataset import Prepared
from models.bundle import Bundle
from models.manifest import Accuracy, GridEntry, Parity, Precision
from tests.helpers.export_bundles import squares, squares_data
from tests.helpers.spoilt_bundles import Spoil, change_graph, edit, seal, stating, verify

GRID = "graphs/4x5.onnx"
WEIGHTS = "graphs/weights.bin"

Exported = Callable[[Precision], Bundle]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return squares_data(tmp_path_factory)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """precision -> the bundle of it, made when it is asked for; both alike."""
    return lambda precision: squares(tmp_path_factory, precision)


@pytest.fixture
def copy(tmp_path: Path, exported: Exported) -> Callable[[Precision], Path]:
    """A bundle of this precision to spoil."""
    return lambda precision: shutil.copytree(exported(precision).root, tmp_path / "squares")


# --- ways to spoil a bundle ----------------------------------------------------------------------


def flip_a_bit(root: Path) -> None:
    data = bytearray((root / WEIGHTS).read_bytes())
    data[0] ^= 1
    (root / WEIGHTS).write_bytes(data)


def cut(root: Path) -> None:
    data = (root / WEIGHTS).read_bytes()
    (root / WEIGHTS).write_bytes(data[: len(data) // 2])


def change_tensor(root: Path, part: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change, in weights.bin, the first tensor of 4x5 whose name contains ``part``."""
    model = onnx.load(root / GRID, load_external_data=False)
    tensor = next(t for t in model.graph.initializer if part in t.name and t.external_data)
    offset = next(int(entry.value) for entry in tensor.external_data if entry.key == "offset")
    load_external_data_for_model(model, str(root / "graphs"))
    changed = change(numpy_helper.to_array(tensor).copy()).tobytes()
    data = bytearray((root / WEIGHTS).read_bytes())
    data[offset : offset + len(changed)] = changed
    (root / WEIGHTS).write_bytes(data)


def shuffle_weights(root: Path) -> None:
    """The numbers of every matrix in another order: as if trained from another seed."""
    model = onnx.load(root / GRID, load_external_data=False)
    data, generator = bytearray((root / WEIGHTS).read_bytes()), np.random.default_rng(2)
    for tensor in model.graph.initializer:
        if tensor.external_data and len(tensor.dims) == 2:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            begin, length = int(entries["offset"]), int(entries["length"])
            numbers = np.frombuffer(data[begin : begin + length], np.float32)
            data[begin : begin + length] = generator.permutation(numbers).tobytes()
    (root / WEIGHTS).write_bytes(data)


def transpose(blocks: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(blocks.swapaxes(-1, -2))


def flip_an_exponent(weights: np.ndarray) -> np.ndarray:
    """The highest bit of one weight's exponent: the one before the sign, little endian."""
    data = bytearray(weights.tobytes())
    data[weights.itemsize - 1] ^= 0x40
    return np.frombuffer(bytes(data), weights.dtype)


def reflect(blocks: np.ndarray) -> np.ndarray:
    """Still orthogonal, but a mirror."""
    blocks[..., 0, :] *= -1
    return blocks


def add_operator(graph: onnx.GraphProto, operator: str) -> None:
    """An operator between the head and the logits."""
    last = next(node for node in graph.node if "logits" in node.output)
    last.output[0] = "before"
    graph.node.append(helper.make_node(operator, ["before"], ["logits"]))


def add_idle_operator(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("Transpose", ["logits"], ["idle"], perm=[1, 0]))


def add_shift(graph: onnx.GraphProto) -> None:
    """An operator that may be there, and that favours one class a little."""
    last = next(node for node in graph.node if "logits" in node.output)
    last.output[0] = "before"
    shift = numpy_helper.from_array(np.array([0, 0.3, 0], np.float32), "shift")
    graph.initializer.append(shift)
    graph.node.append(helper.make_node("Add", ["before", "shift"], ["logits"]))


def move_outside(graph: onnx.GraphProto, key: str, value: str) -> None:
    tensor = next(t for t in graph.initializer if t.external_data)
    next(entry for entry in tensor.external_data if entry.key == key).value = value


def cast_to_and_fro(graph: onnx.GraphProto) -> None:
    """Rounding that no one asked for, in front of the head's product."""
    last = next(node for node in graph.node if "logits" in node.output)
    to = {"half": TensorProto.FLOAT16, "whole": TensorProto.FLOAT}
    graph.node.insert(len(graph.node) - 1, helper.make_node(
        "Cast", [last.input[0]], ["half"], to=to["half"]))  # fmt: skip
    graph.node.insert(len(graph.node) - 1, helper.make_node(
        "Cast", ["half"], ["whole"], to=to["whole"]))  # fmt: skip
    last.input[0] = "whole"


def swap_grids(root: Path) -> None:
    small, large = root / "graphs/3x2.onnx", root / GRID
    content = small.read_bytes(), large.read_bytes()
    small.write_bytes(content[1])
    large.write_bytes(content[0])


def grid(manifest: dict[str, Any], number: int = 1) -> Any:
    return manifest["grids"][number]


def drawing(change: Callable[[onnx.GraphProto], Any]) -> Spoil:
    return lambda root: change_graph(root, change, GRID)


#: What was done -> (how, whether the hashes are made to fit, the proof that must fail, its words).
MUTANTS: dict[str, tuple[Spoil, bool, str, str]] = {
    # what the files' hashes find
    "a bit of the weights": (flip_a_bit, False, "files", "weights.bin has sha256"),
    "weights cut": (cut, False, "files", "weights.bin has sha256"),
    "a golden of another picture": (
        lambda root: shutil.copy(root / "golden/0.png", root / "golden/2.png"),
        False, "files", "golden/2.png has sha256"),
    "a file more": (
        lambda root: (root / "graphs/extra.bin").write_bytes(b"x"),
        False, "files", "is there and not listed"),
    "a file less": (
        lambda root: (root / "README.md").unlink(), False, "files", "listed and missing"),
    "a key more": (stating(lambda m: m.update(x=1)), False, "files", "unknown key 'x'"),
    # what only numbers find
    "a bit of the weights, sealed": (
        lambda root: change_tensor(root, "val_", flip_an_exponent),
        True, "goldens 3x2", "of the tolerance"),
    "patch embedding doubled": (
        lambda root: change_tensor(root, "val_", lambda w: w * 2),
        True, "goldens 4x5", "of the tolerance"),
    "rotations doubled": (
        lambda root: change_tensor(root, "tables.0", lambda b: b * 2),
        True, "rotations 4x5", "at most"),
    "rotations transposed": (
        lambda root: change_tensor(root, "tables.1", transpose),
        True, "goldens 4x5", "of the tolerance"),
    "rotations mirrored": (
        lambda root: change_tensor(root, "tables.1", reflect),
        True, "rotations 4x5", "|det R - 1| at most 2"),
    "rotations of another token": (
        lambda root: change_tensor(root, "tables.0", lambda b: np.roll(b, 1, 0)),
        True, "goldens 4x5", "of the tolerance"),
    "another picture, sealed": (
        lambda root: shutil.copy(root / "golden/0.png", root / "golden/2.png"),
        True, "goldens 3x2", "of the tolerance"),
    # what the graph's contract finds
    "weights cut, sealed": (cut, True, "graph 4x5", "bytes inside the"),
    "graphs of two grids swapped": (swap_grids, True, "graph 3x2", "expected pixels"),
    "operator from outside": (
        drawing(lambda g: add_operator(g, "Sin")), True, "graph 4x5", "unexpected operators"),
    "operator without a user": (
        drawing(add_idle_operator), True, "graph 4x5", "Transpose is not used"),
    "operator that is allowed": (drawing(add_shift), True, "goldens 4x5", "of the tolerance"),
    "weights from outside": (
        drawing(lambda g: move_outside(g, "location", "../weights.bin")),
        True, "graph 4x5", "expected a place in weights.bin"),
    "weights beyond the end": (
        drawing(lambda g: move_outside(g, "offset", "99999999")),
        True, "graph 4x5", "bytes inside the"),
    "graph cut": (
        lambda root: (root / GRID).write_bytes((root / GRID).read_bytes()[:-100]),
        True, "graph 4x5", ""),
    "detour through half precision": (
        drawing(cast_to_and_fro), True, "graph 4x5", ""),
    # what the manifest says
    "mean": (
        stating(lambda m: m["input"].update(mean=[0.5, 0.5, 0.45])), False, "pixels 3x2", "mean"),
    "std": (
        stating(lambda m: m["input"].update(std=[0.5, 0.5, 0.55])), False, "pixels 3x2", "std"),
    "fit": (stating(lambda m: m["input"].update(fit="stretch")), False, "goldens 4x5", "tolerance"),
    "filter": (
        stating(lambda m: m["input"].update(interpolation="bilinear")),
        False, "goldens 4x5", "tolerance"),
    "patch": (stating(lambda m: m.update(patch=[6, 4])), False, "graph 3x2", "expected pixels"),
    "labels swapped": (
        stating(lambda m: m.update(labels=["green", "blue", "red"])),
        False, "accuracy 3x2", "expected labels"),
    "a label more": (
        stating(lambda m: m["labels"].append("sky")), False, "files", "needs 4 logits"),
    "a golden's logit": (
        stating(lambda m: m["goldens"][1]["logits"]["4x5"].__setitem__(2, 99.0)),
        False, "goldens 4x5", "of the tolerance"),
    "goldens of two grids swapped": (
        stating(lambda m: m["goldens"][0].update(
            logits=dict(zip(("3x2", "4x5"), [*m["goldens"][0]["logits"].values()][::-1],
                            strict=True)))),
        False, "goldens 3x2", "of the tolerance"),
    "accuracy": (
        stating(lambda m: grid(m)["accuracy"].update(top1=grid(m)["accuracy"]["top1"] + 9 / 36)),
        False, "accuracy 4x5", "stated"),
    "accuracy that cannot be": (
        stating(lambda m: grid(m)["accuracy"].update(top1=0.5123)),
        False, "statements", "no whole number of 36"),
    "hash of the split": (
        stating(lambda m: grid(m)["accuracy"].update(split_sha256="0" * 64)),
        False, "accuracy 4x5", "is not the one measured"),
    "a parity that was missed": (
        stating(lambda m: grid(m)["parity"].update(worst_ratio=1.5)),
        False, "statements", "outside its bound"),
    "a wide tolerance": (
        stating(lambda m: m["tolerances"][0].update(atol=100.0)), False, "statements", "wider"),
    "no tolerance for a GPU": (
        stating(lambda m: m["tolerances"].pop()), False, "statements", "stated for cuda"),
    "a wide bound of parity": (
        stating(lambda m: [entry["parity"].update(atol=10.0) for entry in m["grids"]]),
        False, "", ""),
    "opset": (stating(lambda m: m.update(opset=20)), False, "graph 3x2", "the manifest says 20"),
    "no rotations": (
        stating(lambda m: m["rotations"].update(form="none", block=None)),
        False, "rotations 3x2", "expected rotations by blocks 0 times in 2 layers, got 4"),
    "rotations by planes": (
        stating(lambda m: m["rotations"].update(form="planes", block=None)),
        False, "rotations 3x2", "expected rotations by blocks 0 times in 2 layers, got 4"),
    "rotations not stated": (
        stating(lambda m: m.pop("rotations")),
        False, "rotations 3x2", "expected rotations by blocks 2 times in 2 layers, got 4"),
    "blocks that are folded": (
        stating(lambda m: m["rotations"].update(folded=True)),
        False, "files", "form blocks cannot be folded"),
    "blocks without a side": (
        stating(lambda m: m["rotations"].update(block=None)),
        False, "files", "form blocks cannot have block None"),
    "precision": (
        stating(lambda m: m.update(precision="fp32" if m["precision"] == "fp16" else "fp16")),
        False, "files", "must state rounded"),
}  # fmt: skip


# --- what must stay true -------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_honest_bundle_is_verified(
    precision: Precision,
    exported: Exported,
    data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every proof of a fresh bundle holds, accuracy is found exactly, parity is not claimed."""
    status, out, _ = verify([exported(precision).root, "--data", data], capsys)
    lines = out.splitlines()
    assert (status, lines[-1]) == (0, "verified")
    assert len([line for line in lines if line.startswith("ok")]) == 2 + 2 * 7
    assert "--     parity: cannot be measured again without the checkpoint" in out
    for line in lines:
        if "accuracy" in line:
            right, stated = line.split(" right, ")
            assert right.rsplit(maxsplit=3)[1] == stated.split()[0]


def test_shipped_bundles_are_verified(repo_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bundles that this checkout serves, also those written by an older exporter, prove true."""
    for root in sorted((repo_root / "bundles").iterdir()):
        status, out, err = verify([root], capsys)
        assert (status, err) == (0, ""), root.name
        assert "accuracy: not measured again: --data was not given" in out


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_refused(
    name: str,
    precision: Precision,
    copy: Callable[[Precision], Path],
    data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever was changed, the right proof fails, is named, and the exit status is 1."""
    spoil, sealed, proof, words = MUTANTS[name]
    root = copy(precision)
    spoil(root)
    if sealed:
        seal(root)
    status, out, err = verify([root, "--data", data], capsys)
    assert status == 1
    assert "verified" not in out.splitlines()
    failed = [line.partition("not verified: ")[2] for line in err.splitlines()]
    assert [line for line in failed if line.startswith(proof) and words in line], err


def test_model_of_another_bundle_is_refused(
    copy: Callable[[Precision], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Sound graphs of the same shapes with fitting hashes, and yet not the ones described."""
    root = copy("fp32")
    shuffle_weights(root)
    seal(root)
    status, _, err = verify([root], capsys)
    failed = [line.split(":")[1].strip() for line in err.splitlines()]
    assert (status, failed) == (1, ["goldens 3x2", "goldens 4x5"])


def test_every_failure_is_named(
    copy: Callable[[Precision], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """One thing wrong does not hide another."""
    root = copy("fp32")
    edit(root, lambda m: m["input"].update(mean=[0.1, 0.1, 0.1]))
    edit(root, lambda m: m["goldens"][0]["logits"]["4x5"].__setitem__(0, 99.0))
    (root / "README.md").write_text("Another card.\n")
    _, _, err = verify([root], capsys)
    failed = [line.split(":")[1].strip() for line in err.splitlines()]
    assert failed == ["files", "pixels 3x2", "pixels 4x5", "goldens 4x5"]


def test_json_holds_every_proof_with_figure_and_bound(
    copy: Callable[[Precision], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine reads the same verdict: one object, no NaN, also where a graph gives NaN."""
    root = copy("fp32")
    change_tensor(root, "val_", lambda weights: weights * np.float32(np.nan))
    seal(root)
    status, out, _ = verify([root, "--json"], capsys)
    told = json.loads(out, parse_constant=pytest.fail)
    assert (status, told["bundle"], told["verified"]) == (1, "squares", False)
    proofs = {proof["what"]: proof for proof in told["proofs"]}
    assert proofs["goldens 3x2"]["passed"] is False
    assert proofs["goldens 3x2"]["found"] is None
    assert proofs["rotations 3x2"]["found"] < proofs["rotations 3x2"]["bound"] == 1e-6
    assert proofs["parity"]["passed"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "expected the folder of a bundle, got nothing"),
        ([__file__], "expected the folder of a bundle"),
        (["{bundle}", "--data", "nothing"], "nothing"),
    ],
    ids=["no folder", "a file", "no data"],
)
def test_bad_input_is_not_a_failed_proof(
    words: list[str],
    message: str,
    exported: Exported,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is not there cannot be proven right or wrong: exit status 2."""
    given: list[str | Path] = [word.format(bundle=exported("fp32").root) for word in words]
    status, out, err = verify(given, capsys)
    assert (status, out) == (2, "")
    assert message in err


def test_other_split_is_not_the_one_measured(
    exported: Exported, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Accuracy is proven on the very items of the manifest or not at all."""
    status, _, err = verify([exported("fp32").root, "--data", data, "--split", "val"], capsys)
    assert status == 1
    assert "accuracy 3x2" in err


def test_verify_needs_no_torch(exported: Exported, repo_root: Path) -> None:
    """A machine with a runtime and onnx alone can prove a bundle."""
    code = "import sys; sys.modules['torch'] = None; from export.__main__ import main; main()"
    words = [sys.executable, "-c", code, "verify", str(exported("fp32").root)]
    done = subprocess.run(words, cwd=repo_root, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("verified\n"), done.stderr


def test_only_near_ties_excuse_another_count() -> None:
    """An item is doubtful where its own logit and the best other are within twice the bound."""
    parity = Parity(4, 0.0, 0.0, 4, atol=0.01, rtol=0.0)
    entry = GridEntry("3x2", "g", parity, Accuracy("test", 4, 0.5, ""))
    logits = np.array([[1.0, 0.0], [1.0, 0.985], [1.0, 0.975], [0.0, 1.0]])
    pixels, labels = np.zeros((4, 1, 1, 1), np.uint8), np.zeros(4, np.int64)
    assert judged(logits, Prepared(pixels, labels, tuple("abcd"), ""), entry) == (3, 1)


def test_views_are_judged_together() -> None:
    """A clip is right by the mean of its views, and doubtful where that mean is near a tie."""
    parity = Parity(4, 0.0, 0.0, 4, atol=0.01, rtol=0.0)
    entry = GridEntry("1x3x2", "g", parity, Accuracy("test", 2, 0.5, ""))
    views = np.array([[1.0, 0.0], [0.0, 0.99], [0.0, 1.0], [1.0, 0.9]])  # two of each clip
    pixels, labels = np.zeros((4, 1, 1, 1), np.uint8), np.zeros(2, np.int64)
    assert judged(views, Prepared(pixels, labels, ("a", "b"), ""), entry) == (1, 1)
