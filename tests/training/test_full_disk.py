"""A disk that fills up, at any write: a clear error, the last good checkpoint, and on it goes."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.kill_training import is_readable, lines_of, outcome
from media.spec import InputSpec
from models.checkpoint import read_description
from models.spec import EncodingSpec, ModelSpec
from models.vit import VisionTransformer
from tests.helpers import training_runs
from tests.helpers.disks import small_disk
from tests.helpers.effort import alone
from tests.helpers.training_runs import Chatter, before, check_refused, command, names
from training.__main__ import main
from training.optim import make_average
from training.run import Run, State
from training.step import NotFinite

pytestmark = alone

pictures = training_runs.pictures
FULL = "No space left on device|File too large"


@pytest.fixture(scope="module")
def calm(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs without a report, which would take longer than the run."""
    out = tmp_path_factory.mktemp("runs") / "calm"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("training.loop.make_report", lambda *_: None)
        assert main(command(pictures, out)) == 0
    return out


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.loop.make_report", lambda *_: None)


def litter(out: Path) -> list[Path]:
    """Whatever was left half written."""
    return [path for path in out.rglob("*") if path.name[0] == "."] if out.exists() else []


# --- disks of many sizes ------------------------------------------------------------------------


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("share", [0.1, 0.25, 0.4, 0.6, 0.8])
def test_small_disk_keeps_the_last_good_checkpoint(
    calm: Path, pictures: Path, disk: Path, capsys: Chatter, share: float
) -> None:
    """A run ends with a message; given room, it goes on as if the disk had never been full."""
    out = disk / "run"
    folders = [path for path in (calm / "checkpoints").iterdir()]
    need = 3 * sum(file.stat().st_size for file in folders[0].iterdir())  # last, best, the next
    with small_disk(disk, int(share * need)):
        check_refused(command(pictures, out), capsys, FULL, status=1)
    assert is_readable(out)
    assert litter(out) == []
    assert main(command(pictures, out, resume=Run(out).exists())) == 0
    assert outcome(out) == outcome(calm)


# --- a disk that is full at one write -----------------------------------------------------------


@pytest.fixture
def ample(disk: Path) -> Iterator[Path]:
    """A file system of its own, with room for everything."""
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)]
    if os.getuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    yield disk


def fill(folder: Path) -> None:
    """Take all room that the file system has left."""
    descriptor = os.open(folder / "ballast", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while os.write(descriptor, bytes(1 << 16)):
            pass
    os.close(descriptor)


#: Before which call of what the disk fills up, and the step of the checkpoint that is kept.
WRITES = (
    ("training.run.save_tensors", 1, None),
    ("training.run.save_checkpoint", 1, None),  # of the first checkpoint the second half
    ("training.loop.Curves", 1, 0),
    ("training.run.save_tensors", 2, 0),
    ("models.checkpoint.write_atomic", 2, 0),  # a description, beside weights that are whole
    ("training.run.Run.log", 1, 4),
    ("training.run.Run.keep_evidence", 1, 2),
    ("training.loop.make_report", 1, 15),
)


@pytest.mark.parametrize(("function", "call", "kept"), WRITES)
def test_disk_that_is_full_at_one_write_keeps_the_last_good_checkpoint(
    calm: Path,
    pictures: Path,
    ample: Path,
    capsys: Chatter,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    call: int,
    kept: int | None,
) -> None:
    """Every kind of file: status 1, one error, ``last`` as it was, and the same end with room."""
    out, messages = ample / "run", [FULL]
    if function.endswith("keep_evidence"):
        monkeypatch.setattr(*before("training.loop.train_step", 4, break_loss))
        messages += ["the loss is nan at step 3; from 1 items: train/red/0.png"]
    if not function.endswith("make_report"):
        monkeypatch.setattr("training.loop.make_report", lambda *_: None)
    monkeypatch.setattr(*before(function, call, lambda *_: fill(ample)))
    check_refused(command(pictures, out), capsys, *messages, status=1)
    assert is_readable(out)
    assert litter(out) == []
    assert Run(out).exists() == (kept is not None)
    if kept is not None:
        assert read_description(out / "last").notes["step"] == kept
        check_refused(command(pictures, out, resume=True), capsys, FULL, status=1)  # still full
        assert (is_readable(out), litter(out)) == (True, [])
    (ample / "ballast").unlink()
    assert main(command(pictures, out, resume=Run(out).exists())) == 0
    ended, expected = outcome(out), outcome(calm)
    if function.endswith("make_report"):
        assert (out / "report" / "index.html").is_file()
        ended |= {key: expected[key] for key in ("names", "figures")}  # of a run without one
    assert ended == expected


def break_loss(*_: object) -> None:
    raise NotFinite("the loss is nan", 3, ["train/red/0.png"])


# --- every single call of a save ----------------------------------------------------------------

SPEC = ModelSpec(
    patch=(4, 2),
    grid=(3, 5),
    classes=3,
    width=16,
    depth=1,
    heads=2,
    mlp_dim=8,
    encoding=EncodingSpec("liere", block=4),
)
INPUT, LABELS = InputSpec(), ("a", "b", "c")
#: What writing goes through in this process; safetensors writes by itself, see the small disks.
CALLS = ("open", "fdopen", "fsync", "mkdir", "chmod", "replace", "rename", "symlink")


class Fault:
    """The n-th writing call of the operating system fails, and all later ones too if it lasts."""

    def __init__(self, number: int, lasting: bool) -> None:
        self.number, self.lasting, self.seen = number, lasting, 0

    def __enter__(self) -> Fault:
        self.originals = {name: getattr(os, name) for name in CALLS}
        for name in CALLS:
            setattr(os, name, self._failing(name))
        return self

    def __exit__(self, *_: object) -> None:
        for name, original in self.originals.items():
            setattr(os, name, original)

    def _failing(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name != "open" or arguments[1] & os.O_CREAT:  # reading needs no room
                self.seen += 1
                if self.seen == self.number or (self.lasting and self.seen > self.number):
                    if name == "fdopen":  # the file is there, and what is written to it is not
                        os.close(arguments[0])
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.originals[name](*arguments, **options)

        return call


@functools.cache
def state_after(step: int) -> State:
    """Weights, moments and averages that differ from step to step; not to be changed."""
    return make_state(step)


def make_state(step: int) -> State:
    """As after so many steps, to be changed."""
    torch.manual_seed(0)
    model = VisionTransformer(SPEC, INPUT)
    state = State(model, torch.optim.AdamW(model.parameters(), lr=0.1), make_average(model, 0.9))
    for number in range(step):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.1 + number)
        state.optimiser.step()
        assert state.average is not None
        state.average.update_parameters(model)
    return state


def save(run: Run, step: int) -> None:
    """As the training loop does after a finite step; every second step is the best so far."""
    if run.exists():
        run.prove()
    notes = {"step": step, "measured": step, "losses": 0.0, "config": {}, "data": {}}
    notes["best"] = {"step": step - step % 2} if step > 1 else None
    run.save(state_after(step), INPUT, LABELS, notes)


def check_holds(run: Run, *steps: int) -> int:
    """``last`` is whole, of one of the steps, and restores to that very state; returns the step."""
    assert is_readable(run.root)
    step = read_description(run.root / "last").notes["step"]
    assert step in steps
    restored, expected = make_state(0), state_after(step)
    run.restore(restored)
    for mine, other in (
        (restored.tensors(), expected.tensors()),
        (restored.measured().state_dict(), expected.measured().state_dict()),
    ):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in other)
    return step


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("step", [0, 2, 3])
def test_every_call_of_a_save_may_fail(tmp_path: Path, step: int, lasting: bool) -> None:
    """The first checkpoint or a later one, the best or not: nothing is lost, the next one works."""
    begun = Run(tmp_path / "begun")
    begun.begin()
    for earlier in range(step):
        save(begun, earlier)
    number, hit = 0, True
    while hit:
        number += 1
        run = Run(shutil.copytree(begun.root, tmp_path / str(number), symlinks=True))
        with Fault(number, lasting) as fault:
            failed = fails(save, run, step)
        hit = fault.seen >= number
        if run.exists():
            assert check_holds(run, step - 1, step) == step or failed
        else:
            assert (step, failed) == (0, True)
            run.check(resume=False)
            run.begin()
        save(run, step + 1)
        check_holds(run, step + 1)
        assert litter(run.root) == []
        linked = {link.resolve().name for link in run.root.iterdir() if link.is_symlink()}
        assert names(run.checkpoints) == linked
    assert number > 15


def fails(act: Callable[..., None], *arguments: Any) -> bool:
    """Whether the disk was full; a folder that is there already need not be made."""
    try:
        act(*arguments)
    except OSError as error:
        assert error.errno == errno.ENOSPC
        return True
    return False


@pytest.mark.parametrize("lasting", [False, True])
def test_every_call_of_a_resume_may_fail(tmp_path: Path, lasting: bool) -> None:
    """What a kill left is put in order at the resume, or at the next one."""
    killed = Run(tmp_path / "killed")
    killed.begin()
    for step in range(3):
        save(killed, step)
        killed.log({"step": step})
    killed.log({"step": 3})  # the kill came before the checkpoint of that step
    (killed.root / "previous").unlink()  # step 2 had proved itself, and best is not linked yet
    (killed.root / "best").unlink(missing_ok=True)
    (killed.root / ".metrics.jsonl.half").touch()
    (killed.checkpoints / ".step-00000003.half").mkdir()
    number, hit = 0, True
    while hit:
        number += 1
        run = Run(shutil.copytree(killed.root, tmp_path / str(number), symlinks=True))
        with Fault(number, lasting) as fault:
            failed = fails(run.restore, make_state(0))
        hit = fault.seen >= number
        assert failed == hit
        check_holds(run, 2)
        assert [line["step"] for line in lines_of(run.root)] == [0, 1, 2]
        assert (run.root / "best").resolve() == (run.root / "last").resolve()
        assert litter(run.root) == []
    assert number > 5
