"""The pictures of a report, as SVG: curves of the run, confusion matrix, calibration, risk.

Text stays text: the reader's fonts draw it, whatever script the labels are written in. The colours
are told apart by colour-blind readers too (Okabe and Ito 2008; one hue where it is an amount).
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from models.bootstrap import FEW
from models.measures import BINS

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",  # the same figures give the same file
    "text.parse_math": False,  # a label may hold dollar signs
}
#: Numbers fit into the cells of a confusion matrix of so many classes, names beside it of so many.
NUMBERS, NAMES = 20, 30

#: One curve: its name in the legend, the key in metrics.jsonl, colour, line style.
Curve = tuple[str, str, str, str]
#: Title of each picture, its curves.
PANELS: dict[str, tuple[Curve, ...]] = {
    "Loss": (("training", "loss", BLUE, "-"), ("validation", "val_loss", ORANGE, "--")),
    "Validation top-1": (("top-1", "val_top1", GREEN, "-"),),
    "Learning rate": (("rate", "rate", GREY, "-"),),
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Where figures are drawn and encoded: our settings, matplotlib's own kept for others."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # of the font that lays the text out, which is not the one that the reader sees
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    return stream.getvalue()


# --- curves -----------------------------------------------------------------------------------


@styled()
def curves(records: Sequence[dict[str, Any]], title: str, best: int | None) -> str:
    """One row of PANELS over the epochs, the best epoch marked; a missing value leaves a gap."""
    figure = Figure(figsize=(5.2, 2.7))
    axes = figure.add_subplot(title=title, xlabel="epoch")
    for name, key, colour, line in PANELS[title]:
        points = [(r["epoch"], r[key]) for r in records if r.get(key) is not None]
        if points:
            marker = "o" if len(points) == 1 else ""
            axes.plot(*zip(*points, strict=True), line, marker=marker, color=colour, label=name)
    if best is not None:
        axes.axvline(best, color=GREY, linewidth=1, linestyle=":", label="best")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend()
    return _svg(figure)


# --- confusion --------------------------------------------------------------------------------


@styled()
def confusion(counts: np.ndarray, labels: Sequence[str]) -> str:
    """Share of each right class (row) by most probable class (column), int [C, C].

    Numbers are items; they are left out where they would not fit, and so are names.
    """
    classes = len(labels)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, where=totals > 0, out=np.zeros(counts.shape))
    figure = Figure(figsize=(5.2, 5.0))
    axes = figure.add_subplot(xlabel="most probable class", ylabel="right class")
    axes.grid(visible=False)
    # where there are no numbers to read, the root brings the rare confusions out
    norm = PowerNorm(1 if classes <= NUMBERS else 0.5, vmin=0, vmax=1)
    image = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")
    figure.colorbar(
        image, label="share of the right class", location="top", aspect=40, ticks=[0, 0.1, 0.5, 1]
    )
    if classes <= NAMES:
        _name(axes, labels)
    if classes <= NUMBERS:
        _number(axes, counts, shares)
    return _svg(figure)


def _name(axes: Axes, labels: Sequence[str]) -> None:
    names, size = [short(label) for label in labels], _size(len(labels))
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 2 else 0, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)


def _number(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black" if count else "#bbbbbb"
        axes.text(
            column, row, str(count), color=colour, fontsize=_size(len(counts)),
            ha="center", va="center",
        )  # fmt: skip


def _size(classes: int) -> float:
    """Points; what fits beside or into one cell."""
    return max(4.0, min(9.0, 110 / classes))


def short(text: str, length: int = 18) -> str:
    """A label that fits a picture; control characters, which XML forbids, are replaced."""
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return text if len(text) <= length else text[: length - 1] + "…"


# --- calibration ------------------------------------------------------------------------------


@styled()
def calibration(table: np.ndarray) -> str:
    """Share right over the mean probability of each bin, items a bin below: [BINS, 3]."""
    figure = Figure(figsize=(5.2, 4.6))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    counts, means, shares = table[table[:, 0] > 0].T  # each [bins with items]
    upper.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfectly calibrated")
    upper.plot(means, shares, color=BLUE)
    for some, face, name in (
        (counts >= FEW, BLUE, "measured"),
        (counts < FEW, "white", f"fewer than {FEW} items"),
    ):
        if some.any():
            upper.plot(means[some], shares[some], "o", color=BLUE, mfc=face, ms=5, label=name)
    upper.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="share right")
    upper.legend()
    bars = lower.bar((np.arange(BINS) + 0.5) / BINS, table[:, 0], 0.9 / BINS, color=BLUE, alpha=0.6)
    lower.bar_label(bars, [f"{count:.0f}" if count else "" for count in table[:, 0]], fontsize=6)
    lower.set(xlabel="probability of the most probable class", ylabel="items")
    lower.margins(y=0.25)
    lower.grid(visible=False)
    return _svg(figure)


# --- risk and coverage ------------------------------------------------------------------------


@styled()
def risk(curve: np.ndarray) -> str:
    """Share wrong of those answered over the share answered, the surest items first: [T, 2]."""
    figure = Figure(figsize=(5.2, 3.0))
    axes = figure.add_subplot(xlabel="share answered", ylabel="share wrong of those")
    marker = "o" if len(curve) == 1 else ""
    axes.plot(*curve.T, marker=marker, color=ORANGE)
    axes.set(xlim=(0, 1), ylim=(-0.02, max(0.1, 1.05 * curve[:, 1].max())))
    return _svg(figure)
