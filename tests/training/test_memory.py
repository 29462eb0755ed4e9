"""Running out of memory says what to lower; measuring needs no more than training."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.host_synchronisations import Synchronisations
from media.dataset import Prepared
from media.spec import Grid
from models.checkpoint import read_description
from models.vit import VisionTransformer
from tests.conftest import ROOT
from tests.helpers import training_runs
from tests.helpers.training_runs import Chatter, check_refused, command
from tests.training.test_loop import SPEC, make_setup
from training.__main__ import main
from training.evaluate import evaluate, logits_of, validating
from training.memory import OutOfMemory, smaller_decoding, smaller_passes, smaller_steps, told
from training.report.report import main as report
from training.report.report import make_report

pictures, finished = training_runs.pictures, training_runs.finished

#: What asks for more than any machine has.
GREEDY: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.empty(2**60),
    "numpy": lambda: np.empty(2**60, np.uint8),
    "python": lambda: bytearray(2**60),
}


def greedy(*_: Any, **__: Any) -> None:
    GREEDY["torch"]()


@pytest.mark.parametrize("kind", GREEDY)
def test_whoever_says_it_says_the_same(kind: str) -> None:
    """Each library has an error of its own for it; none of them tells what to do."""
    message = "^out of memory here; to need less: --set a=1, --set b=2$"
    with pytest.raises(OutOfMemory, match=message), told("here", ["a=1", "b=2"]):
        GREEDY[kind]()


def test_gpus_say_it_too_and_other_errors_stay_what_they_are() -> None:
    """An error is not taken for another one, and one that is told already is told once."""
    for error in (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
                  RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling")):  # fmt: skip
        with pytest.raises(OutOfMemory, match="^out of memory in$"), told("out"), told("in"):
            raise error
    with pytest.raises(RuntimeError, match="^shapes differ$"), told("here"):
        raise RuntimeError("shapes differ")


def test_what_to_lower_keeps_the_batch() -> None:
    """The next number of parts that halves a pass at least; precision where there is one left."""
    config = make_setup().config  # a batch of 12
    assert smaller_passes(config) == ["accumulate=2", "precision=bf16"]
    three = make_setup(accumulate=3, precision="bf16").config
    assert smaller_passes(three) == ["accumulate=6"]
    assert smaller_passes(make_setup(accumulate=12, precision="bf16").config) == []
    assert smaller_steps(config) == ["accumulate=2", "precision=bf16", "recompute=true"]
    assert smaller_steps(make_setup(accumulate=12, recompute=True).config) == ["precision=bf16"]
    assert smaller_decoding(config) == ["cache=.cache", "workers=1"]
    assert smaller_decoding(make_setup(workers=1, cache="here").config) == []


@pytest.mark.parametrize(
    ("place", "work", "setting"),
    [
        ("training.step.augment", "in step 0, 8 items at a time", "accumulate=2"),
        ("training.loop.evaluate", "while measuring after step 5, 8 items at a time",
         "accumulate=2"),
    ],
)  # fmt: skip
def test_run_that_found_too_little_goes_on_with_less(
    pictures: Path,
    tmp_path: Path,
    capsys: Chatter,
    place: str,
    work: str,
    setting: str,
) -> None:
    """The error names the settings, and the command that it prints ends the run."""
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(place, greedy)
        assert main([*command(pictures, out), "--no-report"]) == 1
    error = capsys.readouterr().err
    assert f"error: out of memory {work}; to need less: --set accumulate=2, --set pre" in error
    line = next(line for line in error.splitlines() if line.startswith("  python -m training"))
    words = shlex.split(line)[3:]
    assert words[-2:] == ["--set", setting]
    assert main(words) == 0
    notes = read_description(out / "last").notes
    assert (notes["step"], notes["config"]["accumulate"]) == (15, 2)


def test_decoding_says_what_to_lower(pictures: Path, tmp_path: Path, capsys: Chatter) -> None:
    """Also where it is a worker that found too little, and nothing is kept yet."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("media.dataset.read", greedy)
        message = "out of memory while decoding; to need less: --set cache=.cache, --set workers=1"
        arguments = command(pictures, tmp_path / "run", "workers=2")
        check_refused(arguments, capsys, message, status=1)
    assert not (tmp_path / "run").exists()


def test_report_says_where_memory_ran_out(
    finished: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report that was there stays."""
    monkeypatch.setattr("training.report.held_out.logits_of", greedy)
    data = read_description(finished / "best").notes["config"]["data"]
    kept = (finished / "report").resolve()
    assert report([str(finished), "--data", data]) == 1
    assert "out of memory while measuring split val, 8 items at a time" in capsys.readouterr().err
    assert (finished / "report").resolve() == kept


# --- measuring ----------------------------------------------------------------------------------


def test_measuring_takes_at_most_four_tables_of_rotations() -> None:
    """In a process of its own, by what the kernel counted; it was 30 tables in float64 at once."""
    options = ["--way", "validation", "--grid", "9x7", "--items", "2"]
    command = [sys.executable, "-m", "benchmarks.validation_memory", *options]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    measured = json.loads(said)
    assert measured["table_mb"] == pytest.approx(4 * 64 * 64 * 6 * 4 * 64 / 1e6, abs=0.1)
    assert 1 <= measured["peak_over_table"] <= 4


def test_as_many_items_are_measured_at_a_time_as_a_step_takes() -> None:
    """At a larger grid so many fewer as there are more pairs of tokens; figures are the same."""
    setup, sizes = make_setup(), []
    setup.model.head.register_forward_hook(lambda *call: sizes.append(len(call[2])))
    whole = evaluate(setup.model, setup.validation)
    sizes.clear()
    parts = evaluate(setup.model, setup.validation, batch=6)
    assert sizes == [6, 6, 6, 2]
    assert parts == pytest.approx(whole)
    sizes.clear()
    larger = np.zeros((7, 8 * 2, 9, 3), np.uint8)  # twice the tokens
    logits_of(setup.model, larger, batch=12)
    assert sizes == [3, 3, 1]
    assert setup.config.items_at_a_time == 12


def test_measuring_waits_for_the_device_once() -> None:
    """Whatever the number of batches; logits stay where the network is until the last one."""
    setup = make_setup()
    model = setup.model.eval()
    assert isinstance(setup.validation, Prepared)
    with Synchronisations() as count:
        logits_of(model, setup.validation.pixels, batch=3)
    assert len(count.places) == count.places.total() == 1
    assert next(iter(count.places)).endswith("cpu")


def test_epochs_are_measured_in_the_precision_of_a_gpu_and_not_of_a_cpu(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU's figures stay those of fp32, and so does a report."""
    asked: list[Any] = []
    with monkeypatch.context() as patched:
        patched.setattr("training.evaluate.autocast", lambda *given: asked.append(given))
        for kind in ("cuda", "cpu"):
            validating("bf16", torch.device(kind))
    assert asked == [(torch.device("cuda"), "bf16"), (torch.device("cpu"), "fp32")]
    enabled, measure = [], evaluate

    def watched(*arguments: Any) -> Any:
        enabled.append(torch.is_autocast_enabled("cpu"))
        return measure(*arguments)

    monkeypatch.setattr("training.loop.evaluate", watched)
    settings = ("epochs=1", "precision=bf16")
    assert main([*command(pictures, tmp_path / "run", *settings), "--no-report"]) == 0
    assert enabled == [False]


def test_rotations_are_computed_once_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of splits and of batches."""
    grids: list[Grid] = []
    data = tmp_path / "data.npz"
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, items in (("train", 16), ("val", 20), ("test", 30)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (items, 24, 32, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(items) % 2
    np.savez(data, **arrays)
    assert main([*command(data, tmp_path / "run", "epochs=1"), "--no-report"]) == 0
    monkeypatch.setattr("training.report.held_out.PIECE", 8)
    encode = VisionTransformer.encode

    def counted(self: VisionTransformer, grid: Grid, *rest: Any) -> Any:
        grids.append(grid)
        return encode(self, grid, *rest)

    monkeypatch.setattr(VisionTransformer, "encode", counted)
    make_report(tmp_path / "run")
    assert grids == [Grid((3, 4))]


def test_measuring_is_in_float32() -> None:
    """The exponential of float64 has no chunks: nobody asks for it here."""
    model = make_setup(SPEC).model
    asked: list[torch.dtype] = []
    original = model.encoding.rotations

    def rotations(positions: torch.Tensor, dtype: torch.dtype = torch.float32) -> Any:
        asked.append(dtype)
        return original(positions, dtype)

    model.encoding.rotations = rotations  # type: ignore[method-assign]
    logits_of(model, np.zeros((2, 8, 9, 3), np.uint8))
    assert asked == [torch.float32]


# --- without a report ---------------------------------------------------------------------------


def test_report_is_made_later_if_not_asked_for(
    pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """The run says how; nothing of it is there before."""
    out = tmp_path / "run"
    assert main([*command(pictures, out), "--no-report"]) == 0
    said = capsys.readouterr().out
    assert f"no report was made; python -m training report {out} makes it" in said
    assert not (out / "report").exists()
    assert main(["report", str(out)]) == 0
    assert (out / "report" / "index.html").is_file()
