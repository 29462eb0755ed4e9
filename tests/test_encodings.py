"""The family of encodings: positions, what is relative, what is shared, the published code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from models.encodings import ENCODINGS, Encoding, make_encoding
from models.encodings.base import BlockRotary, lattice
from models.rotations import skew
from models.spec import EncodingSpec, Grid, InputSpec, ModelSpec, SpecError
from models.vit import VisionTransformer

#: Grids of one, two and three axes, no two sides alike.
GRIDS = ((6,), (3, 5), (2, 3, 4))


def model_spec(grid: tuple[int, ...], encoding: EncodingSpec, **changes: Any) -> ModelSpec:
    values = {"width": 48, "depth": 3, "heads": 2, "mlp_dim": 32} | changes
    return ModelSpec(patch=(2,) * len(grid), grid=grid, encoding=encoding, **values)


def make_liere(grid: tuple[int, ...], block: int = 8, **changes: Any) -> BlockRotary:
    torch.manual_seed(0)
    encoding = make_encoding(model_spec(grid, EncodingSpec("liere", block, **changes)))
    assert isinstance(encoding, BlockRotary)
    return encoding


def rotations_of(encoding: Encoding, positions: Tensor) -> Tensor:
    """Float64 rotations, [L or 1, T, H or 1, N, K, K]."""
    table = encoding.rotations(positions, torch.float64)
    assert table is not None
    return table.detach()


def test_encodings_know_the_names_that_specs_use() -> None:
    """Every row of the table builds, and an unknown name is refused with the known ones."""
    for name in ENCODINGS:
        block = None if name == "absolute" else 8
        assert isinstance(
            make_encoding(model_spec((3, 5), EncodingSpec(name, block))), ENCODINGS[name]
        )
    with pytest.raises(SpecError, match="unknown encoding 'rope'.*absolute.*liere"):
        make_encoding(model_spec((3, 5), EncodingSpec("rope")))


@pytest.mark.parametrize(("name", "block"), [("liere", None), ("absolute", 8)])
def test_encodings_refuse_a_block_that_does_not_belong(name: str, block: int | None) -> None:
    """LieRE needs a block and absolute positions have none; either mistake is named."""
    with pytest.raises(SpecError, match="block"):
        make_encoding(model_spec((3, 5), EncodingSpec(name, block)))


def test_lattice_runs_in_row_major_order() -> None:
    """Tokens are numbered like the pixels of an array: the last axis fastest."""
    sides = (2, 3, 4)
    indices = lattice([torch.arange(side) for side in sides])
    assert indices.tolist() == [list(index) for index in np.ndindex(*sides)]


@pytest.mark.parametrize("grid", GRIDS)
def test_positions_span_the_unit_cube_at_the_training_grid(grid: tuple[int, ...]) -> None:
    """Both position rules give [0, 1], ends included, at the grid of the training."""
    for rule in ("constant-step", "published"):
        positions = make_liere(grid, position_rule=rule).positions(Grid(grid))
        assert positions.dtype == torch.float64
        corners = positions[0].tolist(), positions[-1].tolist()
        assert corners == ([0.0] * len(grid), [1.0] * len(grid))


@pytest.mark.parametrize("other", [(9, 2), (3, 7), (1, 1)])
def test_positions_keep_their_step_at_other_grids(other: tuple[int, int]) -> None:
    """With a constant step, neighbours are as far apart at any grid as they were in training."""
    positions = make_liere((3, 5)).positions(Grid(other))
    expected = [[row / 2, column / 4] for row, column in np.ndindex(*other)]
    np.testing.assert_allclose(positions.numpy(), expected, rtol=0, atol=1e-15)


def test_positions_of_the_published_rule_drift_in_their_step() -> None:
    """The published rule is linspace(0, s / s0, s): the range grows in proportion, not the step."""
    positions = make_liere((3, 5), position_rule="published").positions(Grid((9, 2)))
    expected = [[3 * row / 8, 0.4 * column] for row, column in np.ndindex(9, 2)]
    np.testing.assert_allclose(positions.numpy(), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("rule", ["constant-step", "published"])
def test_positions_of_a_single_token_axis_are_zero(rule: Any) -> None:
    """An axis of one token sits at 0, in training and later: nothing is divided by zero."""
    trained_flat = make_liere((1, 5), position_rule=rule)
    assert trained_flat.positions(Grid((1, 5)))[:, 0].tolist() == [0.0] * 5
    assert (
        make_liere((3, 5), position_rule=rule).positions(Grid((1, 5)))[:, 0].tolist() == [0.0] * 5
    )


@pytest.mark.parametrize("grid", GRIDS)
def test_generators_are_skew_symmetric(grid: tuple[int, ...]) -> None:
    """Every generator equals minus its transpose exactly, so every exponential is a rotation."""
    generators = make_liere(grid).generators()
    assert torch.equal(generators, -generators.transpose(-1, -2))
    assert generators.abs().amax().item() > 1


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("block", [2, 4, 8, 24])
@pytest.mark.parametrize("per_layer", [True, False])
@pytest.mark.parametrize("per_head", [True, False])
def test_liere_shares_what_its_spec_says(
    grid: tuple[int, ...], block: int, per_layer: bool, per_head: bool
) -> None:
    """Tables have one row per layer and head that learns its own; n L H d (b - 1) / 2 numbers."""
    encoding = make_liere(grid, block, per_layer=per_layer, per_head=per_head)
    layers, heads, head_dim = (3 if per_layer else 1), (2 if per_head else 1), 24
    table = encoding.rotations(encoding.positions(Grid(grid)))
    tokens = Grid(grid).tokens
    assert table.shape == (layers, tokens, heads, head_dim // block, block, block)
    count = sum(parameter.numel() for parameter in encoding.parameters())
    assert count == len(grid) * layers * heads * head_dim * (block - 1) // 2


def offset_scores(block: int, grid: tuple[int, ...]) -> dict[tuple[float, ...], list[Tensor]]:
    """R(p)^T R(q) for every pair of tokens, gathered by q - p in grid steps."""
    encoding = make_liere(grid, block)
    positions = encoding.positions(Grid(grid))
    table = rotations_of(encoding, positions)[0, :, 0]  # [T, N, K, K]
    steps = torch.tensor([max(1, side - 1) for side in grid])
    found: dict[tuple[float, ...], list[Tensor]] = {}
    for p in range(len(positions)):
        for q in range(len(positions)):
            offset = tuple(((positions[q] - positions[p]) * steps).round().tolist())
            found.setdefault(offset, []).append(table[p].transpose(-1, -2) @ table[q])
    return found


@pytest.mark.parametrize(("block", "grid"), [(2, (3, 5)), (2, (2, 3, 4)), (8, (6,))])
def test_commuting_generators_are_relative(block: int, grid: tuple[int, ...]) -> None:
    """With block 2, or one axis, scores depend on the offset between two tokens alone."""
    for products in offset_scores(block, grid).values():
        torch.testing.assert_close(
            torch.stack(products), products[0].expand(len(products), *products[0].shape)
        )


def test_block_eight_generators_are_not_relative() -> None:
    """With block 8 and two axes the same offset scores differently at different places."""
    products = torch.stack(offset_scores(8, (3, 5))[0.0, 1.0])
    assert (products - products[0]).abs().max().item() > 0.1


def test_liere_turns_tokens_differently_along_each_axis() -> None:
    """The first axis and the second have generators of their own."""
    encoding = make_liere((3, 5))
    table = rotations_of(encoding, torch.tensor([[0.5, 0.0], [0.0, 0.5]], dtype=torch.float64))
    assert (table[:, 0] - table[:, 1]).abs().max().item() > 0.1


def test_absolute_adds_its_table_at_the_training_grid() -> None:
    """At the grid of the training the learned table is added as it is."""
    encoding = make_encoding(model_spec((3, 5), EncodingSpec("absolute", None)))
    assert encoding.token_offset(Grid((3, 5))) is next(encoding.parameters())
    assert encoding.rotations(encoding.positions(Grid((3, 5)))) is None


@pytest.mark.parametrize("grid", GRIDS)
def test_absolute_interpolates_along_the_right_axes(grid: tuple[int, ...]) -> None:
    """A table that is linear in one axis stays linear in it, and constant in the others.

    Pixel centres at (i + 1/2) / side make a linear ramp resize to a ramp, away from the borders.
    """
    encoding = make_encoding(model_spec(grid, EncodingSpec("absolute", None)))
    (table,) = encoding.parameters()
    centres = lattice([(torch.arange(side) + 0.5) / side for side in grid])  # [T, A]
    with torch.no_grad():
        table.zero_()
        table[:, : len(grid)] = centres
    larger = Grid(tuple(2 * side + 1 for side in grid))
    offset = encoding.token_offset(larger)
    assert offset is not None
    assert offset.shape == (larger.tokens, 48)
    wanted = lattice([(torch.arange(side) + 0.5) / side for side in larger.size])
    middle = Grid(larger.size).tokens // 2  # the centre of an odd grid
    torch.testing.assert_close(offset[middle, : len(grid)], wanted[middle].float())
    shaped = offset[:, : len(grid)].detach().reshape(*larger.size, len(grid))
    for axis in range(len(grid)):
        others = tuple(other for other in range(len(grid)) if other != axis)
        if others:
            spread = shaped[..., axis].amax(others) - shaped[..., axis].amin(others)
            assert spread.abs().max().item() < 1e-5
        assert (shaped[..., axis].diff(dim=axis) > -1e-6).all()


# --- the published code ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def published_dir(repo_root: Path) -> Path:
    """Answers of the published code."""
    path = repo_root.parent / "shared" / "reference" / "official"
    if not path.is_dir():
        pytest.skip("the published code's answers are not beside this checkout (../shared)")
    return path


def published(folder: Path, name: str) -> tuple[ModelSpec, dict[str, Tensor], dict[str, Any]]:
    """A case as our spec (layer 0's generators serve every layer), its tensors, and itself."""
    case = {case["name"]: case for case in json.loads((folder / "cases.json").read_text())}[name]
    rotary = case["encoding"] == "liere"
    patch = tuple(case["patch"])
    sides = zip(case["trained_size"], patch, strict=True)
    spec = ModelSpec(
        patch=patch,
        grid=tuple(side // step for side, step in sides),
        pool="class",
        encoding=EncodingSpec(
            case["encoding"],
            case["block"],
            per_layer=False,
            per_head=case["per_head"],
            position_rule="published",
        ),
        **{key: case[key] for key in ("width", "depth", "heads", "mlp_dim", "classes")},
    )
    assert rotary or spec.encoding.block is None
    return spec, load_file(folder / f"{name}.safetensors"), case


def converted(spec: ModelSpec, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published state dictionary under our names."""
    old = {key[6:]: value for key, value in tensors.items() if key.startswith("state.")}
    table = old["pos_embedding"][0]  # [1 + T, W]; zero where positions are rotations
    new = {
        "class_token": old["cls_token"][0] + table[:1],
        "patch_embedding.weight": old["to_patch_embedding.1.weight"],
        "patch_embedding.bias": old["to_patch_embedding.1.bias"],
        "norm.weight": old["mlp_head.0.weight"],
        "norm.bias": old["mlp_head.0.bias"],
        "head.weight": old["mlp_head.1.weight"],
        "head.bias": old["mlp_head.1.bias"],
    }
    for layer in range(spec.depth):
        for ours, theirs in (
            ("attention_norm.weight", "0.norm.weight"),
            ("attention_norm.bias", "0.norm.bias"),
            ("attention.query_key_value.weight", "0.fn.to_qkv.weight"),
            ("attention.out.weight", "0.fn.to_out.0.weight"),
            ("attention.out.bias", "0.fn.to_out.0.bias"),
            ("mlp_norm.weight", "1.norm.weight"),
            ("mlp_norm.bias", "1.norm.bias"),
            ("mlp.0.weight", "1.fn.net.0.weight"),
            ("mlp.0.bias", "1.fn.net.0.bias"),
            ("mlp.2.weight", "1.fn.net.3.weight"),
            ("mlp.2.bias", "1.fn.net.3.bias"),
        ):
            new[f"layers.{layer}.{ours}"] = old[f"transformer.layers.{layer}.{theirs}"]
    block = spec.encoding.block
    if block is None:
        return new | {"encoding.table": table[1:]}
    heads = spec.heads if spec.encoding.per_head else 1
    raw = old["position_encoder.generator_raw_params"][:, 0]  # layer 0: [A, H N, K, K]
    rows, columns = torch.triu_indices(block, block, offset=1)
    entries = raw[..., rows, columns].unflatten(1, (heads, -1))  # [A, H, N, K (K - 1) / 2]
    return new | {"encoding.entries": entries[:, None]}


def published_model(spec: ModelSpec, tensors: dict[str, Tensor]) -> VisionTransformer:
    """Our model with the published weights; its input is value / 255, not normalised."""
    plain = InputSpec(mean=(0.0,) * 3, std=(1.0,) * 3)
    model = VisionTransformer(spec, plain)
    model.load_state_dict(converted(spec, tensors))
    return model.eval()


ROTARY = ("liere2_2d", "liere8_2d", "liere8_shared_2d", "liere8_larger_2d", "liere8_3d")


@pytest.mark.parametrize("name", ROTARY)
def test_rotations_equal_the_published_ones(published_dir: Path, name: str) -> None:
    """Class token first, our rotations of layer 0 are those of the published encoder."""
    spec, tensors, case = published(published_dir, name)
    model = published_model(spec, tensors)
    sides = zip(case["input_size"], spec.patch, strict=True)
    table = model.encode(Grid(tuple(side // step for side, step in sides))).rotations
    assert table is not None
    ours = table[0].flatten(1, 2)  # [S, H N, K, K]
    theirs = tensors["rotations"][0, :, 0]  # layer 0
    difference = (ours - theirs).abs().max().item()
    assert difference < 3e-5, f"largest difference {difference:.2e}"


@pytest.mark.parametrize("name", [*ROTARY, "absolute_2d", "absolute_larger_2d"])
def test_logits_equal_the_published_ones(published_dir: Path, name: str) -> None:
    """Weights of the published code give its logits and its gradient of the input."""
    spec, tensors, _ = published(published_dir, name)
    model = published_model(spec, tensors)
    pixels = (255 * tensors["input"].movedim(1, -1)).requires_grad_()  # [B, *pixels, C]
    logits = model(pixels)
    (logits * torch.arange(1.0, spec.classes + 1)).sum().backward()
    assert pixels.grad is not None
    gradient = 255 * pixels.grad.movedim(-1, 1)
    torch.testing.assert_close(logits, tensors["logits"], rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(gradient, tensors["input_grad"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ROTARY)
def test_generator_gradients_equal_the_published_ones(published_dir: Path, name: str) -> None:
    """Layer 0's raw parameters, used by every layer, get the published gradient."""
    spec, tensors, _ = published(published_dir, name)
    model = published_model(spec, tensors)
    logits = model(255 * tensors["input"].movedim(1, -1))
    (logits * torch.arange(1.0, spec.classes + 1)).sum().backward()
    entries = dict(model.named_parameters())["encoding.entries"]
    block = spec.encoding.block
    assert entries.grad is not None
    assert block is not None
    ours = skew(entries.grad[:, 0].flatten(1, 2), block).triu()  # [A, H N, K, K]
    theirs = tensors["generator_grad"][:, 0].triu(1)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
