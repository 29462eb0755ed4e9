"""Hiding parts of an item and asking again: rows of batch work, made as lanes come to them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from service.engine.costs import RunCosts, ladder
from service.engine.decode.task import Decoded
from service.engine.decode.wire import Preparation
from service.engine.device.devices import Devices
from service.engine.device.queues import Row
from service.engine.explain.axes import axes_of
from service.engine.explain.explanation import Explain, Explanation
from service.engine.explain.masks import Masks, Span, neutral
from service.engine.explain.overlay import draw
from service.engine.failures import ExplanationTooLong
from service.engine.model import Target
from service.engine.room import Room
from service.engine.schedule import BATCH

#: A run of as many rows as make each of them cost at most so many times the least: not more, as
#: an interactive item may have to wait for it.
NEARLY = 1.25
MOST_ROWS_AT_ONCE = 64  # of one item, waiting or running
ROW_BYTES = 2**26  # of those rows; two of them always may
#: Of pixels and rows of all items that are explained at the same time; one always may.
MOST_BYTES, MOST_ITEMS = 2**29, 64


@dataclass(frozen=True, slots=True)
class _Hidden:
    """One row to run: a view with one of its masks."""

    view: int
    number: int  # of the mask
    mask: tuple[Span, ...]


class Explainer:
    """Explains items that were answered.

    Attributes:
        room: for what explained items keep in memory; enter it with ``holds`` before decoding.
    """

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        self.room = Room(MOST_ITEMS, MOST_BYTES)

    def holds(self, preparation: Preparation) -> int:
        """Bytes of an item's pixels and of its rows, at most."""
        views = next(iter(preparation.shapes.values()))[0]
        row = preparation.most_bytes // views
        return preparation.most_bytes + row * _at_most(row)

    def seconds(self, *targets: Target) -> float:
        """Predicted, of the masked rows of an item on a lane; the mean where its grid is open."""
        rows = ((one, one.views * len(Masks.of(one))) for one in targets)
        return fmean(count * self._devices.row_seconds(one.key) for one, count in rows)

    async def explain(
        self,
        asked: Explain,
        target: Target,
        item: Decoded,
        whole: Row,
        deadline: float,
        on_row: Callable[[float], None],
    ) -> tuple[Explanation, float]:
        """What hiding each part of an item takes from a label; cancel the call to end the rest.

        Args:
            whole: its answer with nothing hidden.
            deadline: seconds, monotonic.
            on_row: called with the share of the rows that is left, as they come.

        Returns:
            The explanation, and what its rows cost, processor seconds.

        Raises:
            InferenceFailed, DeadlinePassed, Draining, NotReady: of one of the rows.
        """
        masks, rows = Masks.of(target), whole.rows.astype(np.float64)  # [views, classes]
        mean = rows.mean(axis=0)  # [classes]
        index = int(mean.argmax()) if asked.label is None else asked.label
        odds, drops = log_odds(mean, index), np.empty((len(rows), len(masks)))
        left, cost, fill = drops.size, 0.0, neutral(target.manifest.input)

        async def run_each(hidden: Iterator[_Hidden]) -> None:
            nonlocal left, cost
            for one in hidden:
                pixels = await asyncio.to_thread(
                    masks.hide, item.pixels[one.view], one.mask, fill
                )  # a thread, as a row may have many megabytes
                row = await self._devices.submit(target.key, pixels[np.newaxis], deadline, BATCH)
                changed = mean + (row.logits - rows[one.view]) / len(rows)  # [classes]
                drops[one.view, one.number] = odds - log_odds(changed, index)
                left, cost = left - 1, cost + row.cost_seconds
                on_row(left / drops.size)

        hidden = iter(
            [
                _Hidden(view, number, mask)
                for view in range(len(rows))
                for number, mask in enumerate(masks)
            ]
        )
        await _all([run_each(hidden) for _ in range(self._at_once(target, item.pixels))])
        values = np.stack([masks.average(one) for one in drops])  # [views, *cells]
        modality = target.manifest.modality
        if modality != "video":
            values = values[0]  # [*cells]
        axes = axes_of(modality, item.pixels.shape, masks.edges, item.evidence)
        overlay = await asyncio.to_thread(
            draw, modality, item.pixels, values, masks.edges, item.evidence
        )
        label = target.labels[index]
        return Explanation(label, index, odds, drops.size, values, axes, overlay), cost

    def _at_once(self, target: Target, pixels: np.ndarray) -> int:
        """Rows that wait or run: one run for every lane and one that waits, in few bytes."""
        costs = self._devices.stations[0].costs(target.key)
        run = next(size for size in ladder(MOST_ROWS_AT_ONCE) if _is_cheap(costs, size))
        return min((self._devices.lanes + 1) * run, _at_most(pixels[0].nbytes))


def check_time(seconds: float, deadline: float) -> None:
    """ExplanationTooLong where masked rows that take so long can never be in time."""
    if (left := deadline - time.monotonic()) < seconds:
        raise ExplanationTooLong(
            f"explain: the masked rows take about {seconds:.1f} seconds here, and the answer is "
            f"due in {max(left, 0):.1f}; a smaller grid, fewer views or fewer files take less"
        )


def log_odds(logits: np.ndarray, index: int) -> float:
    """log(p / (1 - p)) of one label, float ``[classes]``, of which there are at least two.

    A probability near 1 hardly moves whatever is hidden; this does, by as much as the logits do.
    """
    others = np.delete(logits, index).astype(np.float64)
    most = others.max()
    return float(logits[index] - most - math.log(np.exp(others - most).sum()))


def _is_cheap(costs: RunCosts, rows: int) -> bool:
    return rows == MOST_ROWS_AT_ONCE or costs.seconds(rows) <= NEARLY * rows * costs.row


def _at_most(row_bytes: int) -> int:
    """Rows of one item that may be in memory."""
    return max(2, min(MOST_ROWS_AT_ONCE, ROW_BYTES // row_bytes))


async def _all(works: list) -> None:  # type: ignore[type-arg]
    """All of them; the first that fails, or who leaves, ends the others."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        del tasks  # a failure knows this frame, and its task knows the failure
