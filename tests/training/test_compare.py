"""Encodings compared under one recipe: shared work, nothing lost, and a table that says so."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from media.dataset import prepare_split
from media.duplicates import find_duplicates
from media.index import Dataset
from media.index.listing import index
from media.sources import Item, Source, open_source
from media.sources.stores import Held, Reading, Where
from media.spec import Grid, InputSpec, SpecError
from models.checkpoint import load_checkpoint, read_description
from models.encodings import parse_encoding
from tests.helpers import training_runs
from tests.helpers.effort import alone
from tests.helpers.forks import killable
from tests.helpers.training_runs import TINY, Chatter, before, check_refused, command
from training.__main__ import main
from training.compare.compare import split_names
from training.compare.comparison import claimed, load
from training.compare.resolutions import scaled, shuffled
from training.compare.rows import over_seeds
from training.compare.table import percent
from training.data import describe, read_contents, thin
from training.loop import set_up
from training.presets import PRESETS
from training.progress import Progress
from training.report.held_out import open_held_out
from training.run import Run
from training.settings import override

pictures = training_runs.pictures

NAMES = ("absolute", "liere_4")


def arguments_for(data: Path, out: Path, *settings: str, **options: str) -> list[str]:
    """The command line of a tiny comparison: two encodings, two seeds, one epoch."""
    given = {"preset": "smoke", "data": str(data), "out": str(out), "split": "val"}
    given |= {"encodings": ",".join(NAMES), "seeds": "2", "rounds": "2"} | options
    arguments = ["compare"]
    for name, value in given.items():
        arguments += [f"--{name}", *value.split(" ")]
    for setting in (*TINY, "epochs=1", *settings):
        arguments += ["--set", setting]
    return arguments


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Like the children below: sums depend on the number of threads in their last bit."""
    before_it = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before_it)


@pytest.fixture(scope="module")
def compared(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison; not to be written to."""
    out = tmp_path_factory.mktemp("compared") / "out"
    assert main(arguments_for(pictures, out)) == 0
    return out


def measured(out: Path) -> dict[str, dict[str, Any]]:
    """What was measured of every run, by its name, without the times."""
    return {
        path.parent.name: json.loads(path.read_text()) | {"step_seconds": None}
        for path in out.glob("runs/*/measured.json")
    }


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "compare.csv").open() as stream:
        return {row["encoding"]: row for row in csv.DictReader(stream)}


def starts(out: Path) -> set[int]:
    """How often runs were started: every start writes curves of its own."""
    return {len(list(run.glob("tensorboard/*"))) for run in (out / "runs").iterdir()}


# --- what is measured ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "scale", "expected"),
    [
        ("3x4", 0.75, "2x3"), ("3x4", 1.0, "3x4"), ("3x4", 1.5, "5x6"), ("3x4", 2.0, "6x8"),
        ("1x7x5", 0.75, "1x5x4"), ("1x7x5", 1.5, "2x11x8"), ("1x2", 0.25, "1x1"),
    ],
)  # fmt: skip
def test_scaled_grids_have_whole_tokens(grid: str, scale: float, expected: str) -> None:
    """Every side for itself, halves up, never none."""
    assert str(scaled(Grid.parse(grid), scale)) == expected


@pytest.mark.parametrize(
    ("grid", "patch"), [((3, 5), (2, 4)), ((2, 3, 4), (3, 1, 2)), ((1, 1), (4, 3))]
)
def test_shuffled_patches_keep_their_pixels(grid: tuple[int, ...], patch: tuple[int, ...]) -> None:
    """An item has the same patches in another order, of its own, whatever its neighbours are."""
    sides = Grid(grid).pixels(patch)
    pixels = np.random.default_rng(0).integers(0, 256, (4, *sides, 3), dtype=np.uint8)
    pixels[1:] = pixels[:1]
    mixed = shuffled(pixels, patch)
    assert (mixed.shape, mixed.dtype) == (pixels.shape, pixels.dtype)
    for item in mixed:
        assert patches_of(item, patch) == patches_of(pixels[0], patch)
    different = {item.tobytes() for item in (*mixed, pixels[0])}
    assert len(different) == (1 if math.prod(grid) == 1 else 5)
    np.testing.assert_array_equal(shuffled(pixels[:2], patch), mixed[:2])


def patches_of(item: np.ndarray, patch: tuple[int, ...]) -> Counter[bytes]:
    """The contents of every patch, cut out one by one."""
    grid = [side // size for side, size in zip(item.shape, patch, strict=False)]
    cuts = (
        tuple(slice(i * size, (i + 1) * size) for i, size in zip(place, patch, strict=True))
        for place in np.ndindex(*grid)
    )
    return Counter(item[cut].tobytes() for cut in cuts)


def test_accuracies_are_those_of_the_checkpoint(compared: Path, pictures: Path) -> None:
    """Measured again from the files alone, at another grid and at the training grid."""
    figures = measured(compared)["liere_4-seed1"]
    model, description = load_checkpoint(compared / "runs/liere_4-seed1/best")
    for scale, grid in (("1", "3x4"), ("1.5", "5x6")):
        prepared = prepare_split(
            open_source(pictures), "val", description.input, Grid.parse(grid), model.spec.patch
        )
        with torch.inference_mode():
            given = model.eval()(torch.from_numpy(prepared.pixels)).argmax(1).numpy()
        assert figures["grids"][scale] == grid
        assert figures["accuracy"][scale] == pytest.approx((given == prepared.labels).mean())
    count = sum(parameter.numel() for parameter in model.parameters())
    assert (figures["parameters"], figures["items"]) == (count, 12)
    assert figures["encoding_parameters"] == model.encoding.state_dict()["entries"].numel()


def test_one_seed_gives_all_encodings_the_same_start(pictures: Path, tmp_path: Path) -> None:
    """Weights outside the encoding do not depend on the encoding."""
    config = override(PRESETS["smoke"](str(pictures)), list(TINY))
    states = []
    for name in ("absolute", "liere_8", "masa"):
        model = dataclasses.replace(config.model, encoding=parse_encoding(name))
        with Progress() as progress:
            changed = dataclasses.replace(config, model=model)
            setup, _ = set_up(changed, Run(tmp_path / name), False, progress)
        states.append(setup.model.state_dict())
    for name, tensor in states[0].items():
        for other in states[1:]:
            assert name.startswith("encoding.") or torch.equal(tensor, other[name]), name


# --- the table ----------------------------------------------------------------------------------


def test_table_holds_what_was_measured(compared: Path) -> None:
    """Mean, deviation and interval over the seeds, differences seed by seed, ratios of steps."""
    runs, table = measured(compared), rows(compared)
    times = json.loads((compared / "step-time.json").read_text())["seconds"]
    one, two = ([runs[f"{name}-seed{s}"]["accuracy"]["2"] for s in (0, 1)] for name in NAMES)
    row = table["liere_4"]
    assert float(row["top1_at_2x_mean"]) == pytest.approx(sum(two) / 2)
    assert float(row["top1_at_2x_deviation"]) == pytest.approx(abs(two[0] - two[1]) / 2**0.5)
    assert float(row["step_ratio"]) == pytest.approx(times["liere_4"] / times["absolute"])
    plain = [[runs[f"{name}-seed{s}"]["accuracy"]["1"] for s in (0, 1)] for name in NAMES]
    expected = sum(b - a for a, b in zip(*plain, strict=True)) / 2
    assert float(row["difference_mean"]) == pytest.approx(expected)
    assert float(table["absolute"]["top1_at_2x_mean"]) == pytest.approx(sum(one) / 2)
    text = (compared / "compare.md").read_text()
    assert f"| {percent(over_seeds(two))} |" in text
    assert "missing" not in text


def test_interval_is_students() -> None:
    """1, 2, 3 have deviation 1 and the interval 2 ± 4.303 / sqrt(3); one value has none."""
    figure = over_seeds([1.0, 2.0, 3.0])
    assert figure is not None
    assert (figure.mean, figure.deviation) == (2.0, 1.0)
    assert figure.half == pytest.approx(4.302653 / 3**0.5)
    single = over_seeds([0.5])
    assert single is not None
    assert (single.mean, single.half, percent(single)) == (0.5, None, "50.00")
    assert over_seeds([]) is None


def test_pictures_are_drawn(compared: Path) -> None:
    """Every picture that the table shows is there, and not one colour."""
    shown = [line.split("(")[1][:-1] for line in pictured(compared)]
    assert len(shown) == 3
    for name in shown:
        with Image.open(io.BytesIO((compared / name).read_bytes())) as image:
            assert len(image.convert("RGB").getcolors(2**24) or ()) > 10


def pictured(out: Path) -> list[str]:
    return [line for line in (out / "compare.md").read_text().splitlines() if line[:2] == "!["]


def test_missing_run_is_missing_and_never_zero(compared: Path, tmp_path: Path) -> None:
    """A table of what there is so far names the rest, and its figures are of the finished runs."""
    out = shutil.copytree(compared, tmp_path / "out", symlinks=True)
    (out / "runs/absolute-seed1/measured.json").unlink()
    for seed in (0, 1):
        (out / f"runs/liere_4-seed{seed}/measured.json").unlink()
    (out / "step-time.json").unlink()
    assert main(["compare", "--out", str(out), "--table-only"]) == 0
    text = (out / "compare.md").read_text()
    assert "| absolute | 1 of 2 |" in text
    assert f"| liere_4 | 0 of 2 | {' | '.join(['missing'] * 10)} |" in text
    empty = {key: value for key, value in rows(out)["liere_4"].items() if value}
    assert empty == {"encoding": "liere_4", "seeds": "0"}
    assert not (out / "step-time.json").exists()


# --- killed, stopped, shared -----------------------------------------------------------------


def compare_interrupted(
    arguments: list[str], log: Path, place: tuple[str, int, int] | None = None
) -> None:
    """A whole comparison in a child; a place is a function, which of its calls, and a signal."""
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    torch.set_num_threads(1)  # see one_thread
    if place:
        name, call, number = place
        setattr(*before(name, call, lambda *_, **__: signal.raise_signal(number)))
    os._exit(main(arguments))


#: Where a comparison ends, one after the other, each in a process of its own.
PLACES = (
    ("training.loop.Fit._step", 4, signal.SIGKILL),  # a run is at its third step
    ("training.loop.Fit._step", 2, signal.SIGTERM),
    ("training.compare.compare.measure", 1, signal.SIGKILL),  # trained and not measured
    ("training.compare.resolutions.evaluate", 3, signal.SIGTERM),
    ("training.compare.compare.write_json", 2, signal.SIGKILL),  # measured and not written
    ("training.compare.step_times.train_step", 3, signal.SIGTERM),  # all runs are finished
    ("training.compare.table.draw", 1, signal.SIGKILL),
)


@pytest.mark.timeout(600)
@alone
def test_interrupted_comparison_ends_with_the_same_figures(
    compared: Path, pictures: Path, tmp_path: Path
) -> None:
    """Killed or stopped at every place, it goes on, and every weight and figure is the same."""
    arguments, log = arguments_for(pictures, tmp_path / "out"), tmp_path / "log.txt"
    for place in (*PLACES, None):
        process = killable().Process(target=compare_interrupted, args=(arguments, log, place))
        process.start()
        process.join(100)
        number = place[2] if place else 0
        expected = {0: 0, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}[number]
        assert process.exitcode == expected, (place, log.read_text()[-3000:])
    assert measured(tmp_path / "out") == measured(compared)
    assert "the same command goes on" in log.read_text()


@pytest.mark.timeout(600)
@alone
def test_processes_share_the_work(compared: Path, pictures: Path, tmp_path: Path) -> None:
    """Two processes on one folder finish it together; no run is begun twice."""
    arguments, log = arguments_for(pictures, tmp_path / "out"), tmp_path / "log.txt"
    both = [killable().Process(target=compare_interrupted, args=(arguments, log)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(200)
        assert process.exitcode == 0, log.read_text()[-3000:]
    assert measured(tmp_path / "out") == measured(compared)
    assert starts(tmp_path / "out") == {1}
    assert "missing" not in (tmp_path / "out" / "compare.md").read_text()


def test_run_of_another_process_is_left_to_it(
    compared: Path, pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """Nobody waits: the others are done, what is taken is said to be missing until it is free."""
    out = tmp_path / "out"
    with claimed(out, "absolute-seed1") as ours:
        assert ours
        assert main(arguments_for(pictures, out)) == 0
    said = capsys.readouterr().err
    assert "3 of 4 runs are finished; 1 are with other processes; nothing is left to take" in said
    assert "| absolute | 1 of 2 |" in (out / "compare.md").read_text()
    assert not (out / "step-time.json").exists()
    assert main(arguments_for(pictures, out)) == 0
    assert measured(out) == measured(compared)
    assert starts(out) == {1}


# --- one recipe ---------------------------------------------------------------------------------


def test_encodings_and_seeds_may_be_added(compared: Path, pictures: Path, tmp_path: Path) -> None:
    """What is finished stays as it is; the new ones are trained for all seeds and timed again."""
    out = shutil.copytree(compared, tmp_path / "out", symlinks=True)
    assert main(arguments_for(pictures, out, encodings="axial_rope", seeds="3")) == 0
    assert load(out).encodings == (*NAMES, "axial_rope")
    after = measured(out)
    assert set(after) == {f"{name}-seed{s}" for name in (*NAMES, "axial_rope") for s in range(3)}
    assert {name: after[name] for name in measured(compared)} == measured(compared)
    assert float(rows(out)["axial_rope"]["step_ratio"]) > 0
    assert starts(out) == {1}


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        (["epochs=2", "batch=4"], {}, "comparison with other values of: batch, epochs; choose"),
        ([], {"scales": "1 3"}, "with other values of: scales; choose another folder"),
        ([], {"test-items": "6"}, "with other values of: items; choose another folder"),
        ([], {"split": "train"}, "with other values of: split; choose another folder"),
    ],
)
def test_another_recipe_is_refused(
    compared: Path, pictures: Path, tmp_path: Path, capsys: Chatter,
    settings: list[str], options: dict[str, str], message: str,
) -> None:  # fmt: skip
    """One table, one recipe: the error names every difference, and nothing changes."""
    out = shutil.copytree(compared, tmp_path / "out", symlinks=True)
    kept = (out / "compare.json").read_bytes()
    check_refused(arguments_for(pictures, out, *settings, **options), capsys, message)
    assert (out / "compare.json").read_bytes() == kept


def test_other_data_are_refused(
    compared: Path, pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """Data are compared by content: moved they are the same, with one item less they are not."""
    out = shutil.copytree(compared, tmp_path / "out", symlinks=True)
    data = shutil.copytree(pictures, tmp_path / "data")
    assert main(arguments_for(data, out)) == 0
    (data / "val/red/0.png").unlink()
    check_refused(arguments_for(data, out), capsys, "with other values of: data; choose another")


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ([], {"encodings": "absolute,rope"}, "--encodings rope: unknown encoding 'rope'; known: "),
        ([], {"encodings": "liere_5"}, "--encodings liere_5: liere: block .*divide head_dim 16"),
        ([], {"encodings": "absolute,absolute"}, "--encodings: expected each one once"),
        (["seed=3"], {}, "--set seed=3: .*expected --encodings and --seeds for these"),
        (["model.encoding.block=4"], {}, "--set model.encoding.block=4: .*expected --encodings"),
        (["model.hight=4"], {}, "unknown key 'model.hight'"),
        ([], {"seeds": "0"}, "expected 1 or more, got --seeds 0 --rounds 2"),
        ([], {"scales": "0.5 0"}, r"scales must be above 0 and up to 8, got \[0.5, 0.0\]"),
        ([], {"test-items": "2"}, "at least one item of each of 3 classes in split 'val', got 2"),
        ([], {"test-items": "-1"}, "the items to measure must be 0 or more, got -1"),
        (["items=-1"], {}, "items must be 0 or more, got -1"),
        ([], {"split": "test"}, "expected items in split 'test', got"),
    ],
)
def test_bad_input_is_refused_before_any_training(
    pictures: Path, tmp_path: Path, capsys: Chatter,
    settings: list[str], options: dict[str, str], message: str,
) -> None:  # fmt: skip
    """The error says what was expected and what came, and leaves no folder behind."""
    out = tmp_path / "out"
    check_refused(arguments_for(pictures, out, *settings, **options), capsys, message)
    assert not out.exists()


def test_folder_that_holds_something_else_is_refused(
    pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """Neither begun in, nor made a table of."""
    (tmp_path / "notes.txt").write_text("mine")
    check_refused(arguments_for(pictures, tmp_path), capsys, "exists and is not empty")
    table = ["compare", "--out", str(tmp_path), "--table-only"]
    check_refused(table, capsys, "holds no comparison: expected compare.json")
    check_refused(table[:-1], capsys, "expected --preset, --data and --encodings, or --table-only")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_options_of_an_encoding_stay_with_it() -> None:
    """Commas part encodings, and the options of one of them."""
    text = "absolute,masa:basis=givens,factors=8,liere_8,axial_rope:base=100"
    assert split_names(text) == [
        "absolute", "masa:basis=givens,factors=8", "liere_8", "axial_rope:base=100"
    ]  # fmt: skip
    assert split_names("liere:block=8") == ["liere_8"]
    assert split_names("liere,masa:base=100,masa:factors=8,basis=givens,base=100") == [
        "liere_8", "masa", "masa:basis=givens,factors=8"
    ]  # fmt: skip
    for twice in ("liere_8,liere_8", "liere_8,liere:block=8", "liere,liere_8"):
        with pytest.raises(SpecError, match=f"expected each one once, got {twice}"):
            split_names(twice)


# --- a part of the items -----------------------------------------------------------------------


def data_of(labels: list[int]) -> Dataset:
    """Training items of these classes, and three to measure on."""
    items = [Item(f"t{i}", label, "train") for i, label in enumerate(labels)]
    items += [Item(f"v{label}", label, "val") for label in range(3)]
    read = Reading(Held((np.zeros((1, 1)),)), lambda id_: Where())
    return index(Source("data", ("a", "b", "c"), tuple(items), read))


def test_part_of_a_split_is_balanced_and_grows() -> None:
    """Every class as often as any other while it lasts; a smaller part lies in a larger one."""
    dataset, before_it = data_of([0] * 20 + [1] * 4 + [2] * 9), set[int]()
    for count, expected in ((3, [1, 1, 1]), (11, [4, 4, 3]), (12, [4] * 3), (20, [8, 4, 8])):
        part = thin(dataset, "train", count)
        items = part.split("train").tolist()
        assert sorted(part.counts()["train"]) == sorted(expected)
        assert part.split("val").tolist() == dataset.split("val").tolist()
        assert before_it <= set(items)
        before_it = set(items)
    assert items == [place for place in dataset.split("train") if place in before_it]
    assert thin(dataset, "train", 0) is dataset
    assert thin(dataset, "train", 99) is dataset


def test_run_on_a_part_of_the_items_can_be_reported_and_exported(
    pictures: Path, tmp_path: Path
) -> None:
    """It remembers the whole training split, which is what its test items must not be in."""
    out = tmp_path / "run"
    assert main(command(pictures, out, "items=9", "epochs=1")) == 0
    assert (out / "report" / "index.html").exists()
    description = read_description(out / "best")
    assert description.notes["data"]["train"]["items"] == 9
    whole = open_held_out(description, pictures)
    prepared = [
        prepare_split(whole, split, InputSpec(), Grid((1, 1)), (8, 8)) for split in ("train", "val")
    ]
    contents = read_contents(whole)
    described = whole, contents, find_duplicates(contents)
    expected = describe(*described, *prepared)["train"]["sha256"]
    assert description.notes["data"]["train"]["sha256"] == expected
    part = dataclasses.replace(prepared[0], ids=prepared[0].ids[:9], sha256="of a part")
    assert describe(*described, part, prepared[1])["train"] == {"items": 9, "sha256": expected}
