"""Checkpoints: what is written reads back bit for bit, and what was damaged is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from media.files import sha256_file
from media.spec import InputSpec
from media.strict_json import to_json
from models.checkpoint import (
    DESCRIPTION,
    WEIGHTS,
    CheckpointError,
    checkpoint_folder,
    load_checkpoint,
    read_description,
    save_checkpoint,
    save_tensors,
)
from models.encodings import complete
from models.spec import EncodingSpec, ModelSpec
from models.vit import VisionTransformer

SPEC = ModelSpec(
    patch=(4, 2), grid=(3, 5), classes=3, width=32, depth=2, heads=2, mlp_dim=24, pool="class"
)
INPUT = InputSpec(channels=3, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), fit="stretch")
LABELS = ("cat", "dog", "Ähre")


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, VisionTransformer]:
    torch.manual_seed(0)
    model = VisionTransformer(SPEC, INPUT)
    save_checkpoint(tmp_path, model, INPUT, LABELS, {"step": 7, "config": {"seed": 3}})
    return tmp_path, model


def edit(folder: Path, **changes: Any) -> None:
    path = folder / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_checkpoint_reads_back_bit_for_bit(saved: tuple[Path, VisionTransformer]) -> None:
    """Weights, architecture, input, labels and notes are what was saved; the model evaluates."""
    folder, model = saved
    loaded, description = load_checkpoint(folder)
    assert not loaded.training
    whole = dataclasses.replace(SPEC, encoding=complete(SPEC.encoding))  # every option is said
    assert (description.model, description.input, description.labels) == (whole, INPUT, LABELS)
    assert description.notes == {"step": 7, "config": {"seed": 3}}
    state = model.state_dict()
    assert state.keys() == loaded.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in loaded.state_dict().items())
    pixels = torch.randint(256, (2, 12, 10, 3), dtype=torch.uint8)
    assert torch.equal(loaded(pixels), model.eval()(pixels))


def test_checkpoint_rebuilds_the_normalisation(saved: tuple[Path, VisionTransformer]) -> None:
    """Mean and deviation come from the description, where a reader sees them, not from weights."""
    loaded, _ = load_checkpoint(saved[0])
    assert "scale" not in loaded.state_dict()
    torch.testing.assert_close(loaded.scale * 255, 1 / torch.tensor(INPUT.std))


@pytest.mark.parametrize("size", [0, 7, 1000])
def test_weights_that_are_cut_short_are_refused(
    saved: tuple[Path, VisionTransformer], size: int
) -> None:
    """The message names the file and says what may have happened."""
    folder, _ = saved
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors .*cut short or changed"):
        load_checkpoint(folder)


def test_weights_that_changed_are_refused(saved: tuple[Path, VisionTransformer]) -> None:
    """One flipped bit in the middle of the weights is noticed."""
    path = saved[0] / WEIGHTS
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="cut short or changed"):
        load_checkpoint(saved[0])


def test_weights_that_are_no_safetensors_are_refused(saved: tuple[Path, VisionTransformer]) -> None:
    """A file whose hash is right and whose content is not tensors is an error, not a crash."""
    folder, _ = saved
    (folder / WEIGHTS).write_bytes(b"\x80\x04\x95 a pickle")
    edit(folder, weights_sha256=sha256_file(folder / WEIGHTS))
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_checkpoint(folder)


def test_weights_of_another_model_are_refused(saved: tuple[Path, VisionTransformer]) -> None:
    """Tensors that do not fit the description are named."""
    folder, model = saved
    state = model.state_dict()
    state["head.weight"] = torch.zeros(4, 32)
    save_tensors(folder / WEIGHTS, state)
    edit(folder, weights_sha256=sha256_file(folder / WEIGHTS))
    with pytest.raises(CheckpointError, match=r"(?s)does not fit its model.*head\.weight"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION])
def test_checkpoint_with_a_missing_file_is_refused(
    saved: tuple[Path, VisionTransformer], name: str
) -> None:
    """Whichever file is missing, it is named."""
    (saved[0] / name).unlink()
    with pytest.raises(CheckpointError, match=f"expected .*{name}"):
        load_checkpoint(saved[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"schema": 3},
            r"json\.schema: this code reads 1 to 2, got 3, which newer code wrote: update this",
        ),
        ({"schema": None}, r"json\.schema: expected 1 to 2, got None"),
        ({"model": {"encoding": {"name": "rope"}}}, "unknown encoding 'rope'; known: absolute"),
        ({"model": {"encoding": {"blok": 8}}}, "liere has no blok, got 8; its options: per_layer"),
        (
            {"model": {"encoding": {"block": "8"}}},
            r"liere\.block: expected int, got str '8'",
        ),
        ({"labels": ["cat", "dog"]}, "head has 3 classes, the description 2 labels"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"model": {"width": 31}}, "width 31 is not divisible"),
        ({"notes": []}, "notes: expected an object"),
    ],
)
def test_description_that_does_not_fit_is_refused(
    saved: tuple[Path, VisionTransformer], changes: dict[str, Any], message: str
) -> None:
    """The description is read strictly, and its mistakes are named."""
    edit(saved[0], **changes)
    with pytest.raises(CheckpointError, match=message):
        read_description(saved[0])


def test_encoding_that_its_model_cannot_have_is_refused(
    saved: tuple[Path, VisionTransformer],
) -> None:
    """What an encoding needs of its transformer is checked before any weight is read."""
    spec = to_json(SPEC) | {"encoding": {"name": "liere", "block": 5}}
    edit(saved[0], model=spec)
    with pytest.raises(CheckpointError, match="liere: block must .* divide head_dim 16, got 5"):
        load_checkpoint(saved[0])


def test_description_that_is_cut_short_is_refused(saved: tuple[Path, VisionTransformer]) -> None:
    """Half a JSON file is no description."""
    path = saved[0] / DESCRIPTION
    path.write_text(path.read_text()[:100])
    with pytest.raises(CheckpointError, match="not valid JSON"):
        read_description(saved[0])


def test_tensors_that_cannot_be_written_are_an_os_error(tmp_path: Path) -> None:
    """Whatever the library raises, the caller sees an OSError with the path."""
    with pytest.raises(OSError, match="nowhere"):
        save_tensors(tmp_path / "nowhere" / "x.safetensors", {"a": torch.zeros(3)})


def test_encoding_spec_decides_which_weights_there_are() -> None:
    """A checkpoint of absolute positions does not load into a model of rotations."""
    rotary = VisionTransformer(SPEC, INPUT).state_dict()
    changed = ModelSpec(**{**vars(SPEC), "encoding": EncodingSpec("absolute")})
    assert set(VisionTransformer(changed, INPUT).state_dict()) ^ set(rotary) == {
        "encoding.entries",
        "encoding.table",
    }


def test_a_run_stands_for_its_best_checkpoint(saved: tuple[Path, VisionTransformer]) -> None:
    """Or is one itself."""
    folder, _ = saved
    assert checkpoint_folder(folder) == folder
    run = folder / "run"
    run.mkdir()
    (folder / DESCRIPTION).rename(run / DESCRIPTION)
    run.rename(folder / "best")
    assert checkpoint_folder(folder) == folder / "best"


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    """Nothing, a file, a run without a best, weights of others: what it is and what to do."""
    (tmp_path / "file").touch()
    for name in ("run", "public"):
        (tmp_path / name).mkdir()
    (tmp_path / "public" / "model.safetensors").touch()
    for name, told in (
        ("nowhere", "nowhere is nothing"),
        ("file", "file is a file"),
        ("run", "such as a run whose first epoch is not over"),
        ("public", "weights of others: python -m models.pretrained makes a checkpoint of them"),
    ):
        with pytest.raises(CheckpointError, match="expected a run with best/checkpoint.json") as no:
            checkpoint_folder(tmp_path / name)
        assert str(no.value).endswith(told)
