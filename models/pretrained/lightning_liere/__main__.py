"""python -m models.pretrained.lightning_liere CKPT --out FOLDER."""

from __future__ import annotations

import argparse
import re
import sys
import typing
from pathlib import Path

from media.spec import SpecError
from models.checkpoint import CheckpointError
from models.pretrained.lightning_liere.make import import_published
from models.pretrained.lightning_liere.spec import HEAD_DIM, Modality, Mode, Options, Rule

BAD_INPUT = (CheckpointError, SpecError, FileExistsError, FileNotFoundError, UnicodeDecodeError)

WHAT = """\
Turn a checkpoint of the published LieRE code (a Lightning file) into a checkpoint folder of this
project, which exports, fine-tunes and serves like any other. No code in the file is run.

That code keeps generators for every layer, and turns every layer by those of layer 0:
  --mode published   as its authors ran and measured it: layer 0's generators in every layer
  --mode intended    as the paper describes it: every layer has its own, and so other answers than
                     the authors'; fine-tune weights that were trained the published way"""

MORE = """\
example: python -m models.pretrained.lightning_liere liere.ckpt --out runs/liere-cifar100 \\
  --size 32x32 --patch 4x4 --labels cifar100.txt --trained-on CIFAR-100

Width, depth, classes, blocks and what layers and heads share are read from the weights. Inputs are
normalised as in the published data modules: pictures by CIFAR-10's mean and deviation (ImageNet's
pictures too), clips by ImageNet's. The file does not say which items were trained on, so
export it with test items alone: python -m export FOLDER --grid 8x8 --data TEST --out bundles"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 (writing failed) or 2 (bad input)."""
    words = _parser().parse_args(arguments)
    try:
        spec = import_published(words.checkpoint, words.out, _options(words))
    except BAD_INPUT as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}; nothing was written", file=sys.stderr)
        return 1
    print(
        f"wrote {words.out}: {spec.encoding.name}, {spec.classes} classes, grid "
        f"{spec.training_grid}, mode {words.mode}"
    )
    return 0


def _options(words: argparse.Namespace) -> Options:
    named = ("mode", "heads", "modality", "position_rule", "axial_per_head", "trained_on")
    return Options(
        labels=tuple(words.labels.read_text(encoding="utf-8").splitlines()),
        size=_pixels("--size", words.size),
        patch=_pixels("--patch", words.patch),
        mean=_numbers("--mean", words.mean),
        std=_numbers("--std", words.std),
        **{name: getattr(words, name) for name in named},
    )


def _pixels(option: str, text: str) -> tuple[int, ...]:
    if text and not re.fullmatch(r"[1-9][0-9]{0,4}(x[1-9][0-9]{0,4}){1,2}", text):
        raise SpecError(f"{option}: expected pixels per axis, like 32x32 or 8x224x224, got {text}")
    return tuple(map(int, text.split("x"))) if text else ()


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(","))) if text else ()
    except ValueError as error:
        raise SpecError(f"{option}: expected numbers like 0.5,0.5,0.5, got {text}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m models.pretrained.lightning_liere",
        description=WHAT,
        epilog=MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CKPT", help="the Lightning file")
    add("--out", type=Path, required=True, metavar="FOLDER", help="the checkpoint; must be new")
    add(
        "--labels",
        type=Path,
        required=True,
        metavar="FILE",
        help="names of the classes, a line each, in the order of the model's outputs (the "
        "published data modules sort them)",
    )
    add("--mode", choices=typing.get_args(Mode), default="published", help="default: published")
    add("--size", default="", metavar="32x32", help="pixels per axis of the inputs trained on")
    add("--patch", default="", metavar="4x4", help="pixels per axis of one token")
    add("--heads", type=int, metavar="N", help=f"heads (default: width / {HEAD_DIM})")
    add("--modality", choices=typing.get_args(Modality), help="default: image, or video for 3 axes")
    add("--mean", default="", metavar="R,G,B", help="of value / 255, in place of the published one")
    add("--std", default="", metavar="R,G,B", help="deviation, likewise")
    add(
        "--position-rule",
        choices=typing.get_args(Rule),
        default="published",
        help="where LieRE's tokens are at other sizes than the trained one (default: published)",
    )
    add(
        "--axial-per-head",
        action="store_true",
        help="the axial baseline was built with rotary_embedding_per_head (its command line "
        "never does)",
    )
    add("--trained-on", default="not said", metavar="NAME", help="name of the data, for the card")
    return parser


if __name__ == "__main__":
    sys.exit(main())
