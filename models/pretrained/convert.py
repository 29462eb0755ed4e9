"""Their tensors under our names: pairs in our order, axes in our order, parts put together.

Shapes: W width, H heads, D head_dim, L layers, T patch tokens, p patch, C channels, M MLP.
Nothing is copied that lies in the file as it is here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.checkpoint import CheckpointError
from models.pretrained.describe import Sizes, has_bias
from models.pretrained.family import Family, Found
from models.pretrained.layout import ENDS, LAYER
from models.spec import ModelSpec

PARTS = ("query", "key", "value")


def shapes(found: Found, sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """What every tensor's shape must be, by our name, of layers with ``{n}``."""
    width, hidden, patch = sizes.width, sizes.hidden, sizes.patch
    spread = 2 * hidden if sizes.packed else hidden
    read = found.tensor("head.weight")
    features = width if read is None else read.shape[-1]
    half = found.head_dim // 2
    frequencies = found.tensor("frequencies")
    flat = frequencies is not None and frequencies.ndim == 3
    of_heads = (found.heads * half,) if flat else (found.heads, half)
    table = found.tensor("table")
    rows = 0 if table is None or table.ndim < 2 else table.shape[1]
    ends = {
        "class_token": (1, 1, width),
        "registers": (1, sizes.registers, width),
        "table": (1, rows, width),
        "patch.weight": (width, 3, patch, patch),
        "patch.bias": (width,),
        "head.weight": (sizes.classes, features),
        "head.bias": (sizes.classes,),
        "frequencies": (2, sizes.depth, *of_heads),
        "periods": (half // 2,),
    }
    for name in ("token_rows", "token_columns"):  # of the grid that they were made for
        buffer = found.tensor(name)
        ends[name] = (0 if buffer is None else buffer.numel(),)
    for norm in ("norm", "pooled_norm"):
        ends |= {f"{norm}.{end}": (width,) for end in ENDS}
    vectors = ("attention_norm.weight", "attention_norm.bias", "mlp_norm.weight", "mlp_norm.bias")
    layer: dict[str, tuple[int, ...]] = {
        **dict.fromkeys((*vectors, "attention_scale", "mlp_scale"), (width,)),
        "attention.query_key_value.weight": (3 * width, width),
        "attention.query_key_value.bias": (3 * width,),
        "attention.key_mask": (3 * width,),
        "attention.out.weight": (width, width),
        "attention.out.bias": (width,),
        "mlp.first.weight": (spread, width),
        "mlp.first.bias": (spread,),
        "mlp.gate.weight": (hidden, width),
        "mlp.gate.bias": (hidden,),
        "mlp.last.weight": (width, hidden),
        "mlp.last.bias": (width,),
        "mlp.norm.weight": (hidden,),
        "mlp.norm.bias": (hidden,),
    }
    for part in PARTS:
        layer[f"attention.{part}.weight"] = (width, width)
        layer[f"attention.{part}.bias"] = (width,)
    return ends | {f"layers.{LAYER}.{name}": shape for name, shape in layer.items()}


def converted(family: Family, found: Found, spec: ModelSpec) -> dict[str, Tensor]:
    """Our parameters, float32; what has the file's own values is still mapped from it."""
    patch = _need(found, "patch.weight").permute(0, 2, 3, 1).flatten(1)  # [W, p p C]
    state = {
        "patch_embedding.weight": patch,
        "patch_embedding.bias": _need(found, "patch.bias"),
        "class_token": _need(found, "class_token")[0],  # [1, W]
    }
    if (registers := found.tensor("registers")) is not None and spec.registers:
        state["registers"] = registers[0]  # [R, W]
    if (table := found.tensor("table")) is not None:
        rows = table[0]  # [1 + T or T, W]
        if family.class_row(found.matched):
            state["class_token"] = state["class_token"].float() + rows[:1].float()
            rows = rows[1:]  # [T, W]
        own = "encoding.table" if spec.position_table is None else "position_table"
        state[own] = rows
    if (frequencies := found.tensor("frequencies")) is not None:
        swapped = frequencies.flip(0)  # the axis of rows first
        state["encoding.table"] = swapped.reshape(2, spec.depth, spec.heads, -1)  # [A, L, H, P]
    if (periods := found.tensor("periods")) is not None:
        state["encoding.periods"] = periods
    norm = "norm" if found.tensor("norm.weight") is not None else "pooled_norm"
    for end in ENDS:
        state[f"norm.{end}"] = _need(found, f"{norm}.{end}")
        if spec.classes:
            state[f"head.{end}"] = _need(found, f"head.{end}")
    order = channel_order(family, found.head_dim)
    for number in range(spec.depth):
        state |= _layer(found, f"layers.{number}.", order)
    return {name: tensor.float().contiguous() for name, tensor in state.items()}


def channel_order(family: Family, head_dim: int) -> Tensor | None:
    """Which of their channels of a head comes where ours has 0, 1, 2, ...; None as they are."""
    channels = torch.arange(head_dim)
    if family.channels == "halves":  # t turns with t + D / 2
        return channels.unflatten(0, (2, -1)).T.flatten()
    if family.channels == "columns-first":  # the first half of the pairs turns by columns
        return channels.roll(-(head_dim // 2))
    return None


def _layer(found: Found, layer: str, order: Tensor | None) -> dict[str, Tensor]:
    """One layer's parameters."""
    state = {}
    for name in ("attention_norm", "attention.out", "mlp_norm"):
        for end in ENDS:
            state[f"{layer}{name}.{end}"] = _end(found, f"{layer}{name}", end)
    for name in ("attention_scale", "mlp_scale"):
        if (gains := found.tensor(layer + name)) is not None:
            state[layer + name] = gains
    return state | _projection(found, layer, order) | _mlp(found, f"{layer}mlp.")


def _projection(found: Found, layer: str, order: Tensor | None) -> dict[str, Tensor]:
    """Queries, keys and values: [3 W, W] and the biases [W] that there are."""
    where = f"{layer}attention."
    weights, biases = (_three(found, where, end) for end in ENDS)
    state: dict[str, Tensor] = {}
    for part, bias in zip(PARTS, biases, strict=True):
        if bias is not None and has_bias(found, part):
            state[f"{where}{part}_bias"] = bias if part == "value" else _ordered(bias, order)
    fused = found.tensor(where + "query_key_value.weight")
    if fused is None or order is not None:
        query, key, value = weights
        if query is None or key is None or value is None:
            raise CheckpointError(f"{where}: expected weights of queries, keys and values")
        fused = torch.cat([_ordered(query, order), _ordered(key, order), value])  # [3 W, W]
    state[where + "query_key_value.weight"] = fused
    return state


def _three(found: Found, where: str, end: str) -> list[Tensor | None]:
    """Of queries, keys and values, whether they come together or by themselves."""
    fused = found.tensor(f"{where}query_key_value.{end}")
    if fused is not None:
        return list(fused.chunk(3))
    return [found.tensor(f"{where}{part}.{end}") for part in PARTS]


def _ordered(rows: Tensor, order: Tensor | None) -> Tensor:
    """[W, ...] with the channels of every head in our order."""
    if order is None:
        return rows
    return rows.unflatten(0, (-1, len(order)))[:, order].flatten(0, 1)


def _mlp(found: Found, where: str) -> dict[str, Tensor]:
    """Two matrices, or three where there is a gate; a packed one holds the gate first."""
    gated = found.tensor(where + "gate.weight") is not None
    state: dict[str, Tensor] = {}
    for end in ENDS:
        first, last = _end(found, f"{where}first", end), _end(found, f"{where}last", end)
        if gated:
            state |= {f"{where}gate.{end}": _end(found, f"{where}gate", end)}
        elif first.shape[0] == 2 * _need(found, where + "last.weight").shape[1]:
            gate, first = first.chunk(2)
            state |= {f"{where}gate.{end}": gate}
        up, down = ("up", "down") if f"{where}gate.{end}" in state else ("0", "2")
        state |= {f"{where}{up}.{end}": first, f"{where}{down}.{end}": last}
        if (norm := found.tensor(f"{where}norm.{end}")) is not None:
            state[f"{where}norm.{end}"] = norm
    return state


def _end(found: Found, where: str, end: str) -> Tensor:
    """A weight or its bias [rows]; zeros for a bias that the file says there is not."""
    weight, there = _need(found, f"{where}.weight"), found.tensor(f"{where}.{end}")
    return weight.new_zeros(len(weight)) if there is None else there


def _need(found: Found, ours: str) -> Tensor:
    tensor = found.tensor(ours)
    assert tensor is not None, ours  # match() has seen that it is there
    return tensor
