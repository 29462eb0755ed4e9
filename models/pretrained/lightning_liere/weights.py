"""Their weights under our names.

Shapes as in ``models.vit``; raw generators are [A, L or 1, N or H N, K, K].
"""

from __future__ import annotations

import torch
from torch import Tensor

from media.spec import InputSpec
from models.checkpoint import CheckpointError
from models.encodings import options_of
from models.pretrained.lightning_liere.file import CLASS_TOKEN, first
from models.spec import ModelSpec
from models.vit import VisionTransformer

#: Positions of the class token and the patch tokens, [1, 1 + T, W].
TABLE = "pos_embedding"
GENERATORS = "position_encoder.generator_raw_params"

#: Our name of a tensor -> theirs.
ENDS = {
    "patch_embedding.weight": "to_patch_embedding.1.weight",
    "patch_embedding.bias": "to_patch_embedding.1.bias",
    "norm.weight": "mlp_head.0.weight",
    "norm.bias": "mlp_head.0.bias",
    "head.weight": "mlp_head.1.weight",
    "head.bias": "mlp_head.1.bias",
}
LAYER = {
    "attention_norm.weight": "0.norm.weight",
    "attention_norm.bias": "0.norm.bias",
    "attention.query_key_value.weight": "0.fn.to_qkv.weight",
    "attention.out.weight": "0.fn.to_out.0.weight",
    "attention.out.bias": "0.fn.to_out.0.bias",
    "mlp_norm.weight": "1.norm.weight",
    "mlp_norm.bias": "1.norm.bias",
    "mlp.0.weight": "1.fn.net.0.weight",
    "mlp.0.bias": "1.fn.net.0.bias",
    "mlp.2.weight": "1.fn.net.3.weight",
    "mlp.2.bias": "1.fn.net.3.bias",
}


def their_names(depth: int) -> dict[str, str]:
    """Our name -> theirs, for every tensor that is one of ours as it is."""
    layers = {
        f"layers.{layer}.{ours}": f"transformer.layers.{layer}.{theirs}"
        for layer in range(depth)
        for ours, theirs in LAYER.items()
    }
    return ENDS | layers


def check_names(weights: dict[str, Tensor], depth: int) -> None:
    """CheckpointError that names the first missing or extra keys."""
    expected = {CLASS_TOKEN, TABLE, *their_names(depth).values()}
    missing, extra = expected - set(weights), set(weights) - expected - {GENERATORS}
    for verb, names in (("lacks", missing), ("has besides", extra)):
        if names:
            raise CheckpointError(
                f"state_dict: expected the {len(expected)} tensors of a published model of "
                f"{depth} layers, and perhaps {GENERATORS}; got one that {verb} "
                f"{first(sorted(names))}"
            )


def check_shapes(weights: dict[str, Tensor], spec: ModelSpec, described: InputSpec) -> None:
    """CheckpointError where a tensor's shape is not the model's."""
    with torch.device("meta"):  # shapes alone: a size that is too large takes no memory
        own = VisionTransformer(spec, described).state_dict()
    wanted = {theirs: tuple(own[ours].shape) for ours, theirs in their_names(spec.depth).items()}
    wanted[CLASS_TOKEN] = (1, 1, spec.width)
    wanted[TABLE] = (1, 1 + spec.training_grid.tokens, spec.width)
    for name, shape in wanted.items():
        if tuple(weights[name].shape) != shape:
            raise CheckpointError(
                f"{name}: expected shape {list(shape)}, got {list(weights[name].shape)}"
            )


def converted(weights: dict[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Our parameters; the class token takes the row of the table that is added to it."""
    parameters = {ours: weights[theirs] for ours, theirs in their_names(spec.depth).items()}
    table = weights[TABLE][0]  # [1 + T, W]
    parameters["class_token"] = weights[CLASS_TOKEN][0] + table[:1]  # [1, W]
    if spec.encoding.name == "absolute":
        parameters["encoding.table"] = table[1:]  # [T, W]
    elif GENERATORS in weights:
        parameters["encoding.entries"] = generator_entries(weights[GENERATORS], spec)
    return parameters


def generator_entries(raw: Tensor, spec: ModelSpec) -> Tensor:
    """What lies above the generators' diagonals: [A, L or 1, H or 1, N, K (K - 1) / 2].

    The published code draws whole squares from U(0, 2 pi), and uses and trains what lies strictly
    above their diagonals. A file whose diagonals are zero, with something below them, holds no
    such squares but the generators themselves, which must then be skew-symmetric.
    """
    if raw.tril().any() and not raw.diagonal(dim1=-2, dim2=-1).any():
        check_skew(raw)
    options = options_of(spec.encoding)
    own = raw if options.per_layer else raw[:, :1]
    rows, columns = torch.triu_indices(raw.shape[-1], raw.shape[-1], offset=1)
    heads = spec.heads if options.per_head else 1
    return own[..., rows, columns].unflatten(2, (heads, -1))


def check_skew(generators: Tensor) -> None:
    """CheckpointError unless every matrix equals minus its transpose, to rounding."""
    error, largest = (generators + generators.mT).abs().max(), generators.abs().max()
    if error > 1e-6 * largest:
        raise CheckpointError(
            f"{GENERATORS}: expected skew-symmetric matrices (A = -A^T), got ones of which "
            f"A + A^T reaches {error.item():.3g}"
        )
