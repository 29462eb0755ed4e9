"""python -m export RUN --grid 8x8 --out bundles: a checkpoint becomes a bundle."""

from __future__ import annotations

import argparse
import math
import os
import sys
import typing
from pathlib import Path

from rich.console import Console

from export.check import GraphError
from export.make import Options, make_bundle
from export.parity import ParityError
from export.workers import add_workers
from media import MediaError
from media.sources import SourceError
from media.spec import Grid, SpecError
from models.bundle import Bundle, BundleError
from models.checkpoint import DESCRIPTION, CheckpointError
from models.manifest import Precision
from models.versions import answering

BAD_INPUT = (
    SpecError,
    SourceError,
    CheckpointError,
    MediaError,
    UnicodeDecodeError,
    FileExistsError,
    FileNotFoundError,
)


def main(arguments: list[str]) -> int:
    """Write one bundle; the exit status is 0, 1 (the proof failed) or 2 (bad input)."""
    words = _parser().parse_args(arguments)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        bundle = make_bundle(_options(words), console)
    except BAD_INPUT as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (GraphError, ParityError, BundleError, OSError) as error:
        print(f"error: {error}\nno bundle was written", file=sys.stderr)
        return 1
    print(f"wrote {bundle.root}; serve it with: python -m service --bundles {words.out}")
    if words.version is not None:
        _tell_who_answers(words, bundle)
    return 0


def _tell_who_answers(words: argparse.Namespace, bundle: Bundle) -> None:
    """Of the versions beside the new one; where that cannot be told, why."""
    name, version = bundle.manifest.name, bundle.manifest.version
    promote = f"python -m service bundles promote {name} {version} --bundles {words.out}"
    try:
        answers = answering(bundle.root.parent)
    except BundleError as error:
        print(f"no version of {name} answers, {error}; for this one: {promote}")
        return
    this = "" if answers == version else f"; for this one: {promote}"
    print(f"version {answers} of {name} answers{this}")


def _options(words: argparse.Namespace) -> Options:
    best = words.run / "best"
    grids = tuple(Grid.parse(text) for text in words.grid)
    if len(set(grids)) != len(grids):
        raise SpecError(f"each --grid may be given once, got {', '.join(words.grid)}")
    return Options(
        checkpoint=words.run if (words.run / DESCRIPTION).exists() else best,
        grids=grids,
        out=words.out,
        name=words.name or _run_name(words.run),
        version=words.version,
        precision=words.precision,
        data=words.data,
        split=words.split,
        about=words.about.read_text(encoding="utf-8") if words.about else "",
        parity_items=words.parity_items,
        max_table_mb=words.max_table_mb,
        goldens=tuple(words.golden),
        workers=words.workers,
        allow_duplicates=words.allow_duplicates,
        abstain=words.abstain,
        explain=words.explain,
    )


def _run_name(run: Path) -> str:
    """RUN and RUN/best are both named after RUN, not after the step that the link leads to."""
    run = Path(os.path.abspath(run))  # noqa: PTH100 - resolve() would follow the link
    return run.parent.name if run.name in ("best", "last") else run.name


def _probability(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < 1:  # nor where it is no number
        raise argparse.ArgumentTypeError(
            f"expected a probability above 0 and below 1, got {text[:40]!r}"
        )
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Turn a trained run into a bundle that the service can serve.",
        epilog="examples: python -m export runs/digits --grid 8x8 --grid 12x12 --out bundles "
        "(images: height x width); python -m export runs/clips --grid 4x7x7 --out bundles (clips: "
        "time x height x width, scans: depth x height x width); "
        "also: python -m export verify --help (prove a finished bundle again)",
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run (its best checkpoint) or a checkpoint folder")
    add(
        "--grid",
        action="append",
        required=True,
        metavar="8x8",
        help="tokens per axis to export for, 4x7x7 for clips and scans; repeatable, the first is "
        "the default answer",
    )
    add("--out", type=Path, required=True, help="folder of bundles; the bundle is OUT/NAME")
    add("--name", help="name of the bundle (default: the name of RUN)")
    add(
        "--version",
        help="write OUT/NAME/VERSION, beside other versions; a bundle that lies in OUT/NAME itself "
        "moves to a folder of its own version first (default: the bundle is OUT/NAME, version 1)",
    )
    add(
        "--precision",
        choices=typing.get_args(Precision),
        default="fp32",
        help="fp16 halves the weights and is meant for GPUs; on a CPU it answers no faster. It is "
        "a bundle of its own: give it a --name such as digits-fp16. All its logits on the split "
        "must stay near those of the fp32 checkpoint (default: fp32)",
    )
    add("--data", type=Path, help="labelled data to measure on (default: what RUN trained on)")
    add("--split", default="test", help="split to measure on (default: test)")
    add(
        "--allow-duplicates",
        action="store_true",
        help="go on where the same bytes lie in two splits of the data; the card says so",
    )
    add(
        "--abstain",
        type=_probability,
        metavar="P",
        help="let the bundle say that it does not know where its most probable class is less "
        "probable than this, e.g. 0.7; manifest and card say what is left (default: never)",
    )
    add(
        "--explain",
        action="store_true",
        help="write a second graph a grid that also tells where the model looked (rollout of "
        "attention); weights are shared, so the bundle grows little, but a server opens both",
    )
    add("--about", type=Path, metavar="FILE", help="Markdown about data, licence and limits")
    add(
        "--golden",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="picture, clip or scan to replay at start instead of generated ones; repeatable, it "
        "travels in the bundle",
    )
    add(
        "--parity-items",
        type=int,
        default=256,
        help="inputs a grid compared with torch, every view of a clip being one (256)",
    )
    add(
        "--max-table-mb",
        type=float,
        default=256.0,
        help="refuse rotation tables that take more than this when loaded (default: 256)",
    )
    add_workers(parser)
    return parser
