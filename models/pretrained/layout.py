"""How a library calls the tensors of a family, and which of them a file has.

The names on our side are those of ``models.vit`` where a tensor is one of ours, or a part of one.
What has no name there:

    table                    learned positions [1, rows, W], perhaps with a row of the class token
    patch.weight             the convolution [W, C, p, p]
    query, key, value        of a layer's ``attention``, where they come by themselves
    first, last, gate        of a layer's ``mlp``: 0 and 2, or up, down and gate
    frequencies, periods, key_mask, token_rows, token_columns    what a rotation or a bias needs
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from models.checkpoint import CheckpointError

#: Stands for the number of a layer.
LAYER = "{n}"
NUMBER = r"(0|[1-9]\d{0,3})"
ENDS = ("weight", "bias")


@dataclasses.dataclass(frozen=True)
class Layout:
    """The names of one library.

    Attributes:
        library: whose they are.
        names: theirs -> ours; ``*`` stands for weight and bias. Several of theirs may be one of
            ours: a file has one of them.
        optional: of ours, those that some models of the family lack, in all layers alike.
        left_out: of theirs, beginnings of those that no answer depends on.
        prefixes: of theirs, what may stand before a name.
    """

    library: str
    names: Mapping[str, str]
    optional: frozenset[str] = frozenset()
    left_out: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Matched:
    """A file's tensors by our names.

    Attributes:
        theirs: ours -> the file's.
        left_out, extra: the file's that no answer depends on, and that are not known.
        missing: of the layout that the file should have.
        depth: layers.
    """

    layout: Layout
    theirs: dict[str, str]
    left_out: tuple[str, ...]
    extra: tuple[str, ...]
    missing: tuple[str, ...]
    depth: int

    @property
    def wrong(self) -> int:
        """How many tensors there are too many or too few."""
        return len(self.extra) + len(self.missing)

    def check(self, family: str) -> None:
        """CheckpointError that names the first tensors that are missing or too many."""
        for verb, names in (("lacks", self.missing), ("has besides", self.extra)):
            if names:
                more = f" and {len(names) - 4} more" if len(names) > 4 else ""
                raise CheckpointError(
                    f"expected the tensors of {family} as {self.layout.library} names them, got a "
                    f"file that {verb} {', '.join(names[:4])}{more}"
                )

    def check_shapes(
        self, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        """CheckpointError unless every tensor has its shape, by our name with ``{n}``."""
        for ours, theirs in self.theirs.items():
            wanted = shapes[re.sub(r"^layers\.\d+", f"layers.{LAYER}", ours)]
            if tuple(tensors[theirs].shape) != wanted:
                raise CheckpointError(
                    f"{theirs}: expected shape {list(wanted)}, got {list(tensors[theirs].shape)}"
                )


def names_of(table: Mapping[str, str], *layers: Mapping[str, str]) -> dict[str, str]:
    """A layout's names, where ``*`` is weight and bias, and ``layers`` are of each layer."""
    every = dict(table)
    for names in layers:
        every |= {theirs: f"layers.{LAYER}.{ours}" for theirs, ours in names.items()}
    full: dict[str, str] = {}
    for theirs, ours in every.items():
        ends = ENDS if theirs.endswith("*") else ("",)
        full |= {theirs.replace("*", end): ours.replace("*", end) for end in ends}
    return full


def both(*names: str) -> frozenset[str]:
    """Names with ``*`` as weights and biases."""
    return frozenset(name.replace("*", end) for name in names for end in ENDS)


def match(
    names: Iterable[str], layout: Layout, absent: frozenset[str] = frozenset()
) -> Matched:
    """Which of a layout's tensors there are among ``names``.

    Args:
        absent: of ours, besides the optional ones, those that this file may lack.
    """
    patterns = {
        re.compile(re.escape(theirs).replace(re.escape(LAYER), NUMBER)): ours
        for theirs, ours in layout.names.items()
    }
    found: dict[str, str] = {}
    left_out: list[str] = []
    extra: list[str] = []
    depth = 0
    for name in sorted(names):
        prefix = next((one for one in layout.prefixes if name.startswith(one)), "")
        bare = name.removeprefix(prefix)
        hits = ((pattern.fullmatch(bare), ours) for pattern, ours in patterns.items())
        hit, ours = next(((hit, ours) for hit, ours in hits if hit), (None, ""))
        if hit and LAYER in ours:
            depth = max(depth, 1 + int(hit[1]))
            ours = ours.replace(LAYER, hit[1])
        if hit and ours not in found:
            found[ours] = name
        else:
            (left_out if bare.startswith(layout.left_out) else extra).append(name)
    missing = _missing(found, depth, layout, layout.optional | absent)
    return Matched(layout, found, tuple(left_out), tuple(extra), missing, depth)


def _missing(
    found: dict[str, str], depth: int, layout: Layout, optional: frozenset[str]
) -> tuple[str, ...]:
    """Theirs, by the first of their names: what is not optional, or one layer has and one not."""
    first = {ours: theirs for theirs, ours in reversed(list(layout.names.items()))}
    missing = []
    for ours, theirs in first.items():
        numbers = range(max(depth, 1)) if LAYER in ours else range(1)
        lacking = [n for n in numbers if ours.replace(LAYER, str(n)) not in found]
        if lacking and (ours not in optional or len(lacking) < len(numbers)):
            missing += [theirs.replace(LAYER, str(n)) for n in lacking]
    return tuple(missing)
