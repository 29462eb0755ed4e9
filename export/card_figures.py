"""What a model card says of figures and probabilities; nothing of grids that state none."""

from __future__ import annotations

from collections.abc import Sequence

from export.calibrate import in_both
from models.figures import Coverage, Estimate, Figures, Reliability
from models.manifest import GridEntry

#: Labels whose share of the answers is told; the manifest has all.
SHOWN = 20
CHANGES = ("grid", "expected calibration error", "negative log-likelihood (nats)", "Brier score")


def row_of(*cells: object) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def table(*rows: Sequence[object]) -> str:
    """A table, its first row the head."""
    head, *others = rows
    return "\n".join(row_of(*row) for row in (head, ["---"] * len(head), *others))


def measured_figures(entries: Sequence[GridEntry]) -> str:
    """Figures with intervals, a row a grid."""
    stated = _stated(entries)
    if not stated:
        return ""
    top5 = any(figures.top5 for _, figures in stated)
    head = ["grid", "top-1", *["top-5"] * top5, "balanced accuracy", "ROC AUC"]
    rows = [
        [entry.grid, *map(_estimate, filter(None, (
            figures.top1, figures.top5, figures.balanced_accuracy, figures.roc_auc,
        )))]
        for entry, figures in stated
    ]  # fmt: skip
    first = stated[0][1]
    intervals = f"95 % intervals draw {first.units} {first.drawn} again, with replacement."
    return f"\n\n{table(head, *rows)}\n\nIn brackets: {intervals}"


def sureness(entries: Sequence[GridEntry], labels: Sequence[str]) -> str:
    """How far the probabilities can be believed, and what is left where unsure ones go."""
    stated = _stated(entries)
    if not stated:
        return ""
    return f"""
## How sure it is

{_temperatures(entries)}

{table(CHANGES, *map(_changes, entries))}

What is left where answers are withheld whose most probable class is less probable than this:

{_coverage(stated)}
{_abstaining(entries)}
The mean probability of the most probable class, and the share of the items that each label is the
answer to. Where they become others in use, what comes in is no longer what was measured.

{_mix(stated, labels)}
"""


def where_it_looked(entries: Sequence[GridEntry]) -> str:
    """That second graphs tell it, and how near the checkpoint's they are."""
    rows = [
        (entry.grid, entry.attention.rollout.items, f"{entry.attention.rollout.max_abs:.2g}",
         f"{entry.attention.rollout.worst_ratio:.2f}")
        for entry in entries
        if entry.attention
    ]  # fmt: skip
    if not rows:
        return ""
    return f"""
## Where it looked

A second graph of each grid gives the same logits and the rollout of attention with them
(`explain=attention`). In multiples of an even share of all patches, against the checkpoint's:

{table(("grid", "items", "largest difference from torch", "of its bound"), *rows)}
"""


def _stated(entries: Sequence[GridEntry]) -> list[tuple[GridEntry, Figures]]:
    return [(entry, entry.figures) for entry in entries if entry.figures]


def _estimate(one: Estimate) -> str:
    if one.value is None:
        return f"none: {one.reason}"
    ends = "" if one.low is None else f" ({one.low:.4f} to {one.high:.4f})"
    return f"{one.value:.4f}{ends}"


def _temperatures(entries: Sequence[GridEntry]) -> str:
    """One sentence a grid."""
    told = []
    for entry in entries:
        calibration = entry.calibration
        if fitted_on := calibration.fitted_on:
            told.append(
                f"At {entry.grid} logits are divided by {calibration.temperature:.4g}, which was "
                f"fitted on {fitted_on.items} items of {fitted_on.split}"
                f"{in_both(fitted_on.left_out)}."
            )
        else:
            told.append(
                f"At {entry.grid} probabilities are **not calibrated**: {calibration.reason}."
            )
    return "\n".join(told)


def _changes(entry: GridEntry) -> list[str]:
    before, after = entry.calibration.before, entry.calibration.after
    return [entry.grid, *(_change(name, before, after) for name in ("ece", "nll", "brier"))]


def _change(name: str, before: Reliability | None, after: Reliability | None) -> str:
    figures = [f"{getattr(one, name):.4f}" for one in (before, after) if one]
    return " -> ".join(figures) or "not measured"


def _coverage(stated: Sequence[tuple[GridEntry, Figures]]) -> str:
    head = ["grid", *(f"{row.threshold:g}" for row in stated[0][1].coverage)]
    rows = [[entry.grid, *map(_left, figures.coverage)] for entry, figures in stated]
    return table(head, *rows)


def _left(row: Coverage) -> str:
    return f"{row.share:.3f}" + ("" if row.accuracy is None else f" ({row.accuracy:.3f} right)")


def _abstaining(entries: Sequence[GridEntry]) -> str:
    thresholds = {entry.abstain for entry in entries if entry.abstain is not None}
    return "".join(
        f"\nIt says that it does not know where that is below {threshold:g}.\n"
        for threshold in sorted(thresholds)
    )


def _mix(stated: Sequence[tuple[GridEntry, Figures]], labels: Sequence[str]) -> str:
    means = [f"{figures.confidence:.4f}" for _, figures in stated]
    shares = zip(labels, *(figures.mix for _, figures in stated), strict=True)
    rows = [[label, *(f"{share:.4f}" for share in row)] for label, *row in shares][:SHOWN]
    head = ["", *(entry.grid for entry, _ in stated)]
    more = [] if len(labels) <= SHOWN else [["the others: manifest.json", *["..."] * len(stated)]]
    return table(head, ["mean probability", *means], *rows, *more)
