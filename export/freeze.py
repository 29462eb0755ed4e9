"""A trained transformer with everything that depends on the grid computed once.

What stays is plain arithmetic: no matrix exponential, no interpolation, only the batch axis free.

In fp16 the weights and products of the patch embedding, the attention and the MLP are half
precision. float32 stay: normalising pixels; the stream of tokens that the layers add to (it grows
with depth, and LayerNorm wants it in float32 anyway, so it costs no cast more); LayerNorm; the
rotations (a runtime on a CPU cannot fold half-precision tables when it loads them); softmax; the
head.

Shapes: B batch, S sequence, H heads, D head_dim, N blocks per head, K block side, W width,
J blocks joined, M = S H N / J matrices.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.onnx.ops import attention as onnx_attention

from models.bundle import Precision
from models.spec import Grid
from models.vit import Attention, Encoded, Layer, VisionTransformer, layer_table

#: Neighbouring blocks are joined into block-diagonal matrices of about this side: a matrix
#: product that small is dominated by its call, and four times the zeros cost less than four calls.
JOINED_SIDE = 32
#: ONNX's number for float32, in which softmax is taken whatever comes in.
FLOAT = 1
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}


def joined_blocks(count: int, block: int) -> int:
    """How many of a head's ``count`` neighbouring blocks make one constant matrix."""
    side = max(block, JOINED_SIDE)
    return max(n for n in range(1, count + 1) if count % n == 0 and n * block <= side)


def loaded_bytes(model: VisionTransformer, grid: Grid) -> int:
    """Bytes of the folded, block-diagonal tables that a runtime holds; nothing is shared there."""
    spec, block = model.spec, model.spec.encoding.block
    if block is None:
        return 0
    side = block * joined_blocks(spec.head_dim // block, block)
    return 4 * spec.depth * (grid.tokens + spec.prefix_tokens) * spec.width * side


def table_bytes(model: VisionTransformer, grid: Grid) -> int:
    """Bytes of float32 rotation table that one grid adds to a bundle; 0 without rotations."""
    spec = model.spec
    encoding, block = spec.encoding, spec.encoding.block
    if block is None:
        return 0
    layers = spec.depth if encoding.per_layer else 1
    heads = spec.heads if encoding.per_head else 1
    tokens = grid.tokens + spec.prefix_tokens
    return 4 * layers * tokens * heads * spec.head_dim * block


class FrozenTransformer(nn.Module):
    """One grid of a model: uint8 [B, *pixels per axis, C] -> float32 logits [B, classes]."""

    def __init__(
        self, model: VisionTransformer, grid: Grid, precision: Precision = "fp32"
    ) -> None:
        super().__init__()
        encoded = model.encode(grid, torch.float64)
        self.model = copy.deepcopy(model).eval()
        # nothing of the encoding may reach the graph
        self.model.encoding = nn.Identity()  # type: ignore[assignment]
        for index, layer in enumerate(self.model.layers):
            table = layer_table(encoded.rotations, index)
            assert isinstance(layer, Layer)
            attention = FrozenAttention(layer.attention, table, precision)
            layer.attention = attention  # type: ignore[assignment]
            if precision == "fp16":
                layer.mlp = Half(layer.mlp)  # type: ignore[assignment]
        if precision == "fp16":
            self.model.patch_embedding = Half(self.model.patch_embedding)  # type: ignore[assignment]
        self.offset: Tensor | None
        self.register_buffer("offset", encoded.offset)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixels, Encoded(self.offset, None))


class Half(nn.Module):
    """A module in half precision between float32 ones."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.half()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.inner(tokens.half()).float()


class FrozenAttention(nn.Module):
    """Attention whose rotations are constants, laid out for a fast product at any batch.

    Queries and keys are turned together: the rows of all images (2B of them) that meet one
    constant matrix stand in one product, so the table is read once per batch.
    """

    def __init__(
        self, attention: Attention, table: Tensor | None, precision: Precision = "fp32"
    ) -> None:
        super().__init__()
        self.heads, self.head_dim = attention.heads, attention.head_dim
        self.dtype = DTYPES[precision]
        self.query_key_value = attention.query_key_value.to(self.dtype)
        self.out = attention.out.to(self.dtype)
        self.blocks: Tensor | None
        self.register_buffer("blocks", None if table is None else table.mT.contiguous())

    def forward(self, tokens: Tensor, _: None) -> Tensor:
        """[B, S, W] -> [B, S, W], both float32."""
        sequence, width = tokens.shape[1:]
        tokens = tokens.to(self.dtype)
        parts = self.query_key_value(tokens).unflatten(-1, (3, width))  # [B, S, 3, W]
        value = parts[:, :, 2].unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
        query, key = self.turned(parts[:, :, :2])  # each [B, H, S, D]
        mixed = self.attend(query, key, value)  # [B, H, S, D]
        return self.out(mixed.transpose(1, 2).reshape(-1, sequence, width)).float()

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Every argument and the result [B, H, S, D]."""
        if self.dtype == torch.float32:
            return functional.scaled_dot_product_attention(query, key, value)
        # by its ONNX name, because only that one can say in which precision softmax is taken
        return onnx_attention(query, key, value, softmax_precision=FLOAT)[0]

    def turned(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys [B, S, 2, W] -> turned in float32, each [B, H, S, D] as they came."""
        sequence = pair.shape[1]
        if self.blocks is None:
            split = pair.unflatten(-1, (self.heads, self.head_dim))  # [B, S, 2, H, D]
            query, key = split.permute(2, 0, 3, 1, 4).unbind(0)
            return query, key
        constant = self.joined(self.blocks)  # [M, side, side]
        side = constant.shape[-1]
        per_head = self.head_dim // side
        rows = pair.float().reshape(-1, sequence, 2, self.heads * per_head, side)
        rows = rows.permute(1, 3, 0, 2, 4).reshape(constant.shape[0], -1, side)  # [M, 2B, side]
        turned = torch.matmul(rows, constant)  # [M, 2B, side]
        turned = turned.reshape(sequence, self.heads, per_head, -1, 2, side)
        turned = turned.permute(4, 3, 1, 0, 2, 5)  # [2, B, H, S, blocks, side]
        query, key = turned.to(pair.dtype).flatten(-2).unbind(0)
        return query, key

    def joined(self, blocks: Tensor) -> Tensor:
        """[S, H or 1, N, K, K] -> block-diagonal [M, J K, J K].

        The graph holds the small blocks; the runtime folds this when it loads them, so the file
        stays as small as the rotations are.
        """
        sequence, _, count, block, _ = blocks.shape
        join = joined_blocks(count, block)
        blocks = blocks.expand(sequence, self.heads, count, block, block)
        parts = blocks.reshape(-1, join, block, 1, block)  # [M, J, K, 1, K]
        spread = parts * torch.eye(join).reshape(join, 1, join, 1)  # [M, J, K, J, K]
        return spread.reshape(-1, join * block, join * block)
