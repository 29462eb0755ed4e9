"""Splits that are made: every class where it can be, groups whole, near the shares, repeatable."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.sources import FIRST, RULE, SPLITS, Item, assign_splits, open_source
from media.sources.rules import SHARES, VAL_SHARES

#: (class of each item, group of each item or "").
Labelled = list[tuple[int, str]]


def split(labelled: Labelled, given: str = "", rule: int = RULE) -> list[Item]:
    items = [
        Item(f"{number}.png", label, given, group)
        for number, (label, group) in enumerate(labelled)
    ]
    return assign_splits(items, rule)


def table(items: list[Item]) -> dict[str, Counter[int]]:
    """Items of each class, by split."""
    found: dict[str, Counter[int]] = defaultdict(Counter)
    for item in items:
        found[item.split][item.label] += 1
    return found


def test_small_set_has_every_class_in_every_split() -> None:
    """Four classes of thirty: whole, or with a test split given and val taken from train."""
    thirty = [(number % 4, "") for number in range(120)]
    assert table(split(thirty)) == {
        "train": Counter({0: 24, 1: 24, 2: 24, 3: 24}),
        "val": Counter({0: 3, 1: 3, 2: 3, 3: 3}),
        "test": Counter({0: 3, 1: 3, 2: 3, 3: 3}),
    }
    found = table(split(thirty, given="train"))
    assert found["train"].total() == 114
    assert set(found["val"]) == set(found["train"]) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("units", "present"),
    [(1, {"train"}), (2, {"train", "val"}), (3, set(SPLITS)), (5, set(SPLITS))],
)
@pytest.mark.parametrize("size", [1, 4])
def test_rare_class_goes_to_train_first_then_val_then_test(
    units: int, size: int, present: set[str]
) -> None:
    """With fewer items, or groups, than splits the last splits go without."""
    rare = [(0, f"rare {unit}" if size > 1 else "") for unit in range(units) for _ in range(size)]
    found = table(split(rare + [(1, "") for _ in range(50)]))
    assert {name for name in SPLITS if found[name][0]} == present


@pytest.mark.parametrize("count", [12, 13, 14, 47])
def test_shares_are_met_over_many_classes(count: int) -> None:
    """What is rounded for each of twenty classes does not add up: the whole is met too."""
    found = table(split([(number % 20, "") for number in range(20 * count)]))
    for name, share in SHARES.items():
        assert abs(found[name].total() - share * 20 * count) <= 2
        assert all(abs(found[name][label] - share * count) < 1.5 for label in range(20))


def test_groups_of_uneven_size_meet_the_shares() -> None:
    """Forty patients with 1 to 20 items of three classes: no split is more than 3 percent off."""
    labelled = [
        (patient % 3, f"patient {patient}")
        for patient in range(40)
        for _ in range(1 + 7 * patient % 20)
    ]
    found = table(split(labelled))
    for name, share in SHARES.items():
        assert abs(found[name].total() / len(labelled) - share) < 0.03
        assert set(found[name]) == {0, 1, 2}


def test_group_of_several_classes_stays_whole() -> None:
    """Twelve patients with items of both classes each: whole, and both classes everywhere."""
    labelled = [(item % 2, f"patient {item // 6}") for item in range(72)]
    items = split(labelled)
    homes: dict[str, set[str]] = defaultdict(set)
    for item in items:
        homes[item.group].add(item.split)
    assert all(len(home) == 1 for home in homes.values())
    assert all(set(counts) == {0, 1} for counts in table(items).values())
    assert set(table(items)) == set(SPLITS)


labelled_sets = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from(["", "", "p", "q", "r", "s", "t", "u"])),
    min_size=1,
    max_size=80,
)


@given(labelled_sets, st.randoms(use_true_random=False), st.sampled_from(["", "train"]))
def test_splits_are_a_function_of_the_set(labelled: Labelled, random: object, given: str) -> None:
    """Whatever the order of the items, each gets the same split, and no group is cut."""
    items = split(labelled, given)
    shuffled = [Item(item.id, item.label, given, item.group) for item in items]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = {item.id: item.split for item in assign_splits(shuffled)}
    assert again == {item.id: item.split for item in items}
    homes = {(item.group, item.split) for item in items if item.group}
    assert len(homes) == len({group for group, _ in homes})
    assert {item.split for item in items} <= set(VAL_SHARES if given else SHARES)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=40))
def test_class_with_units_enough_is_in_every_split(units: list[tuple[int, int]]) -> None:
    """Groups of one class each: three of them reach all splits, two reach train and val."""
    labelled = [
        (label, f"g{number}") for number, (label, size) in enumerate(units) for _ in range(size)
    ]
    found = table(split(labelled))
    for label, count in Counter(label for label, _ in units).items():
        present = [name for name in SPLITS if found[name][label]]
        assert present == list(SPLITS[: min(count, 3)])


def test_splits_are_the_same_on_every_machine() -> None:
    """Frozen: a run must find its splits again with any later version of this code."""
    labelled = [(number % 3, f"p{number // 5}" if number < 40 else "") for number in range(70)]
    held = {item.id.removesuffix(".png"): item.split for item in split(labelled)}
    assert [int(id_) for id_ in held if held[id_] == "val"] == FROZEN["val"]
    assert [int(id_) for id_ in held if held[id_] == "test"] == FROZEN["test"]


FROZEN = {"val": [35, 36, 37, 38, 39, 53, 55], "test": [15, 16, 17, 18, 19, 47, 66]}


def test_first_rule_is_what_it_always_was(tmp_path: Path) -> None:
    """Splits by each item's own hash, with names as they are stored and the endings of then."""
    for number in range(40):
        folder = tmp_path / "set" / ("cafe\u0301", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.{'jfif' if number % 8 == 7 else 'png'}").write_text(str(number))
    source = open_source(tmp_path / "set", FIRST)
    assert source.labels == ("cafe\u0301", "dog")
    held = {name: [Path(item.id).stem for item in source.split(name)] for name in ("val", "test")}
    assert held == {"val": ["20", "38", "19", "37"], "test": ["22", "24", "5"]}
    assert len(source.items) == 35
    newest = open_source(tmp_path / "set")
    assert newest.labels == ("caf\u00e9", "dog")
    assert len(newest.items) == 40
    assert (source.rule, newest.rule) == (1, 2)
