"""The command line: PRESET --data PATH --out RUN, and the commands beside it (``OTHERS``)."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from media.spec import SpecError
from media.strict_json import from_json, to_json
from models.encodings import options_help
from training import predict, probe, split
from training.batches import NoBatch
from training.compare import compare
from training.config import Augment, TrainConfig
from training.failures import BAD_INPUT, FAILED
from training.finetune import at_size, recipe_for
from training.history import going_on
from training.joining import joined, started
from training.loop import train
from training.memory import OutOfMemory, told
from training.presets import FROM_CHECKPOINT, PRESETS, SIZES
from training.processes import Ended, Processes
from training.report import report
from training.run import Run
from training.settings import LISTS, MAY_CHANGE, named, override
from training.shared_run import agree, versions
from training.step import NotFinite
from training.stopping import Stopped

#: Commands beside the presets: a function of the remaining arguments that gives the exit status.
OTHERS = {
    "compare": compare.main,
    "split": split.main,
    "report": report.main,
    "predict": predict.main,
    "linear-probe": probe.main_linear_probe,
    "knn": probe.main_knn,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status.

    0, 1 (the run failed), 2 (bad input), 143 and 130 (SIGTERM, SIGINT; a checkpoint is kept).
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in OTHERS:
        if started() > 1:
            print(f"error: training {arguments[0]} runs as one process", file=sys.stderr)
            return 2
        return OTHERS[arguments[0]](arguments[1:])
    arguments = _resume_said(arguments)
    options = _parser().parse_args(arguments)
    try:
        with joined() as processes:
            return _train(options, arguments, processes)
    except (SpecError, Ended) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status if isinstance(error, Ended) else 2


def _train(options: argparse.Namespace, arguments: Sequence[str], processes: Processes) -> int:
    config = None

    def failed(status: int, what: str, then: str = "") -> int:
        if processes.tells(what, status):
            print(f"{what}{then}", file=sys.stderr)
        return status

    try:
        resume = processes.from_writer(lambda: _resumes(options))
        config = _config(options, resume, processes)
        agree(processes, "what computes", versions)
        agree(processes, "the settings", lambda: _asked(options, config))
        with told("while training"):
            best = train(
                config,
                options.out,
                resume,
                not options.no_report,
                verify_data=options.verify_data,
                processes=processes,
            )
        processes.leave()
    except BAD_INPUT as error:
        return failed(2, f"error: {error}")
    except FAILED as error:
        ways = _ways_on(error, config) if config else []
        return failed(1, f"error: {error}", _kept(options.out, ways, arguments))
    except Stopped as stopped:
        return failed(stopped.status, f"stopped by {stopped}", _kept(options.out))
    except Ended as ended:
        return failed(ended.status, f"error: {ended}", _kept(options.out, way="--resume auto"))
    if not processes.writer:
        return 0
    report = f"figures and pictures: {options.out}/report/index.html"
    if options.no_report:
        report = f"no report was made; python -m training report {options.out} makes it"
    print(
        f"best: val top-1 {best['val_top1']:.4f} at epoch {best['epoch']}, in {options.out}/best; "
        f"{report}"
    )
    return 0


def _asked(options: argparse.Namespace, config: TrainConfig) -> dict[str, Any]:
    """What must be asked of all processes alike."""
    said = {name: getattr(options, name) for name in ("preset", "resume", "no_report")}
    return named(config) | said | {
        "verify_data": options.verify_data,
        "init_from": config.init_from is not None,
        "cache": config.cache is not None,
    }


def _resume_said(arguments: Sequence[str]) -> list[str]:
    """``--resume auto`` as one argument: without it, whatever follows is no value of it."""
    said: list[str] = []
    for argument in arguments:
        if argument == "auto" and said[-1:] == ["--resume"]:
            said[-1] = "--resume=auto"
        else:
            said.append(argument)
    return ["--resume=always" if argument == "--resume" else argument for argument in said]


def _resumes(options: argparse.Namespace) -> bool:
    """Whether a run goes on."""
    return options.resume == "always" or (options.resume == "auto" and Run(options.out).exists())


def _config(options: argparse.Namespace, resume: bool, processes: Processes) -> TrainConfig:
    """As the run's folder, which the writer reads, and this process's own arguments say."""
    begun = processes.from_writer(lambda: to_json(_begun(options, resume)))
    config = from_json(TrainConfig, begun | {"data": str(options.data)}, "config")
    if options.init_from:
        config = dataclasses.replace(config, init_from=str(options.init_from))
    if options.allow_duplicates:
        config = dataclasses.replace(config, allow_duplicates=True)
    return override(config, options.set)


def _begun(options: argparse.Namespace, resume: bool) -> TrainConfig:
    """What the preset says, a checkpoint to begin from, and the run that goes on."""
    config, run = PRESETS[options.preset](str(options.data)), Run(options.out)
    if options.init_from:
        config = recipe_for(config, options.out / "last" if resume else options.init_from)
        config = dataclasses.replace(config, init_from=str(options.init_from))
        if options.preset in SIZES and not resume:  # which keeps the size that the run has
            config = at_size(config, SIZES[options.preset])
    elif options.preset in FROM_CHECKPOINT:
        raise SpecError(
            f"{options.preset} starts from a checkpoint: expected --init-from RUN, got none"
        )
    if resume and run.exists():  # what may change stays as it is until it is named
        config = going_on(config, run.notes(), run.history())
    return config


def _ways_on(error: BaseException, config: TrainConfig) -> list[str]:
    """Settings that a run may go on with after it failed, the best first; as they are typed."""
    if isinstance(error, OutOfMemory | NoBatch):
        return [f"--set {shlex.quote(setting)}" for setting in error.settings]
    if not isinstance(error, NotFinite):
        return []
    ways = [
        f"--set learning_rate={config.learning_rate / 10:g}",
        f"--set clip_norm={config.clip_norm / 10 or 1:g}",
        f"--set seed={config.seed + 1}",
    ]
    if config.precision != "fp32":
        ways.append("--set precision=fp32")
    if 0 < len(error.samples) <= min(8, config.batch - 1):  # it is they, and not the weights
        skip = (f"--set {shlex.quote(f'skip={id_}')}" for id_ in error.samples)
        return [" ".join(skip), *ways]
    return [*ways, "--set skip=ID, for an item above that is to blame"] if error.samples else ways


def _kept(
    out: Path, ways: Sequence[str] = (), arguments: Sequence[str] = (), way: str = "--resume"
) -> str:
    """What a run that stopped leaves behind and how to go on, as lines of their own."""
    if not Run(out).exists():
        return ""
    kept = f"\nthe last good checkpoint is kept in {out}/last"
    if not ways:
        return f"{kept}; {way} continues from it"
    first, *others = ways
    keys = {key for way in ways for key in re.findall(r"--set '?(\w+)=", way)} - {*LISTS}
    again = shlex.join(_without(arguments, keys))  # the run keeps what it was given of them
    lines = [f"{kept}. To go on from it with another setting, such as:"]
    lines.append(f"  python -m training {again} --resume {first}")
    lines += [f"or with {other}" for other in others]
    return "\n".join(lines)


def _without(arguments: Sequence[str], keys: set[str]) -> list[str]:
    """The arguments without ``--resume`` and without settings of these keys."""
    kept: list[str] = []
    for argument in arguments:
        setting = argument.removeprefix("--set=")
        named = setting.partition("=")[0] in keys
        if named and setting != argument:
            continue
        if named and kept[-1] == "--set":
            kept.pop()
        elif not argument.startswith("--resume"):
            kept.append(argument)
    return kept


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
        "\n      python -m training report --help (figures and pictures of a run, once more)"
        "\n      python -m training predict --help (what a checkpoint says of files, as a CSV)"
        "\n      python -m training linear-probe --help (a linear head, fitted in seconds)"
        "\n      python -m training knn --help (what the nearest training items say)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("preset", choices=sorted(PRESETS), help="a complete set of values, below")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="CLASS/file or SPLIT/CLASS/file in a folder, .zip or .tar; "
        ".csv (path,label,split,group) or .npz; a folder of tar shards with .cls or .json, or "
        "'DIR/train-{000..146}.tar'; splits that are missing are made, 80/10/10 of "
        "every class: keep items of one person together by a group (training split). A DICOM "
        "series is one item, as a .zip",
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
    parser.add_argument(
        "--resume",
        nargs="?",
        choices=("always", "auto"),
        const="always",
        help=f"continue the run in --out; with auto begin it where there is none, so that the "
        f"same command does both. With --set it may go on with another {', '.join(MAY_CHANGE)}, "
        "which it keeps from then on and remembers",
    )
    parser.add_argument(
        "--no-report",
        action="store_true",
        help="end without the report; python -m training report RUN makes it later",
    )
    parser.add_argument(
        "--allow-duplicates",
        action="store_true",
        help="go on where the same bytes lie in two splits; the report and the card say so",
    )
    parser.add_argument(
        "--verify-data",
        action="store_true",
        help="read all items before the first step, known ones too; else more than 1 GiB of new "
        "ones is read beside the steps of the first epoch, and ends the run where bytes lie in two "
        "splits",
    )
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
