"""A run that goes on with other settings: what may change, what it remembers, what it says."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import training.loop
from benchmarks.kill_training import is_readable, lines_of, outcome
from media.spec import SpecError
from media.strict_json import to_json
from models.checkpoint import load_checkpoint, read_description
from tests.helpers import training_runs
from tests.helpers.forks import killable
from tests.helpers.training_runs import Chatter, before, check_refused, command, names
from tests.training.test_loop import make_setup
from training.__main__ import main
from training.command import _without
from training.config import TrainConfig
from training.history import Change
from training.order import order_of, with_stand_ins
from training.presets import PRESETS
from training.report.report import make_report
from training.run import HISTORY, Run
from training.settings import FIXED, MAY_CHANGE, PLACES, WITHOUT_EFFECT, override

pictures, finished = training_runs.pictures, training_runs.finished


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than a run; one test makes it."""
    monkeypatch.setattr("training.loop.make_report", lambda *_: None)


def stopped(pictures: Path, out: Path, *settings: str, step: int = 7) -> list[str]:
    """A run that was stopped after a step; its command."""
    arguments = command(pictures, out, *settings)
    asked = before(
        "training.loop.train_step", step + 1, lambda *_: signal.raise_signal(signal.SIGTERM)
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(*asked)
        assert main(arguments) == 143
    assert read_description(out / "last").notes["step"] == step
    return arguments


def go_on(arguments: list[str], *settings: str) -> int:
    return main([*arguments, "--resume", *(part for one in settings for part in ("--set", one))])


def changes(out: Path, name: str = "last") -> list[tuple[int, dict[str, Any]]]:
    """The history in a checkpoint, without the times."""
    history = read_description(out / name).notes["history"]
    return [(change["step"], change["changed"]) for change in history]


def in_folder(out: Path) -> list[tuple[int, dict[str, Any]]]:
    """The history in the folder of a run."""
    history = json.loads((out / HISTORY).read_text()) if (out / HISTORY).exists() else []
    return [(change["step"], change["changed"]) for change in history]


# --- what may change ----------------------------------------------------------------------------


def test_every_setting_is_of_one_kind() -> None:
    """A new setting must say whether a run may go on with another value of it, and why not."""
    kinds = [*PLACES, *WITHOUT_EFFECT, *MAY_CHANGE, *FIXED]
    assert sorted(kinds) == sorted(field.name for field in dataclasses.fields(TrainConfig))


@pytest.mark.parametrize(
    ("settings", "old"),
    [
        (["learning_rate=0.0001", "warmup_steps=1", "weight_decay=0.3", "clip_norm=0.01"],
         [0.001, 3, 0.05, 0.0]),
        (["precision=bf16", "accumulate=4", "seed=5", 'skip=["train/red/0.png"]'],
         ["fp32", 1, 0, []]),
        (["epochs=4", "save_every=3", "workers=2", "device=cpu"], [3, 2, 1, "auto"]),
    ],
)  # fmt: skip
def test_run_goes_on_with_other_values(
    pictures: Path, tmp_path: Path, capsys: Chatter, settings: list[str], old: list[Any]
) -> None:
    """From the step where it was; it says so, and checkpoint and folder remember it."""
    out = tmp_path / "run"
    arguments = stopped(pictures, out)
    assert go_on(arguments, *settings) == 0
    names = [setting.partition("=")[0] for setting in settings]
    config = to_json(override(PRESETS["smoke"](str(pictures)), settings))
    expected = {name: [was, config[name]] for name, was in zip(names, old, strict=True)}
    assert changes(out) == in_folder(out) == [(7, expected)]
    assert f"goes on from step 7: {min(names)} " in capsys.readouterr().err
    notes = read_description(out / "last").notes
    assert {name: notes["config"][name] for name in names} == {n: config[n] for n in names}
    assert notes["step"] == (20 if "epochs" in names else 15)
    assert [line["step"] for line in lines_of(out)] == list(range(5, notes["step"] + 1, 5))


def test_change_counts_from_its_step_on_and_not_before(pictures: Path, tmp_path: Path) -> None:
    """Two runs that change alike at one step are alike; one that never changes is another."""
    calm = tmp_path / "calm"
    assert main(command(pictures, calm)) == 0
    for name in ("one", "two"):
        arguments = stopped(pictures, tmp_path / name)
        assert go_on(arguments, "learning_rate=0.0001", "seed=3") == 0
    hashes = [outcome(tmp_path / name)["hashes"] for name in ("one", "two", "calm")]
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]
    assert lines_of(tmp_path / "one")[0] == lines_of(calm)[0]
    assert lines_of(tmp_path / "one")[1:] != lines_of(calm)[1:]


def test_change_that_alters_no_weight_ends_with_the_same_bits(
    finished: Path, pictures: Path, tmp_path: Path
) -> None:
    """Other workers and other moments of saving are remembered, and the bits are those promised."""
    arguments = stopped(pictures, tmp_path / "run")
    assert go_on(arguments, "workers=2", "save_every=4") == 0
    hashes = outcome(tmp_path / "run")["hashes"], outcome(finished)["hashes"]
    for name in ("last/weights.safetensors", "last/training.safetensors"):
        assert hashes[0][name] == hashes[1][name]
    assert changes(tmp_path / "run") == [(7, {"save_every": [2, 4], "workers": [1, 2]})]


def test_what_changed_stays_until_it_is_named_again(pictures: Path, tmp_path: Path) -> None:
    """A command that does not name it goes on as the run does, one that names it changes it."""
    out = tmp_path / "run"
    arguments = stopped(pictures, out)
    assert go_on(arguments, "learning_rate=0.0001", "epochs=4", "skip=train/red/0.png") == 0
    place = arguments.index("epochs=3")
    plain = arguments[: place - 1] + arguments[place + 1 :]
    assert go_on(plain) == 0
    assert len(changes(out)) == 1
    assert go_on(plain, "epochs=5", "skip=train/red/1.png") == 0
    both = ["train/red/0.png", "train/red/1.png"]
    assert changes(out)[1:] == [(20, {"epochs": [4, 5], "skip": [both[:1], both]})]
    assert read_description(out / "last").notes["config"]["learning_rate"] == 0.0001


def test_finished_run_may_be_longer_and_never_shorter(
    finished: Path, pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """More epochs follow the rate of the longer run; fewer than it has are refused."""
    out = shutil.copytree(finished, tmp_path / "run", symlinks=True)
    arguments = command(pictures, out, "epochs=2", resume=True)
    check_refused(arguments, capsys, r"taken 15 steps, 5 an epoch: .*at least 3, got 2")
    main(arguments)
    assert "goes on from" not in capsys.readouterr().err
    assert not (out / HISTORY).exists()
    assert main(command(pictures, out, "epochs=5", resume=True)) == 0
    rates = [line["rate"] for line in lines_of(out)]
    assert len(rates) == 5
    assert rates[2] < rates[3] > rates[4]  # it had come down, and follows the longer curve
    cut = stopped(pictures, tmp_path / "cut", step=10)
    assert go_on(cut, "epochs=2") == 0  # what is done is enough
    assert read_description(tmp_path / "cut" / "last").notes["step"] == 10


# --- killed while it changes --------------------------------------------------------------------


def killed(arguments: list[str], place: str) -> None:
    """A training process that dies before a call."""
    torch.set_num_threads(1)
    setattr(*before(place, 1, lambda *_, **__: signal.raise_signal(signal.SIGKILL)))
    main(arguments)


@pytest.mark.parametrize(
    ("place", "known"),
    [
        ("training.run.write_atomic", False),  # metrics.jsonl is put in order
        ("training.run.Run.keep_history", False),
        ("training.loop.Curves", True),  # written down, and no step is taken yet
        ("training.loop.train_step", True),
        ("training.run.Run.save", True),  # a step later
    ],
)
def test_kill_around_a_change_loses_nothing(
    pictures: Path, tmp_path: Path, place: str, known: bool
) -> None:
    """What was asked for holds once it is written down, and counts from the same step."""
    out, calm = tmp_path / "run", tmp_path / "calm"
    one, two = stopped(pictures, out), stopped(pictures, calm)
    process = killable().Process(
        target=killed, args=([*one, "--resume", "--set", "learning_rate=0.0001"], place)
    )
    process.start()
    process.join(100)
    assert process.exitcode == -signal.SIGKILL
    assert is_readable(out)
    expected = [(7, {"learning_rate": [0.001, 0.0001]})]
    assert in_folder(out) == (expected if known else [])
    assert changes(out) == []
    assert go_on(one, *([] if known else ["learning_rate=0.0001"])) == 0
    assert go_on(two, "learning_rate=0.0001") == 0
    assert changes(out) == in_folder(out) == expected
    assert outcome(out)["hashes"] == outcome(calm)["hashes"]
    assert outcome(out)["left half written"] == []


def test_change_that_is_taken_back_before_a_step_was_none(
    finished: Path, pictures: Path, tmp_path: Path
) -> None:
    """Asked for, killed and taken back: the run is the one that never changed."""
    out = tmp_path / "run"
    arguments = stopped(pictures, out)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training.loop.Fit, "steps", lambda self: None)
        go_on(arguments, "learning_rate=0.0001")
    assert len(in_folder(out)) == 1
    assert go_on(arguments, "learning_rate=0.001") == 0
    assert (changes(out), (out / HISTORY).exists()) == ([], False)
    assert outcome(out)["hashes"] == outcome(finished)["hashes"]


def test_history_that_is_none_is_refused(
    finished: Path, pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """Somebody's own file of that name is no reason for a trace."""
    out = shutil.copytree(finished, tmp_path / "run", symlinks=True)
    for text, message in (("{}", "history: expected a list of changes"), ("[{}]", "history")):
        (out / HISTORY).write_text(text)
        check_refused(command(pictures, out, resume=True), capsys, message)


def test_report_shows_what_changed(pictures: Path, tmp_path: Path) -> None:
    """Step by step, in the page and for programs."""
    out = tmp_path / "run"
    arguments = stopped(pictures, out)
    assert go_on(arguments, "learning_rate=0.0001", "skip=train/red/0.png", "workers=2") == 0
    make_report(out)
    report = json.loads((out / "report" / "report.json").read_text())
    ((step, changed),) = [(one["step"], one["changed"]) for one in report["history"]]
    assert (step, changed["learning_rate"]) == (7, [0.001, 0.0001])
    page = (out / "report" / "index.html").read_text()
    row = r"<tr><td>7</td><td>{}</td><td[^>]*>{}</td><td[^>]*>{}</td></tr>"
    assert re.search(row.format("learning_rate", "0.001", "0.0001"), page)
    assert re.search(row.format("skip", "0 items", "1 items"), page)
    assert "train/red/0.png" not in page  # ids may name people
    assert (changed["skip"], report["config"]["skip"]) == (["0 items", "1 items"], "0 items")


def test_changes_are_told_in_words() -> None:
    """Values as they are, ids of items as a number: they may name people."""
    change = Change(3, "", {"skip": ([], ["anna.png", "ben.png"]), "seed": (0, 1)})
    assert change.in_words() == "skip 0 items -> 2 items, seed 0 -> 1"


# --- items that are left out --------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["shuffle", "balanced"])
def test_items_left_out_are_replaced_by_others_of_their_class(sampling: str) -> None:
    """The rest of the order, its length and the shares of the classes stay as they were."""
    whole = make_setup(sampling=sampling)
    gone = ("item-0", "item-3", "item-12")
    part = make_setup(sampling=sampling, skip=gone)
    for epoch in range(3):
        old, new = order_of(whole, epoch), order_of(part, epoch)
        skipped = np.isin(old, [0, 3, 12])
        assert skipped.any()
        np.testing.assert_array_equal(old[~skipped], new[~skipped])
        assert not np.isin(new, [0, 3, 12]).any()
        labels = whole.training.labels
        np.testing.assert_array_equal(labels[old], labels[new])
        np.testing.assert_array_equal(new, order_of(part, epoch))
        assert max(Counter(new.tolist()).values()) <= max(Counter(old.tolist()).values()) + 1


def test_class_that_loses_all_its_items_is_an_error() -> None:
    """There is nothing to take in their place."""
    labels, gone = np.array([0, 1, 1]), np.array([True, False, False])
    with pytest.raises(SpecError, match="expected to leave items of class 0 to train on"):
        with_stand_ins(np.array([2, 0, 1]), labels, gone)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("skip=train/red/99.png", "expected ids of training items like 'train/red/9.png', got"),
        ("skip=val/red/0.png", "expected ids of training items like .*, got 'val/red/0.png'"),
        (
            f"skip={json.dumps([f'train/red/{n}.png' for n in range(14)])}",
            "expected to leave items of class 'red' to train on",
        ),
        ("skip=[1]", "skip.*: expected str"),
    ],
)
def test_skip_that_makes_no_sense_is_refused(
    pictures: Path, tmp_path: Path, capsys: Chatter, setting: str, message: str
) -> None:
    """A mistyped id would leave the item in, in silence."""
    check_refused(command(pictures, tmp_path / "run", setting), capsys, message)
    assert not (tmp_path / "run").exists()


def test_skipped_ids_add_up_and_may_look_like_anything() -> None:
    """A name is one more, whatever is in it; a JSON list is all of them."""
    config = make_setup().config
    for settings, expected in (
        (["skip=a", "skip=b", "skip=a"], ("a", "b")),
        (["skip=5", "skip=x=y, z", "skip=[1].png"], ("5", "x=y, z", "[1].png")),
        (["skip=a", 'skip=["b","c"]', "skip=d"], ("b", "c", "d")),
        (["skip=a", "skip=[]"], ()),
    ):
        assert override(config, settings).skip == expected


# --- after a loss that is not finite ------------------------------------------------------------


def commands(error: str) -> list[list[str]]:
    """The command that an error says to go on by, and what it may end with instead."""
    first, *others = error[error.index("  python -m training") :].strip().splitlines()
    words = shlex.split(first)[3:]
    whole = [words]
    for other in others:
        assert other.startswith("or with ")
        whole.append([*words[: words.index("--resume") + 1], *shlex.split(other)[2:]])
    return whole


def break_item(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """One training item is a nan, whenever it comes."""
    original = training.step.augment

    def augment(pixels: np.ndarray, draws: Any, *rest: Any) -> torch.Tensor:
        images = original(pixels, draws, *rest).float()
        images[torch.from_numpy((pixels == marked).all((1, 2, 3)))] = torch.nan
        return images

    marked = np.zeros((1,))
    prepare = training.loop.data.prepare

    def look(source: Any, split: str, *rest: Any, **named: Any) -> Any:
        nonlocal marked
        prepared = prepare(source, split, *rest, **named)
        if split == "train":
            marked = prepared.pixels[prepared.ids.index(name)]
        return prepared

    monkeypatch.setattr(training.step, "augment", augment)
    monkeypatch.setattr(training.loop.data, "prepare", look)


def test_error_says_which_item_to_leave_out_and_how(
    pictures: Path, tmp_path: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that it prints is typed as it is, and the run goes on to its end."""
    out, name = tmp_path / "a run", "train/green/5.png"
    break_item(monkeypatch, name)
    check_refused(command(pictures, out), capsys, f"loss is nan .* from 1 items: {name}", status=1)
    main(command(pictures, out, resume=True))
    again = commands(capsys.readouterr().err)
    assert again[0][-2:] == ["--set", f"skip={name}"]
    assert main(again[0]) == 0
    ((step, changed),) = changes(out)
    assert changed == {"skip": [[], [name]]}
    notes = read_description(out / "last").notes
    assert (notes["step"], step < 5) == (15, True)
    assert not (out / "not-finite.json").exists()


def test_rate_that_was_too_high_is_lowered_and_the_run_ends(
    pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """Without any fault put in: the first way that the error names comes first, and works."""
    out = tmp_path / "run"
    settings = ("learning_rate=1e30", "precision=bf16", "seed=4")
    assert main(command(pictures, out, *settings)) == 1
    ways = commands(capsys.readouterr().err)
    named = [way[-1].partition("=")[0] for way in ways]
    assert named[:4] == ["learning_rate", "clip_norm", "seed", "precision"]
    assert ways[0][-1] == "learning_rate=1e+29"
    for way in ways:  # what is set again is there once, what is not is as it was
        keys = [word.partition("=")[0] for word in way if "=" in word]
        assert sorted(set(keys)) == sorted(keys)
        assert "batch=8" in way
    assert main([*ways[0][:-1], "learning_rate=0.001"]) == 0
    model, description = load_checkpoint(out / "last")
    assert description.notes["step"] == 15
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert changes(out) == [(0, {"learning_rate": [1e30, 0.001]})]
    assert changes(out, "best") == changes(out)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["save_every=1"], "step 1's weights gave no finite step: went back to step 0"),
        (["batch=42", "save_every=500"], "the validation loss is nan after step 1"),
    ],
)
def test_checkpoint_that_gives_no_finite_step_is_gone_back_from(
    pictures: Path, tmp_path: Path, capsys: Chatter, settings: list[str], message: str
) -> None:
    """Ruined weights, of which a step was saved or an epoch ended, end no run."""
    out = tmp_path / "run"
    arguments = command(pictures, out, *settings, "learning_rate=1e30", "warmup_steps=0")
    check_refused(arguments, capsys, message, "the last good checkpoint is kept in", status=1)
    assert read_description(out / "last").notes["step"] == 0
    assert (names(out) & {"previous", "best"}, is_readable(out)) == (set(), True)
    assert go_on(arguments, "learning_rate=0.001") == 0
    model, description = load_checkpoint(out / "last")
    assert description.notes["step"] in (3, 15)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert changes(out) == [(0, {"learning_rate": [1e30, 0.001]})]
    steps = [line["step"] for line in lines_of(out)]
    assert steps == sorted(set(steps))
    assert names(out / "checkpoints") == {(out / name).resolve().name for name in ("last", "best")}


def ruin(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Finite weights after a step that give no finite loss; the next one is called by them."""
    original = training.loop.train_step

    def ruining(setup: Any, samples: Any, number: int, *rest: Any) -> Any:
        taken = original(setup, samples, number, *rest)
        if number == step - 1:
            for parameter in setup.model.parameters():
                parameter.data.fill_(3e38)
        return taken

    monkeypatch.setattr(training.loop, "train_step", ruining)


def test_run_that_went_back_ends_as_if_it_had_never_been_ruined(
    finished: Path, pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """From a step in the middle: same bits, lines and checkpoints."""
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patched:
        ruin(patched, 8)
        check_refused(command(pictures, out), capsys, "went back to step 6", status=1)
    assert [line["step"] for line in lines_of(out)] == [5]
    assert main(command(pictures, out, resume=True)) == 0
    ended, calm = outcome(out), outcome(finished)
    for key in ("hashes", "metrics", "checkpoints", "left half written"):
        assert ended[key] == calm[key]


def test_validation_that_is_not_finite_replaces_nothing(
    pictures: Path, tmp_path: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of an epoch always saves: what cannot be measured there is no good checkpoint."""
    out = tmp_path / "run"
    ruin(monkeypatch, 10)
    message = "the validation loss is nan after step 10"
    check_refused(command(pictures, out), capsys, message, status=1)
    assert read_description(out / "last").notes["step"] == 8
    assert read_description(out / "best").notes["step"] == 5
    assert [line["step"] for line in lines_of(out)] == [5]


def test_best_waits_until_its_step_has_proved_itself(
    pictures: Path, tmp_path: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of an epoch may measure well and give no gradient: best stays what it was."""
    out = tmp_path / "run"
    original = training.loop.train_step

    def failing(setup: Any, samples: Any, number: int, *rest: Any) -> Any:
        if number == 10:
            setup.model.head.weight.data.fill_(torch.inf)
        return original(setup, samples, number, *rest)

    monkeypatch.setattr(training.loop, "train_step", failing)
    check_refused(command(pictures, out, "choose=last"), capsys, "went back to step 8", status=1)
    assert read_description(out / "last").notes["step"] == 8
    assert (out / "best").resolve().name == "step-00000005-measured"
    assert is_readable(out)


def test_first_checkpoint_that_gives_no_finite_step_says_so(
    pictures: Path, tmp_path: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing before it: said plainly, with what helps, and the run stays."""
    out = tmp_path / "run"
    original = training.loop.train_step

    def failing(setup: Any, *rest: Any) -> Any:
        setup.model.head.weight.data.fill_(torch.inf)
        return original(setup, *rest)

    monkeypatch.setattr(training.loop, "train_step", failing)
    message = "step 0's weights gave no finite step: no checkpoint is kept from before it; .* anew"
    check_refused(command(pictures, out), capsys, message, status=1)
    check_refused(command(pictures, out, resume=True), capsys, message, status=1)
    assert (names(out / "checkpoints"), is_readable(out)) == ({"step-00000000"}, True)


def killed_going_back(arguments: list[str], place: str) -> None:
    """A training process whose weights are ruined, and that dies while it goes back."""
    ruin(pytest.MonkeyPatch(), 8)
    keep_evidence = Run.keep_evidence

    def kept(run: Run, *evidence: Any) -> None:
        keep_evidence(run, *evidence)
        setattr(*before(place, 1, lambda *_, **__: signal.raise_signal(signal.SIGKILL)))

    Run.keep_evidence = kept  # type: ignore[assignment,method-assign]
    torch.set_num_threads(1)
    main(arguments)


@pytest.mark.parametrize(
    "place",
    ["training.run.Run.go_back", "training.run.Run._link", "pathlib.Path.replace",
     "pathlib.Path.unlink"],
)  # fmt: skip
def test_kill_while_it_goes_back_loses_nothing(
    finished: Path, pictures: Path, tmp_path: Path, place: str
) -> None:
    """Before or after last is put back: the next start goes back, or is back already."""
    out = tmp_path / "run"
    process = killable().Process(target=killed_going_back, args=(command(pictures, out), place))
    process.start()
    process.join(100)
    assert process.exitcode == -signal.SIGKILL
    assert is_readable(out)
    status = main(command(pictures, out, resume=True))
    if status:  # last was not put back yet, and its weights are as ruined as before
        assert status == 1
        assert read_description(out / "last").notes["step"] == 6
        assert main(command(pictures, out, resume=True)) == 0
    ended, calm = outcome(out), outcome(finished)
    for key in ("hashes", "checkpoints", "left half written"):
        assert ended[key] == calm[key]


def test_settings_are_left_out_however_they_are_written() -> None:
    """Both spellings of --set; an item's name that looks like one stays."""
    arguments = ["smoke", "--set=seed=1", "--set", "seed=2", "--resume", "--set", "skip=seed=1"]
    assert _without(arguments, {"seed"}) == ["smoke", "--set", "skip=seed=1"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("config", 3, "notes.config: expected .*, got int 3"),
        ("data", ["a"], "notes.data: expected .*, got list"),
        ("best", "x", "notes.best: expected .*, got str 'x'"),
        ("init", 1, "notes.init: expected .*, got int 1"),
        ("history", {}, "notes.history: expected .*, got dict"),
        ("step", "7", "notes.step: expected a number, got '7'"),
    ],
)
def test_notes_of_the_wrong_type_are_refused(
    finished: Path, pictures: Path, tmp_path: Path, capsys: Chatter,
    name: str, value: Any, message: str,
) -> None:  # fmt: skip
    """A description that somebody has edited is no reason for a trace."""
    out = shutil.copytree(finished, tmp_path / "run", symlinks=True)
    path = out / "last" / "checkpoint.json"
    document = json.loads(path.read_text())
    document["notes"][name] = value
    path.write_text(json.dumps(document))
    check_refused(command(pictures, out, resume=True), capsys, message)


def test_encoding_that_lacks_an_option_of_the_preset_says_how_to_leave_it_out() -> None:
    """The preset's block is none of axial_rope's; the setting that is named helps."""
    config = override(PRESETS["smoke"]("data"), ["model.encoding.block=8"])
    with pytest.raises(SpecError, match="has no block.*--set model.encoding.block=null$"):
        override(config, ["model.encoding.name=axial_rope"])
    taken = override(config, ["model.encoding.name=axial_rope", "model.encoding.block=null"])
    assert taken.model.encoding.name == "axial_rope"
