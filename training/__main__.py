"""python -m training PRESET --data PATH --out RUN."""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path

from models.checkpoint import CheckpointError
from models.sources import SourceError
from models.spec import SpecError
from training.config import override
from training.loop import train
from training.presets import PRESETS


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 (the run failed) or 2 (bad input)."""
    options = _parser().parse_args(arguments)
    try:
        config = override(PRESETS[options.preset](str(options.data)), options.set)
        best = train(config, options.out, options.resume)
    except (SpecError, SourceError, CheckpointError, FileExistsError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OSError, FloatingPointError) as error:
        print(f"error: {error}\nthe last good checkpoint is kept: {options.out}/last", file=sys.stderr)
        return 1
    print(f"best: val top-1 {best['val_top1']:.4f} at epoch {best['epoch']}, in {options.out}/best")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Train a vision transformer from labelled media.",
        epilog="presets:\n" + "\n".join(_teach(name) for name in PRESETS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("preset", choices=sorted(PRESETS), help="a complete set of values, below")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="CLASS/file or SPLIT/CLASS/file folder, .csv (path,label,split,group) or .npz",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a value, e.g. epochs=3 or model.encoding.block=4; repeatable",
    )
    return parser


def _teach(name: str) -> str:
    text = inspect.getdoc(PRESETS[name]) or ""
    return f"  {name}\n" + "\n".join(f"    {line}" for line in text.splitlines())


if __name__ == "__main__":
    sys.exit(main())
