"""Figures computed again, and how far from the stated ones they may lie.

Another processor adds in another order, which moves logits by much less than the bound of parity.
Figures that count items jump where one of them crosses a border, those that average hardly move. So
every figure is computed for several other processors that are made up, each logit moved at random
within its bound, and may be off by a few times as much as it moved then.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from export.answers import Answers, figures, reliability
from media.strict_json import to_json
from models.bootstrap import DRAWS
from models.figures import Figures, Reliability
from models.manifest import GridEntry, Parity

#: Processors that are made up.
OTHERS = 8
#: What a figure may be off by: so many times as far as it moved, and so much besides.
MOVED, BESIDES = 4, 1e-5
#: Of an interval's width, for its ends: another numpy may draw other random numbers.
OF_WIDTH = 0.1


def refigure(measured: Answers, entry: GridEntry) -> tuple[int, str, float]:
    """How many numbers the entry states, the worst of them, and by how many times its bound."""
    calibration = entry.calibration
    stated = _numbers(_named(entry.figures, calibration.before, calibration.after))
    found = _found(measured, entry, DRAWS)
    others = [_found(other, entry, 0) for other in wobbled(measured, entry.parity)]
    if stated.keys() != found.keys():
        return len(stated), next(iter(stated.keys() ^ found.keys())), math.inf
    ratios = {key: _ratio(key, stated, found, others) for key in stated}
    worst = max(ratios, key=lambda key: ratios[key])
    return len(stated), worst, ratios[worst]


def wobbled(answers: Answers, parity: Parity) -> list[Answers]:
    """The same answers with every logit moved at random within the bound of parity."""
    random = np.random.default_rng(0)
    bound = parity.atol + parity.rtol * np.abs(answers.logits)  # [N, C]
    return [
        dataclasses.replace(
            answers, logits=answers.logits + bound * random.uniform(-1, 1, bound.shape)
        )
        for _ in range(OTHERS)
    ]


def allowed_move(found: float, others: Iterable[float], unit: float = 1) -> float:
    """What a figure may be off by, from what it is for the processors that are made up."""
    return MOVED * max(abs(other - found) for other in others) + BESIDES * unit


def _found(answers: Answers, entry: GridEntry, draws: int) -> dict[str, float]:
    """What an export states of these answers, at the entry's temperature and thresholds."""
    calibration = entry.calibration
    thresholds = [row.threshold for row in entry.figures.coverage] if entry.figures else []
    told = figures(answers, calibration.temperature, thresholds, draws)
    after = reliability(answers, calibration.temperature) if calibration.calibrated else None
    return _numbers(_named(told, reliability(answers, 1), after))


def _named(
    told: Figures | None, before: Reliability | None, after: Reliability | None
) -> dict[str, Any]:
    return {"figures": told, "before": before, "after": after}


def _ratio(
    key: str, stated: dict[str, float], found: dict[str, float], others: list[dict[str, float]]
) -> float:
    """How far the stated figure is off, in units of what it may be off by."""
    figure, _, part = key.rpartition(".")
    of_interval = part in ("low", "high", "draws")  # it moves as its value does
    moved = f"{figure}.value" if of_interval else key
    allowed = allowed_move(found[moved], [other[moved] for other in others])
    if part in ("low", "high"):
        allowed += OF_WIDTH * (found[f"{figure}.high"] - found[f"{figure}.low"])
    elif part == "draws":
        allowed += OF_WIDTH * found[key]
    return abs(stated[key] - found[key]) / allowed


def _numbers(value: Any, path: str = "") -> dict[str, float]:
    """Every number by its path, ``figures.top1.low``; what is not there is -1, which none is."""
    value = to_json(value)
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        inner = (_numbers(one, f"{path}.{key}") for key, one in pairs if key != "reason")
        return {key: number for numbers in inner for key, number in numbers.items()}
    if isinstance(value, str):
        return {f"{path.lstrip('.')} {value}": 0.0}
    return {path.lstrip("."): -1.0 if value is None else float(value)}
