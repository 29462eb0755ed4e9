"""What tells a run's data apart: a listing at once, what the files hold beside the steps."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.kill_training import outcome
from export.make import open_test_data
from export.options import Options
from media.contents import split_sha256
from media.index import Digests, fingerprint, open_dataset
from media.sources import open_source
from media.spec import Grid, SpecError
from models.checkpoint import read_description
from tests.helpers import training_runs
from tests.helpers.training_runs import Chatter, before, check_refused, command
from training import identity
from training.__main__ import main
from training.report.report import make_report

pictures, finished = training_runs.pictures, training_runs.finished
SHORT = ("epochs=1", "save_every=1")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """All data are as data of more than a GiB, and no report is made."""
    monkeypatch.setattr(identity, "SMALL_BYTES", -1)
    monkeypatch.setattr("training.loop.make_report", lambda *_: None)


@pytest.fixture
def own(pictures: Path, tmp_path: Path) -> Path:
    """Pictures that may be changed, with their times."""
    return shutil.copytree(pictures, tmp_path / "data")


def notes(out: Path, name: str = "last") -> dict[str, Any]:
    return read_description(out / name).notes


def stopped(arguments: list[str], step: int) -> None:
    """The run ends by a signal after some steps."""
    with pytest.MonkeyPatch.context() as patched:
        act = before("training.loop.train_step", step + 1, lambda *_: signal.raise_signal(15))
        patched.setattr(*act)
        assert main(arguments) == 128 + signal.SIGTERM


def never(self: Digests, advance: Any = None, check: Callable[[], None] | None = None) -> None:
    """Reads nothing until it is told to leave."""
    while check:
        check()
        time.sleep(0.01)


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("large")
def test_large_data_are_read_beside_the_steps(
    pictures: Path, tmp_path: Path, finished: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with the weights and the hashes that it has when they are read first."""
    seen: list[tuple[str, int]] = []

    def look(*_: Any) -> None:
        thread = threading.current_thread()
        seen.append((thread.name, os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))

    monkeypatch.setattr(*before("media.index.Digests.complete", 1, look))
    out = tmp_path / "run"
    assert main(command(pictures, out)) == 0
    assert seen == [("digests", identity.NICE)]
    assert os.getpriority(os.PRIO_PROCESS, 0) < identity.NICE
    said = capsys.readouterr().err
    assert "reads 54 items (0.0 GB) beside the steps" in said
    assert "has read all items" in said
    weights = "last/weights.safetensors"
    assert outcome(out)["hashes"][weights] == outcome(finished)["hashes"][weights]
    for name in ("best", "last"):
        assert notes(out, name)["data"] == notes(finished, name)["data"]
    source = open_source(pictures)
    assert notes(out, "best")["data"]["train"]["sha256"] == split_sha256(source, "train")
    dataset = open_dataset(pictures)
    assert notes(out)["fingerprint"] == {
        split: fingerprint(dataset, split) for split in ("train", "val")
    }


@pytest.mark.usefixtures("large")
def test_duplicates_that_are_found_beside_the_steps_end_the_run(
    own: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """By name, with what to do; the same run goes on where it is told to."""
    shutil.copy(own / "train" / "red" / "0.png", own / "val" / "red" / "known.png")
    out = tmp_path / "run"
    told = "bytes lie in two splits: .train/red/0.png. in train and .val/red/known.png. in val"
    check_refused(command(own, out, *SHORT), capsys, told, "--allow-duplicates goes on")
    assert notes(out)["data"]["duplicates"] is None  # it had begun
    again = [*command(own, out, *SHORT, resume=True), "--allow-duplicates"]
    assert main(again) == 0
    assert notes(out, "best")["data"]["duplicates"]["across"] == 1
    assert notes(out, "best")["config"]["allow_duplicates"]


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("how", [["--verify-data"], ["--set", "cache=.cache"]])
def test_digests_come_first_where_they_are_asked_for(
    own: Path, tmp_path: Path, capsys: Chatter, how: list[str]
) -> None:
    """By name, or because a cache goes by what the files hold: then no run is begun."""
    shutil.copy(own / "train" / "red" / "0.png", own / "val" / "red" / "known.png")
    check_refused([*command(own, tmp_path / "run", *SHORT), *how], capsys, "lie in two splits")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("large")
def test_run_that_stops_before_all_is_read_goes_on(
    own: Path, tmp_path: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told by its listing until then; with other times nobody can tell what it had read."""
    out, arguments = tmp_path / "run", command(own, tmp_path / "run", "epochs=1")
    with monkeypatch.context() as patched:
        patched.setattr(Digests, "complete", never)
        stopped(arguments, 1)
        stopped([*arguments, "--resume"], 1)
    assert notes(out)["step"] == 2
    assert notes(out)["data"]["train"] == {"items": 42, "sha256": None}
    file = own / "train" / "red" / "0.png"
    stamp = file.stat().st_mtime_ns
    os.utime(file, ns=(1, 1))
    refused = "split 'train' is not the one .* its times are others, .* put the old times back"
    check_refused([*arguments, "--resume"], capsys, refused)
    os.utime(file, ns=(stamp, stamp))
    assert main([*arguments, "--resume"]) == 0
    assert notes(out)["data"]["train"]["sha256"] == split_sha256(open_source(own), "train")


@pytest.mark.usefixtures("large")
def test_files_as_they_were_are_not_read_to_go_on(
    own: Path, tmp_path: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are: those with other times go on if they hold the same, and are refused if not."""
    out, arguments = tmp_path / "run", command(own, tmp_path / "run")
    stopped([*arguments, "--verify-data"], 1)
    shutil.rmtree(tmp_path / ".digests")
    again = [*arguments, "--resume"]
    with monkeypatch.context() as patched:
        patched.setattr(Digests, "complete", lambda *_, **__: pytest.fail("it reads"))
        stopped(again, 1)
    hashes, file = notes(out)["data"]["train"]["sha256"], own / "train" / "red" / "0.png"
    assert len(hashes) == 64
    data = file.read_bytes()
    file.write_bytes(bytes([*data[:-1], data[-1] ^ 1]))
    refused = r"split 'train' is not the one that the run began with: expected 42 .*sha256"
    check_refused(again, capsys, refused)
    file.write_bytes(data)
    stopped(again, 1)
    assert (notes(out)["step"], notes(out)["data"]["train"]["sha256"]) == (3, hashes)
    file.write_bytes(data + b"longer")
    check_refused(again, capsys, "split 'train' is not the one that the run began with")


def test_change_that_no_listing_shows_is_found_where_it_is_asked_for(
    own: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """All items are read again then, also those whose digests are kept."""
    arguments, file = command(own, tmp_path / "run"), own / "train" / "red" / "0.png"
    data, stamp = file.read_bytes(), file.stat().st_mtime_ns
    for more in (b"one", b"two"):
        file.write_bytes(data + more)
        os.utime(file, ns=(stamp, stamp))
        if more == b"one":
            stopped(arguments, 1)
    stopped([*arguments, "--resume"], 1)
    refused = r"split 'train' is not the one that the run began with: expected 42 .*sha256"
    check_refused([*arguments, "--resume", "--verify-data"], capsys, refused)


@pytest.mark.usefixtures("large")
def test_arrays_are_compared_by_what_they_hold(tmp_path: Path, capsys: Chatter) -> None:
    """They have neither sizes nor times of their own, and are in memory anyway."""
    rng, path = np.random.default_rng(0), tmp_path / "set.npz"
    images = rng.integers(0, 256, (24, 20, 31, 3), dtype=np.uint8)
    labels = np.arange(24) % 2

    def write() -> None:
        np.savez(
            path, train_images=images[:16], val_images=images[16:],
            train_labels=labels[:16], val_labels=labels[16:],
        )  # fmt: skip

    write()
    arguments = command(path, tmp_path / "run", "epochs=1", "model.classes=2")
    stopped(arguments, 1)
    images[3, 5, 7] ^= 1
    write()
    refused = "split 'train' is not the one that the run began with: expected 16 .*sha256"
    check_refused([*arguments, "--resume"], capsys, refused)


@pytest.mark.usefixtures("large")
def test_file_that_changes_in_use_ends_the_run_by_name(
    own: Path, tmp_path: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is decoded, and while it is read beside the steps; with what to do."""
    file = own / "train" / "red" / "0.png"
    told = "'train/red/0.png' changed while it is in use: .*put it back, or begin anew"
    for place in ("media.index.Digests.complete", "training.loop.data.prepare"):
        out = tmp_path / place
        with monkeypatch.context() as patched:
            patched.setattr(*before(place, 1, lambda *_, **__: os.utime(file)))
            check_refused(command(own, out, *SHORT), capsys, told)
        assert out.exists() == ("Digests" in place)


def test_report_and_export_read_nothing_again(
    finished: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What training has read of the files is kept beside the run."""
    monkeypatch.setattr(Digests, "complete", lambda *_, **__: pytest.fail("it reads"))
    monkeypatch.setattr(*before("training.report.held_out.prepare_split", 1, interrupt))
    with pytest.raises(KeyboardInterrupt):
        make_report(finished, pictures)
    options = Options(
        finished / "best", (Grid((3, 4)),), finished, "x", split="val", parity_items=1
    )
    description = read_description(finished / "best")
    data = open_test_data(options, description)
    assert data.contents["val"].sha256 == description.notes["data"]["val"]["sha256"]
    unread = description.notes["data"] | {"train": {"items": 42, "sha256": None}}
    early = dataclasses.replace(description, notes=description.notes | {"data": unread})
    with pytest.raises(SpecError, match="before the run had read all of its data: .*RUN/best"):
        open_test_data(options, early)
