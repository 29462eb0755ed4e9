"""python -m models.pretrained FILE_OR_FOLDER --out RUN."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from media.spec import SpecError
from models.checkpoint import CheckpointError
from models.pretrained.families import FAMILIES
from models.pretrained.make import Imported, Options, import_pretrained

BAD_INPUT = (CheckpointError, SpecError, FileExistsError, FileNotFoundError)

WHAT = """\
Turn public pretrained weights into a checkpoint folder of this project, which fine-tunes, exports
and serves like any other. No code in the file is run.

Read are folders as transformers and timm write them (config.json and safetensors, also in shards),
their files, and those of the authors (.safetensors, .pth, .bin), of these families:"""

MORE = """\
examples:
  python -m models.pretrained dinov3-vits16-pretrain-lvd1689m --out runs/dinov3
  python -m models.pretrained hf://timm/vit_small_patch16_224.augreg_in21k_ft_in1k --out runs/vit
  python -m models.pretrained model.safetensors --family vit_small_patch16_rope_224 --out runs/rope

The licence of the weights goes into the checkpoint, and from there into what is made of it."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 (writing failed) or 2 (bad input)."""
    words = _parser().parse_args(arguments)
    try:
        done = import_pretrained(words.weights, words.out, _options(words))
    except BAD_INPUT as error:
        print(f"error: {error}; nothing was written", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}; nothing was written", file=sys.stderr)
        return 1
    _report(done, words.out)
    return 0


def _report(done: Imported, out: Path) -> None:
    spec = done.spec
    print(f"found      {done.found}")
    print(f"size       {done.size}")
    for name in ("converted", "folded", "left_out", "not_used", "notes"):
        for line in getattr(done, name):
            print(f"{name.replace('_', ' '):<10} {line}")
    print(f"licence    {done.licence.name}")
    if done.licence.terms:
        print(f"           {done.licence.terms}")
    head = f"{spec.classes} classes" if spec.classes else "no head"
    print(
        f"wrote      {out}: {spec.encoding.name}, width {spec.width}, {head}, grid "
        f"{spec.training_grid} of patch {spec.patch[0]}x{spec.patch[1]}"
    )


def _options(words: argparse.Namespace) -> Options:
    labels = tuple(_lines(words.labels)) if words.labels else None
    if words.size and not re.fullmatch(r"[1-9][0-9]{0,4}x[1-9][0-9]{0,4}", words.size):
        raise SpecError(f"--size: expected height and width, like 224x224, got {words.size}")
    size = tuple(map(int, words.size.split("x"))) if words.size else ()
    if words.heads is not None and words.heads < 1:
        raise SpecError(f"--heads: expected at least 1, got {words.heads}")
    return Options(words.family, labels, size, words.heads or 0)


def _lines(path: Path) -> list[str]:
    """Of a file of names; SpecError where it is none. Empty lines at the end are no names."""
    try:
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SpecError(f"--labels: expected a text file of names, got {path}: {why}") from error


def _parser() -> argparse.ArgumentParser:
    families = "\n".join(f"  {name:<16} {family.about}" for name, family in FAMILIES.items())
    parser = argparse.ArgumentParser(
        prog="python -m models.pretrained",
        description=f"{WHAT}\n{families}",
        epilog=MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("weights", metavar="FILE_OR_FOLDER", help="or hf://OWNER/NAME, which is fetched")
    add("--out", type=Path, required=True, metavar="RUN", help="the checkpoint; must be new")
    add(
        "--family",
        default="",
        metavar="NAME",
        help="where the file does not say: a family above, or timm's name of the model",
    )
    add(
        "--labels",
        type=Path,
        metavar="FILE",
        help="names of the classes, a line each, in the order of the model's outputs",
    )
    add(
        "--size",
        default="",
        metavar="224x224",
        help="pixels (height, width) that the checkpoint is for (default: those that pictures are "
        "prepared for, else what the model was built for); a table of positions is resized to them",
    )
    add("--heads", type=int, metavar="N", help="where the file does not say")
    return parser


if __name__ == "__main__":
    sys.exit(main())
