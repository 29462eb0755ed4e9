"""One thing that a manifest says, tried, and what came of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from models.manifest import GridEntry


@dataclasses.dataclass(frozen=True)
class Proof:
    """One thing that a manifest says, tried.

    Attributes:
        passed: None where it cannot be told here.
        told: one sentence, with the figure that was found.
        found, bound: that figure and what it may be at most, where it is one.
    """

    what: str
    passed: bool | None
    told: str
    found: float | None = None
    bound: float | None = None


def tried(what: str, entry: GridEntry, check: Callable[[GridEntry], Proof]) -> Proof:
    """The proof of one grid, failed where it cannot even be made."""
    try:
        return check(entry)
    except Exception as error:  # a spoilt file makes onnx and the runtime raise nearly every type
        return failed(what, entry, error)


def failed(what: str, entry: GridEntry, error: Exception) -> Proof:
    """A proof that cannot be made, in the first line of what went wrong."""
    first = str(error).strip().partition("\n")[0]
    return Proof(f"{what} {entry.grid}", False, f"{type(error).__name__}: {first}")
