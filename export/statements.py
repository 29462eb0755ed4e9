"""What no honest export states, told from a manifest alone."""

from __future__ import annotations

from collections.abc import Iterator

from export.golden import tolerances
from export.parity import FP32, Bound
from export.proof import Proof
from models.manifest import GridEntry, Manifest, Precision


def statements(manifest: Manifest) -> Proof:
    """What no honest export states: a bound that was missed or is wider than it would be."""
    wrong = [text for entry in manifest.grids for text in _misstated(entry, manifest.precision)]
    own = {one.device: one for one in manifest.tolerances if one.precision == manifest.precision}
    for usual in tolerances(manifest.precision, list(manifest.grids)):
        if usual.device not in own:
            wrong.append(f"no tolerance is stated for {usual.device}")
        elif own[usual.device].atol > usual.atol or own[usual.device].rtol > usual.rtol:
            wrong.append(f"the tolerance on {usual.device} is wider than an export states it")
    told = "; ".join(wrong) or f"{manifest.precision}, no bound missed or wider than an export's"
    return Proof("statements", not wrong, told)


def _misstated(entry: GridEntry, precision: Precision) -> Iterator[str]:
    for parity in filter(None, (entry.parity, entry.rounded)):
        if not (parity.worst_ratio <= 1 and 0 <= parity.top1_equal <= parity.items):
            yield f"parity at {entry.grid} is outside its bound"
    if precision == "fp32" and Bound(entry.parity.atol, entry.parity.rtol) != FP32:
        yield f"parity at {entry.grid} was not held to {FP32}"
    if abs(stated_right(entry) - round(stated_right(entry))) > 1e-6:
        yield f"top-1 at {entry.grid} is no whole number of {entry.accuracy.items} items"


def stated_right(entry: GridEntry) -> float:
    """Items that are right, by the manifest."""
    return entry.accuracy.top1 * entry.accuracy.items
