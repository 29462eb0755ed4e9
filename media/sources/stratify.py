"""Splits that hold every class they can hold, near the shares asked for, groups whole.

What moves as one is a *unit*: the items of a group, or one item without a group. Units come in the
order of a hash of their names, which decides wherever nothing else does. First every class, the
rarest first, gives one unit to each split, train before val before test: a class with fewer units
than splits is absent from the last ones. Then each unit that is left goes where it brings the
counts of its classes, and of all items, nearest to their shares, large units first. At last units
move to where they do better, as long as no class is lost by it. Of few units the best of several
such deals is taken: groups that hold several classes are a puzzle, and may be one without a
solution, in which a class is absent from a split although it has units enough.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from media.sources.items import Item

#: How often every unit is looked at once more; moves have become rare by then.
ROUNDS = 10
#: Deals that are tried where there are groups, and up to how many units.
TRIES, FEW = 20, 2000

#: (class, items of it), by class.
Counts = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Unit:
    """Items that are never parted: their places in the list, and how many are of each class."""

    places: tuple[int, ...]
    counts: Counts
    order: bytes


def stratify(items: Sequence[Item], shares: Mapping[str, float]) -> list[Item]:
    """The items, in their order, each with a split; given splits are not looked at.

    Args:
        shares: of each split, the first taking precedence where a class is scarce.
    """
    units = sorted(_units(items), key=lambda unit: unit.order)
    tries = TRIES if len(units) < min(len(items), FEW) else 1
    deal = min((_Deal(units, shares, number) for number in range(tries)), key=_Deal.badness)
    result = list(items)
    for unit, split in deal.split_of.items():
        for place in unit.places:
            result[place] = dataclasses.replace(items[place], split=split)
    return result


def _units(items: Sequence[Item]) -> Iterator[Unit]:
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        places["group" if item.group else "item", item.group or item.id].append(place)
    for (kind, name), found in places.items():
        counts = Counter(items[place].label for place in found)
        order = hashlib.sha256(f"{kind} {name}".encode()).digest()
        yield Unit(tuple(found), tuple(sorted(counts.items())), order)


class _Deal:
    """Units on their way into splits; of another number, by other choices."""

    def __init__(self, units: list[Unit], shares: Mapping[str, float], number: int) -> None:
        self.units, self.shares = units, shares
        self.number, self.random = number, random.Random(number)
        self.split_of: dict[Unit, str] = {}
        totals: Counter[int] = Counter()
        #: Free units of each class, those alike together; the next one stands at the end.
        self.free: dict[int, dict[Counts, list[Unit]]] = defaultdict(lambda: defaultdict(list))
        self.left: Counter[int] = Counter()  # free units, by class
        for unit in reversed(units):
            for label, count in unit.counts:
                self.free[label][unit.counts].append(unit)
                self.left[label] += 1
                totals[label] += count
        #: Items that a split still wants, by class, and of all classes together.
        self.wanted = {
            split: {label: share * count for label, count in totals.items()}
            for split, share in shares.items()
        }
        self.wanted_in_all = {split: share * totals.total() for split, share in shares.items()}
        #: How many units of a class a split has.
        self.has: dict[str, Counter[int]] = {split: Counter() for split in shares}
        self.cover()
        self.fill()
        self.improve()

    def badness(self) -> tuple[int, float]:
        """Classes that are absent where they could be, then how far all is from the shares."""
        absent = sum(
            min(units, len(self.shares)) - sum(has[label] > 0 for has in self.has.values())
            for label, units in sum(self.has.values(), Counter[int]()).items()
        )
        wanted = [*self.wanted_in_all.values()]
        wanted += [count for by_class in self.wanted.values() for count in by_class.values()]
        return absent, sum(count**2 for count in wanted)

    def cover(self) -> None:
        """Every class into every split, as far as its units go."""
        for label in sorted(self.left, key=lambda label: (self.left[label], label)):
            for split in self.shares:
                if not self.has[split][label] and self.left[label]:
                    self._give(self._best_for(label, split), split)

    def fill(self) -> None:
        """What is left, large units first: small ones can still even out."""
        left = [unit for unit in self.units if unit not in self.split_of]
        for unit in sorted(left, key=lambda unit: -len(unit.places)):
            self._give(unit, min(self.shares, key=lambda split: self._cost(unit, split)))

    def improve(self) -> None:
        """Move units to where they bring a class that is absent, or else all nearer to the shares.

        Single items lie as near as they can: only groups are looked at.
        """
        groups = [unit for unit in self.units if len(unit.places) > 1]
        for _ in range(ROUNDS):
            if not sum([self._moves(unit) for unit in groups]):
                return

    def _moves(self, unit: Unit) -> bool:
        """Whether the unit has moved: never where its split would lose a class by it."""
        old = self.split_of[unit]
        if any(self.has[old][label] == 1 for label, _ in unit.counts):
            return False
        self._give(unit, old, back=True)
        rank = [(self._present(unit, split), self._cost(unit, split)) for split in self.shares]
        new = list(self.shares)[rank.index(min(rank))]
        self._give(unit, new)
        return new != old

    def _present(self, unit: Unit, split: str) -> int:
        """How many of its classes a split has without the unit."""
        return sum(self.has[split][label] > 0 for label, _ in unit.counts)

    def _best_for(self, label: int, split: str) -> Unit:
        """The free unit of a class that a split gets; of those that are alike, the next one."""
        heads = []
        for alike in self.free[label].values():
            while alike and alike[-1] in self.split_of:
                alike.pop()
            heads += alike[-1:]
        if self.number:
            return min(heads, key=lambda u: (self._harm(u, split), self.random.random()))
        return min(heads, key=lambda u: (self._harm(u, split), self._cost(u, split), u.order))

    def _harm(self, unit: Unit, split: str) -> int:
        """Splits that classes of the unit could no longer get into."""
        harm = 0
        for label, _ in unit.counts:
            lacking = sum(not has[label] for has in self.has.values())
            still = lacking - (not self.has[split][label])
            harm += max(0, still - self.left[label] + 1) - max(0, lacking - self.left[label])
        return harm

    def _cost(self, unit: Unit, split: str) -> float:
        """How much farther from its shares the split is with the unit, in items squared.

        For all classes together it counts less the more there are: neither may be far off.
        """
        wanted, size = self.wanted[split], len(unit.places)
        in_all = size * (size - 2 * self.wanted_in_all[split]) / math.sqrt(len(self.left))
        return in_all + sum(count * (count - 2 * wanted[label]) for label, count in unit.counts)

    def _give(self, unit: Unit, split: str, back: bool = False) -> None:
        """Put the unit into a split, or take it ``back`` from there."""
        one = -1 if back else 1
        self.split_of[unit] = split
        self.wanted_in_all[split] -= one * len(unit.places)
        for label, count in unit.counts:
            self.wanted[split][label] -= one * count
            self.left[label] -= one
            self.has[split][label] += one
