"""The curves of a run in TensorBoard: each step once, whatever happened to the run."""

from __future__ import annotations

import errno
import random
import signal
import threading
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from tests.helpers.disks import small_disk
from tests.helpers.effort import alone
from tests.helpers.forks import killable
from training.curves import PREFIX, Curves


def shown(folder: Path, name: str = "loss") -> list[tuple[int, float]]:
    """(step, value) as TensorBoard shows them."""
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    if name not in accumulator.Tags()["scalars"]:
        return []
    return [(event.step, event.value) for event in accumulator.Scalars(name)]


def write(folder: Path, first: int, last: int, value: float, done: int | None = None) -> None:
    """The steps from ``first`` to ``last`` of a run that continues after ``done`` steps."""
    with Curves(folder, first - 1 if done is None else done) as curves:
        for step in range(first, last + 1):
            curves.add(step, {"loss": value, "rate": value / 2})
        curves.flush()


def test_curves_show_what_was_added(tmp_path: Path) -> None:
    """Every name has its steps and values, and new names may come later."""
    folder = tmp_path / "run" / "tensorboard"
    with Curves(folder) as curves:
        curves.add(1, {"loss": 2.5, "rate": 0.25})
        curves.add(2, {"loss": 1.5, "rate": 0.5, "val_top1": 0.75})
    assert shown(folder) == [(1, 2.5), (2, 1.5)]
    assert shown(folder, "rate") == [(1, 0.25), (2, 0.5)]
    assert shown(folder, "val_top1") == [(2, 0.75)]


def test_resumed_runs_show_each_step_once(tmp_path: Path) -> None:
    """Steps that are taken again after a kill replace those that were never kept."""
    write(tmp_path, 1, 10, value=1)
    write(tmp_path, 6, 12, value=2)  # killed at 10, resumed from 5
    write(tmp_path, 12, 12, value=3)  # killed at 12, resumed from 11
    write(tmp_path, 12, 14, value=4)  # killed at 12 again
    expected = [1] * 5 + [2] * 6 + [4] * 3
    assert shown(tmp_path) == [(step, value) for step, value in enumerate(expected, 1)]
    assert shown(tmp_path, "rate") == [(s, v / 2) for s, v in enumerate(expected, 1)]


def test_many_resumed_runs_keep_their_order(tmp_path: Path) -> None:
    """Files are read in the order of the starts, also where many fall into one second."""
    for start in range(12):
        write(tmp_path, 2 * start + 1, 2 * start + 4, value=start)
    steps = [step for step, _ in shown(tmp_path)]
    assert steps == list(range(1, 27))
    assert dict(shown(tmp_path))[23] == 11


def test_start_that_was_killed_at_once_hides_nothing(tmp_path: Path) -> None:
    """A resumed run that wrote nothing yet leaves the steps up to its checkpoint."""
    write(tmp_path, 1, 8, value=1)
    Curves(tmp_path, 5).close()
    assert [step for step, _ in shown(tmp_path)] == [1, 2, 3, 4, 5]


def test_half_a_record_at_the_end_is_passed_over(tmp_path: Path) -> None:
    """Wherever a file is cut, the whole records before and the resumed run after it are shown."""
    write(tmp_path, 1, 4, value=1)
    file = next(tmp_path.iterdir())
    whole = file.read_bytes()
    write(tmp_path, 3, 6, value=2)
    for cut in range(1, 60):
        file.write_bytes(whole[:-cut])
        assert list(EventFileLoader(str(file)).Load())
        steps = [step for step, _ in shown(tmp_path)]
        assert steps == [1, 2, 3, 4, 5, 6]


def write_until_killed(folder: Path, done: int) -> None:
    with Curves(folder, done) as curves:
        for step in range(done + 1, 1_000_000):
            curves.add(step, {"loss": step / 2})


@alone
def test_curves_survive_kills(tmp_path: Path) -> None:
    """Killed six times at a random instant, each step is shown once, in order, with its value."""
    context = killable()
    draw, done = random.Random(0), 0
    for start in range(1, 7):
        process = context.Process(target=write_until_killed, args=(tmp_path, done))
        process.start()
        wanted = draw.randrange(1_000, 30_000)  # bytes
        while sum(path.stat().st_size for path in tmp_path.glob(f"*{start:08d}")) < wanted:
            assert process.is_alive()
            time.sleep(0.001)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        seen = shown(tmp_path)
        assert len(seen) > done
        assert seen == [(step, step / 2) for step in range(1, len(seen) + 1)]
        done = draw.randrange(len(seen))  # the checkpoint that it continues from


@alone
def test_full_disk_stops_who_adds(disk: Path) -> None:
    """The error is raised by ``add`` itself, nothing hangs, and what was written stays readable."""
    threads = threading.active_count()
    with small_disk(disk, 64 * 1024):
        curves = Curves(disk / "tensorboard")
        step = 0
        with pytest.raises(OSError) as caught:
            while step < 10_000:
                curves.add(step + 1, {"loss": 0.5})
                step += 1
        assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
        curves.close()
        assert threading.active_count() == threads
        seen = [found for found, _ in shown(disk / "tensorboard")]
        assert seen == list(range(1, step + 1))
    write(disk / "tensorboard", step, step + 1, value=2)
    assert [found for found, _ in shown(disk / "tensorboard")] == list(range(1, step + 2))


@alone
def test_full_disk_stops_the_start(disk: Path) -> None:
    """Where not even the first record fits, the run learns it before its first step."""
    with small_disk(disk, 4096 * 4):
        if not disk.is_mount():
            pytest.skip("only root may mount a small file system")
        filler = disk / "filler"
        with pytest.raises(OSError), filler.open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
        with pytest.raises(OSError):
            Curves(disk / "tensorboard")


def test_folder_with_other_files_is_used_all_the_same(tmp_path: Path) -> None:
    """Files of another writer keep their place; ours are numbered among themselves."""
    (tmp_path / f"{PREFIX}1795323881.host.12.0").write_bytes(b"")
    write(tmp_path, 1, 2, value=1)
    write(tmp_path, 3, 3, value=1)
    assert (tmp_path / f"{PREFIX}00000002").is_file()
