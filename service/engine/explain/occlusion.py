"""Hiding parts of an item and asking again: rows of batch work, made as lanes come to them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from service.engine.costs import RunCosts, ladder
from service.engine.decode.task import Decoded
from service.engine.decode.wire import Preparation
from service.engine.device.devices import Devices
from service.engine.device.queues import Row
from service.engine.explain.axes import axes_of
from service.engine.explain.explanation import Explain, Map, Occlusion
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
    ) -> tuple[Occlusion, float]:
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
        trial = Trial.of(asked, target, whole.rows)

        async def run_each() -> None:
            for view, number, mask in trial.waiting:
                # In a thread, as a row may have many megabytes.
                pixels = await asyncio.to_thread(
                    trial.masks.hide, item.pixels[view], mask, trial.fill
                )
                row = await self._devices.submit(target.key, pixels[np.newaxis], deadline, BATCH)
                trial.learn(view, number, row)
                on_row(trial.left / trial.drops.size)

        await _together([run_each() for _ in range(self._at_once(target, item.pixels))])
        return await asyncio.to_thread(trial.explanation, target, item), trial.cost

    def _at_once(self, target: Target, pixels: np.ndarray) -> int:
        """Rows that wait or run: one run for every lane and one that waits, in few bytes."""
        costs = self._devices.stations[0].costs(target.key)
        run = next(size for size in ladder(MOST_ROWS_AT_ONCE) if _is_cheap(costs, size))
        return min((self._devices.lanes + 1) * run, _at_most(pixels[0].nbytes))


@dataclass(slots=True)
class Trial:
    """One item under its masks.

    Attributes:
        rows: with nothing hidden, float64 ``[views, classes]``.
        index: of the label that is explained.
        fill: what is put where something is hidden, ``[channels]``.
        waiting: the masks that nobody has begun with: view, number in ``masks``, cells.
        drops: what each took from the log odds, float64 ``[views, masks]``.
        left: rows that have not come.
        cost: of those that have, processor seconds.
    """

    masks: Masks
    rows: np.ndarray
    index: int
    fill: np.ndarray
    waiting: Iterator[tuple[int, int, tuple[Span, ...]]]
    drops: np.ndarray
    left: int
    cost: float = 0.0

    @classmethod
    def of(cls, asked: Explain, target: Target, rows: np.ndarray) -> Trial:
        """``rows``: with nothing hidden, float32 ``[views, classes]``."""
        masks, wide = Masks.of(target), rows.astype(np.float64)
        index = int(wide.mean(axis=0).argmax()) if asked.label is None else asked.label
        drops = np.empty((len(rows), len(masks)))
        waiting = (
            (view, number, mask) for view in range(len(rows)) for number, mask in enumerate(masks)
        )
        fill = neutral(target.manifest.input)
        return cls(masks, wide, index, fill, waiting, drops, drops.size)

    @property
    def odds(self) -> float:
        """Of the label, with nothing hidden."""
        return log_odds(self.rows.mean(axis=0), self.index)

    def learn(self, view: int, number: int, row: Row) -> None:
        """What a view gave with one of its masks; the other views stay as they are."""
        changed = self.rows.copy()
        changed[view] = row.logits
        self.drops[view, number] = self.odds - log_odds(changed.mean(axis=0), self.index)
        self.left -= 1
        self.cost += row.cost_seconds

    def explanation(self, target: Target, item: Decoded) -> Occlusion:
        """Once every row has come: the map, its place in the file, and its picture."""
        modality, shape, edges = target.manifest.modality, item.pixels.shape, self.masks.edges
        values = np.stack([self.masks.average(one) for one in self.drops])  # [views, *cells]
        if modality != "video":
            values = values[0]  # [*cells]
        axes = axes_of(modality, shape, edges, item.evidence)
        overlay = draw(modality, item.pixels, values, edges, item.evidence)
        label, told = target.labels[self.index], Map(values, axes, overlay)
        return Occlusion(label, self.index, self.odds, self.drops.size, told)


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


async def _together(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """All of them; the first that fails, or who leaves, ends the others."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        del tasks, task  # a failure knows this frame, and its task knows the failure
