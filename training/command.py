"""The command line: PRESET --data PATH --out RUN, compare, split, report."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
from pathlib import Path

from media.spec import SpecError
from models.encodings import options_help
from training import split
from training.compare import compare
from training.config import Augment, TrainConfig
from training.failures import BAD_INPUT, FAILED
from training.finetune import recipe_for
from training.loop import train
from training.presets import PRESETS
from training.report import report
from training.run import Run
from training.settings import override
from training.stopping import Stopped

#: Commands beside the presets: a function of the remaining arguments that gives the exit status.
OTHERS = {"compare": compare.main, "split": split.main, "report": report.main}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status.

    0, 1 (the run failed), 2 (bad input), 143 and 130 (SIGTERM, SIGINT; a checkpoint is kept).
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in OTHERS:
        return OTHERS[arguments[0]](arguments[1:])
    options = _parser().parse_args(arguments)
    try:
        best = train(_config(options), options.out, options.resume)
    except BAD_INPUT as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FAILED as error:
        print(f"error: {error}{_kept(options.out)}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print(f"stopped by {stopped}{_kept(options.out)}", file=sys.stderr)
        return stopped.status
    print(
        f"best: val top-1 {best['val_top1']:.4f} at epoch {best['epoch']}, in {options.out}/best; "
        f"figures and pictures: {options.out}/report/index.html"
    )
    return 0


def _config(options: argparse.Namespace) -> TrainConfig:
    config = PRESETS[options.preset](str(options.data))
    if options.init_from:
        known = options.out / "last" if options.resume else options.init_from
        config = recipe_for(config, known)
        config = dataclasses.replace(config, init_from=str(options.init_from))
    elif options.preset == "finetune":
        raise SpecError("finetune starts from a checkpoint: expected --init-from RUN, got none")
    return override(config, options.set)


def _kept(out: Path) -> str:
    """What a run that stopped leaves behind, as a line of its own."""
    if not Run(out).exists():
        return ""
    return f"\nthe last good checkpoint is kept in {out}/last; --resume continues from it"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Train a vision transformer from labelled media.",
        epilog="presets:\n"
        + "\n".join(_teach(name) for name in PRESETS)
        + f"\n\nsettings (--set KEY=VALUE):\n{_settings(TrainConfig)}"
        + f"\n\nsettings (--set augment.KEY=VALUE):\n{_settings(Augment)}"
        + "\n\nsettings (--set model.encoding.KEY=VALUE), by name; null takes one back:\n"
        + options_help()
        + "\n\nalso: python -m training split --help (a split that does not leak, as a CSV)"
        "\n      python -m training compare --help (encodings under one recipe, one table)"
        "\n      python -m training report --help (figures and pictures of a run, once more)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("preset", choices=sorted(PRESETS), help="a complete set of values, below")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="CLASS/file or SPLIT/CLASS/file in a folder, .zip or .tar; "
        ".csv (path,label,split,group) or .npz; without splits each item goes somewhere by itself: "
        "keep items of one person together by a group. A DICOM series is one item, as a .zip",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--init-from",
        type=Path,
        metavar="CHECKPOINT",
        help="fine-tune: a run or checkpoint that gives the model, its input and its weights; the "
        "preset gives the recipe and must be for the same modality. Another image size: "
        "--set model.grid=12x12",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a value, e.g. epochs=3 or model.encoding.block=4; repeatable",
    )
    return parser


def _settings(config: type) -> str:
    """The fields of a config as its documentation explains them."""
    return (inspect.getdoc(config) or "").partition("Attributes:\n")[2].rstrip()


def _teach(name: str) -> str:
    text = inspect.getdoc(PRESETS[name]) or ""
    return f"  {name}\n" + "\n".join(f"    {line}" for line in text.splitlines())
