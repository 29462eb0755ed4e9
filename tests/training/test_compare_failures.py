"""Encodings that cannot be trained: marked with their reason, retried or dropped; others go on."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models.checkpoint import read_description
from tests.helpers import training_runs
from tests.helpers.training_runs import Chatter, check_refused
from tests.training.test_compare import arguments_for, measured, starts
from training.__main__ import main
from training.compare.comparison import claimed, load

pictures = training_runs.pictures


def diverge(setup: Any) -> None:
    setup.model.head.weight.data.fill_(math.inf)


def run_out(setup: Any) -> None:
    torch.empty(2**60)


#: What goes wrong, and what the reason begins with.
FAULTS: dict[str, tuple[Callable[[Any], None], str]] = {
    "nan": (diverge, "the loss is nan at step 3; from 8 items: train/"),
    "memory": (run_out, "out of memory in step 3, 8 items at a time"),
}


def break_liere(monkeypatch: pytest.MonkeyPatch, fault: Callable[[Any], None]) -> list[str]:
    """One encoding goes wrong at its fourth step, one after a checkpoint; who took steps."""
    step = training_runs.pkgutil.resolve_name("training.loop.train_step")
    taken: list[str] = []

    def failing(setup: Any, samples: Any, number: int, *rest: Any) -> Any:
        name = setup.config.model.encoding.name
        taken.append(name)
        if name == "liere" and number == 3:
            fault(setup)
        return step(setup, samples, number, *rest)

    monkeypatch.setattr("training.loop.train_step", failing)
    return taken


@pytest.fixture(scope="module", params=FAULTS)
def failed(
    request: pytest.FixtureRequest, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, str]]:
    """A comparison of which one encoding failed, with its reason; not to be written to."""
    fault, reason = FAULTS[request.param]
    out = tmp_path_factory.mktemp(request.param) / "out"
    with pytest.MonkeyPatch.context() as patched:
        break_liere(patched, fault)
        assert main(arguments_for(pictures, out, seeds="1")) == 1
    yield out, reason


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "compare.csv").open() as stream:
        return {row["encoding"]: row for row in csv.DictReader(stream)}


def test_failure_is_marked_with_its_reason_and_the_others_are_whole(
    failed: tuple[Path, str],
) -> None:
    """In the table, in CSV and JSON; the times of the others are measured, pictures are drawn."""
    out, reason = failed
    text = (out / "compare.md").read_text()
    assert "| absolute | 1 of 1 |" in text
    assert f"| liere_4 | 0 of 1 | {' | '.join(['failed'] * 10)} |" in text
    assert f"* liere_4, seed 0, failed: {reason}" in text
    assert "missing" not in text
    rows = table(out)
    assert rows["liere_4"]["failed"].startswith(f"seed 0: {reason}")
    assert (rows["absolute"]["failed"], float(rows["absolute"]["step_ratio"])) == ("", 1.0)
    results = json.loads((out / "results.json").read_text())
    assert results["rows"][1]["failed"]["0"].startswith(reason)
    assert [bool(run["measured"]) for run in results["runs"]] == [True, False]
    assert [run["failed"] is None for run in results["runs"]] == [True, False]
    assert set(results["steps"]["seconds"]) == {"absolute"}
    assert len(list(out.glob("compare-*.png"))) == 3


def test_same_command_leaves_it_at_that_and_says_so(
    failed: tuple[Path, str], pictures: Path, tmp_path: Path, capsys: Chatter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Status 1 with the reason and the ways out; no step is taken again, by nobody."""
    out, reason = shutil.copytree(failed[0], tmp_path / "out", symlinks=True), failed[1]
    taken = break_liere(monkeypatch, diverge)
    assert main(arguments_for(pictures, out, seeds="1")) == 1
    said = capsys.readouterr().err
    assert f"error: liere_4-seed0: {reason}" in said
    assert "1 of 2 runs are finished; 1 failed; nothing is left to take" in said
    assert "--drop NAME leaves an encoding out" in said
    assert ("--retry takes up again what ran out of memory" in said) == ("memory" in reason)
    assert ("would be so again with --retry" in said) == ("nan" in reason)
    assert taken == []
    assert main(["compare", "--out", str(out), "--table-only"]) == 0


def test_retry_takes_it_up_where_it_was(
    failed: tuple[Path, str], pictures: Path, tmp_path: Path
) -> None:
    """With the cause gone, or a batch in parts, the comparison becomes whole."""
    out = shutil.copytree(failed[0], tmp_path / "out", symlinks=True)
    arguments = arguments_for(pictures, out, "accumulate=2", seeds="1")
    assert main([*arguments, "--retry"]) == 0
    assert set(measured(out)) == {"absolute-seed0", "liere_4-seed0"}
    assert "failed" not in (out / "compare.md").read_text()
    assert float(table(out)["liere_4"]["step_ratio"]) > 0
    history = read_description(out / "runs/liere_4-seed0/last").notes["history"]
    assert [(one["step"], one["changed"]) for one in history] == [(2, {"accumulate": [1, 2]})]
    assert starts(out) == {1, 2}


def test_retry_that_fails_again_is_tried_once(
    failed: tuple[Path, str], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One start takes it up once, and the newer reason stands."""
    out = shutil.copytree(failed[0], tmp_path / "out", symlinks=True)
    taken = break_liere(monkeypatch, diverge)
    assert main([*arguments_for(pictures, out, seeds="1"), "--retry"]) == 1
    assert taken == ["liere"] * 2  # the steps 2 and 3
    assert "seed 0, failed: the loss is nan at step 3" in (out / "compare.md").read_text()


def test_retry_leaves_what_another_process_is_at(
    failed: tuple[Path, str], pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """The reason is there until somebody who holds the run takes it away."""
    out = shutil.copytree(failed[0], tmp_path / "out", symlinks=True)
    with claimed(out, "liere_4-seed0") as ours:
        assert ours
        assert main([*arguments_for(pictures, out, seeds="1"), "--retry"]) == 1
    assert list((out / "failed").iterdir()) == [out / "failed" / "liere_4-seed0.json"]


def test_dropped_encoding_leaves_the_table_and_not_the_folder(
    failed: tuple[Path, str], pictures: Path, tmp_path: Path
) -> None:
    """What is left is a whole comparison; asked for again, it is there with its reason."""
    out = shutil.copytree(failed[0], tmp_path / "out", symlinks=True)
    arguments = arguments_for(pictures, out, seeds="1", encodings="absolute")
    assert main([*arguments, "--drop", "liere:block=4"]) == 0
    assert load(out).encodings == ("absolute",)
    assert "liere_4" not in (out / "compare.md").read_text()
    assert (out / "runs" / "liere_4-seed0" / "last").exists()
    assert main(arguments_for(pictures, out, seeds="1")) == 1
    assert load(out).encodings == ("absolute", "liere_4")
    assert main(["compare", "--out", str(out), "--table-only", "--drop", "liere_4"]) == 0
    assert load(out).encodings == ("absolute",)


@pytest.mark.parametrize(
    ("dropped", "message"),
    [
        ("masa", "--drop masa: the comparison has absolute, liere_4"),
        ("rope", "--drop rope: unknown encoding 'rope'"),
        ("absolute,liere_4", "--drop absolute,liere_4: expected to leave an encoding"),
    ],
)
def test_drop_that_makes_no_sense_is_refused(
    failed: tuple[Path, str], tmp_path: Path, capsys: Chatter, dropped: str, message: str
) -> None:
    """And nothing changes."""
    out = shutil.copytree(failed[0], tmp_path / "out", symlinks=True)
    check_refused(
        ["compare", "--out", str(out), "--table-only", "--drop", dropped], capsys, message
    )
    assert load(out).encodings == ("absolute", "liere_4")


def test_dropping_what_is_asked_for_is_refused(
    pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """One command does not say both."""
    arguments = [*arguments_for(pictures, tmp_path / "out"), "--drop", "absolute"]
    check_refused(arguments, capsys, "--drop absolute: expected it not to be among --encodings")
    assert not (tmp_path / "out").exists()


def test_first_encoding_may_fail(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then there is nothing to hold the others against, and their own figures stand."""
    break_liere(monkeypatch, diverge)
    out = tmp_path / "out"
    assert main(arguments_for(pictures, out, seeds="1", encodings="liere_4,absolute")) == 1
    row = table(out)["absolute"]
    assert float(row["top1_at_1x_mean"]) > 0
    assert (row["difference_mean"], row["step_ratio"]) == ("", "")
    assert float(row["step_seconds"]) > 0
    assert "over liere_4's (which failed; cpu" in (out / "compare.md").read_text()


def test_every_encoding_may_fail(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table says so; there are no steps to time."""
    break_liere(monkeypatch, run_out)
    out = tmp_path / "out"
    assert main(arguments_for(pictures, out, seeds="1", encodings="liere_4,liere_8")) == 1
    assert (out / "compare.md").read_text().count("failed: out of memory in step 3") == 2
    assert not (out / "step-time.json").exists()


def test_batch_larger_than_the_split_is_refused_at_the_start(
    pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """All of them would fail, so none begins, and nothing is decoded."""
    arguments = arguments_for(pictures, tmp_path / "out", "batch=43")
    check_refused(arguments, capsys, "batch 43 is larger than the training split")
    assert not (tmp_path / "out").exists()
