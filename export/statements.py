"""What no honest export states, told from a manifest alone."""

from __future__ import annotations

from collections.abc import Iterator

from export.golden import tolerances
from export.parity import Bound, fp32_bound
from export.proof import Proof
from models.figures import Figures
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
    explained = (entry.attention.parity, entry.attention.rollout) if entry.attention else ()
    for parity in filter(None, (entry.parity, entry.rounded, *explained)):
        if not (parity.worst_ratio <= 1 and 0 <= parity.top1_equal <= parity.items):
            yield f"parity at {entry.grid} is outside its bound"
    for parity in (entry.parity, *explained) if precision == "fp32" else ():
        usual = fp32_bound(parity.largest)
        if Bound(parity.atol, parity.rtol) != usual:
            yield f"parity at {entry.grid} was not held to {usual}"
    if entry.accuracy is None:
        return
    if abs(stated_right(entry) - round(stated_right(entry))) > 1e-6:
        yield f"top-1 at {entry.grid} is no whole number of {entry.accuracy.items} items"
    if entry.figures is not None:
        yield from _misfigured(entry, entry.figures)
    if (fitted_on := entry.calibration.fitted_on) is not None:
        measured = (entry.accuracy.split, entry.accuracy.split_sha256)
        if fitted_on.split in measured or fitted_on.split_sha256 in measured:
            yield f"the temperature at {entry.grid} was fitted on the split that is measured"


def _misfigured(entry: GridEntry, figures: Figures) -> Iterator[str]:
    """Shares of items are whole numbers of them, and what is left cannot grow with a threshold."""
    assert entry.accuracy is not None  # where there are figures
    items, rows = entry.accuracy.items, figures.coverage
    kept = [row.share * items for row in rows]
    right = [row.share * (row.accuracy or 0) * items for row in rows]
    top1 = (figures.top1.value or 0) * items
    counts = [top1, *(share * items for share in figures.mix), *kept, *right]
    if any(abs(count - round(count)) > 1e-6 for count in counts):
        yield f"a share at {entry.grid} is no whole number of {items} items"
    if sum(map(round, counts[1 : 1 + len(figures.mix)])) != items:
        yield f"the mix of answers at {entry.grid} does not add up to 1"
    for left in (kept, right):
        whole = [round(count) for count in left]
        if whole != sorted(whole, reverse=True):
            yield f"more answers are left at {entry.grid} above a higher threshold"
    if round(top1) != round(stated_right(entry)):
        yield f"two different top-1 are stated at {entry.grid}"


def stated_right(entry: GridEntry) -> float:
    """Items that are right, by the manifest; of a bundle with labels."""
    assert entry.accuracy is not None
    return entry.accuracy.top1 * entry.accuracy.items
