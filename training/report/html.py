"""The report as a page that stands alone: one HTML file, its pictures inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from media.sources import summary
from models.measures import Measures
from training.report import pictures
from training.report.predictions import SHOWN, Predictions

TITLES = {
    "top1": "Top-1",
    "top5": "Top-5",
    "balanced_accuracy": "Balanced accuracy",
    "roc_auc": "ROC AUC",
    "ece": "Expected calibration error",
}


def page(
    report: dict[str, Any],
    records: Sequence[dict[str, Any]],
    predictions: dict[str, Predictions],
    measured: dict[str, Measures],
) -> str:
    """The HTML; everything that comes from data is escaped by the template engine."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = "{:.4f}".format
    environment.filters["count"] = "{:,}".format
    labels, best = report["labels"], report["checkpoint"]["epoch"]
    counts = {split: one.confusion for split, one in measured.items()}
    return environment.get_template("report.html").render(
        report=report,
        titles=TITLES,
        curves={title: _inline(pictures.curves(records, title, best)) for title in pictures.PANELS},
        confusion={s: _inline(pictures.confusion(c, labels)) for s, c in counts.items()},
        calibration={s: _inline(pictures.calibration(m.calibration)) for s, m in measured.items()},
        risk={s: _inline(pictures.risk(m.risk)) for s, m in measured.items()},
        confused={s: confused(c, labels) for s, c in counts.items()},
        mistakes={s: mistakes(p, labels) for s, p in predictions.items()},
        numbered=len(labels) > pictures.NAMES,
        left_out=summary(report["data"]["left_out"]),
    )


def confused(counts: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The pairs of classes that are mistaken most often, with the share of the right class."""
    wrong = counts * ~np.eye(len(counts), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:SHOWN]
    pairs = np.stack(np.unravel_index(order, counts.shape), axis=1).tolist()  # [SHOWN, 2]
    return [
        {
            "right": labels[row],
            "given": labels[column],
            "items": int(counts[row, column]),
            "share": counts[row, column] / counts[row].sum(),
        }
        for row, column in pairs
        if wrong[row, column]
    ]


def mistakes(predictions: Predictions, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The wrong items that the model was surest of, most probable first, each with its picture."""
    probabilities = predictions.probabilities()
    given = probabilities.argmax(1)
    return [
        {
            "picture": _inline_png(picture),
            "id": str(predictions.ids[index]),
            "right": labels[predictions.labels[index]],
            "right_probability": probabilities[index, predictions.labels[index]],
            "given": labels[given[index]],
            "probability": probabilities[index, given[index]],
        }
        for index, picture in zip(predictions.mistakes(), predictions.strips, strict=True)
    ]


def _inline(svg: str) -> str:
    """As an address of its own content: a picture that cannot run or load anything."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _inline_png(picture: np.ndarray) -> str:
    """uint8 [h, w, 3] in the same way."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
