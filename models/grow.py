"""python -m models.grow RUN --encoding liere --block 8 --out GROWN: larger blocks, same answers.

RoPE turns pairs of channels by p times a frequency. That is LieRE with blocks of 2, and larger
blocks whose other entries are 0 turn alike. So a model that was trained with pairs, such as public
ones are, can go on learning with blocks in which all axes meet: it begins with the answers that it
has.

  python -m models.grow runs/dinov3 --encoding liere --block 8 --out runs/grown
  python -m training finetune-images --init-from runs/grown --data labels.csv --out runs/mine

What grows, and where tokens stand afterwards:

  axial_rope    into liere of any even block, position_rule=index; channels are permuted
  dinov3_rope   into liere of any even block, position_rule=centred; channels are permuted
  rope_mixed    into liere of any even block, position_rule=index
  masa          into liere of block head_dim, position_rule=index
  liere         into liere of a multiple of its block, with its own position_rule

Every pair of an axial encoding belongs to one axis. They are dealt out so that every block holds
all axes, else blocks would never mix them; query and key lose nothing by it, as their product is
the same in any order of channels. Rotations that cannot be had exactly are refused.

The result is checked before it is written: rotations, and the answers to random pixels, at the
training grid and at two others.

Exit status: 0; 1 where it failed; 2 for bad input.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from media.files import atomic_directory, check_new
from media.spec import Grid, SpecError
from models.checkpoint import (
    CheckpointError,
    Description,
    checkpoint_folder,
    load_checkpoint,
    save_checkpoint,
)
from models.encodings import short_name
from models.encodings.axial_rope import AxialRope
from models.encodings.base import Encoding, Rotary
from models.encodings.dinov3_rope import Dinov3Rope
from models.encodings.liere import Liere
from models.encodings.masa import Masa
from models.encodings.rope_mixed import RopeMixed
from models.rotations.apply import Rotations
from models.spec import EncodingSpec, ModelSpec
from models.vit import Attention, Layer, VisionTransformer

#: How far rotations in float64, and logits in float32, may lie from those before; logits above 1
#: in proportion to the largest.
SAME_ROTATIONS, SAME_ANSWERS = 1e-6, 5e-5


def grow(model: VisionTransformer, description: Description, block: int) -> VisionTransformer:
    """The same model with LieRE of a larger block; in evaluation mode.

    Raises:
        SpecError: the encoding cannot be grown to that block exactly; why.
    """
    old = model.encoding
    how = _growth_of(old)
    channels = how.channels(old, block)  # [D]
    spec = dataclasses.replace(
        model.spec, encoding=EncodingSpec("liere", block=block, **how.options(old))
    )
    grown = VisionTransformer(spec, description.input)
    state = model.state_dict()
    grown.load_state_dict(
        {name: state[name] for name in grown.state_dict() if not name.startswith("encoding.")},
        strict=False,
    )
    with torch.no_grad():
        assert isinstance(old, Rotary)
        generators = old.generators(torch.float64)  # [A, L or 1, H or 1, N, K, K]
        target = grown.encoding
        assert isinstance(target, Liere)
        target.entries.copy_(entries_of(generators, channels, target))
        for layer in grown.layers:
            assert isinstance(layer, Layer)
            permute_heads(layer.attention, channels)
    return grown.eval()


def entries_of(generators: Tensor, channels: Tensor, target: Liere) -> Tensor:
    """The strict upper triangles of ``target`` that turn as the generators do, reordered.

    Args:
        generators: [A, L or 1, H or 1, N, K, K].
        channels: which old channel every new one is, [D].

    Returns:
        [A, L or 1, H or 1, blocks, numbers], as ``Liere.entries``.
    """
    block, side = target.block, target.shape.head_dim
    old, count = generators.shape[-1], generators.shape[-3]
    whole = generators.new_zeros(*generators.shape[:3], side, side)  # [A, L, H, D, D]
    for number in range(count):
        own = slice(number * old, (number + 1) * old)
        whole[..., own, own] = generators[..., number, :, :]
    whole = whole[..., channels[:, None], channels]  # [A, L, H, D, D], reordered
    blocks = whole.unflatten(-1, (-1, block)).unflatten(-3, (-1, block))  # [..., N', K', N', K']
    diagonal = torch.arange(side // block)
    within = blocks[..., diagonal, :, diagonal, :].movedim(0, 3)  # [A, L, H, N', K', K']
    rows, columns = torch.triu_indices(block, block, offset=1)
    return within[..., rows, columns].expand_as(target.entries)


def permute_heads(attention: Attention, channels: Tensor) -> None:
    """Give queries and keys of every head another order of channels [D]; values keep theirs."""
    heads, side = attention.heads, attention.head_dim
    rows = (torch.arange(heads)[:, None] * side + channels).flatten()  # [W]
    width = heads * side
    weight = attention.query_key_value.weight
    weight[: 2 * width] = weight[: 2 * width][torch.cat([rows, width + rows])]
    for bias in (attention.query_bias, attention.key_bias):
        if bias is not None:
            bias.copy_(bias[rows].clone())
    for norm in attention.query_key_norms:
        assert isinstance(norm, nn.LayerNorm)
        norm.weight.copy_(norm.weight[channels].clone())
        norm.bias.copy_(norm.bias[channels].clone())


@dataclasses.dataclass(frozen=True)
class Growth:
    """How one encoding becomes LieRE.

    Attributes:
        options: of the LieRE, besides its block; SpecError where positions have no counterpart.
        channels: which old channel every new one is, int64 [D], for a block; SpecError where the
            block does not do.
    """

    options: Callable[[Any], dict[str, Any]]
    channels: Callable[[Any, int], Tensor]


def _as_they_are(old: Rotary, block: int) -> Tensor:
    """Pairs stay where they are."""
    _check_block(old, block, least=2)
    return torch.arange(old.shape.head_dim)


def _dealt_out(old: Rotary, block: int) -> Tensor:
    """Pairs of one axis follow each other: dealt out to the blocks, each gets some of every axis.

    Where an axis has fewer pairs than there are blocks, blocks of that size cannot hold all axes.
    """
    _check_block(old, block, least=2)
    pairs, side = old.shape.head_dim // 2, block // 2
    if side > 1 and pairs // old.axes < pairs // side:
        raise SpecError(
            f"blocks of {block} cannot hold all {old.axes} axes: expected at least "
            f"{2 * old.axes}, or 2, which mixes none"
        )
    if side == 1:
        return torch.arange(2 * pairs)
    dealt = torch.arange(pairs).reshape(side, pairs // side).T.flatten()  # [P]; row n is block n
    return torch.stack([2 * dealt, 2 * dealt + 1], dim=1).flatten()  # [D]


def _of_multiple(old: Liere, block: int) -> Tensor:
    if block % old.block:
        raise SpecError(f"blocks of {old.block} grow into multiples of it, got {block}")
    _check_block(old, block, least=old.block)
    return torch.arange(old.shape.head_dim)


def _of_whole_heads(old: Masa, block: int) -> Tensor:
    if block != old.shape.head_dim:
        raise SpecError(
            f"the basis of masa couples all channels of a head: expected block "
            f"{old.shape.head_dim}, got {block}"
        )
    return torch.arange(old.shape.head_dim)


def _check_block(old: Rotary, block: int, least: int) -> None:
    side = old.shape.head_dim
    if block % 2 and least == 2:
        raise SpecError(f"pairs of channels fill blocks of an even side, got {block}")
    if block < least or side % block:
        raise SpecError(f"block must be at least {least} and divide head_dim {side}, got {block}")


def _axial_options(old: AxialRope) -> dict[str, Any]:
    if old.options.reference is not None:
        raise SpecError(
            f"positions are squeezed to a reference of {old.options.reference} tokens at every "
            "grid, and LieRE has no such rule"
        )
    return {"position_rule": "index"}


def _dinov3_options(old: Dinov3Rope) -> dict[str, Any]:
    if old.options.normalise != "separate":
        raise SpecError(
            f"positions are normalised by the {old.options.normalise} of the sides, and LieRE's "
            "rule centred by each side alone: expected normalise=separate"
        )
    return {"position_rule": "centred"}


def _index(_: Encoding) -> dict[str, Any]:
    return {"position_rule": "index"}


def _own_options(old: Liere) -> dict[str, Any]:
    options = dataclasses.asdict(old.options)
    return {name: value for name, value in options.items() if name != "block"}


GROWTHS: dict[type[Encoding], Growth] = {
    AxialRope: Growth(_axial_options, _dealt_out),
    Dinov3Rope: Growth(_dinov3_options, _dealt_out),
    RopeMixed: Growth(_index, _as_they_are),
    Masa: Growth(_index, _of_whole_heads),
    Liere: Growth(_own_options, _of_multiple),
}


def _growth_of(old: Encoding) -> Growth:
    if type(old) not in GROWTHS:
        names = "axial_rope, dinov3_rope, rope_mixed, masa and liere"
        raise SpecError(f"{type(old).__name__} has no generators that LieRE could hold: {names} do")
    return GROWTHS[type(old)]


# --- is it the same? --------------------------------------------------------------------------


def check_same(old: VisionTransformer, new: VisionTransformer) -> float:
    """How far the answers to random pixels lie apart at most, at three grids.

    Raises:
        SpecError: rotations or answers differ by more than rounding.
    """
    worst = 0.0
    for grid in grids_of(old.spec):
        apart = rotations_apart(old, new, grid)
        if not apart <= SAME_ROTATIONS:  # nor NaN
            raise SpecError(f"rotations at grid {grid} would differ by {apart:.1e}")
        pixels = torch.randint(
            256, (2, *grid.pixels(old.spec.patch), old.spec.channels),
            generator=torch.Generator().manual_seed(0), dtype=torch.uint8,
        )  # fmt: skip
        with torch.inference_mode():
            expected = old(pixels)  # [2, classes]
            apart = (expected - new(pixels)).abs().max().item()
        if not apart <= SAME_ANSWERS * max(1.0, expected.abs().max().item()):
            raise SpecError(f"answers at grid {grid} would differ by {apart:.1e}")
        worst = max(worst, apart)
    return worst


def grids_of(spec: ModelSpec) -> list[Grid]:
    """The training grid, a larger and a smaller one, which are not square."""
    larger = tuple(side + 1 + axis for axis, side in enumerate(spec.grid))
    smaller = tuple(max(1, side - 1 - axis) for axis, side in enumerate(spec.grid))
    return [Grid(spec.grid), Grid(larger), Grid(smaller)]


def rotations_apart(
    old: VisionTransformer, new: VisionTransformer, grid: Grid, dtype: torch.dtype = torch.float64
) -> float:
    """How far whole rotations lie apart at most, once channels are in the same order.

    A layer at a time: whole rotations of all layers of a ViT-L are gigabytes.
    """
    channels = _growth_of(old.encoding).channels(old.encoding, _block_of(new))
    apart = []
    for before, after in zip(_by_layer(old, grid, dtype), _by_layer(new, grid, dtype), strict=True):
        moved = whole_rotations(before)[..., channels[:, None], channels]  # [1, S, H, D, D]
        apart.append((moved - whole_rotations(after)).abs().max())
    return torch.stack(apart).max().item()  # Python's max() would pass NaN over


def _by_layer(model: VisionTransformer, grid: Grid, dtype: torch.dtype) -> list[Rotations]:
    """Of every layer, each with a leading axis of one."""
    with torch.no_grad():
        found = model.encoding.rotations(model.positions(grid), dtype)
    assert found is not None
    rows = found.by_layer(model.spec.depth)
    return [Rotations(*(one if one is None else one[None] for one in row)) for row in rows]


def whole_rotations(rotations: Rotations | None) -> Tensor:
    """Of every token one matrix [L or 1, S, H or 1, D, D]."""
    assert rotations is not None
    if rotations.blocks is not None:
        blocks = rotations.blocks  # [L, S, H, N, K, K]
    else:
        assert rotations.turns is not None
        cosine, sine = rotations.turns.unbind(-1)  # [L, S, H, P] each
        rows = [torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)]
        blocks = torch.stack(rows, dim=-2)  # [L, S, H, P, 2, 2]
    count, side = blocks.shape[-3], blocks.shape[-1]
    whole = blocks.new_zeros(*blocks.shape[:3], count * side, count * side)
    for number in range(count):
        own = slice(number * side, (number + 1) * side)
        whole[..., own, own] = blocks[..., number, :, :]
    if rotations.basis is not None:
        basis = whole_rotations(Rotations(blocks=rotations.basis[:, None]))  # [L, 1, H, D, D]
        whole = basis @ whole @ basis.mT
    return whole


def _block_of(model: VisionTransformer) -> int:
    assert isinstance(model.encoding, Liere)
    return model.encoding.block


# --- the command ------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Grow a checkpoint; the exit status as the head of this module has it."""
    options = _parser().parse_args(arguments)
    try:
        if options.encoding != "liere":
            raise SpecError(f"encodings grow into liere, got {options.encoding!r}")
        check_new(options.out)
        run = options.run
        model, description = load_checkpoint(checkpoint_folder(run))
        grown = grow(model, description, options.block)
        apart = check_same(model, grown)
        notes = {k: v for k, v in description.notes.items() if k != "training_sha256"}
        notes["grown"] = {
            "from": short_name(model.spec.encoding), "weights_sha256": description.weights_sha256,
        }  # fmt: skip
        with atomic_directory(options.out) as folder:
            save_checkpoint(folder, grown, description.input, description.labels, notes)
    except (SpecError, CheckpointError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    numbers = [sum(p.numel() for p in one.encoding.parameters()) for one in (model, grown)]
    print(
        f"wrote {options.out}: {short_name(model.spec.encoding)} is "
        f"{short_name(grown.spec.encoding)} now, {numbers[0]:,} numbers {numbers[1]:,}; answers at "
        f"grids {', '.join(map(str, grids_of(model.spec)))} differ by {apart:.1e} at most"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    _, *rest = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m models.grow",
        description="Give a checkpoint larger blocks of rotation, its answers unchanged.",
        epilog="\n\n".join(rest),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run (its best checkpoint) or a checkpoint")
    add("--encoding", default="liere", metavar="NAME", help="what it becomes (default: liere)")
    add("--block", type=int, required=True, metavar="K", help="side of one rotation")
    add("--out", type=Path, required=True, metavar="GROWN", help="folder of the new checkpoint")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
