"""Inflating: a model of pictures takes clips and scans, and answers equal slices as the picture."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from media.spec import Grid, InputSpec, SpecError
from models.checkpoint import load_checkpoint, save_checkpoint
from models.grow import grow
from models.inflate import Axis, Onto, answers_apart, check_same, inflate, input_of, main
from models.spec import EncodingSpec, ModelSpec
from models.vit import VisionTransformer, attend

LABELS = ("ant", "bee", "cat", "dog", "eel")
#: Colours that are all unlike, so that folding them is no average by chance.
INPUT = InputSpec(mean=(0.48, 0.45, 0.4), std=(0.2, 0.3, 0.25), grey_bits=12)
GRID, DEPTH = Grid((3, 4, 2)), 2
#: Without prefix tokens, and with both kinds of them.
BARE: dict[str, Any] = {"pool": "mean"}
PREFIX: dict[str, Any] = {"pool": "both", "registers": 2}
ENCODINGS = [
    EncodingSpec("liere", block=2),
    EncodingSpec("liere", block=4, position_rule="index"),
    EncodingSpec("liere", block=8, position_rule="centred", per_head=False),
    EncodingSpec("liere", block=3, position_rule="published", per_layer=False),
    EncodingSpec("rope_mixed"),
    EncodingSpec("absolute"),
    EncodingSpec("absolute", resize="scale-factor"),
]


def make(
    encoding: EncodingSpec = ENCODINGS[1], input_spec: InputSpec = INPUT, **changes: Any
) -> VisionTransformer:
    """Random weights, biases and tables; nothing is trivial."""
    values: dict[str, Any] = {
        "patch": (2, 3), "grid": (4, 2), "classes": 5, "width": 48, "depth": 2, "heads": 2,
        "mlp_dim": 40, "channels": input_spec.channels, "query_bias": True, "key_bias": True,
        "value_bias": True,
    }  # fmt: skip
    torch.manual_seed(0)
    model = VisionTransformer(ModelSpec(**(values | {"encoding": encoding} | changes)), input_spec)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("encoding.entries"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def random_pixels(model: VisionTransformer, grid: Grid, count: int = 2) -> Tensor:
    shape = (count, *grid.pixels(model.spec.patch), model.spec.channels)
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def repeated(pictures: Tensor, tokens: int) -> Tensor:
    """[B, height, width, C] -> [B, time, height, width, C]."""
    return pictures[:, None].repeat(1, tokens * DEPTH, 1, 1, 1)


@pytest.mark.parametrize("patches", ["centre", "mean"])
@pytest.mark.parametrize("prefix", [BARE, PREFIX], ids=["bare", "prefix"])
@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_clip_of_equal_frames_has_the_answer_of_its_picture(
    encoding: EncodingSpec, prefix: dict[str, Any], patches: Any
) -> None:
    """In colour, at every grid, with more and fewer frames, one among them; but for rounding."""
    old = make(encoding, **prefix)
    new = inflate(old, INPUT, Axis("clips", GRID, DEPTH, patches))
    assert new.spec.balance_prefix == bool(old.spec.prefix_tokens)
    for grid, tokens in ((Grid((4, 2)), 3), (Grid((3, 5)), 5), (Grid((6, 1)), 1)):
        pictures = random_pixels(old, grid)
        with torch.inference_mode():
            expected, found = old(pictures), new(repeated(pictures, tokens))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
    assert check_same(old, new) < 2e-5


def test_without_the_option_prefix_tokens_make_answers_differ() -> None:
    """Patches of three equal frames then count three times against one prefix; one is as before."""
    old = make(**PREFIX)
    new = inflate(old, INPUT, Axis("clips", GRID, DEPTH, balance_prefix=False))
    assert not new.spec.balance_prefix
    assert answers_apart(old, new) > 1e-2
    with pytest.raises(SpecError, match="answers to equal frames would differ by"):
        check_same(old, new)
    pictures = random_pixels(old, Grid((4, 2)))
    torch.testing.assert_close(new(repeated(pictures, 1)), old(pictures), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("prefix", [BARE, PREFIX], ids=["bare", "prefix"])
def test_scan_of_equal_slices_has_the_answer_of_the_grey_picture(prefix: dict[str, Any]) -> None:
    """One channel in place of three equal ones, whatever their means and deviations were."""
    old = make(**prefix)
    new = inflate(old, INPUT, Axis("scans", GRID, DEPTH, "centre"))
    assert new.spec.channels == 1
    grey = random_pixels(new, GRID)[:, 0]  # [B, height, width, 1]
    with torch.inference_mode():
        expected = old.features(grey.expand(-1, -1, -1, 3))
        found = new.features(repeated(grey, 3))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)


def test_grey_pictures_keep_their_weights() -> None:
    """A model of one channel has no colours to fold: mean, deviation and weights stay."""
    grey = InputSpec(channels=1, mean=(0.3,), std=(0.2,))
    old = make(input_spec=grey)
    new = inflate(old, grey, Axis("scans", GRID, 1))
    assert torch.equal(new.patch_embedding.weight, old.patch_embedding.weight)
    assert torch.equal(new.scale, old.scale)
    check_same(old, new)


def test_centre_and_mean_place_weights() -> None:
    """The middle pixels of a patch have the weights, or each its share of them."""
    old = make()
    own = old.patch_embedding.weight
    centre, mean = (
        inflate(old, INPUT, Axis("clips", GRID, 3, patches)).patch_embedding.weight
        for patches in ("centre", "mean")
    )
    nothing = torch.zeros_like(own)
    assert torch.equal(centre, torch.cat([nothing, own, nothing], dim=1))
    torch.testing.assert_close(mean, torch.cat([own / 3] * 3, dim=1))


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        (EncodingSpec("liere", block=2), "entries"),
        (EncodingSpec("liere", block=4, position_rule="centred"), "entries"),
        (EncodingSpec("liere", block=8, position_rule="published"), "entries"),
        (EncodingSpec("liere", block=8), "entries"),
        (EncodingSpec("rope_mixed"), "table"),
    ],
    ids=str,
)
def test_generators_of_the_new_axis_are_zero_and_learn(encoding: EncodingSpec, name: str) -> None:
    """A step moves all of them, and those of height and width were taken as they are."""
    old = make(encoding, **PREFIX)
    new = inflate(old, INPUT, Axis("clips", GRID, DEPTH))
    entries = new.encoding.get_parameter(name)
    assert not entries[0].any()
    assert torch.equal(entries[1:], old.encoding.get_parameter(name))
    optimiser = torch.optim.SGD(new.parameters(), lr=0.1)
    new.train()(random_pixels(new, GRID)).square().sum().backward()
    optimiser.step()
    assert (entries[0] != 0).all()


@pytest.mark.parametrize("rule", ["plain", "bicubic", "bicubic-antialias", "scale-factor"])
def test_table_beside_rotations_is_repeated(rule: Any) -> None:
    """Each frame has the picture's, also where it is resized; plain becomes cubics in planes."""
    old = make(position_table=rule, **PREFIX)
    new = inflate(old, INPUT, Axis("clips", GRID, DEPTH))
    assert new.spec.position_table == ("bicubic" if rule == "plain" else rule)
    check_same(old, new)


def test_grown_model_can_be_inflated(tmp_path: Path) -> None:
    """DINOv3's encoding has no room for another axis before it is LieRE, and has it after."""
    old = make(EncodingSpec("dinov3_rope"), **PREFIX)
    axis = Axis("clips", GRID, DEPTH)
    with pytest.raises(SpecError, match="dinov3_rope shares .* grow it into liere first"):
        inflate(old, INPUT, axis)
    save_checkpoint(tmp_path, old, INPUT, LABELS, {})
    grown = grow(*load_checkpoint(tmp_path), block=8)
    check_same(old, inflate(grown, INPUT, axis))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_of_a_count_stands_for_so_many_equal_tokens(dtype: torch.dtype) -> None:
    """Scores towards a token with log 3 more: as if it were there three times."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 8, dtype=dtype) for _ in range(3))
    towards = torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0]).log()
    more = [torch.cat([part[:, :, :1], part[:, :, :1], part], dim=2) for part in (key, value)]
    bound = 1e-5 if dtype == torch.float32 else 0.03
    found = attend(query, key, value, towards)
    torch.testing.assert_close(found, attend(query, *more), rtol=bound, atol=bound)
    assert (found - attend(query, key, value)).abs().max() > 0.1


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("axial_rope", "shares what it has out among axes: grow it into liere first"),
        ("masa", "grow it into liere first"),
        ("sinusoidal", "has no parameters along an axis .*; expected liere, rope_mixed, absolute"),
        ("string_cayley", "has no parameters along an axis"),
    ],
)
def test_other_encodings_are_refused(name: str, message: str) -> None:
    """By name, with what to do."""
    with pytest.raises(SpecError, match=f"{name} .*{message}|{name} {message}"):
        inflate(make(EncodingSpec(name)), INPUT, Axis("clips", GRID, DEPTH))


@pytest.mark.parametrize(
    ("grid", "depth", "message"),
    [
        ((3, 4, 3), 2, "expected grid Tx4x2, .*got 3x4x3"),
        ((4, 2), 2, "expected grid Tx4x2, .*got 4x2"),
        ((1, 4, 2), 2, "at least 2 tokens along the new axis, .*got 1x4x2"),
        ((3, 4, 2), 0, "a depth of at least 1 pixel, got 0"),
    ],
)
def test_impossible_axes_are_refused(grid: tuple[int, ...], depth: int, message: str) -> None:
    """With what was expected and what came."""
    with pytest.raises(SpecError, match=message):
        inflate(make(), INPUT, Axis("clips", Grid(grid), depth))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_answers_that_are_no_numbers_are_not_the_same(number: float) -> None:
    """Broken weights are refused, though no difference can be told to be large."""
    old = make(EncodingSpec("liere", block=4))
    with torch.no_grad():
        old.head.bias[0] = number
    with pytest.raises(SpecError, match="would differ by nan"):
        check_same(old, inflate(old, INPUT, Axis("clips", GRID, DEPTH)))


def test_model_of_clips_is_refused() -> None:
    """It has its axis already."""
    new = inflate(make(), INPUT, Axis("clips", GRID, DEPTH))
    with pytest.raises(SpecError, match="expected a model of images, got one of modality video"):
        inflate(new, input_of(INPUT, "clips"), Axis("clips", GRID, DEPTH))


def test_pictures_have_no_prefix_to_balance() -> None:
    """The option is for models whose first axis repeats a picture."""
    with pytest.raises(SpecError, match="balance_prefix is for clips and scans, .*got 8x8"):
        ModelSpec(balance_prefix=True)


# --- the command --------------------------------------------------------------------------------


def saved(folder: Path, model: VisionTransformer) -> Path:
    folder.mkdir(parents=True)
    notes = {
        "step": 3, "training_sha256": "x", "licence": "of the weights",
        "config": {"data": "photos", "cache": None, "epochs": 2},
    }  # fmt: skip
    save_checkpoint(folder, model, INPUT, LABELS, notes)
    return folder


@pytest.mark.parametrize("onto", ["clips", "scans"])
def test_command_writes_a_checkpoint(
    onto: Onto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That takes clips or scans, keeps labels and licence, and says where it came from."""
    old = make(**PREFIX)
    saved(tmp_path / "run" / "best", old)
    out = tmp_path / "out"
    words = [str(tmp_path / "run"), "--onto", onto, "--grid", "3x4x2", "--depth", "2"]
    assert main([*words, "--patches", "centre", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert f"{onto} of 6x8x6 pixels in 3x4x2 tokens" in told
    new, description = load_checkpoint(out)
    assert description.labels == LABELS
    assert description.input.modality == {"clips": "video", "scans": "volume"}[onto]
    assert description.input.views == 1
    assert description.notes["licence"] == "of the weights"
    assert description.notes["config"] == {"epochs": 2}
    assert description.notes["inflated"]["from"] == "4x2"
    assert "training_sha256" not in description.notes
    assert new.spec.balance_prefix
    check_same(old, new)
    assert main([*words, "--out", str(out)]) == 2
    assert "exists already and is never overwritten" in capsys.readouterr().err


def test_command_leaves_the_prefix_as_it_is_where_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says how far answers are from the picture's."""
    saved(tmp_path / "run", make(**PREFIX))
    words = ["--onto", "clips", "--grid", "3x4x2", "--depth", "2", "--no-balance-prefix"]
    assert main([str(tmp_path / "run"), *words, "--out", str(tmp_path / "out")]) == 0
    apart = float(capsys.readouterr().out.split("differ by ")[1].split()[0])
    assert apart > 1e-2
    assert not load_checkpoint(tmp_path / "out")[0].spec.balance_prefix


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--grid", "3x4"], "expected grid Tx4x2"),
        (["--grid", "4by2"], "a grid is written like 8x8"),
        (["--depth", "0"], "a depth of at least 1 pixel, got 0"),
    ],
)
def test_command_refuses_and_writes_nothing(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, and one error."""
    saved(tmp_path / "run", make())
    given = ["--onto", "clips", "--grid", "3x4x2", "--depth", "2", "--out", str(tmp_path / "out")]
    assert main([str(tmp_path / "run"), *given, *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_scan_is_not_cropped_as_pictures_were() -> None:
    """A scan is stretched to the input; a share of its sides to keep would be refused."""
    pictures = dataclasses.replace(INPUT, crop_ratio=0.9)
    assert input_of(pictures, "scans").crop_ratio == 1
    assert input_of(pictures, "clips").crop_ratio == 0.9


def test_folders_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run without a best, and an --out below a file: one line each, and nothing is written."""
    (tmp_path / "run").mkdir()
    (tmp_path / "file").touch()
    words = [str(tmp_path / "run"), "--onto", "clips", "--grid", "2x3x5", "--depth", "2"]
    for out, told in (("new", "a run whose first epoch"), ("file/new", "file is a file")):
        assert main([*words, "--out", str(tmp_path / out)]) == 2
        line = capsys.readouterr().err
        assert told in line
        assert line.count("\n") == 1
    assert not (tmp_path / "new").exists()
