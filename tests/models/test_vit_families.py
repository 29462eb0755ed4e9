"""What public pretrained families have and the plain transformer has not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from media.spec import Grid, InputSpec, SpecError
from models.encodings.resize import table_at
from models.spec import EncodingSpec, ModelSpec, TableRule
from models.vit import VisionTransformer
from tests.models.test_vit import AXIAL, LIERE, make_pixels, plain_rotations

MASA = EncodingSpec("masa", basis="cayley")

#: Families by what they have; widths are small and no two sides are alike.
FAMILIES: dict[str, dict[str, Any]] = {
    "dinov3": {
        "pool": "class", "registers": 4, "query_bias": True, "value_bias": True,
        "layer_scale": 0.7, "norm_before_pool": True,
        "encoding": EncodingSpec("dinov3_rope", rescale=1.0),
    },
    "dinov3 gated, mean of patches": {
        "pool": "mean", "class_token": True, "registers": 4, "mlp": "gated", "query_bias": True,
        "value_bias": True, "layer_scale": 0.7, "norm_before_pool": True,
        "encoding": EncodingSpec("dinov3_rope", rescale=1.0),
    },
    "rope-vit with a table": {
        "pool": "class", "query_bias": True, "key_bias": True, "value_bias": True,
        "layer_scale": 0.7, "norm_epsilon": 1e-6, "position_table": "bicubic-antialias",
        "encoding": EncodingSpec("rope_mixed"),
    },
    "dinov2, class token and mean": {
        "pool": "both", "query_bias": True, "key_bias": True, "value_bias": True,
        "layer_scale": 0.7, "norm_epsilon": 1e-6, "norm_before_pool": True,
        "encoding": EncodingSpec("absolute", resize="scale-factor"),
    },
    "eva02": {
        "pool": "mean", "class_token": True, "mlp": "gated-norm", "query_bias": True,
        "value_bias": True, "norm_epsilon": 1e-6, "position_table": "bicubic-antialias",
        "encoding": AXIAL,
    },
    "both, pooled and then normalised": {"pool": "both", "registers": 2, "encoding": LIERE},
    "a basis and biases": {
        "pool": "class", "query_bias": True, "key_bias": True, "encoding": MASA,
    },
    "normalised queries": {
        "pool": "mean", "query_bias": True, "key_bias": True, "query_key_norm": True,
        "norm_epsilon": 1e-6, "encoding": MASA,
    },
}  # fmt: skip


def make_model(family: str, **changes: Any) -> VisionTransformer:
    """Random weights, biases and gains; no tensor is trivial."""
    values: dict[str, Any] = {
        "patch": (2, 3), "grid": (4, 3), "classes": 5, "width": 48, "depth": 2, "heads": 3,
        "mlp_dim": 40,
    }  # fmt: skip
    torch.manual_seed(0)
    spec = ModelSpec(**(values | FAMILIES[family] | changes))
    model = VisionTransformer(spec, InputSpec())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("encoding.") and (parameter.dim() == 1 or "." not in name):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_family_equals_a_plain_forward_pass(family: str) -> None:
    """Features and logits are those of the family written out in float64, on its own grid."""
    model = make_model(family)
    pixels = make_pixels(model)
    oracle = copy.deepcopy(model).double()
    features = plain_features(oracle, pixels)
    assert features.shape == (2, model.spec.features)
    torch.testing.assert_close(model.features(pixels).double(), features, rtol=2e-5, atol=2e-5)
    logits = oracle.head(features)
    torch.testing.assert_close(model(pixels).double(), logits, rtol=2e-5, atol=2e-5)


def plain_features(model: VisionTransformer, pixels: Tensor) -> Tensor:
    """Of a float64 model, layer by layer, one head at a time: [B, F]."""
    spec = model.spec
    tokens = model.patch_embedding(model.patches(pixels).double())  # [B, T, W]
    table = model.position_table if spec.position_table else getattr(model.encoding, "table", None)
    if spec.encoding.name == "absolute" or spec.position_table:
        assert table is not None
        tokens = tokens + table
    prefix = [model.class_token, *([] if model.registers is None else [model.registers])]
    first = [part.expand(len(tokens), -1, -1) for part in prefix]
    tokens = torch.cat([*first, tokens], dim=1)  # [B, S, W]
    count = tokens.shape[1] - spec.training_grid.tokens
    turns = torch.eye(spec.head_dim, dtype=torch.float64).expand(1, tokens.shape[1], 1, -1, -1)
    if spec.encoding.name != "absolute":
        turns = plain_rotations(model)  # [L or 1, 1 + T, H or 1, D, D]
        row = turns[:, :1].expand(-1, count, -1, -1, -1)
        turns = torch.cat([row, turns[:, 1:]], dim=1)  # [L or 1, S, H or 1, D, D]
    layers: Any = model.layers
    for index, layer in enumerate(layers):
        normed, matrices = layer.attention_norm(tokens), turns[index % len(turns)]
        mixed = plain_attention(layer.attention, normed, matrices)
        tokens = tokens + scaled(mixed, layer.attention_scale)
        tokens = tokens + scaled(plain_mlp(layer.mlp, layer.mlp_norm(tokens)), layer.mlp_scale)
    norm = model.norm
    if spec.norm_before_pool:
        tokens, norm = norm(tokens), torch.nn.Identity()  # type: ignore[assignment]
    read = {"class": tokens[:, :1], "mean": tokens[:, count:].mean(1, keepdim=True)}
    names = ["class", "mean"] if spec.pool == "both" else [spec.pool]
    return torch.cat([norm(read[name])[:, 0] for name in names], dim=-1)


def scaled(branch: Tensor, gains: Tensor | None) -> Tensor:
    return branch if gains is None else branch * gains


def plain_mlp(mlp: Any, tokens: Tensor) -> Tensor:
    if isinstance(mlp, torch.nn.Sequential):
        return mlp[2](functional.gelu(mlp[0](tokens)))
    gate = mlp.gate(tokens)
    return mlp.down(mlp.norm(gate / (1 + torch.exp(-gate)) * mlp.up(tokens)))


def plain_attention(attention: Any, tokens: Tensor, matrices: Tensor) -> Tensor:
    """[B, S, W] with the output projection; matrices [S, H or 1, D, D]."""
    heads, mixed = attention.heads, []
    names = ("query_bias", "key_bias", "value_bias")
    parts = [tokens @ rows.T for rows in attention.query_key_value.weight.chunk(3)]
    biases = [getattr(attention, name) for name in names]
    parts = [p if b is None else p + b for p, b in zip(parts, biases, strict=True)]
    for head in range(heads):
        q, k, v = (part.chunk(heads, dim=-1)[head] for part in parts)
        if attention.query_key_norms:
            q, k = (norm(x) for norm, x in zip(attention.query_key_norms, (q, k), strict=True))
        turn = matrices[:, head % matrices.shape[1]]  # [S, D, D]
        q, k = (torch.einsum("sij,bsj->bsi", turn, part) for part in (q, k))
        scores = q @ k.transpose(1, 2) / attention.head_dim**0.5  # [B, S, S]
        mixed.append(scores.softmax(-1) @ v)
    return attention.out(torch.cat(mixed, dim=-1))


def test_plain_transformer_has_no_tensor_more() -> None:
    """Defaults add nothing to the state, so that checkpoints from before fit, and no draw."""
    model = VisionTransformer(ModelSpec(depth=1, encoding=EncodingSpec("sinusoidal")), InputSpec())
    layer = ("attention_norm", "attention.out", "mlp_norm", "mlp.0", "mlp.2")
    pairs = ["patch_embedding", "norm", "head", *(f"layers.0.{name}" for name in layer)]
    expected = {f"{name}.{part}" for name in pairs for part in ("weight", "bias")}
    expected |= {"class_token", "layers.0.attention.query_key_value.weight"}
    assert set(model.state_dict()) == expected


def test_model_without_classes_answers_with_its_features() -> None:
    """No head, no tensor of one: the answer is float32 and what a head would have read."""
    with_head = make_model("dinov2, class token and mean")
    model = VisionTransformer(
        ModelSpec(**vars(with_head.spec) | {"classes": 0}), InputSpec()
    ).eval()
    state = {name: held for name, held in with_head.state_dict().items() if "head." not in name}
    model.load_state_dict(state)
    pixels = make_pixels(model)
    assert not [name for name, _ in model.named_parameters() if name.startswith("head")]
    assert torch.equal(model(pixels), with_head.features(pixels))
    assert model(pixels).shape == (2, 96)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_scale": 0.0}, "layer_scale must be above 0, got 0.0"),
        ({"norm_epsilon": -1e-6}, "norm_epsilon must be above 0, got -1e-06"),
        ({"registers": -1}, "registers must not be negative, got -1"),
        ({"classes": -1}, "classes must not be negative, got -1"),
    ],
)
def test_impossible_values_are_refused(changes: dict[str, Any], message: str) -> None:
    """Each with its name, what it may be and what came."""
    with pytest.raises(SpecError, match=message):
        ModelSpec(**changes)


# --- the table at other grids -------------------------------------------------------------------

TRAINED, OTHER = Grid((4, 6)), Grid((7, 3))
RULES: tuple[TableRule, ...] = ("plain", "bicubic", "bicubic-antialias", "scale-factor")


def weights_of(trained: int, side: int, coefficient: float, step: float, wide: float) -> Tensor:
    """Cubic resampling of one axis written out, [side, trained]; beyond the ends the end counts.

    ``step`` is source tokens per target token, ``wide`` how much wider the filter is.
    """
    a = coefficient

    def cubic(x: float) -> float:
        x = abs(x)
        if x < 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    matrix = torch.zeros(side, trained, dtype=torch.float64)
    for row in range(side):
        centre = (row + 0.5) * step - 0.5
        for source in range(-20, trained + 20):
            weight = cubic((source - centre) / wide)
            if a == -0.5:  # the antialiased filter leaves out what is beyond, and is normalised
                if 0 <= source < trained:
                    matrix[row, source] += weight
            else:
                matrix[row, min(max(source, 0), trained - 1)] += weight
    return matrix / matrix.sum(1, keepdim=True)


def expected_table(table: Tensor, trained: Grid, grid: Grid, rule: TableRule) -> Tensor:
    """By two small matrices, one an axis."""
    cubes = table.double().T.unflatten(1, trained.size)  # [W, *trained]
    both = []
    for side, target in zip(trained.size, grid.size, strict=True):
        step = side / (target + 0.1) if rule == "scale-factor" else side / target
        antialias = rule == "bicubic-antialias"
        coefficient, wide = (-0.5, max(1.0, step)) if antialias else (-0.75, 1.0)
        both.append(weights_of(side, target, coefficient, step, wide))
    return torch.einsum("ih,jw,chw->cij", *both, cubes).flatten(1).T  # [T', W]


@pytest.mark.parametrize("rule", RULES)
def test_table_is_resized_by_its_rule(rule: TableRule) -> None:
    """One axis larger and one smaller: the table is the cubic resampling written out."""
    table = torch.randn(TRAINED.tokens, 5, generator=torch.Generator().manual_seed(0))
    found = table_at(table, TRAINED, OTHER, rule)
    expected = expected_table(table, TRAINED, OTHER, rule)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)
    assert table_at(table, TRAINED, TRAINED, rule) is table


def test_rules_differ() -> None:
    """Plain is bicubic in two axes; the others give other numbers, also where the grid grows."""
    table = torch.randn(TRAINED.tokens, 5, generator=torch.Generator().manual_seed(0))
    plain, bicubic, *others = (table_at(table, TRAINED, Grid((8, 9)), rule) for rule in RULES)
    assert torch.equal(plain, bicubic)
    for other in others:
        assert (other - plain).abs().max().item() > 0.05


@pytest.mark.parametrize("rule", RULES[1:])
def test_table_of_equal_slices_is_that_of_the_slice(rule: TableRule) -> None:
    """On three axes the last two follow the rule and the first is linear: equal slices stay so."""
    flat = torch.randn(TRAINED.tokens, 5, generator=torch.Generator().manual_seed(0))
    deep = table_at(flat.repeat(2, 1), Grid((2, 4, 6)), Grid((3, 7, 3)), rule)
    expected = table_at(flat, TRAINED, OTHER, rule).repeat(3, 1)
    torch.testing.assert_close(deep, expected, rtol=0, atol=1e-6)


def test_model_adds_its_table_at_every_grid() -> None:
    """A table beside rotations is what the patch tokens get, resized by its own rule."""
    model = make_model("rope-vit with a table")
    assert model.position_table is not None
    grid = Grid((6, 5))
    offset = model.encode(grid).offset
    assert offset is not None
    expected = table_at(model.position_table, Grid((4, 3)), grid, "bicubic-antialias")
    assert torch.equal(offset, expected)
