"""A trained transformer with everything that depends on the grid computed once.

What stays is plain arithmetic: no matrix exponential, no interpolation, only the batch axis free.
What can be said by other weights is: the bias of values is one of the output projection, since the
weights of attention add up to 1; that of keys adds the same to all scores of a query where nothing
turns or normalises; layer scale multiplies the rows of the matrices before it.

In fp16 the weights and products of the patch embedding, the attention and the MLP are half
precision. float32 stay: normalising pixels; the stream of tokens that the layers add to (it grows
with depth, and LayerNorm wants it in float32 anyway, so it costs no cast more); LayerNorm; the
rotations (a runtime on a CPU cannot fold half-precision tables when it loads them); softmax; layer
scale (folded, gains like DINOv2's first 1e-5 would leave fp16's range); the head.

Shapes: B batch, S sequence, H heads, H' = H, or 1 where heads share rotations, D head_dim, N blocks
per head, K block side, P = D / 2 planes, W width, L layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.onnx.ops import attention as onnx_attention

from export.fold import folded
from export.layout import halves, joined, turn_blocks, turn_planes
from export.plan import Plan, plan_of
from media.spec import Grid
from models.attention_rollout import rolled_out, shares_read
from models.manifest import Precision
from models.rotations.apply import Rotations
from models.vit import Attention, Encoded, GatedMlp, Layer, VisionTransformer

#: ONNX's number for float32, in which softmax is taken whatever comes in.
FLOAT = 1
Watch = Callable[[Tensor], None]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}


class FrozenTransformer(nn.Module):
    """One grid of a model: pixels [B, *pixels per axis, C] -> float32 logits [B, classes].

    Args:
        plan: of the model, where it was made before; graphs of one bundle share one.
        watch: called with the weights of attention of every layer, in order, in the mean over the
            heads: float32 [B, S, S].
    """

    def __init__(
        self,
        model: VisionTransformer,
        grid: Grid,
        precision: Precision = "fp32",
        plan: Plan | None = None,
        watch: Watch | None = None,
    ) -> None:
        super().__init__()
        plan = plan or plan_of(model)
        self.grid, self.dtype = grid, DTYPES[precision]
        self.model = copy.deepcopy(model).eval()
        # nothing of the encoding may reach the graph
        self.model.encoding = nn.Identity()  # type: ignore[assignment]
        self.model.position_table = None
        for index, layer in enumerate(self.model.layers):
            assert isinstance(layer, Layer)
            attention = FrozenAttention(layer.attention, plan, index, precision, watch)
            layer.attention = attention  # type: ignore[assignment]
            if precision == "fp16":
                layer.mlp = Half(layer.mlp)
            else:
                _fold_gains(layer)
        if precision == "fp16":
            self.model.patch_embedding = Half(self.model.patch_embedding)  # type: ignore[assignment]
        rotations = plan.rotations(grid)
        self.tables = _constants(rotations.blocks, lambda table: table.mT)  # [S, H', N, K, K]
        self.cosines = _constants(rotations.turns, lambda turns: turns[..., 0])  # [S, H', P]
        self.sines = _constants(rotations.turns, lambda turns: turns[..., 1])  # [S, H', P]
        self.offset: Tensor | None
        self.register_buffer("offset", model.token_offset(grid))
        self.towards: Tensor | None
        self.register_buffer("towards", model.scores_towards(grid))

    def forward(self, pixels: Tensor) -> Tensor:
        # joined here and not in the layers: what they share is one value of the graph
        tables = [joined(table) for table in self.tables]  # L or 1 of [S, M, side, side]
        turns = [*zip(self.cosines, self.sines, strict=True)]
        mask = self.towards
        if mask is not None:  # a runtime on a CPU wants a row of every query
            mask = mask.to(self.dtype).expand(len(mask), -1)  # [S, S]
        encoded = Encoded(self.offset, tables or None, turns or None, towards=mask)  # type: ignore[arg-type]
        return self.model(pixels, encoded)


class FrozenWithRollout(nn.Module):
    """The same that also tells where it looked: -> logits, rollout of attention float32 [B, T].

    See ``models.attention_rollout``.
    """

    def __init__(
        self,
        model: VisionTransformer,
        grid: Grid,
        precision: Precision = "fp32",
        plan: Plan | None = None,
    ) -> None:
        super().__init__()
        self.prefix, self.weights = model.spec.prefix_tokens, list[Tensor]()  # of one pass
        self.frozen = FrozenTransformer(model, grid, precision, plan, self.weights.append)
        self.read: Tensor
        self.register_buffer("read", shares_read(model.spec, grid))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.frozen(pixels)  # [B, classes]
        attention = rolled_out(self.weights, self.read)[:, self.prefix :]  # [B, T]
        self.weights.clear()  # the exporter takes what a pass leaves behind for a mistake
        return logits, attention


def _constants(tensor: Tensor | None, part: Callable[[Tensor], Tensor]) -> nn.ParameterList:
    """A part of each layer's tensor, rounded once; nothing where there is none."""
    rows = () if tensor is None else (part(row).float().contiguous() for row in tensor)
    return nn.ParameterList(nn.Parameter(row, requires_grad=False) for row in rows)


def _fold_gains(layer: Layer) -> None:
    """Layer scale becomes part of the last matrix of each branch and its bias."""
    last = layer.mlp.down if isinstance(layer.mlp, GatedMlp) else layer.mlp[-1]  # type: ignore[index]
    for gains, linear in ((layer.attention_scale, layer.attention.out), (layer.mlp_scale, last)):
        if gains is not None:
            scaled = linear.weight.double() * gains.double()[:, None]  # [W, inputs]
            linear.weight.data = scaled.to(linear.weight.dtype)
            linear.bias.data = (linear.bias.double() * gains.double()).to(linear.bias.dtype)
    layer.attention_scale = layer.mlp_scale = None


class Half(nn.Module):
    """A module in half precision between float32 ones; a LayerNorm inside it stays one of them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.half()
        if isinstance(inner, GatedMlp) and isinstance(inner.norm, nn.LayerNorm):
            inner.norm = Whole(inner.norm)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.inner(tokens.half()).float()


class Whole(nn.Module):
    """A float32 module between half-precision ones."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.float()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.inner(tokens.float()).half()


class FrozenAttention(nn.Module):
    """Attention whose rotations are constants, its projections in the basis and order they want.

    Args:
        watch: as of ``FrozenTransformer``.

    Attributes:
        turned_dim: channels of a head that blocks cover.
    """

    def __init__(
        self,
        attention: Attention,
        plan: Plan,
        layer: int,
        precision: Precision = "fp32",
        watch: Watch | None = None,
    ) -> None:
        super().__init__()
        self.watch = watch
        self.heads, self.head_dim = attention.heads, attention.head_dim
        self.dtype = DTYPES[precision]
        self.turned_dim = self.head_dim - self.head_dim % (plan.form.block or 1)
        basis = None if plan.basis is None else plan.basis[layer % len(plan.basis)]
        order = halves(self.head_dim) if plan.form.form == "planes" else None
        self.query_key_value = attention.query_key_value
        for parameter in self.query_key_value.parameters():
            parameter.data = folded(parameter, self.heads, basis, order).to(self.dtype)
        self.query_key_norms = attention.query_key_norms
        for parameter in self.query_key_norms.parameters():
            parameter.data = parameter.data[order] if order is not None else parameter.data
        self.out = attention.out
        if attention.bias is not None:
            bias = folded(attention.bias, self.heads, basis, order)  # [3 W]
            self._take_biases(bias, nothing_turns=plan.form.form == "none")
        self.out = self.out.to(self.dtype)

    @torch.no_grad()
    def _take_biases(self, bias: Tensor, nothing_turns: bool) -> None:
        """Of queries, keys and values, float64 [3 W]; those that no score needs go elsewhere."""
        query, key, value = bias.chunk(3)
        moved = self.out.bias.double() + self.out.weight.double() @ value  # [W]
        self.out.bias.data = moved.to(self.out.bias.dtype)
        value.zero_()
        if nothing_turns and not self.query_key_norms:
            key.zero_()
        if bias.any():  # published DINOv3 has zeros
            self.query_key_value.bias = nn.Parameter(bias.to(self.dtype))

    def forward(self, tokens: Tensor, rotations: Rotations, mask: Tensor | None) -> Tensor:
        """[B, S, W] -> [B, S, W], both float32; rotations of this layer, laid out.

        The mask [S, S] is added to scores.
        """
        sequence, width = tokens.shape[1:]
        parts = self.query_key_value(tokens.to(self.dtype))  # [B, S, 3 W]
        parts = parts.unflatten(-1, (3, self.heads, self.head_dim))
        query, key, value = parts.unbind(2)  # [B, S, H, D] each
        if self.query_key_norms:
            first, second = self.query_key_norms
            query, key = first(query.float()), second(key.float())
        query, key = (self.turned(part, rotations) for part in (query, key))  # [B, H, S, D]
        mixed = self.attend(query, key, value.transpose(1, 2), mask)  # [B, H, S, D]
        return self.out(mixed.transpose(1, 2).reshape(-1, sequence, width)).float()

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Queries, keys, values and the result [B, H, S, D]; mask [S, S]."""
        if self.watch is not None:
            return self.attend_watched(query, key, value, mask)
        query, key = query.to(self.dtype), key.to(self.dtype)
        if self.dtype == torch.float32:
            return functional.scaled_dot_product_attention(query, key, value, mask)
        # by its ONNX name, because only that one can say in which precision softmax is taken
        return onnx_attention(query, key, value, mask, softmax_precision=FLOAT)[0]

    def attend_watched(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """The same, written out in float32: no runtime's operator shows its weights everywhere."""
        scores = query.float() * self.head_dim**-0.5 @ key.float().mT  # [B, H, S, S]
        weights = (scores if mask is None else scores + mask.float()).softmax(-1)
        assert self.watch is not None
        self.watch(weights.mean(1))  # [B, S, S]
        return (weights @ value.float()).to(self.dtype)

    def turned(self, part: Tensor, rotations: Rotations) -> Tensor:
        """Queries or keys [B, S, H, D] -> [B, H, S, D], turned in float32."""
        if rotations.turns is not None:
            return turn_planes(part.float(), *rotations.turns)
        if rotations.blocks is not None:
            return turn_blocks(part.float(), rotations.blocks, self.turned_dim)
        return part.transpose(1, 2)
