"""Several processes train as one does, stop together, and one that fails ends all by name."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed import HashStore

from benchmarks.kill_training import is_readable, lines_of, outcome
from media.spec import SpecError
from models.checkpoint import read_description
from tests.helpers import training_runs
from tests.helpers.effort import alone
from tests.helpers.several import run, start
from tests.helpers.training_runs import (
    COLOURS,
    before,
    command,
    make_data,
)
from training.__main__ import main
from training.batches import NoBatch
from training.processes import WORD, Ended, Processes, Several
from training.shared_stop import PASSED_ON, SharedStop
from training.stopping import Stopped

pytestmark = alone

pictures = training_runs.pictures

#: Everything that draws or holds state.
EVERYTHING = (
    "batch=16", "epochs=4", "accumulate=2", "model.drop_path=0.2", "ema=0.9", "clip_norm=0.5",
    "augment.mixup=0.4", "augment.cutmix=1.0", "augment.colour=0.3", "sampling=balanced",
    "save_every=100", "precision=fp32", "device=cpu",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Losses:
    """Writes the loss of every step that the writer notes down, a line each; and more."""

    path: Path
    more: Callable[[int], Any] = int

    def __call__(self, rank: int) -> None:
        import training.loop  # noqa: PLC0415 - in the process that it is for

        self.more(rank)
        note = training.loop.Fit._note

        def noted(fit: Any, one: Any, loss: float, norm: float) -> None:
            note(fit, one, loss, norm)
            if fit.setup.processes.writer:
                with self.path.open("a") as stream:
                    stream.write(f"{one.step} {loss!r}\n")

        setattr(training.loop.Fit, "_note", noted)  # noqa: B010 - mypy takes no other type

    def read(self) -> dict[int, float]:
        """By step; of one that was taken again the last."""
        pairs = (line.split() for line in self.path.read_text().splitlines())
        return {int(step): float(loss) for step, loss in pairs}


@dataclasses.dataclass(frozen=True)
class Before:
    """At one rank something happens before a call of a function; ``losses`` are kept besides."""

    rank: int
    function: str
    call: int
    what: str | signal.Signals
    losses: Losses | None = None

    def __call__(self, rank: int) -> None:
        if self.losses:
            self.losses(rank)
        if rank == self.rank:
            setattr(*before(self.function, self.call, self._act))

    def _act(self, *_: Any, **__: Any) -> None:
        if isinstance(self.what, signal.Signals):
            os.kill(os.getpid(), self.what)
        else:
            raise FAULTS[self.what]


FAULTS: dict[str, BaseException] = {
    "no batch": NoBatch("'train/red/5.png' cannot be read: it is gone", ["skip=train/red/5.png"]),
    "full": OSError(28, "No space left on device"),
    "no memory": RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    "bug": ZeroDivisionError("division by zero"),
}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """210 training pictures: 13 steps an epoch."""
    return make_data(tmp_path_factory.mktemp("many") / "data", COLOURS, train=70)


@pytest.fixture(scope="module")
def single(many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The losses of a run of one process, with everything."""
    folder = tmp_path_factory.mktemp("single")
    return losses_of(folder, 1, command(many, folder / "run", *EVERYTHING))


def losses_of(
    folder: Path,
    count: int,
    arguments: list[str] | Callable[[int], list[str]],
    act: Callable[[int], Any] = int,
) -> dict[int, float]:
    """Of a run that ends well; the arguments may be those of a rank."""
    losses = Losses(folder / "losses.txt", act)
    if isinstance(arguments, list):
        same = [*arguments, "--no-report"]
        group = start(folder, count, lambda rank: same, losses)
    else:
        group = start(folder, count, arguments, losses)
    assert group.end() == [0] * count, group.said()
    return losses.read()


# --- the same run ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4])
def test_losses_are_those_of_one_process(
    many: Path, single: dict[int, float], tmp_path: Path, count: int
) -> None:
    """To 1e-5 over 52 steps, with everything that draws, mixes, averages and adds up."""
    found = losses_of(tmp_path, count, command(many, tmp_path / "run", *EVERYTHING))
    assert list(found) == list(single) == list(range(52))
    np.testing.assert_allclose([*found.values()], [*single.values()], rtol=1e-5)


def test_losses_are_those_of_one_process_where_items_are_read_in_steps(
    many: Path, tmp_path: Path
) -> None:
    """With another encoding, whose positions draw too, by workers, from pictures of any part."""
    settings = (
        "batch=16", "epochs=1", "model.encoding.name=comrope_ld", "model.encoding.block=4",
        "augment.crop_from=picture", "augment.crop_scale=[0.3,1]", "model.drop_path=0.2",
    )  # fmt: skip
    found = [
        losses_of(
            tmp_path / str(count),
            count,
            command(many, tmp_path / f"run-{count}", *settings, f"workers={count - 1}"),
        )
        for count in (1, 2)
    ]
    np.testing.assert_allclose([*found[1].values()], [*found[0].values()], rtol=1e-5)
    assert (tmp_path / "run-2/index").exists()


def test_stopped_together_a_run_goes_on_with_any_number_of_processes(
    many: Path, single: dict[int, float], tmp_path: Path
) -> None:
    """A signal to one of two, both with a checkpoint of the same step; then by one, or by four.

    No process but the first has access to the folder of the run.
    """
    losses = Losses(tmp_path / "losses.txt")
    act = Before(1, "training.loop.train_step", 18, signal.SIGTERM, losses)
    places = [tmp_path / "run", tmp_path / "elsewhere"]
    group = start(
        tmp_path, 2, lambda rank: [*command(many, places[rank], *EVERYTHING), "--no-report"], act
    )
    assert group.end() == [143, 143], group.said()
    assert group.said().count("stopped by SIGTERM") == 1
    assert "--resume continues from it" in group.said()
    assert not places[1].exists()
    assert read_description(places[0] / "last").notes["step"] == 17
    for count in (1, 4):
        out = [tmp_path / f"run-{count}", *places[1:] * 3]
        shutil.copytree(places[0], out[0], symlinks=True)
        going_on = [
            [*command(many, place, *EVERYTHING, resume=True), "--no-report"] for place in out
        ]
        rest = losses_of(tmp_path / str(count), count, going_on.__getitem__)
        assert not places[1].exists()
        found = losses.read() | rest
        assert min(rest) == 17
        assert sorted(found) == list(range(52))
        for step, loss in found.items():
            assert loss == pytest.approx(single[step], rel=1e-5), step


def test_signal_while_workers_start_stops_all(pictures: Path, tmp_path: Path) -> None:
    """Their server has got it too, which is no failure to start them."""
    settings = ("augment.crop_from=picture", "workers=1", "batch=6")
    arguments = [*command(pictures, tmp_path / "run", *settings), "--no-report"]
    statuses, said = run(tmp_path, 2, arguments, end_server)
    assert statuses == [143, 143], said
    assert said.count("stopped by SIGTERM") == 1
    assert read_description(tmp_path / "run/last").notes["step"] == 0


def end_server(rank: int) -> None:
    """At rank 1, with the process itself."""
    import training.loader  # noqa: PLC0415 - in the process that it is for

    def end(*_: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise EOFError

    if rank == 1:
        setattr(training.loader, "start_server", end)  # noqa: B010


def test_report_is_measured_together(pictures: Path, tmp_path: Path) -> None:
    """Its figures, and those of an epoch, are those that one process finds in that checkpoint."""
    arguments = command(pictures, tmp_path / "run", "epochs=1")
    statuses, said = run(tmp_path, 2, arguments)
    assert statuses == [0, 0], said
    assert said.count("best: val top-1") == said.count("epoch 1: loss") == 1
    report = tmp_path / "run/report/report.json"
    together = json.loads(report.read_text())
    assert main(["report", str(tmp_path / "run"), "--data", str(pictures)]) == 0
    apart = json.loads(report.read_text())
    figures, expected = (one["splits"]["val"]["figures"] for one in (together, apart))
    for name, figure in figures.items():
        assert figure["value"] == pytest.approx(expected[name]["value"], rel=1e-6), name
    (line,) = lines_of(tmp_path / "run")
    assert line["val_top1"] == figures["top1"]["value"]


def test_cache_is_filled_by_one_and_mapped_by_all(pictures: Path, tmp_path: Path) -> None:
    """Whoever decodes is the leader of its machine, and what it trains on is the same."""
    settings = ("epochs=1", "batch=6", "cache=.cache")
    arguments = command(pictures, tmp_path / "run", *settings)
    found = losses_of(tmp_path, 2, arguments, Decoders(tmp_path / "decoders.txt"))
    assert set((tmp_path / "decoders.txt").read_text().split()) == {"0"}
    again = losses_of(tmp_path / "again", 1, command(pictures, tmp_path / "alone", *settings))
    np.testing.assert_allclose([*found.values()], [*again.values()], rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Decoders:
    """Writes down who decodes, a rank for each item."""

    path: Path

    def __call__(self, rank: int) -> None:
        import media.dataset  # noqa: PLC0415 - in the process that it is for

        decode = media.dataset._decode_one

        def decoded(*arguments: Any) -> Any:
            with self.path.open("a") as stream:
                stream.write(f"{rank}\n")
            return decode(*arguments)

        setattr(media.dataset, "_decode_one", decoded)  # noqa: B010


# --- failures ----------------------------------------------------------------------------------


def test_killed_process_ends_the_run_which_goes_on_to_the_same_weights(
    pictures: Path, tmp_path: Path
) -> None:
    """At most what was since the last checkpoint is lost, and ``--resume auto`` takes it again."""
    settings = ("accumulate=2", "ema=0.9", "epochs=2")
    calm = [*command(pictures, tmp_path / "calm", *settings), "--no-report", "--resume", "auto"]
    assert run(tmp_path / "log", 2, calm)[0] == [0, 0]
    troubled = [*command(pictures, tmp_path / "run", *settings), *calm[-3:]]
    for rank, call in ((1, 4), (0, 3)):
        act = Before(rank, "training.step.finish_gradient", call, signal.SIGKILL)
        statuses, said = run(tmp_path / f"log-{rank}", 2, troubled, act)
        assert statuses[rank] == -signal.SIGKILL
        assert statuses[1 - rank] == 1
        assert said.count("error: another process of the run ended without a word") == 1
        assert "--resume auto continues from it" in said
        assert is_readable(tmp_path / "run")
    assert read_description(tmp_path / "run/last").notes["step"] == 6
    assert run(tmp_path / "log-end", 2, troubled)[0] == [0, 0]
    assert outcome(tmp_path / "run") == outcome(tmp_path / "calm")


@pytest.mark.parametrize(
    ("fault", "rank", "function", "message", "step"),
    [
        ("no batch", 1, "training.step.make_batch", "error: 'train/red/5.png' cannot be read", 3),
        ("full", 0, "training.run.save_checkpoint", "error: .*No space left on device", 4),
        ("no memory", 1, "models.vit.VisionTransformer.encode", "error: out of memory in step", 2),
    ],
)
def test_failure_of_one_process_is_said_once_and_ends_all(
    pictures: Path, tmp_path: Path, fault: str, rank: int, function: str, message: str, step: int
) -> None:
    """In the words of the one that failed, with what to do; the checkpoint before it is kept."""
    arguments = [*command(pictures, tmp_path / "run", "epochs=2"), "--no-report"]
    statuses, said = run(tmp_path, 2, arguments, Before(rank, function, 4, fault))
    assert statuses == [1, 1], said
    assert said.count("error:") == 1
    assert re.search(message, said), said
    assert read_description(tmp_path / "run/last").notes["step"] == step


def test_items_that_break_a_step_are_named_whoever_had_them(
    many: Path, tmp_path: Path
) -> None:
    """All processes end at the same look, and the writer keeps the evidence."""
    arguments = [*command(many, tmp_path / "run", "batch=16", "epochs=1"), "--no-report"]
    statuses, said = run(tmp_path, 2, arguments, break_pixels)
    assert statuses == [1, 1], said
    assert said.count("error: the loss is nan at step 3; from 2 items: train/") == 1
    evidence = json.loads((tmp_path / "run/not-finite.json").read_text())
    assert (evidence["step"], len(evidence["samples"])) == (3, 2)
    assert " ".join(f"--set skip={id_}" for id_ in evidence["samples"]) in said
    assert read_description(tmp_path / "run/last").notes["step"] == 2


def break_pixels(rank: int) -> None:
    """Each process has one item of the fourth batch whose pixels are no numbers."""
    import training.step  # noqa: PLC0415 - in the process that it is for

    original, calls = training.step.augment, []

    def augment(*arguments: Any) -> torch.Tensor:
        images = original(*arguments).float()
        calls.append(rank)
        if len(calls) == 4:
            images[2 + rank, 2, 3] = math.nan
        return images

    setattr(training.step, "augment", augment)  # noqa: B010 - mypy takes no other type


def test_processes_that_disagree_end_with_what_they_disagree_about(
    pictures: Path, tmp_path: Path
) -> None:
    """Every setting with its values and ranks; labels and items of the data likewise."""
    changed = ("learning_rate=0.5", "augment.mixup=0.1", "epochs=3")
    group = start(
        tmp_path / "settings",
        2,
        lambda rank: command(pictures, tmp_path / "run", *changed[2 * rank :]),
    )
    assert group.end() == [2, 2]
    assert group.said().count("error: the processes of the run disagree about the settings") == 1
    assert "learning_rate: 0.5 in 0; 0.001 in 1" in group.said()
    assert "augment.mixup: 0.1 in 0; 0.0 in 1" in group.said()
    assert "epochs" not in group.said()
    other = make_data(tmp_path / "other", COLOURS, train=13)
    group = start(
        tmp_path / "data", 2, lambda rank: command((pictures, other)[rank], tmp_path / "run")
    )
    assert group.end() == [2, 2]
    assert "disagree about the data" in group.said()
    assert "items of train: 42 in 0; 39 in 1" in group.said()
    assert not (tmp_path / "run").exists()


@dataclasses.dataclass(frozen=True)
class OtherDevice:
    """At rank 1 something else comes of looking for the device."""

    found: Callable[..., torch.device]

    def __call__(self, rank: int) -> None:
        import training.loop  # noqa: PLC0415 - in the process that it is for

        if rank == 1:
            setattr(training.loop, "pick_device", self.found)  # noqa: B010


def refuse(*_: Any) -> torch.device:
    raise SpecError("device is cuda and torch sees no GPU")


def find_other(*_: Any) -> torch.device:
    return torch.device("meta")


def be_killed(*_: Any) -> torch.device:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.parametrize(
    ("found", "status", "message"),
    [
        (refuse, 2, "with its rank: device is cuda and torch sees no GPU (in 1)"),
        (find_other, 2, "got cpu in 0; meta in 1: set device=cpu"),
        (be_killed, 1, "ended without a word"),
    ],
)
def test_process_without_the_device_of_the_others_ends_all(
    pictures: Path, tmp_path: Path, found: Any, status: int, message: str
) -> None:
    """Before anybody waits for it, and by name where it could say so."""
    arguments = [*command(pictures, tmp_path / "run"), "--no-report"]
    group = start(tmp_path, 2, lambda rank: arguments, OtherDevice(found))
    for process in group.processes:
        process.join(60)  # they would wait for ten minutes
    assert group.processes[0].exitcode == status, group.said()
    assert group.processes[1].exitcode in (status, -signal.SIGKILL)
    assert group.said().count("error:") == 1
    assert message in group.said()


def test_what_fails_here_is_not_laid_on_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL's own words, with what to do; memory that ran out; and what came of an exchange."""
    processes = Several(0, 2, 0, 2, HashStore())
    full = "Error while creating shared memory segment /dev/shm/nccl-1: No space left on device"

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"NCCL error\n{full}\nException raised from nowhere")

    monkeypatch.setattr("training.processes._set_pg_timeout", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "set_device", lambda *_: None)
    monkeypatch.setattr("torch.distributed.new_group", fail)
    with pytest.raises(ConnectionError, match=f"NCCL error {full}; expected more room in /dev/shm"):
        processes.begin(torch.device("cuda", 0), 1)
    with pytest.raises(Ended, match="it was: connection reset by peer"), processes._heard():
        raise RuntimeError("connection reset by peer")
    with pytest.raises(RuntimeError, match="^CUDA out of memory"), processes._heard():
        raise RuntimeError("CUDA out of memory")
    processes.store.set(WORD, json.dumps({"rank": 1, "what": "error: full", "status": 2}))
    with pytest.raises(Ended, match="process 1 of 2 ended: error: full"):
        processes.begin(torch.device("cuda", 0), 1)


def test_what_the_writer_finds_beside_the_steps_ends_all(tmp_path: Path) -> None:
    """Bytes in two splits, of data that are read while the steps go on."""
    data = make_data(tmp_path / "data", COLOURS)
    shutil.copy(data / "train/red/3.png", data / "val/red/3.png")
    arguments = [*command(data, tmp_path / "run", "epochs=2"), "--no-report"]
    statuses, said = run(tmp_path, 2, arguments, read_beside)
    assert statuses == [2, 2], said
    assert said.count("error:") == 1
    assert re.search(r"reads 54 items \(.*\) beside the steps", said)
    assert "train/red/3.png" in said


def read_beside(rank: int) -> None:
    """All data are too many to be read before the first step."""
    import training.identity  # noqa: PLC0415 - in the process that it is for

    training.identity.SMALL_BYTES = 0


def test_signal_that_a_launcher_passes_on_is_no_second_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever stops a group of processes reaches them twice; a second one later ends at once."""
    ended: list[int] = []
    monkeypatch.setattr("training.stopping._end", lambda number, frame: ended.append(number))
    with SharedStop(Processes()) as stop, pytest.raises(Stopped), stop.deferred():
        signal.raise_signal(signal.SIGTERM)
        stop.check()  # which it does not do alone
        signal.raise_signal(signal.SIGTERM)
        assert ended == []
        stop._since -= PASSED_ON
        signal.raise_signal(signal.SIGTERM)
        assert ended == [signal.SIGTERM]
