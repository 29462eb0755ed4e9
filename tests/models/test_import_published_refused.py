"""Files that are no published model, or do not say enough, are refused in one line."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.pretrained.lightning_liere.__main__ import main
from tests.helpers.published_models import LABELS, RAW, Case, State, make_case, write_lightning

Chatter = pytest.CaptureFixture[str]
Change = Callable[[State], dict[str, object]]
SIZED = ("--size", "12x20", "--patch", "4x4")


@pytest.fixture
def case() -> Case:
    """12x20 pixels, patch 4x4: LieRE of block 8 in two layers and two heads."""
    return make_case(2, "liere")


def refused(
    folder: Path, capsys: Chatter, path: Path, *words: str, labels: tuple[str, ...] = LABELS
) -> str:
    """The one line in which the command refuses, with status 2 and nothing written."""
    (folder / "labels.txt").write_text("\n".join(labels) + "\n")
    out = folder / "refused"
    told = ["--out", str(out), "--labels", str(folder / "labels.txt"), *words]
    assert main([str(path), *told]) == 2
    assert not out.exists()
    assert not list(folder.glob(".refused*"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def check(line: str, message: str) -> None:
    """Every part of the message, which " ... " separates, is in the line."""
    for part in message.split(" ... "):
        assert part in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (SIZED[2:], "do not tell the size: pass --size, like 32x32"),
        (SIZED[:2], "do not tell the patch: pass --patch, like 4x4"),
        (("--size", "14x20", "--patch", "4x4"), "expected multiples of patch (4, 4), got (14, 20)"),
        (("--size", "12x16", "--patch", "4x4"), "expected one of 15 tokens, ... got 12 (grid 3x4"),
        (("--size", "15x25", "--patch", "5x5"), "product divides the 48 values ... got (5, 5)"),
        (("--size", "4x12x20", "--patch", "4x4"), "for each of 2 axes, got (4, 12, 20)"),
        (("--size", "12by20", "--patch", "4x4"), "per axis, like 32x32 or 8x224x224, got 12by20"),
        ((*SIZED, "--heads", "3"), "width 128 is not divisible by heads 3"),
        ((*SIZED, "--heads", "0"), "heads must be at least 1, got 0"),
        ((*SIZED, "--heads", "32"), "divide head_dim 4, got 8"),
        ((*SIZED, "--modality", "video"), "--modality: expected one of 2 axes, got video"),
        ((*SIZED, "--mean", "0.5"), "mean and std need 3 values ... got 1 and 3"),
        ((*SIZED, "--mean", "a,b,c"), "--mean: expected numbers like 0.5,0.5,0.5, got a,b,c"),
    ],
)
def test_what_cannot_be_met_is_named(
    tmp_path: Path, capsys: Chatter, case: Case, words: tuple[str, ...], message: str
) -> None:
    """Sizes, patch, heads and norms that are missing or do not fit the weights."""
    path = write_lightning(tmp_path / "published.ckpt", case.state)
    check(refused(tmp_path, capsys, path, *words), message)


@pytest.mark.parametrize(
    ("labels", "got"),
    [(LABELS[:9], "got 9 lines with 9"), ((*LABELS[:9], "class 0"), "got 10 lines with 9"),
     ((*LABELS[:9], ""), "got 10 lines with 9")],
)  # fmt: skip
def test_labels_must_name_every_class_once(
    tmp_path: Path, capsys: Chatter, case: Case, labels: tuple[str, ...], got: str
) -> None:
    """Too few, one twice, or an empty line."""
    path = write_lightning(tmp_path / "published.ckpt", case.state)
    line = refused(tmp_path, capsys, path, *SIZED, labels=labels)
    assert f"--labels: expected 10 different names, one a line, {got}" in line


def without(name: str) -> Change:
    return lambda state: {key: value for key, value in state.items() if key != name}


def changed(name: str, change: Callable[[Tensor], object]) -> Change:
    return lambda state: state | {name: change(state.get(name, torch.zeros(1, 1, 128)))}


def spoilt(tensor: Tensor) -> Tensor:
    """One value of it is infinite."""
    return tensor.flatten().index_fill(0, torch.tensor([1]), torch.inf).reshape(tensor.shape)


def hollow(tensor: Tensor) -> Tensor:
    """Squares without their diagonals."""
    return tensor - torch.diag_embed(tensor.diagonal(dim1=-2, dim2=-1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("mlp_head.0.bias"), "the 30 tensors ... of 2 layers ... lacks mlp_head.0.bias"),
        (without("transformer.layers.0.1.norm.bias"), "lacks transformer.layers.0.1.norm.bias"),
        (without("pos_embedding"), "lacks pos_embedding"),
        (without("cls_token"), "expected one cls_token, ... got 0 in model.mlp_head.0.bias"),
        (changed("ema.cls_token", torch.clone), "expected one cls_token, ... got 2 in"),
        (changed("mystery", torch.clone), "has besides mystery"),
        (changed("mlp_head.1.bias", lambda t: t[:9]), "bias: expected shape [10], got [9]"),
        (changed("cls_token", lambda t: t[0]), "expected shape [1, 1, 128], got [1, 128]"),
        (changed("mlp_head.1.weight", lambda t: t[0]), "expected shape [classes, W], got [128]"),
        (changed("pos_embedding", lambda t: t + 0.5), "expected zeros ... got values up to 0.5"),
        (changed("mlp_head.1.weight", spoilt), "weight: expected finite weights, got 1 that"),
        (changed("mlp_head.1.bias", Tensor.long), "of floating point, got torch.int64"),
        (changed("mlp_head.1.bias", lambda _: "bias"), "of floating point, got str"),
        (changed("mlp_head.1.bias", Tensor.to_sparse), "a dense tensor of floating point, got"),
        (changed(RAW, lambda t: t[..., :7]), "expected square matrices, got 8 by 7"),
        (changed(RAW, lambda t: t[..., :6, :6]), "at least 2 and divide head_dim 64, got 6"),
        (changed(RAW, lambda t: t[:, :, :9]), "8 or 16 blocks, got shape [2, 2, 9, 8, 8]"),
        (changed(RAW, lambda t: t[:, [0, 0, 1]]), "1 or 2 layers ... got shape [2, 3, 16, 8, 8]"),
        (changed(RAW, lambda t: t[0]), "[A, L or 1, N or H N, K, K], got [2, 16, 8, 8]"),
        (changed(RAW, hollow), "expected skew-symmetric matrices (A = -A^T), got ones of which"),
    ],
)
def test_weights_that_are_no_published_model_are_refused(
    tmp_path: Path, capsys: Chatter, case: Case, change: Change, message: str
) -> None:
    """Missing and extra keys, shapes, blocks, generators and values: what was expected and got."""
    path = write_lightning(tmp_path / "published.ckpt", change(case.state))
    check(refused(tmp_path, capsys, path, *SIZED), message)


class Code:
    """A pickle of this would run a command."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("ran",)


def test_code_in_a_file_is_refused_and_not_run(
    tmp_path: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickle that calls anything never gets to call it; the refusal says what it would call."""
    monkeypatch.chdir(tmp_path)
    saved = {"state_dict": {"model.cls_token": Code()}}
    torch.save(saved, tmp_path / "zip.ckpt")
    (tmp_path / "bare.ckpt").write_bytes(pickle.dumps(saved, protocol=2))
    for name in ("zip.ckpt", "bare.ckpt"):
        line = refused(tmp_path, capsys, tmp_path / name, *SIZED)
        check(line, "expected tensors and plain values, got a pickle that names ... mkdir")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("data", [b"", b"no checkpoint at all", b"PK\x05\x06" + bytes(18)])
def test_files_that_torch_did_not_write_are_refused(
    tmp_path: Path, capsys: Chatter, data: bytes
) -> None:
    """Empty, text, and an empty zip."""
    path = tmp_path / "x.ckpt"
    path.write_bytes(data)
    message = "expected a file written by torch.save, got one that cannot be read as such"
    assert message in refused(tmp_path, capsys, path)


@pytest.mark.parametrize(
    ("held", "got"),
    [([1, 2], "got a list"), ({"weights": {}, "epoch": 3}, "got one with epoch, weights"),
     ({"state_dict": [1]}, "got one with state_dict"), (torch.zeros(3), "got a Tensor")],
)  # fmt: skip
def test_files_that_lightning_did_not_write_are_refused(
    tmp_path: Path, capsys: Chatter, held: object, got: str
) -> None:
    """Whatever else torch saved has no state_dict of names."""
    path = tmp_path / "x.ckpt"
    torch.save(held, path)
    line = refused(tmp_path, capsys, path)
    assert "expected a Lightning checkpoint (a dictionary with state_dict), " + got in line


def test_half_a_file_is_refused(tmp_path: Path, capsys: Chatter, case: Case) -> None:
    """A download that broke off."""
    path = write_lightning(tmp_path / "published.ckpt", case.state)
    path.write_bytes(path.read_bytes()[:-100])
    assert "cannot be read as such" in refused(tmp_path, capsys, path, *SIZED)


def test_files_that_are_not_there_and_folders_that_are(
    tmp_path: Path, capsys: Chatter, case: Case
) -> None:
    """No file, and a folder that would be overwritten."""
    assert "nothing.ckpt" in refused(tmp_path, capsys, tmp_path / "nothing.ckpt")
    path = write_lightning(tmp_path / "published.ckpt", case.state)
    (tmp_path / "there").mkdir()
    told = ["--labels", str(tmp_path / "labels.txt"), *SIZED]
    assert main([str(path), "--out", str(tmp_path / "there"), *told]) == 2
    assert "expected a new folder" in capsys.readouterr().err


def test_absolute_positions_need_a_number_of_axes(tmp_path: Path, capsys: Chatter) -> None:
    """Nothing in such a file tells pictures from clips."""
    path = write_lightning(tmp_path / "published.ckpt", make_case(2, "absolute").state)
    line = refused(tmp_path, capsys, path)
    assert "expected a model of 2 or 3 axes, got None" in line
    assert "pass --size, like 32x32 or 8x224x224" in line


