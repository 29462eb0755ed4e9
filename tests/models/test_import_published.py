"""Published checkpoints run here: the published answers, in both modes, exported, fine-tuned."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from export.make import Options as ExportOptions
from export.make import make_bundle, open_test_data
from media.sources import SourceError
from media.spec import Grid, SpecError
from models.checkpoint import Description, load_checkpoint
from models.encodings import make_encoding
from models.pretrained.lightning_liere.__main__ import main
from models.pretrained.lightning_liere.make import import_published
from models.pretrained.lightning_liere.spec import Mode, Options
from models.rotations.skew import skew
from models.spec import EncodingSpec
from models.vit import VisionTransformer
from tests.helpers import exporter
from tests.helpers.published_models import (
    LABELS,
    LARGER,
    NAMES,
    RAW,
    Case,
    independent,
    make_case,
    open_case,
    write_lightning,
)
from tests.helpers.rotation_matrices import blocks_of
from tests.helpers.training_runs import make_data
from training.finetune import adopt, recipe_for
from training.presets import PRESETS

tables_of_operators = exporter.tables_of_operators

#: Of the cases with published answers those with generators.
ROTARY = tuple(name for name in NAMES if name.startswith("liere"))

Chatter = pytest.CaptureFixture[str]
SIZED = ("--size", "12x20", "--patch", "4x4")


@pytest.fixture(scope="session")
def published_dir(repo_root: Path) -> Path:
    """Answers of the published code."""
    path = repo_root.parent / "shared" / "reference" / "official"
    if not path.is_dir():
        pytest.skip("the published code's answers are not beside this checkout (../shared)")
    return path


def load_imported(
    folder: Path, case: Case, **changes: Any
) -> tuple[VisionTransformer, Description]:
    path = write_lightning(folder / "published.ckpt", case.state)
    out = folder / changes.get("mode", "imported")
    import_published(path, out, case.options(**changes))
    return load_checkpoint(out)


def answers(
    model: VisionTransformer, inputs: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient in the inputs [B, C, *pixels] of sum(logits * [1 .. 10]).

    In ``dtype`` the rotations are computed: the exponential of what LieRE draws is the one part in
    which float32 alone can cost more than 1e-5.
    """
    pixels = (255 * inputs.movedim(1, -1)).requires_grad_()
    logits = model(pixels, model.encode(model.grid_of(pixels), dtype))
    return logits, 255 * gradient(logits, pixels).movedim(-1, 1)


def gradient(logits: Tensor, inputs: Tensor) -> Tensor:
    weights = torch.arange(1.0, 11.0, dtype=logits.dtype)
    (found,) = torch.autograd.grad((logits * weights).sum(), inputs)
    return found


def check_same(ours: Tensor, theirs: Tensor, what: str) -> None:
    """To 1e-5 of their largest value."""
    ratio = (ours - theirs).abs().max() / theirs.abs().max()
    assert ratio <= 1e-5, f"{what}: largest difference {ratio:.2e} of the largest value"


@pytest.mark.parametrize("name", NAMES)
def test_imported_model_answers_as_the_published_code(
    published_dir: Path, tmp_path: Path, name: str
) -> None:
    """Logits and input gradients are the published ones to 1e-5, of every case at its own size."""
    case = open_case(published_dir, name)
    model, _ = load_imported(tmp_path, case)
    logits, slope = answers(model, case.answers["input"])
    check_same(logits, case.answers["logits"], "logits")
    check_same(slope, case.answers["input_grad"], "gradient of the input")


@pytest.mark.parametrize("name", ROTARY)
def test_rotations_equal_the_published_ones(
    published_dir: Path, tmp_path: Path, name: str
) -> None:
    """Class token first, the imported rotations of layer 0 are those of the published encoder."""
    case = open_case(published_dir, name)
    model, _ = load_imported(tmp_path, case)
    sides = zip(case.answers["input"].shape[2:], case.patch, strict=True)
    encoded = model.encode(Grid(tuple(side // step for side, step in sides)))
    ours = blocks_of(encoded.rotations)[0].flatten(1, 2)  # [S, H N, K, K]
    theirs = case.answers["rotations"][0, :, 0]  # layer 0
    difference = (ours - theirs).abs().max().item()
    assert difference < 3e-5, f"largest difference {difference:.2e}"


def test_published_axial_deals_the_published_turns_out(published_dir: Path, tmp_path: Path) -> None:
    """One table serves both heads: the first takes its first half, the second the rest."""
    case = open_case(published_dir, "axial_2d")
    model, _ = load_imported(tmp_path, case)
    ours = blocks_of(model.encode(Grid(case.grid)).rotations)[0]  # [S, H, P, 2, 2]
    theirs = case.answers["rotations"][0]  # [S, P, 2, 2]
    torch.testing.assert_close(ours[:, :, :16].flatten(1, 2), theirs, rtol=0, atol=1e-6)
    assert torch.equal(ours[:, :, 16:], torch.eye(2).expand(37, 2, 16, 2, 2))
    plain = EncodingSpec("published_axial", per_head=False)
    whole = make_encoding(dataclasses.replace(model.spec, encoding=plain))
    table = blocks_of(whole.rotations(whole.positions(Grid(case.grid))))[0, :, 0]
    torch.testing.assert_close(table, theirs[1:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ROTARY)
def test_generator_gradients_equal_the_published_ones(
    published_dir: Path, tmp_path: Path, name: str
) -> None:
    """Layer 0's raw parameters, used by every layer, get the published gradient."""
    case = open_case(published_dir, name)
    model, _ = load_imported(tmp_path, case)
    logits = model(255 * case.answers["input"].movedim(1, -1))
    entries = gradient(logits, dict(model.named_parameters())["encoding.entries"])
    block = model.spec.encoding.options["block"]
    ours = skew(entries[:, 0].flatten(1, 2), block).triu()  # [A, H N, K, K]
    theirs = case.answers["generator_grad"][:, 0].triu(1)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_independent_forward_is_the_published_one(published_dir: Path, name: str) -> None:
    """What the tests below compare with gives the published answers."""
    case = open_case(published_dir, name)
    inputs = case.answers["input"].clone().requires_grad_()
    logits = independent(case, inputs)
    check_same(logits, case.answers["logits"], "logits")
    check_same(gradient(logits, inputs), case.answers["input_grad"], "gradient of the input")


@pytest.mark.parametrize("larger", [False, True], ids=["as-trained", "larger"])
@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("encoding", ["liere", "axial", "absolute"])
def test_imported_model_answers_at_other_sizes_as_published(
    tmp_path: Path, encoding: str, axes: int, larger: bool
) -> None:
    """Two axes and three, where trained and beyond, no two sides alike."""
    case = make_case(axes, encoding)
    model, _ = load_imported(tmp_path, case)
    inputs = torch.rand(2, 3, *(LARGER[axes] if larger else case.size), requires_grad=True)
    logits, slope = answers(model, inputs.detach(), torch.float64)
    expected = independent(case, inputs)
    check_same(logits, expected, "logits")
    check_same(slope, gradient(expected, inputs), "gradient of the input")


@pytest.mark.parametrize("axes", [2, 3])
def test_intended_mode_gives_every_layer_its_own_generators(tmp_path: Path, axes: int) -> None:
    """As the paper says, which is not what the published code does with the same weights."""
    case = make_case(axes, "liere")
    inputs = torch.rand(2, 3, *LARGER[axes], requires_grad=True)
    logits = {}
    for mode in ("published", "intended"):
        model, _ = load_imported(tmp_path, case, mode=mode)
        logits[mode], slope = answers(model, inputs.detach(), torch.float64)
        expected = independent(case, inputs, own_layers=mode == "intended")
        check_same(logits[mode], expected, mode)
        check_same(slope, gradient(expected, inputs), mode)
    apart = (logits["intended"] - logits["published"]).abs().max()
    assert apart > 1e-2 * logits["published"].abs().max()


@pytest.mark.parametrize("mode", ["published", "intended"])
def test_shared_generators_are_the_same_in_both_modes(
    published_dir: Path, tmp_path: Path, mode: Mode
) -> None:
    """Where the file has one set for all layers, there is nothing to choose."""
    case = open_case(published_dir, "liere8_shared_2d")
    model, described = load_imported(tmp_path, case, mode=mode)
    check_same(model(255 * case.answers["input"].movedim(1, -1)), case.answers["logits"], mode)
    options = described.model.encoding.options
    assert (options["per_layer"], options["per_head"], options["block"]) == (False, False, 8)


# --- what the file says, and what must be told ----------------------------------------------


@pytest.fixture
def case() -> Case:
    """12x20 pixels, patch 4x4: LieRE of block 8 in two layers and two heads."""
    return make_case(2, "liere")


def test_weights_tell_the_architecture(tmp_path: Path, case: Case) -> None:
    """Width, depth, heads, MLP, channels, classes, block and sharing; the norms are CIFAR-10's."""
    _, described = load_imported(tmp_path, case, mean=(), std=(), trained_on="noise")
    model, encoding = described.model, described.model.encoding
    assert (model.width, model.depth, model.heads, model.mlp_dim) == (128, 2, 2, 64)
    assert (model.channels, model.classes, model.pool) == (3, 10, "class")
    assert (model.grid, model.patch) == ((3, 5), (4, 4))
    assert encoding == EncodingSpec(
        "liere", block=8, per_layer=False, per_head=True, position_rule="published"
    )
    assert described.input.modality == "image"
    assert described.input.mean == (0.4914, 0.4822, 0.4465)
    assert described.notes["step"] == 39200
    assert described.notes["data"]["name"] == "noise"


def test_published_clips_are_normalised_as_in_their_data_module(tmp_path: Path) -> None:
    """Three axes and three channels are clips: ImageNet's mean, every fourth frame of 25."""
    _, described = load_imported(tmp_path, make_case(3, "axial"), mean=(), std=())
    assert described.model.encoding.name == "published_axial"
    assert described.input.video is not None
    assert (described.input.mean, described.input.video.stride) == ((0.485, 0.456, 0.406), 0.16)


def test_sizes_may_come_from_the_saved_settings(tmp_path: Path, case: Case) -> None:
    """imsize of the data module and patch_size of the model, one number for all axes or a list."""
    path = write_lightning(
        tmp_path / "published.ckpt",
        case.state,
        hyper_parameters={"patch_size": 4},
        datamodule_hyper_parameters={"imsize": [12, 20]},
    )
    spec = import_published(path, tmp_path / "out", Options(LABELS))
    assert (spec.grid, spec.patch) == ((3, 5), (4, 4))


def test_constant_step_may_be_asked_for(tmp_path: Path, case: Case) -> None:
    """Then larger inputs keep the trained spacing, and the answers differ from the published."""
    inputs = torch.rand(2, 3, *LARGER[2])
    model, described = load_imported(tmp_path, case, position_rule="constant-step")
    assert described.model.encoding.options["position_rule"] == "constant-step"
    positions = model.encoding.positions(Grid((5, 6)))
    assert positions[-1].tolist() == [2.0, 1.25]
    apart = (answers(model, inputs)[0] - independent(case, inputs)).abs().max()
    assert apart > 1e-3


def test_generators_stored_as_such_are_read_as_such(tmp_path: Path, case: Case) -> None:
    """Skew-symmetric squares mean what the upper triangles alone mean."""
    upper = case.state[RAW].triu(1)
    whole = dataclasses.replace(case, state=case.state | {RAW: upper - upper.mT})
    (tmp_path / "whole").mkdir()
    ours, theirs = load_imported(tmp_path, case)[0], load_imported(tmp_path / "whole", whole)[0]
    inputs = torch.rand(2, 3, *case.size)
    check_same(answers(theirs, inputs)[0], answers(ours, inputs)[0], "logits")


def test_command_imports_a_file(tmp_path: Path, capsys: Chatter, case: Case) -> None:
    """The command line writes a checkpoint and says what it is."""
    path = write_lightning(tmp_path / "published.ckpt", case.state)
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    told = ["--labels", str(tmp_path / "labels.txt"), *SIZED, "--mode", "intended"]
    assert main([str(path), "--out", str(tmp_path / "out"), *told]) == 0
    assert "liere, 10 classes, grid 3x5, mode intended" in capsys.readouterr().out
    _, described = load_checkpoint(tmp_path / "out")
    assert described.labels == LABELS
    assert described.model.encoding.options["per_layer"]
    assert described.notes["imported"]["mode"] == "intended"


def test_help_teaches_the_modes(capsys: Chatter) -> None:
    """What the command does, an example, and what the modes mean."""
    with contextlib.suppress(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for part in ("layer 0", "--mode intended", "example: python -m models.pretrained"):
        assert part in text


# --- an imported checkpoint is one like any other -----------------------------------------------

THREE = {"cls": (10, 20, 200), "dog": (200, 20, 10), "eel": (20, 200, 10)}


@pytest.fixture
def imported(tmp_path: Path, case: Case) -> Path:
    return import_three(tmp_path, case)


def import_three(tmp_path: Path, case: Case) -> Path:
    """A checkpoint of three classes at 12x20 pixels."""
    head = {name: case.state[name][:3] for name in ("mlp_head.1.weight", "mlp_head.1.bias")}
    path = write_lightning(tmp_path / "published.ckpt", case.state | head)
    options = dataclasses.replace(case.options(), labels=tuple(THREE), trained_on="noise")
    import_published(path, tmp_path / "imported", options)
    return tmp_path / "imported"


def test_fine_tuning_begins_with_the_imported_answers(imported: Path) -> None:
    """The preset takes the architecture, the weights and the head."""
    config = recipe_for(PRESETS["finetune"]("data"), imported)
    trained, described = load_checkpoint(imported)
    spec = dataclasses.replace(config.model, classes=3)
    model = VisionTransformer(spec, config.input).eval()
    told = adopt(model, config, described.labels)
    assert (told["head"], told["data"], told["step"]) == ("kept", "noise", 39200)
    pixels = torch.randint(256, (2, 12, 20, 3), dtype=torch.uint8)
    assert torch.equal(model(pixels), trained(pixels))


def export_options(imported: Path, data: Path | None, split: str = "test") -> ExportOptions:
    grids, out = (Grid((3, 5)),), imported.parent / "bundles"
    return ExportOptions(
        imported, grids, out, "published", data=data, split=split, parity_items=12
    )


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Pictures of the three classes, in the splits train and val."""
    return make_data(tmp_path / "mixed", THREE, train=2)


@pytest.fixture
def alone(mixed: Path) -> Path:
    """The validation pictures as test items, and no others."""
    folder = mixed.parent / "alone"
    folder.mkdir()
    shutil.copytree(mixed / "val", folder / "test")
    return folder


def test_export_takes_test_items_alone_for_an_imported_model(
    imported: Path, mixed: Path, alone: Path
) -> None:
    """Nobody knows which items it was trained on, so a train split proves nothing."""
    described = load_checkpoint(imported)[1]
    with pytest.raises(SpecError, match="does not say where its data are: pass --data"):
        open_test_data(export_options(imported, None), described)
    with pytest.raises(SourceError, match="train split is not the one .* pass .*test items alone"):
        open_test_data(export_options(imported, mixed, split="val"), described)
    data = open_test_data(export_options(imported, alone), described)
    assert data.dataset.labels == tuple(THREE)


@pytest.mark.parametrize("encoding", ["liere", "axial", "absolute"])
def test_imported_model_exports(tmp_path: Path, alone: Path, encoding: str) -> None:
    """A bundle of an imported model is proved on test items, and names the data trained on."""
    imported = import_three(tmp_path, make_case(2, encoding))
    bundle = make_bundle(export_options(imported, alone), Console(quiet=True))
    assert bundle.manifest.source["data"]["name"] == "noise"
    card = (bundle.root / "README.md").read_text()
    assert "Imported in mode published" in card
    assert "on what data: noise." in card
    assert "None" not in card
    assert "| setting |" not in card
    (entry,) = bundle.manifest.grids
    assert (entry.parity.top1_equal, entry.parity.items) == (12, 12)
