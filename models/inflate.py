"""python -m models.inflate RUN --onto clips --grid 4x14x14 --depth 2 --out INFLATED: a new axis.

A model of pictures becomes one of clips or scans. Of a clip of equal frames, or a scan of equal
slices, it gives the answer that it gave of the picture; from there it goes on learning.

  python -m models.inflate runs/photos --onto scans --grid 8x14x14 --depth 4 --out runs/deep
  python -m training volumes --init-from runs/deep --data data/scans --out runs/mine

What becomes of its parts:

  patches     of --depth pixels along time or depth: the weights in the middle one and 0 in the
              others (centre), or the same in each, divided by their number (mean: the default)
  rotations   liere and rope_mixed: generators of the new axis begin at 0, so nothing turns along
              it before it has learned to; the others stay, and so does the rule of positions.
              Axial encodings share channels out among axes: grow them into liere first
  tables      of positions, absolute or beside rotations: repeated along the new axis
  colours     a scan has one channel: mean, standard deviation and patches are folded over the
              three, so that it answers as the picture with that grey in all of them did
  input       clips are looked at once, their frames spread over the whole of them; scans are
              stretched whole to the input. The rest is that of the pictures

T equal frames have T times the patches, and one class token and its registers. Without such prefix
tokens attention gives the same mixture: answers are equal but for rounding. With them patches
would count for T times as much. So log T is added to every score towards a prefix token
(balance_prefix of the model, kept by training and export), and answers are equal again; with
--no-balance-prefix they differ.

The result is checked before it is written: answers to random grey pictures, repeated, at the
training grid and at two others.

Exit status: 0; 1 where it failed; 2 for bad input.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from media.files import atomic_directory, check_new
from media.spec import Grid, InputSpec, SpecError, VideoSpec, VolumeSpec
from models.checkpoint import (
    CheckpointError,
    Description,
    checkpoint_folder,
    load_checkpoint,
    save_checkpoint,
)
from models.grow import GROWTHS, SAME_ANSWERS, grids_of
from models.spec import EncodingSpec, ModelSpec
from models.vit import VisionTransformer

Onto = Literal["clips", "scans"]
Patches = Literal["centre", "mean"]


@dataclasses.dataclass(frozen=True)
class Axis:
    """What is added before height and width.

    Attributes:
        grid: tokens per axis in training, the new axis first.
        depth: pixels of a patch along it.
        patches: where the pictures' weights stand in it: in the middle, or an equal share in each.
        balance_prefix: whether a prefix that there is keeps its weight in attention.
    """

    onto: Onto
    grid: Grid
    depth: int
    patches: Patches = "mean"
    balance_prefix: bool = True


def inflate(model: VisionTransformer, input_spec: InputSpec, axis: Axis) -> VisionTransformer:
    """The same model for clips or scans, whose input is ``input_of``; in evaluation mode.

    Raises:
        SpecError: the model, its encoding or the grid cannot be inflated; why.
    """
    old = model.spec
    _check(model, input_spec, axis)
    name, inflated = _INFLATED[old.encoding.name]
    options = old.encoding.options
    if "resize" in options:
        options["resize"] = _of_three_axes(options["resize"])
    new_input = input_of(input_spec, axis.onto)
    spec = dataclasses.replace(
        old,
        patch=(axis.depth, *old.patch),
        grid=axis.grid.size,
        channels=new_input.channels,
        position_table=old.position_table and _of_three_axes(old.position_table),
        balance_prefix=axis.balance_prefix and old.prefix_tokens > 0,
        encoding=EncodingSpec(old.encoding.name, **options),
    )
    state = model.state_dict()
    side = axis.grid.size[0]
    state[name] = inflated(state[name], side)
    if old.position_table is not None:
        state["position_table"] = _repeated(state["position_table"], side)
    weight, bias = _grey(model, input_spec, new_input)  # [W, h w, C'], [W]
    state["patch_embedding.weight"] = _slices(weight, axis).flatten(1).float()  # [W, values]
    state["patch_embedding.bias"] = bias.float()
    result = VisionTransformer(spec, new_input)
    result.load_state_dict(state)
    return result.eval()


def input_of(pictures: InputSpec, onto: Onto) -> InputSpec:
    """The input of the inflated model; a scan has the mean of the colours' means and deviations."""
    if onto == "clips":
        return dataclasses.replace(pictures, modality="video", video=VideoSpec(), grey_bits=0)
    return dataclasses.replace(
        pictures,
        modality="volume",
        channels=1,
        fit="stretch",
        mean=(statistics.fmean(pictures.mean),),
        std=(statistics.fmean(pictures.std),),
        volume=VolumeSpec(),
        grey_bits=0,
        crop_ratio=1.0,  # of pictures alone: a scan is stretched
    )


def _check(model: VisionTransformer, input_spec: InputSpec, axis: Axis) -> None:
    spec, name = model.spec, model.spec.encoding.name
    if input_spec.modality != "image" or len(spec.grid) != 2:
        raise SpecError(
            f"expected a model of images, got one of modality {input_spec.modality} at grid "
            f"{spec.training_grid}"
        )
    if axis.grid.size[1:] != spec.grid:
        raise SpecError(
            f"expected grid Tx{spec.training_grid}, T tokens along the new axis and the others as "
            f"they were trained (fine-tuning may take more), got {axis.grid}"
        )
    if axis.grid.size[0] < 2:
        raise SpecError(
            "expected at least 2 tokens along the new axis, where alone it has anything to learn, "
            f"got {axis.grid}"
        )
    if axis.depth < 1:
        raise SpecError(f"expected a depth of at least 1 pixel, got {axis.depth}")
    if name not in _INFLATED:
        why = "has no parameters along an axis that could begin at 0"
        if type(model.encoding) in GROWTHS:
            why = "shares what it has out among axes: grow it into liere first (models.grow)"
        raise SpecError(f"{name} {why}; expected {', '.join(_INFLATED)}")


def _of_three_axes(rule: str) -> Any:
    """The rule by which a table of three axes is resized in its planes as by the one of two."""
    return "bicubic" if rule == "plain" else rule  # plain is trilinear in three


def _zero_row(tensor: Tensor, _: int) -> Tensor:
    """[A, ...] -> [1 + A, ...]: nothing turns along the new axis."""
    return torch.cat([torch.zeros_like(tensor[:1]), tensor])


def _repeated(table: Tensor, side: int) -> Tensor:
    """[T, W] -> [side T, W]; tokens are in row-major order."""
    return table.repeat(side, 1)


#: Of each encoding the parameter that has axes, and what it becomes.
_INFLATED: dict[str, tuple[str, Callable[[Tensor, int], Tensor]]] = {
    "liere": ("encoding.entries", _zero_row),
    "rope_mixed": ("encoding.table", _zero_row),
    "absolute": ("encoding.table", _repeated),
}


def _grey(model: VisionTransformer, old: InputSpec, new: InputSpec) -> tuple[Tensor, Tensor]:
    """Patches of the new channels, float64 [W, h w, C'], and their bias, float64 [W].

    Of a grey v in every channel, sum_c w_c (v - m_c) / s_c = w' (v - m') / s' + b' with
    w' = s' sum_c w_c / s_c and b' = sum_pixels (w' m' / s' - sum_c w_c m_c / s_c).
    """
    embedding = model.patch_embedding
    weight = embedding.weight.detach().double().unflatten(-1, (-1, old.channels))  # [W, h w, C]
    bias = embedding.bias.detach().double()
    if new.channels == old.channels:
        return weight, bias
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (old.mean, old.std))
    folded = new.std[0] * (weight / std).sum(-1, keepdim=True)  # [W, h w, 1]
    before = (weight * mean / std).sum((1, 2))  # [W]
    return folded, bias - before + folded.sum((1, 2)) * new.mean[0] / new.std[0]


def _slices(weight: Tensor, axis: Axis) -> Tensor:
    """[W, h w, C] -> [W, depth, h w, C]."""
    if axis.patches == "mean":
        return (weight / axis.depth)[:, None].expand(-1, axis.depth, -1, -1)
    slices = weight.new_zeros(len(weight), axis.depth, *weight.shape[1:])
    slices[:, axis.depth // 2] = weight
    return slices


# --- is it the same? --------------------------------------------------------------------------


def answers_apart(old: VisionTransformer, new: VisionTransformer) -> float:
    """How far answers to random grey pictures, repeated along the new axis, lie apart at most.

    At three grids, whose tokens along the new axis differ too; in units of the largest number of
    an answer where that is above 1.
    """
    apart, side = [], new.spec.grid[0]
    generator = torch.Generator().manual_seed(0)
    for grid, tokens in zip(grids_of(old.spec), (side, side + 1, side - 1), strict=True):
        sides = grid.pixels(old.spec.patch)
        grey = torch.randint(256, (2, *sides, 1), generator=generator, dtype=torch.uint8)
        pictures = grey.expand(-1, -1, -1, old.spec.channels)
        frames = grey.expand(-1, -1, -1, new.spec.channels)
        frames = frames[:, None].expand(-1, tokens * new.spec.patch[0], -1, -1, -1)
        with torch.inference_mode():
            expected, found = old(pictures), new(frames)
        largest = max(1.0, expected.abs().max().item())
        apart.append((found - expected).abs().max() / largest)
    return torch.stack(apart).max().item()  # Python's max() would pass NaN over


def check_same(old: VisionTransformer, new: VisionTransformer) -> float:
    """``answers_apart``; SpecError where it is more than rounding."""
    apart = answers_apart(old, new)
    if not apart <= SAME_ANSWERS:
        raise SpecError(f"answers to equal frames would differ by {apart:.1e}")
    return apart


# --- the command ------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Inflate a checkpoint; the exit status as the head of this module has it."""
    options = _parser().parse_args(arguments)
    try:
        check_new(options.out)
        axis = Axis(
            options.onto, Grid.parse(options.grid), options.depth, options.patches,
            options.balance_prefix,
        )  # fmt: skip
        run = options.run
        model, description = load_checkpoint(checkpoint_folder(run))
        inflated = inflate(model, description.input, axis)
        unbalanced = model.spec.prefix_tokens and not axis.balance_prefix
        apart = (answers_apart if unbalanced else check_same)(model, inflated)
        with atomic_directory(options.out) as folder:
            save_checkpoint(
                folder, inflated, input_of(description.input, axis.onto), description.labels,
                _notes(description, model.spec, axis),
            )  # fmt: skip
    except (SpecError, CheckpointError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"wrote {options.out}: {axis.onto} of "
        f"{'x'.join(map(str, axis.grid.pixels(inflated.spec.patch)))} pixels in {axis.grid} "
        f"tokens; answers to equal frames differ by {apart:.1e} at most"
    )
    return 0


def _notes(description: Description, old: ModelSpec, axis: Axis) -> dict[str, Any]:
    """Those of the pictures' model, less where their files are, and where this one comes from."""
    notes = {k: v for k, v in description.notes.items() if k != "training_sha256"}
    if "config" in notes:
        notes["config"] = {
            k: v for k, v in notes["config"].items() if k not in {"data", "cache"}
        }
    return notes | {
        "inflated": {
            "onto": axis.onto, "patches": axis.patches, "from": str(old.training_grid),
            "weights_sha256": description.weights_sha256,
        }
    }  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    _, *rest = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m models.inflate",
        description="Give a checkpoint of pictures an axis of time or depth.",
        epilog="\n\n".join(rest),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run (its best checkpoint) or a checkpoint")
    add("--onto", choices=["clips", "scans"], required=True, help="what it shall take")
    add("--grid", required=True, metavar="TxHxW", help="tokens per axis, the new one first")
    add("--depth", type=int, required=True, metavar="N", help="pixels of a patch along it")
    add("--patches", choices=["centre", "mean"], default="mean", help="default: mean")
    add(
        "--balance-prefix", action=argparse.BooleanOptionalAction, default=True,
        help="whether class token and registers keep their weight in attention (default: yes)",
    )  # fmt: skip
    add("--out", type=Path, required=True, metavar="INFLATED", help="folder of the new checkpoint")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
