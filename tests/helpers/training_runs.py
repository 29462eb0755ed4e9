"""Tiny training runs: pictures, command lines, and how they must end."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kill_training import picture
from training.__main__ import main

COLOURS = {"blue": (40, 60, 200), "green": (40, 200, 60), "red": (200, 60, 40)}
#: Five steps an epoch, a checkpoint every second step; nothing is square.
TINY = (
    "batch=8", "epochs=3", "save_every=2", "warmup_steps=3", "model.grid=[3,4]", "model.width=32",
    "model.mlp_dim=32", "model.dropout=0.1", "augment.flip=true", "workers=1",
)  # fmt: skip

Chatter = pytest.CaptureFixture[str]


def make_data(root: Path, classes: dict[str, tuple[int, int, int]], train: int = 14) -> Path:
    """SPLIT/CLASS/file with some training and four validation pictures a class."""
    for split, count in (("train", train), ("val", 4)):
        for place, (name, colour) in enumerate(classes.items()):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                seed = 1000 * place + index + (500 if split == "val" else 0)
                (folder / f"{index}.png").write_bytes(picture(colour, seed))
    return root


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """42 training and 12 validation pictures of three classes; not to be written to."""
    return make_data(tmp_path_factory.mktemp("pictures") / "data", COLOURS)


@pytest.fixture(scope="module")
def finished(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert main(command(pictures, out)) == 0
    return out


def command(
    data: Path, out: Path, *settings: str, resume: bool = False, init_from: Path | None = None
) -> list[str]:
    """The command line of a tiny run; later settings win."""
    arguments = ["smoke", "--data", str(data), "--out", str(out)] + ["--resume"] * resume
    arguments += ["--init-from", str(init_from)] if init_from else []
    for setting in (*TINY, *settings):
        arguments += ["--set", setting]
    return arguments


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def check_refused(arguments: list[str], capsys: Chatter, *messages: str, status: int = 2) -> None:
    """The command ends with the status and one error that holds every message."""
    capsys.readouterr()
    assert main(arguments) == status
    error = capsys.readouterr().err
    assert len(re.findall("^error: ", error, flags=re.MULTILINE)) == 1
    assert "Traceback" not in error
    for message in messages:
        assert re.search(message, error), f"expected {message!r} in {error!r}"


def before(function: str, call: int, act: Callable[..., object]) -> tuple[Any, str, Any]:
    """What to set (owner, name, function) so that ``act`` comes before a call of a function.

    Args:
        function: its dotted name.
        call: before which of its calls; ``act`` gets the arguments of that call.
    """
    place, _, name = function.rpartition(".")
    owner = pkgutil.resolve_name(place)
    original, calls = getattr(owner, name), []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            act(*arguments, **options)
        return original(*arguments, **options)

    return owner, name, interrupted
