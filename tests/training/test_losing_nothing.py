"""Runs that are killed or asked to stop, at every place and at random instants, lose nothing."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.kill_training import (
    ELSEWHERE,
    INSIDE,
    SETTINGS,
    UNLINKED,
    UNSETTLED,
    Ground,
    is_readable,
    make_ground,
    outcome,
    place_of,
    run_trial,
)
from models.checkpoint import read_description
from tests.conftest import ROOT
from tests.helpers import training_runs
from tests.helpers.effort import alone, effort
from tests.helpers.forks import killable
from tests.helpers.training_runs import before, command, names
from training.__main__ import main
from training.run import Run

pytestmark = alone

pictures, finished = training_runs.pictures, training_runs.finished

#: Five steps an epoch and a checkpoint every second step, as in TINY; the rest as in the long form.
EVERYTHING = (*SETTINGS, "save_every=2")


@dataclasses.dataclass(frozen=True)
class Interruption:
    """Signals that a process sends to itself before a call of a function.

    Attributes:
        function: dotted name.
        call: before which of its calls.
        signals: one after the other.
    """

    function: str
    call: int = 1
    signals: tuple[int, ...] = (signal.SIGKILL,)

    def install(self) -> None:
        """Put the signals in front of the function."""
        setattr(*before(self.function, self.call, self._act))

    def _act(self, *arguments: Any, **_: Any) -> None:
        if self.function.endswith(".log"):  # a kill may cut its line in two
            with arguments[0].metrics.open("a") as stream:
                stream.write('{"step": 5, "epo')
        for number in self.signals:
            signal.raise_signal(number)


def train_interrupted(arguments: list[str], log: Path, interruption: Interruption | None) -> None:
    """A whole training process, in a child."""
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    torch.set_num_threads(1)
    if interruption:
        interruption.install()
    os._exit(main(arguments))


Start = Callable[..., None]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the processes of ``run`` say."""
    return tmp_path_factory.mktemp("log") / "training.txt"


@pytest.fixture(scope="module")
def run(log: Path) -> Start:
    """Runs ``train_interrupted`` to its end, forked from a process that has imported torch."""
    context = killable()

    def run(arguments: list[str], expected: int, interruption: Interruption | None = None) -> None:
        resume = ["--resume"] * Run(Path(arguments[4])).exists()
        target = (arguments + resume, log, interruption)
        process = context.Process(target=train_interrupted, args=target)
        process.start()
        process.join(100)
        assert process.exitcode == expected, log.read_text()[-3000:]
        process.close()

    return run


# --- killed -----------------------------------------------------------------------------------

#: Where a run dies, one after the other, each in a process of its own, and what lies there then.
DEATHS = (
    (Interruption("training.run.save_checkpoint"), INSIDE),  # the very first one
    (Interruption("training.run.Run._link"), UNLINKED),
    (Interruption("training.loop.train_step", 4), ELSEWHERE),  # a step after a checkpoint
    (Interruption("models.checkpoint.write_atomic"), INSIDE),  # weights without description
    (Interruption("pathlib.Path.replace", 2), UNLINKED),  # the new link has its temporary name
    (Interruption("training.run.Run.log"), ELSEWHERE),  # an epoch's line is half written
    (Interruption("training.run.write_atomic"), ELSEWHERE),  # while that line is taken back
    (Interruption("training.run.Run.prove", 2), ELSEWHERE),  # last is linked, best waits
    (Interruption("training.run.Run._settle", 2), UNSETTLED),  # last has proved itself
    (Interruption("shutil.rmtree", 2), UNSETTLED),  # while old checkpoints are removed
    (Interruption("training.loop.Fit._save"), ELSEWHERE),  # an epoch's line without checkpoint
    (Interruption("training.curves.Curves.add", 2), ELSEWHERE),
    (Interruption("training.loop.make_report"), ELSEWHERE),
    (Interruption("media.files.sync_tree"), ELSEWHERE),  # the report has no name yet
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["from scratch", "fine-tuned"])
def test_killed_run_resumes_to_the_same_weights(
    pictures: Path, finished: Path, tmp_path: Path, run: Start, kind: str
) -> None:
    """Killed at every place, a run ends with the bits, links and lines of one left in peace."""
    tuning = ("precision=bf16", "model.grid=[4,5]", "head=keep", "freeze=1", "layer_decay=0.8")
    settings = EVERYTHING if kind == "from scratch" else tuning
    origin = None if kind == "from scratch" else finished
    calm, troubled = (
        command(pictures, tmp_path / name, *settings, init_from=origin)
        for name in ("calm", "troubled")
    )
    run(calm, 0)
    for death, place in DEATHS:
        run(troubled, -signal.SIGKILL, death)
        assert place_of(tmp_path / "troubled") == place, death
        assert is_readable(tmp_path / "troubled"), death
    run(troubled, 0)
    assert outcome(tmp_path / "troubled") == outcome(tmp_path / "calm")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """What the long form is about: pictures and a run of them, left in peace."""
    return make_ground(tmp_path_factory.mktemp("ground"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(effort(1, 4)))
def test_run_killed_at_any_instant_resumes_to_the_same_weights(ground: Ground, seed: int) -> None:
    """The long form, with few kills: real processes, from their first instant to their last."""
    trial = run_trial(ground, seed)
    assert trial.places
    assert (trial.wrong, trial.unreadable) == ([], 0)


def test_best_is_linked_though_the_kill_came_in_between(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill after ``last`` and before ``best`` was linked is made good at the resume."""
    arguments = command(pictures, tmp_path / "run", "epochs=1")
    with monkeypatch.context() as patched:
        patched.setattr(Run, "_settle", lambda self, notes: None)
        patched.setattr("training.loop.make_report", lambda *_: None)
        assert main(arguments) == 0
    assert not (tmp_path / "run" / "best").exists()
    assert main([*arguments, "--resume"]) == 0
    links = [(tmp_path / "run" / name).resolve() for name in ("last", "best")]
    assert links[0] == links[1]
    assert names(tmp_path / "run" / "checkpoints") == {links[0].name}


# --- asked to stop ----------------------------------------------------------------------------

#: Where the signal comes, one after the other, and the step of the checkpoint that is then kept.
PHASES = (
    (Interruption("media.contents._read_one", 5), None),  # decoding: nothing to keep
    (Interruption("training.run.save_checkpoint"), 0),
    (Interruption("training.step.autocast", 5), 1),  # between the two parts of the second step
    (Interruption("training.loop.train_step", 2), 2),
    (Interruption("training.loop.evaluate"), 5),
    (Interruption("training.run.Run._settle", 2), 5),  # the checkpoint of that step, measured
    (Interruption("training.run.save_checkpoint", 6), 15),  # the last one of all
    (Interruption("training.loop.make_report"), 15),
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_that_is_asked_to_stop_keeps_every_step(
    pictures: Path, tmp_path: Path, run: Start, log: Path, number: signal.Signals
) -> None:
    """In every phase the run saves the last whole step, says so, and resumes as if never asked."""
    calm, troubled = (
        command(pictures, tmp_path / name, *EVERYTHING) for name in ("calm", "troubled")
    )
    run(calm, 0)
    for phase, step in PHASES:
        log.write_text("")
        run(troubled, 128 + number, dataclasses.replace(phase, signals=(number,)))
        assert f"stopped by {number.name}" in log.read_text(), phase
        assert "Traceback" not in log.read_text(), phase
        if step is None:
            assert not (tmp_path / "troubled").exists()
            continue
        assert "--resume continues from it" in log.read_text(), phase
        assert read_description(tmp_path / "troubled" / "last").notes["step"] == step, phase
        assert (place_of(tmp_path / "troubled"), is_readable(tmp_path / "troubled")) == (
            ELSEWHERE,
            True,
        )
    run(troubled, 0)
    assert outcome(tmp_path / "troubled") == outcome(tmp_path / "calm")


def test_second_signal_ends_the_run_at_once(pictures: Path, tmp_path: Path, run: Start) -> None:
    """Even inside a checkpoint, which is then thrown away and harms nobody."""
    calm, troubled = command(pictures, tmp_path / "calm"), command(pictures, tmp_path / "troubled")
    run(calm, 0)
    twice = Interruption("training.run.save_checkpoint", 3, (signal.SIGTERM, signal.SIGTERM))
    run(troubled, 128 + signal.SIGTERM, twice)
    assert place_of(tmp_path / "troubled") == INSIDE
    assert read_description(tmp_path / "troubled" / "last").notes["step"] == 2
    run(troubled, 0)
    assert outcome(tmp_path / "troubled") == outcome(tmp_path / "calm")


def test_step_that_is_measured_late_does_not_replace_its_checkpoint(
    pictures: Path, tmp_path: Path, run: Start
) -> None:
    """Stopped while it measured, then killed while it saves that step again: ``last`` is whole."""
    arguments = command(pictures, tmp_path / "run")
    run(arguments, 143, Interruption("training.loop.evaluate", signals=(signal.SIGTERM,)))
    kept = (tmp_path / "run" / "last").resolve()
    run(arguments, -signal.SIGKILL, Interruption("training.run.save_checkpoint"))
    assert (tmp_path / "run" / "last").resolve() == kept
    assert is_readable(tmp_path / "run")


# --- a real command, as the first process of a container too ------------------------------------


def as_first(arguments: list[str]) -> list[str]:
    """The command as process 1 of a namespace of its own."""
    prefix = ["unshare", "--pid", "--fork", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("this user may not make a namespace of processes")
    return [*prefix, *arguments]


def stop_when(
    arguments: list[str], first: bool, ready: Path, modules: str = ""
) -> tuple[int, str]:
    """Start the command, ask it to stop when a file is there; its status and what it said.

    Args:
        first: as process 1.
        modules: a folder whose modules are imported rather than those that are installed.
    """
    shell = [sys.executable, "-m", "training", *arguments]
    shell = as_first(shell) if first else shell
    environment = os.environ | {"PYTHONPATH": modules}
    with subprocess.Popen(
        shell, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            while not ready.exists():
                assert process.poll() is None
                time.sleep(0.01)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            os.kill(int(children) if first else process.pid, signal.SIGTERM)
            _, said = process.communicate(timeout=100)
        finally:
            process.kill()
    return process.returncode, said


@pytest.mark.parametrize("first", [False, True])
def test_run_stops_while_it_steps(pictures: Path, tmp_path: Path, first: bool) -> None:
    """The kernel drops signals that process 1 has no handler for: training has one."""
    arguments = command(pictures, tmp_path / "run", "epochs=100000", "save_every=1")
    status, said = stop_when(arguments, first, ready=tmp_path / "run" / "best")
    assert status == 143
    assert "stopped by SIGTERM" in said
    assert read_description(tmp_path / "run" / "last").notes["step"] >= 5


@pytest.mark.parametrize("first", [False, True])
def test_run_stops_while_it_imports(pictures: Path, tmp_path: Path, first: bool) -> None:
    """Importing torch takes seconds: a signal ends the process, without a word and a trace."""
    (tmp_path / "torch").mkdir()
    endless = f"import pathlib, time\npathlib.Path({str(tmp_path / 'ready')!r}).touch()\n"
    (tmp_path / "torch" / "__init__.py").write_text(endless + "time.sleep(600)\n")
    arguments = command(pictures, tmp_path / "run")
    assert stop_when(arguments, first, tmp_path / "ready", str(tmp_path)) == (143, "")
    assert not (tmp_path / "run").exists()
