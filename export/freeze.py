"""A trained transformer with everything that depends on the grid computed once.

What stays is plain arithmetic: no matrix exponential, no interpolation, only the batch axis free.

In fp16 the weights and products of the patch embedding, the attention and the MLP are half
precision. float32 stay: normalising pixels; the stream of tokens that the layers add to (it grows
with depth, and LayerNorm wants it in float32 anyway, so it costs no cast more); LayerNorm; the
rotations (a runtime on a CPU cannot fold half-precision tables when it loads them); softmax; the
head.

Shapes: B batch, S sequence, H heads, D head_dim, N blocks per head, K block side, W width,
J blocks joined, M = H' N / J matrices a token, where H' is H, or 1 if heads share rotations.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.onnx.ops import attention as onnx_attention

from models.bundle import Precision
from models.spec import Grid
from models.vit import Attention, Encoded, Layer, VisionTransformer

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


def joined(table: Tensor) -> Tensor:
    """[S, H', N, K, K] -> block-diagonal [S, M, J K, J K], transposed: it stands on the right.

    The graph holds the small blocks (of tables above 8192 numbers; smaller ones torch.onnx joins
    itself) and the runtime folds this when it loads them: the file stays as small as the
    rotations are.
    """
    sequence, _, count, block, _ = table.shape
    join = joined_blocks(count, block)
    parts = table.reshape(-1, join, block, 1, block)  # [S M, J, K, 1, K]
    spread = parts * torch.eye(join).reshape(join, 1, join, 1)  # [S M, J, K, J, K]
    return spread.reshape(sequence, -1, join * block, join * block)


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


def loaded_bytes(model: VisionTransformer, grid: Grid) -> int:
    """Bytes of the folded, block-diagonal tables that a runtime holds; layers may share one."""
    block = model.spec.encoding.block
    if block is None:
        return 0
    return joined_blocks(model.spec.head_dim // block, block) * table_bytes(model, grid)


class FrozenTransformer(nn.Module):
    """One grid of a model: pixels [B, *pixels per axis, C] -> float32 logits [B, classes]."""

    def __init__(
        self, model: VisionTransformer, grid: Grid, precision: Precision = "fp32"
    ) -> None:
        super().__init__()
        self.grid = grid
        encoded = model.encode(grid, torch.float64)
        self.model = copy.deepcopy(model).eval()
        # nothing of the encoding may reach the graph
        self.model.encoding = nn.Identity()  # type: ignore[assignment]
        for layer in self.model.layers:
            assert isinstance(layer, Layer)
            attention = FrozenAttention(layer.attention, precision)
            layer.attention = attention  # type: ignore[assignment]
            if precision == "fp16":
                layer.mlp = Half(layer.mlp)  # type: ignore[assignment]
        if precision == "fp16":
            self.model.patch_embedding = Half(self.model.patch_embedding)  # type: ignore[assignment]
        tables = () if encoded.rotations is None else encoded.rotations.mT.unbind(0)
        self.tables = nn.ParameterList(
            nn.Parameter(table.contiguous(), requires_grad=False) for table in tables
        )
        self.offset: Tensor | None
        self.register_buffer("offset", encoded.offset)

    def forward(self, pixels: Tensor) -> Tensor:
        # joined here and not in the layers: what they share is one value of the graph
        tables = [joined(table) for table in self.tables]  # L or 1 of [S, M, J K, J K]
        return self.model(pixels, Encoded(self.offset, tables or None))  # type: ignore[arg-type]


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
    constant matrix stand in one product, so the table is read once per batch. Where heads share
    their rotations, the rows of all heads do.
    """

    def __init__(self, attention: Attention, precision: Precision = "fp32") -> None:
        super().__init__()
        self.heads, self.head_dim = attention.heads, attention.head_dim
        self.dtype = DTYPES[precision]
        self.query_key_value = attention.query_key_value.to(self.dtype)
        self.out = attention.out.to(self.dtype)

    def forward(self, tokens: Tensor, table: Tensor | None) -> Tensor:
        """[B, S, W] -> [B, S, W], both float32; table [S, M, side, side], joined, or None."""
        sequence, width = tokens.shape[1:]
        tokens = tokens.to(self.dtype)
        parts = self.query_key_value(tokens).unflatten(-1, (3, width))  # [B, S, 3, W]
        value = parts[:, :, 2].unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
        query, key = self.turned(parts[:, :, :2], table)  # each [B, H, S, D]
        mixed = self.attend(query, key, value)  # [B, H, S, D]
        return self.out(mixed.transpose(1, 2).reshape(-1, sequence, width)).float()

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Every argument and the result [B, H, S, D]."""
        if self.dtype == torch.float32:
            return functional.scaled_dot_product_attention(query, key, value)
        # by its ONNX name, because only that one can say in which precision softmax is taken
        return onnx_attention(query, key, value, softmax_precision=FLOAT)[0]

    def turned(self, pair: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor]:
        """Queries and keys [B, S, 2, W] -> turned in float32, each [B, H, S, D] as they came."""
        if table is None:
            split = pair.unflatten(-1, (self.heads, self.head_dim))  # [B, S, 2, H, D]
            query, key = split.permute(2, 0, 3, 1, 4).unbind(0)
            return query, key
        sequence, matrices, side, _ = table.shape
        pieces = self.head_dim // side  # of a head
        own = matrices // pieces  # heads with rotations of their own: all, or one for all
        rows = pair.float().reshape(-1, sequence, 2, self.heads // own, matrices, side)
        rows = rows.permute(1, 4, 0, 2, 3, 5).reshape(sequence * matrices, -1, side)
        turned = torch.matmul(rows, table.flatten(0, 1))  # [S M, 2 B H / own, side]
        turned = turned.reshape(sequence, own, pieces, -1, 2, self.heads // own, side)
        turned = turned.permute(4, 3, 1, 5, 0, 2, 6)  # [2, B, own, H / own, S, pieces, side]
        query, key = turned.to(pair.dtype).flatten(5).flatten(2, 3).unbind(0)
        return query, key
