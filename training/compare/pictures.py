"""The pictures of a comparison, as PNG, in the style of the report's."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture

from training.compare.rows import Row, SeedMean
from training.report.pictures import BLUE, GREY, ORANGE, styled

#: Files and what they show.
TITLES = {
    "compare-scales.png": "Top-1 over the size of the input",
    "compare-accuracy.png": "Top-1 at the training grid",
    "compare-cost.png": "Top-1 over the time of a training step",
}
COLUMNS = 4
PALE = "#c9c9c9"


def draw(rows: Sequence[Row]) -> dict[str, bytes]:
    """Every picture by its file's name; what is missing is left out of it."""
    painters: tuple[Callable[[Sequence[Row]], Picture], ...] = (accuracy_over_size, accuracy, cost)
    with styled():
        pictures = (paint(rows) for paint in painters)
        return {name: _png(picture) for name, picture in zip(TITLES, pictures, strict=True)}


def accuracy_over_size(rows: Sequence[Row]) -> Picture:
    """A panel for every encoding, its mean and interval before the means of the others."""
    width = min(COLUMNS, len(rows))
    height = math.ceil(len(rows) / width)
    picture = Picture(figsize=(2.4 * width, 0.7 + 2.1 * height))
    grid = picture.subplots(height, width, sharex=True, sharey=True, squeeze=False)
    picture.suptitle(TITLES["compare-scales.png"])
    picture.supxlabel("multiple of the training grid")
    picture.supylabel("top-1, %")
    for axes in grid.flat[len(rows) :]:
        axes.remove()
    for axes, row in zip(grid.flat, rows, strict=False):
        axes.set_title(row.encoding, fontsize=9)
        for other in rows:
            axes.plot(*_means(other.accuracy), color=PALE, linewidth=0.8, zorder=1)
        _band(axes, row.accuracy)
        if not row.finished:
            axes.text(0.5, 0.5, row.lacking, transform=axes.transAxes, ha="center", color=GREY)
    return picture


def accuracy(rows: Sequence[Row]) -> Picture:
    """Means with their intervals, and every seed."""
    picture = Picture(figsize=(6.4, 1.0 + 0.3 * len(rows)))
    axes = picture.add_subplot(title=TITLES["compare-accuracy.png"], xlabel="top-1, %")
    for place, row in enumerate(rows):
        figure = row.accuracy[1.0]
        if figure:
            axes.plot(_hundred(row.points), [place] * len(row.points), "o", color=PALE, ms=4)
            axes.errorbar(
                100 * figure.mean, place, xerr=_half(figure), fmt="D", color=BLUE, ms=4, capsize=3
            )
    reference = rows[0].accuracy[1.0]
    if reference:
        axes.axvline(100 * reference.mean, color=ORANGE, linewidth=1, linestyle=":")
    names = [row.encoding + ("" if row.finished else f" ({row.lacking})") for row in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    return picture


def cost(rows: Sequence[Row]) -> Picture:
    """Accuracy over step time, where both are known; names beside it, where none hides another."""
    picture = Picture(figsize=(6.4, 4.2))
    axes = picture.add_subplot(
        title=TITLES["compare-cost.png"],
        xlabel=f"training step, multiple of {rows[0].encoding}",
        ylabel="top-1, %",
    )
    known = [
        (figure, row.step_ratio, row.encoding)
        for row in rows
        if (figure := row.accuracy[1.0]) and row.step_ratio
    ]
    for place, (figure, x, name) in enumerate(sorted(known, key=lambda one: one[0].mean)):
        y = 100 * figure.mean
        axes.errorbar(x, y, yerr=_half(figure), fmt="o", color=BLUE, ms=4, linewidth=0.8)
        axes.annotate(
            name,
            (x, y),
            (1.06, (place + 0.5) / len(known)),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color="black",
            arrowprops={"arrowstyle": "-", "color": PALE, "linewidth": 0.8},
        )
    return picture


def _band(axes: Axes, figures: dict[float, SeedMean | None]) -> None:
    """Mean and interval over the scales."""
    x, y = _means(figures)
    axes.plot(x, y, "o-", color=BLUE, ms=3, zorder=3)
    halves = [_half(figure) or 0.0 for figure in figures.values() if figure]
    low, high = np.subtract(y, halves), np.add(y, halves)
    axes.fill_between(x, low, high, color=BLUE, alpha=0.2, linewidth=0, zorder=2)


def _means(figures: dict[float, SeedMean | None]) -> tuple[list[float], list[float]]:
    known = [(scale, 100 * figure.mean) for scale, figure in figures.items() if figure]
    return [scale for scale, _ in known], [mean for _, mean in known]


def _half(figure: SeedMean) -> float | None:
    """In percent."""
    return None if figure.half is None else 100 * figure.half


def _hundred(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]


def _png(picture: Picture) -> bytes:
    stream = io.BytesIO()
    FigureCanvasAgg(picture).print_png(stream, metadata={"Software": None})
    return stream.getvalue()
