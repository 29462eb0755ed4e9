"""The transformer: patches, prefix tokens, pooling, precision, and any number of axes."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from media.spec import Grid, InputSpec, SpecError
from models.encodings import short_name
from models.encodings.liere import Liere
from models.rotations.apply import Rotations
from models.spec import EncodingSpec, ModelSpec
from models.vit import VisionTransformer, attend
from tests.helpers.rotation_matrices import diagonal

#: Patch and grid of one, two and three axes, no two sides alike.
SHAPES = {1: ((3,), (6,)), 2: ((2, 3), (4, 3)), 3: ((2, 3, 1), (2, 3, 4))}
LIERE, ABSOLUTE = EncodingSpec("liere", block=8), EncodingSpec("absolute")
AXIAL = EncodingSpec("axial_rope", base=100.0)
#: Pairs of channels, blocks of two, larger blocks, shared by heads and layers or not.
ORACLES = (
    AXIAL,
    EncodingSpec("liere", block=2),
    LIERE,
    EncodingSpec("liere", block=16, per_layer=False, per_head=False),
)


def make_model(axes: int = 2, **changes: Any) -> VisionTransformer:
    """A small model with random weights, biases and class token."""
    patch, grid = SHAPES[axes]
    values: dict[str, Any] = {
        "patch": patch,
        "grid": grid,
        "classes": 5,
        "width": 48,
        "depth": 2,
        "heads": 3,
        "mlp_dim": 40,
        "encoding": LIERE,
    }
    torch.manual_seed(0)
    model = VisionTransformer(ModelSpec(**(values | changes)), InputSpec())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1 or parameter is model.class_token:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def make_pixels(model: VisionTransformer, batch: int = 2, grid: Grid | None = None) -> Tensor:
    """Random uint8 [B, *pixels per axis, C]."""
    sides = (grid or model.spec.training_grid).pixels(model.spec.patch)
    generator = torch.Generator().manual_seed(1)
    shape = (batch, *sides, model.spec.channels)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("axes", SHAPES)
def test_patches_equal_a_plain_loop(axes: int) -> None:
    """Token by token, in row-major order: the normalised pixels of one patch, channel last."""
    model = make_model(axes)
    pixels = make_pixels(model)
    patch, grid = model.spec.patch, model.spec.training_grid
    normalised = (pixels.double() / 255 - 0.5) / 0.5  # InputSpec's mean and std
    expected = []
    for place in np.ndindex(*grid.size):
        pairs = zip(place, patch, strict=True)
        cut = (slice(None), *(slice(at * side, (at + 1) * side) for at, side in pairs))
        expected.append(normalised[cut].flatten(1))
    result = model.patches(pixels)
    assert result.shape == (2, grid.tokens, 3 * math.prod(patch))
    torch.testing.assert_close(result.double(), torch.stack(expected, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("axes", SHAPES)
@pytest.mark.parametrize("pool", ["class", "mean"])
@pytest.mark.parametrize("encoding", [LIERE, ABSOLUTE])
def test_model_answers_at_other_grids(axes: int, pool: str, encoding: EncodingSpec) -> None:
    """A model of any number of axes takes any grid and gives float32 logits of its input."""
    model = make_model(axes, pool=pool, encoding=encoding)
    for size in (SHAPES[axes][1], tuple(side + 1 for side in SHAPES[axes][1]), (1,) * axes):
        logits = model(make_pixels(model, grid=Grid(size)))
        assert logits.shape == (2, 5)
        assert logits.dtype == torch.float32
        assert (logits[0] - logits[1]).abs().max().item() > 1e-3


@pytest.mark.parametrize("sides", [(9, 9), (8, 10), (8, 9, 3), (8,)])
def test_model_refuses_sides_that_the_patch_does_not_divide(sides: tuple[int, ...]) -> None:
    """Pixels that are no whole number of patches, or have other axes, are an error with both."""
    model = make_model(2)
    with pytest.raises(SpecError, match=r"multiples of patch \(2, 3\), got \("):
        model(torch.zeros((1, *sides, 3), dtype=torch.uint8))


def test_model_refuses_an_input_of_other_channels() -> None:
    """A grey input does not fit a colour model, and nothing is broadcast in silence."""
    grey = InputSpec(channels=1, mean=(0.5,), std=(0.5,))
    with pytest.raises(SpecError, match="model has 3 channels, its input 1"):
        VisionTransformer(ModelSpec(), grey)


def test_model_takes_float_pixels_of_the_same_values() -> None:
    """Bytes and the same numbers as float give the same logits: scaling is inside the model."""
    model = make_model(2)
    pixels = make_pixels(model)
    torch.testing.assert_close(model(pixels), model(pixels.float()), rtol=0, atol=0)


@pytest.mark.parametrize("axes", SHAPES)
@pytest.mark.parametrize("query_key_norm", [False, True])
@pytest.mark.parametrize("encoding", ORACLES, ids=short_name)
def test_model_equals_a_plain_forward_pass(
    axes: int, query_key_norm: bool, encoding: EncodingSpec
) -> None:
    """Logits are those of a transformer written out in float64, turned by exp(sum of p A)."""
    spec = {"pool": "class", "query_key_norm": query_key_norm, "encoding": encoding}
    model = make_model(axes, **spec)
    pixels = make_pixels(model)
    expected = plain_logits(copy.deepcopy(model).double(), pixels)
    torch.testing.assert_close(model(pixels).double(), expected, rtol=2e-5, atol=2e-5)


def plain_logits(model: VisionTransformer, pixels: Tensor) -> Tensor:
    """Of a float64 model, layer by layer, one head at a time."""
    matrices = plain_rotations(model)
    tokens = model.patch_embedding(model.patches(pixels).double())
    tokens = torch.cat([model.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
    layers: Any = model.layers
    for index, layer in enumerate(layers):
        normed = layer.attention_norm(tokens)
        mixed = plain_attention(layer.attention, normed, matrices[index % len(matrices)])
        tokens = tokens + layer.attention.out(mixed)
        tokens = tokens + layer.mlp(layer.mlp_norm(tokens))
    return model.head(model.norm(tokens[:, 0]))


def plain_rotations(model: VisionTransformer) -> Tensor:
    """exp(sum_a p_a A_a) of whole heads, [L or 1, S, H or 1, D, D]; the class token at 0."""
    encoding: Any = model.encoding
    generators = encoding.generators(torch.float64)  # [A, L, H, N, K, K]
    positions = encoding.positions(model.spec.training_grid)
    positions = torch.cat([torch.zeros_like(positions[:1]), positions])  # [S, A]
    exponents = torch.einsum("sa,alhnij->lshnij", positions, generators)
    turned = torch.linalg.matrix_exp(exponents.contiguous())  # it refuses other layouts
    return diagonal(turned, model.spec.head_dim)


def plain_attention(attention: Any, tokens: Tensor, matrices: Tensor) -> Tensor:
    """Heads side by side, [B, S, W]; matrices [S, H or 1, D, D]."""
    heads, mixed = attention.heads, []
    query, key, value = (tokens @ attention.query_key_value.weight.T).chunk(3, dim=-1)
    for head in range(heads):
        q, k, v = (part.chunk(heads, dim=-1)[head] for part in (query, key, value))
        if attention.query_key_norms:
            q, k = (norm(x) for norm, x in zip(attention.query_key_norms, (q, k), strict=True))
        turn = matrices[:, head % matrices.shape[1]]  # [S, D, D]
        q, k = (torch.einsum("sij,bsj->bsi", turn, part) for part in (q, k))
        scores = q @ k.transpose(1, 2) / attention.head_dim**0.5  # [B, S, S]
        mixed.append(scores.softmax(-1) @ v)
    return torch.cat(mixed, dim=-1)


@pytest.mark.parametrize("query_key_norm", [False, True])
def test_model_in_a_basis_equals_a_plain_forward_pass(query_key_norm: bool) -> None:
    """Q folded into the projections, or applied after a norm: the logits are those of R."""
    model = make_model(2, encoding=AXIAL, pool="class", query_key_norm=query_key_norm)
    basis = orthogonal(2, 3, 2, 8)
    model.encoding.basis = basis.to  # type: ignore[assignment]
    assert model.encode(model.spec.training_grid).basis is not None
    pixels = make_pixels(model)
    expected = plain_logits(copy.deepcopy(model).double(), pixels)
    torch.testing.assert_close(model(pixels).double(), expected, rtol=2e-5, atol=2e-5)


def orthogonal(*shape: int) -> Tensor:
    """Random orthogonal matrices, float64 [*shape, K], the last side repeated."""
    generator = torch.Generator().manual_seed(3)
    wide = torch.randn((*shape, shape[-1]), generator=generator, dtype=torch.float64)
    return torch.linalg.qr(wide)[0]


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_pooling_reads_what_its_name_says(pool: str) -> None:
    """Without layers, ``class`` ignores every pixel and ``mean`` averages the patch tokens."""
    model = make_model(2, pool=pool)
    model.layers = torch.nn.ModuleList()
    pixels = make_pixels(model)
    tokens = model.patch_embedding(model.patches(pixels))
    read = model.class_token.expand(2, -1) if pool == "class" else tokens.mean(1)
    torch.testing.assert_close(model(pixels), model.head(model.norm(read)))


def test_class_token_is_never_rotated() -> None:
    """Its row of the table is the identity in every layer and head; the others are not."""
    table = encode(make_model(2, pool="class"), Grid((5, 2))).blocks
    assert table.shape == (2, 1 + 10, 3, 2, 8, 8)
    assert torch.equal(table[:, 0], torch.eye(8).expand(2, 3, 2, 8, 8))
    assert (table[:, 2:] - torch.eye(8)).abs().amax((0, 2, 3, 4, 5)).min().item() > 0.1


@pytest.mark.parametrize("encoding", [AXIAL, EncodingSpec("liere", block=2)])
def test_class_token_is_turned_by_no_angle(encoding: EncodingSpec) -> None:
    """Where pairs turn, its row is cosine 1 and sine 0; every patch but the first has another."""
    turns = encode(make_model(2, pool="class", encoding=encoding), Grid((5, 2))).turns
    nothing = torch.tensor([1.0, 0.0])
    assert turns.shape[1:] == (1 + 10, 1 if encoding is AXIAL else 3, 8, 2)
    assert torch.equal(turns[:, 0], nothing.expand_as(turns[:, 0]))
    assert (turns[:, 2:] - nothing).abs().amax((0, 2, 3, 4)).min().item() > 0.1


def test_prefix_tokens_stand_where_their_encoding_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class token at 0.5 on every axis turns like a patch there; without one no row is added."""
    monkeypatch.setattr(Liere, "PREFIX_POSITION", 0.5)
    model = make_model(2, pool="class", grid=(5, 3))  # token 7 lies in the middle, at (0.5, 0.5)
    table = encode(model, Grid((5, 3))).blocks
    torch.testing.assert_close(table[:, 0], table[:, 1 + 7], rtol=0, atol=1e-5)
    assert encode(make_model(2, pool="mean"), Grid((5, 3))).blocks.shape[1] == 15


def encode(model: VisionTransformer, grid: Grid, dtype: torch.dtype = torch.float32) -> Any:
    """Rotations of all layers, any of which a test may read."""
    return model.encode(grid, dtype).rotations


def test_encode_is_the_same_in_float64_and_float32() -> None:
    """Export's float64 rotations and training's float32 ones agree, and both are kept float32."""
    model = make_model(3)
    wide, narrow = (encode(model, Grid((3, 2, 5)), dtype).blocks for dtype in DTYPES)
    assert wide.dtype == narrow.dtype == torch.float32
    difference = (wide - narrow).abs().max().item()
    assert 0 < difference < 3e-5, f"largest difference {difference:.2e}"


DTYPES = (torch.float64, torch.float32)


@pytest.mark.parametrize("per_layer", [True, False])
def test_layers_use_their_own_rotations(per_layer: bool) -> None:
    """Layer i takes row i of the table; a table of one row serves them all."""
    model = make_model(2, encoding=EncodingSpec("liere", block=8, per_layer=per_layer))
    rotations = encode(model, model.spec.training_grid)
    assert len(rotations.blocks) == (2 if per_layer else 1)
    for layer, row in enumerate(rotations.by_layer(2)):
        assert torch.equal(row.blocks, rotations.blocks[layer if per_layer else 0])
        assert row.turns is None
    assert Rotations().by_layer(2) == [Rotations(), Rotations()]


def test_rotations_stay_float32_under_autocast() -> None:
    """bf16 training rounds activations, never generators or the exponential."""
    model = make_model(2)
    plain = encode(model, model.spec.training_grid).blocks
    with torch.autocast("cpu", torch.bfloat16):
        cast = encode(model, model.spec.training_grid).blocks
        logits = model(make_pixels(model))
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, model(make_pixels(model)), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("encoding", [AXIAL, EncodingSpec("liere", block=2), LIERE])
def test_bfloat16_training_has_the_gradients_of_float32(encoding: EncodingSpec) -> None:
    """Under autocast every parameter's gradient points where it points in float32."""
    gradients = []
    for enabled in (False, True):
        model = make_model(2, encoding=encoding, pool="class").train()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model(make_pixels(model, batch=6)).square().sum()
        loss.backward()
        found = [parameter.grad for parameter in model.parameters()]
        assert all(one is not None and one.dtype == torch.float32 for one in found)
        gradients.append(torch.cat([one.flatten() for one in found if one is not None]))
    wide, narrow = gradients
    assert torch.cosine_similarity(wide, narrow, dim=0).item() > 0.999


@pytest.mark.parametrize("encoding", [ABSOLUTE, AXIAL, LIERE], ids=lambda spec: spec.name)
def test_a_compiler_traces_the_whole_model(encoding: EncodingSpec) -> None:
    """torch.compile(fullgraph=True) gives the same logits and gradients, in training."""
    model = make_model(2, encoding=encoding, pool="class").train()
    pixels = make_pixels(model)
    results = []
    for way in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        logits = way(pixels)
        logits.square().sum().backward()
        found = [one.grad.clone() for one in model.parameters() if one.grad is not None]
        results.append([logits.detach(), *found])
    for plain, traced in zip(*results, strict=True):
        torch.testing.assert_close(traced, plain, rtol=1e-5, atol=1e-5)


def test_encoded_computed_ahead_changes_nothing() -> None:
    """Passing the positions in, as training and export do, gives the same logits."""
    model = make_model(2)
    pixels = make_pixels(model, grid=Grid((3, 5)))
    assert torch.equal(model(pixels), model(pixels, model.encode(Grid((3, 5)))))


def test_batch_members_do_not_influence_each_other() -> None:
    """An item's logits do not depend on the batch, though queries and keys share a product."""
    model = make_model(2)
    pixels = make_pixels(model, batch=5)
    alone = torch.cat([model(pixels[index : index + 1]) for index in range(5)])
    torch.testing.assert_close(model(pixels), alone, rtol=1e-5, atol=1e-5)


def test_attend_agrees_between_its_two_branches() -> None:
    """Written out in bfloat16, attention and its gradients equal the fused float32 kernel."""
    torch.manual_seed(0)
    narrow = [torch.randn(2, 3, 7, 16).bfloat16().requires_grad_() for _ in range(3)]
    wide = [one.detach().float().requires_grad_() for one in narrow]
    seen = torch.randn(2, 3, 7, 16)
    results = attend(*narrow), attend(*wide)
    assert results[0].dtype == torch.bfloat16
    torch.testing.assert_close(results[0].float(), results[1], rtol=0.03, atol=0.03)
    for result in results:
        (result.float() * seen).sum().backward()
    for one, other in zip(narrow, wide, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad.float(), other.grad, rtol=0.05, atol=0.05)
