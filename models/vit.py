"""The vision transformer, for any number of axes.

Shapes: B batch, C channels, A axes, T patch tokens, S = prefix + T sequence, W width, H heads,
D head_dim, L layers, N blocks, K block side, M mlp_dim, F features: W, or 2 W of ``pool`` both.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from media.spec import Grid, InputSpec, SpecError
from models.dropping import Dropout, DropPath, branch_keys
from models.encodings import complete, make_encoding
from models.encodings.resize import table_at
from models.rotations.apply import Rotations, fold_basis, to_basis, turn
from models.spec import ModelSpec
from models.transfer import send

#: The biases that a projection may have, in the order of its rows; fields of the spec.
BIASES = ("query_bias", "key_bias", "value_bias")


class Encoded(NamedTuple):
    """Everything that depends on the grid and not on the pixels; computed once per step.

    Between ``offset`` and ``towards`` the fields of ``models.rotations.apply.Rotations``, of all
    layers and the sequence.
    """

    offset: Tensor | None = None  # [T, W], added to the patch tokens
    blocks: Tensor | None = None  # [L or 1, S, H or 1, N, K, K]
    turns: Tensor | None = None  # [L or 1, S, H or 1, P, 2]
    basis: Tensor | None = None  # [L or 1, H or 1, N, K, K]
    towards: Tensor | None = None  # [S], added to every score towards a token

    @property
    def rotations(self) -> Rotations:
        return Rotations(self.blocks, self.turns, self.basis)


class VisionTransformer(nn.Module):
    """Pre-norm ViT: uint8 pixels [B, *pixels per axis, C] -> float32 logits [B, classes].

    ``spec`` is the one it was made from with every option of its encoding said. Of 0 classes there
    is no head, and the answer is what one would read, float32 [B, F].
    """

    scale: Tensor  # [C], of one pixel value
    shift: Tensor  # [C]
    registers: nn.Parameter | None  # [registers, W]
    position_table: nn.Parameter | None  # [T of the training grid, W]
    head: nn.Linear  # None where the spec has no classes

    def __init__(self, spec: ModelSpec, input_spec: InputSpec) -> None:
        super().__init__()
        if spec.channels != input_spec.channels:
            raise SpecError(
                f"the model has {spec.channels} channels, its input {input_spec.channels}"
            )
        self.spec = spec = dataclasses.replace(spec, encoding=complete(spec.encoding))
        std = 255.0 * torch.tensor(input_spec.std)
        shift = -255.0 * torch.tensor(input_spec.mean) / std
        self.register_buffer("scale", 1.0 / std, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.patch_embedding = nn.Linear(spec.channels * math.prod(spec.patch), spec.width)
        self.class_token = _tokens(int(spec.has_class_token), spec.width)
        self.registers = _tokens(spec.registers, spec.width) if spec.registers else None
        self.position_table = None
        if spec.position_table is not None:
            self.position_table = _tokens(spec.training_grid.tokens, spec.width)
        with torch.random.fork_rng(devices=[]):  # the other weights do not depend on the encoding
            self.encoding = make_encoding(spec)
        self.layers = nn.ModuleList(Layer(spec, rate) for rate in _drop_rates(spec))
        self.norm = nn.LayerNorm(spec.width, spec.norm_epsilon)
        head = nn.Linear(spec.features, spec.classes) if spec.classes else None
        self.register_module("head", head)
        self.apply(_initialise)

    @property
    def device(self) -> torch.device:
        return self.norm.weight.device

    def encode(self, grid: Grid, dtype: torch.dtype = torch.float32) -> Encoded:
        """Positions as the layers use them. Rotations are computed in ``dtype``, kept float32."""
        rotations = self.encoding.rotations(self.positions(grid), dtype)
        kept = (
            tensor if tensor is None else send(tensor, self.device, torch.float32)
            for tensor in rotations or ()
        )
        encoded = Encoded(self.token_offset(grid), *kept)
        return encoded._replace(towards=self.scores_towards(grid))

    def token_offset(self, grid: Grid) -> Tensor | None:
        """What is added to the patch tokens, [T, W]: of the encoding, of the table, of both."""
        offset = self.encoding.token_offset(grid)
        if self.position_table is None or self.spec.position_table is None:
            return offset
        rule, trained = self.spec.position_table, self.spec.training_grid
        table = table_at(self.position_table, trained, grid, rule)  # [T, W]
        return table if offset is None else table + offset

    def scores_towards(self, grid: Grid) -> Tensor | None:
        """What is added to every score towards a token, float32 [S]: see ``balance_prefix``."""
        if not self.spec.balance_prefix:
            return None
        scores = torch.zeros(self.spec.prefix_tokens + grid.tokens)  # [S]
        scores[: self.spec.prefix_tokens] = math.log(grid.size[0])
        return send(scores, self.device)

    def positions(self, grid: Grid) -> Tensor:
        """Where every token of the sequence is, prefix tokens first: float64 [S, A].

        In training mode the encoding may move the patch tokens, by torch's random generator.

        Raises:
            SpecError: the grid has another number of axes than the model.
        """
        if grid.axes != len(self.spec.grid):
            raise SpecError(f"expected a grid of {len(self.spec.grid)} axes, got {grid}")
        positions = self.encoding.positions(grid)  # [T, A]
        if self.training:
            positions = self.encoding.moved(positions, grid)
        shape = (self.spec.prefix_tokens, positions.shape[1])
        prefix = positions.new_full(shape, self.encoding.PREFIX_POSITION)
        return torch.cat([prefix, positions])

    def grid_of(self, pixels: Tensor) -> Grid:
        """The grid that pixels [B, *pixels per axis, C] have; SpecError if they do not fit."""
        sides, patch = tuple(pixels.shape[1:-1]), self.spec.patch
        if len(sides) != len(patch) or any(s % p for s, p in zip(sides, patch, strict=True)):
            raise SpecError(f"expected pixels in multiples of patch {patch}, got {sides}")
        return Grid(tuple(side // p for side, p in zip(sides, patch, strict=True)))

    def forward(
        self,
        pixels: Tensor,
        encoded: Encoded | None = None,
        keys: Tensor | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """Logits [B, classes], or the features [B, F] of a model without a head; float32.

        The arguments are those of ``features``.
        """
        read = self.features(pixels, encoded, keys, recompute)
        return self.head(read).float() if self.spec.classes else read.float()

    def features(
        self,
        pixels: Tensor,
        encoded: Encoded | None = None,
        keys: Tensor | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """What the head reads, [B, F].

        Args:
            encoded: ``encode(grid_of(pixels))`` unless given.
            keys: int64 [B], random bits of every item; what is dropped in training is drawn from
                them (``models.dropping``).
            recompute: keep what enters each layer alone, and compute the layers again in the
                backward pass; gradients are the same.

        Raises:
            ValueError: a model in training mode that drops has no keys.
        """
        drops = self.training and (self.spec.dropout or self.spec.drop_path)
        if drops and keys is None:
            raise ValueError("dropout and drop_path in training need a key of every item, got none")
        encoded = encoded or self.encode(self.grid_of(pixels))
        tokens = self.patch_embedding(self.patches(pixels))  # [B, T, W]
        if encoded.offset is not None:
            tokens = tokens + encoded.offset.to(tokens.dtype)
        if self.spec.prefix_tokens:
            prefix = self.prefix().to(tokens.dtype).expand(tokens.shape[0], -1, -1)
            tokens = torch.cat([prefix, tokens], dim=1)  # [B, S, W]
        rotations = encoded.rotations.by_layer(len(self.layers))
        drawn: Sequence[Tensor | None] = [None] * len(self.layers)
        if drops and keys is not None:
            drawn = branch_keys(keys, len(self.layers)).unbind()  # [2, B] of every layer
        for layer, turns, own in zip(self.layers, rotations, drawn, strict=True):
            given = turns, encoded.towards, own
            if recompute and torch.is_grad_enabled():  # nothing is drawn in there
                tokens = checkpoint(
                    layer, tokens, *given, use_reentrant=False, preserve_rng_state=False
                )
            else:
                tokens = layer(tokens, *given)
        return self.pooled(tokens)

    def prefix(self) -> Tensor:
        """The class token, where there is one, and the registers: [prefix, W]."""
        if self.registers is None:
            return self.class_token
        return torch.cat([self.class_token, self.registers])

    def pooled(self, tokens: Tensor) -> Tensor:
        """What the last layer gave, [B, S, W] -> what the head reads, [B, F]."""
        before = self.spec.norm_before_pool and self.spec.pool != "class"  # of one it is the same
        tokens = self.norm(tokens) if before else tokens
        parts = []
        if self.spec.pool != "mean":
            parts.append(tokens[:, 0])  # [B, W]
        if self.spec.pool != "class":
            patches = tokens[:, self.spec.prefix_tokens :] if self.spec.prefix_tokens else tokens
            parts.append(patches.mean(dim=1))  # [B, W]
        parts = parts if before else [self.norm(part) for part in parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)  # [B, F]

    def patches(self, pixels: Tensor) -> Tensor:
        """Normalise and cut: [B, *pixels per axis, C] -> [B, T, values per patch]."""
        scaled = pixels.float() * self.scale + self.shift
        shape: list[int] = []
        for side, patch in zip(pixels.shape[1:-1], self.spec.patch, strict=True):
            shape += [side // patch, patch]
        cut = scaled.reshape(-1, *shape, self.spec.channels)  # [B, g1, p1, g2, p2, ..., C]
        axes = len(self.spec.patch)
        order = [0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1]
        tokens = cut.permute(order).flatten(axes + 1)  # [B, g1, g2, ..., p1 p2 ... C]
        return tokens.flatten(1, axes)  # [B, T, values]


class Layer(nn.Module):
    """Attention and MLP, each behind a LayerNorm, perhaps scaled, and added back."""

    attention_scale: nn.Parameter | None  # [W]
    mlp_scale: nn.Parameter | None  # [W]

    def __init__(self, spec: ModelSpec, drop_path: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(spec.width, spec.norm_epsilon)
        self.attention = Attention(spec)
        self.mlp_norm = nn.LayerNorm(spec.width, spec.norm_epsilon)
        self.mlp = make_mlp(spec)
        self.attention_scale = self.mlp_scale = None
        if spec.layer_scale is not None:
            gains = (torch.full((spec.width,), spec.layer_scale) for _ in range(2))
            self.attention_scale, self.mlp_scale = map(nn.Parameter, gains)
        self.dropout = Dropout(spec.dropout)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, tokens: Tensor, rotations: Rotations, towards: Tensor | None, keys: Tensor | None
    ) -> Tensor:
        """[B, S, W] -> [B, S, W]; rotations of this layer, keys [2, B] of its branches.

        ``towards`` is that of ``attend``.
        """
        of_attention, of_mlp = (None, None) if keys is None else keys.unbind()
        mixed = self.attention(self.attention_norm(tokens), rotations, towards)
        tokens = tokens + self.dropped(_scaled(mixed, self.attention_scale), of_attention)
        changed = self.mlp(self.mlp_norm(tokens))
        return tokens + self.dropped(_scaled(changed, self.mlp_scale), of_mlp)

    def dropped(self, branch: Tensor, keys: Tensor | None) -> Tensor:
        """[B, S, W] -> [B, S, W]: what is left of a branch in training."""
        return self.drop_path(self.dropout(branch, keys), keys)


def _scaled(branch: Tensor, gains: Tensor | None) -> Tensor:
    """[B, S, W] times gains [W], in the type of the branch."""
    return branch if gains is None else branch * gains.to(branch.dtype)


def make_mlp(spec: ModelSpec) -> nn.Module:
    """[B, S, W] -> [B, S, W], every token by itself."""
    if spec.mlp != "gelu":
        return GatedMlp(spec)
    first, second = nn.Linear(spec.width, spec.mlp_dim), nn.Linear(spec.mlp_dim, spec.width)
    return nn.Sequential(first, nn.GELU(), second)


class GatedMlp(nn.Module):
    """down(silu(gate(x)) * up(x)), perhaps with a LayerNorm before ``down``."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.gate = nn.Linear(spec.width, spec.mlp_dim)
        self.up = nn.Linear(spec.width, spec.mlp_dim)
        self.norm: nn.Module = nn.Identity()
        if spec.mlp == "gated-norm":
            self.norm = nn.LayerNorm(spec.mlp_dim, spec.norm_epsilon)
        self.down = nn.Linear(spec.mlp_dim, spec.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, S, W] -> [B, S, W]."""
        hidden = functional.silu(self.gate(tokens)) * self.up(tokens)  # [B, S, M]
        return self.down(self.norm(hidden))


class Attention(nn.Module):
    """Multi-head self-attention whose queries and keys are turned by position."""

    query_bias: nn.Parameter | None  # [W]
    key_bias: nn.Parameter | None  # [W]
    value_bias: nn.Parameter | None  # [W]

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.heads, self.head_dim = spec.heads, spec.head_dim
        self.query_key_value = nn.Linear(spec.width, 3 * spec.width, bias=False)
        for name in BIASES:
            bias = nn.Parameter(torch.zeros(spec.width)) if getattr(spec, name) else None
            self.register_parameter(name, bias)
        norms = (
            nn.LayerNorm(spec.head_dim, spec.norm_epsilon) for _ in range(2 * spec.query_key_norm)
        )
        self.query_key_norms = nn.ModuleList(norms)
        self.out = nn.Linear(spec.width, spec.width)

    @property
    def bias(self) -> Tensor | None:
        """Of the projection [3 W]: 0 for those that have none, None where none has one."""
        biases = [getattr(self, name) for name in BIASES]
        if all(bias is None for bias in biases):
            return None
        weight = self.query_key_value.weight
        none = weight.new_zeros(weight.shape[1])
        return torch.cat([none if bias is None else bias for bias in biases])

    def forward(
        self, tokens: Tensor, rotations: Rotations, towards: Tensor | None = None
    ) -> Tensor:
        """[B, S, W] -> [B, S, W]; rotations of this layer, ``towards`` that of ``attend``."""
        mixed = attend(*self.projected(tokens, rotations), towards)  # [B, H, S, D]
        return self.out(mixed.transpose(1, 2).flatten(2))  # [B, S, W]

    def projected(self, tokens: Tensor, rotations: Rotations) -> tuple[Tensor, Tensor, Tensor]:
        """[B, S, W] -> queries and keys, turned, and values, [B, H, S, D] each."""
        weight, bias = self.query_key_value.weight, self.bias
        if rotations.basis is not None and not self.query_key_norms:
            weight = in_basis(weight, rotations.basis)
            bias = bias if bias is None else in_basis(bias, rotations.basis)
        parts = functional.linear(tokens, weight, bias)  # [B, S, 3 W]
        parts = parts.unflatten(-1, (3, self.heads, self.head_dim))
        query, key, value = parts.unbind(2)  # each [B, S, H, D]
        if self.query_key_norms:
            query, key = self.normed(query, key, rotations.basis)
        query, key = turn([query, key], rotations)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def normed(self, query: Tensor, key: Tensor, basis: Tensor | None) -> tuple[Tensor, Tensor]:
        """Each [B, S, H, D], normalised; a basis comes after, since gains are per channel."""
        query, key = (
            norm(part) for norm, part in zip(self.query_key_norms, (query, key), strict=True)
        )
        if basis is None:
            return query, key
        return to_basis(query, basis), to_basis(key, basis)


def attend(query: Tensor, key: Tensor, value: Tensor, towards: Tensor | None = None) -> Tensor:
    """Softmax attention; queries, keys, values and the result [B, H, S, D].

    ``towards`` [S] is added to every score towards a token, after the division by sqrt(D).

    Written out for bfloat16 on a CPU: the fused kernel's backward pass there made a training
    step at 64 tokens half as long again.
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # [B, H, S, S]
        scores = scores if towards is None else scores + towards.to(scores.dtype)
        return scores.softmax(-1, dtype=query.dtype) @ value
    mask = None if towards is None else towards.to(query.dtype)[None]  # [1, S]
    return functional.scaled_dot_product_attention(query, key, value, mask)


def in_basis(rows: Tensor, basis: Tensor) -> Tensor:
    """The projection whose queries and keys come out in the basis [H or 1, N, K, K].

    ``rows`` are its weight [3 W, W] or its bias [3 W]. One small product a pass: turning the
    tokens themselves would cost one for each of them.
    """
    query, key, value = rows.chunk(3)
    with torch.autocast(rows.device.type, enabled=False):
        return torch.cat([fold_basis(query, basis), fold_basis(key, basis), value])


def _tokens(count: int, width: int) -> nn.Parameter:
    """Learned vectors [count, W], drawn."""
    drawn = nn.Parameter(torch.empty(count, width))
    nn.init.trunc_normal_(drawn, std=0.02)
    return drawn


def _drop_rates(spec: ModelSpec) -> list[float]:
    """One drop_path rate a layer, from 0 to the spec's; a single layer is the last one."""
    if spec.depth == 1:
        return [spec.drop_path]
    return [spec.drop_path * index / (spec.depth - 1) for index in range(spec.depth)]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
