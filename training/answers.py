"""What a checkpoint answers for many items, a batch at a time, and the table of it."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Generator, Iterable
from typing import BinaryIO, NamedTuple

import numpy as np
import torch

from media.spec import Grid
from models.vit import VisionTransformer
from training.batches import Rows
from training.evaluate import encode_for, logits_of
from training.listed import Listed
from training.loader import Loader
from training.memory import told

COLUMNS = ("id", "label", "predicted", "probability", "problem")
NOT_FINITE = "the model gives no finite answer"


class Answers(NamedTuple):
    """Of some items that follow each other, n of them.

    Attributes:
        first: place of the first one in the split.
        logits: float32 [n, classes], means over views; of an item with a problem they mean nothing.
        problems: place of an item -> why it has no answer.
    """

    first: int
    logits: np.ndarray
    problems: dict[int, str]


@dataclasses.dataclass
class Count:
    """How many items got what; ``known`` have an answer and a label that is one of the model's."""

    items: int = 0
    problems: int = 0
    known: int = 0
    right: int = 0  # of the known

    def __str__(self) -> str:
        text = f"{self.items} items"
        if self.problems:
            text += f", {self.problems} without an answer (column problem)"
        if self.known:
            right = self.right / self.known
            text += f"; top-1 {right:.4f} of {self.known} whose label is one of the model's"
        return text


def answers_of(model: VisionTransformer, rows: Rows) -> Generator[Answers, None, None]:
    """Of all items, in order; of rows that are tolerant.

    Raises:
        NoBatch, OutOfMemory: too little memory, or no worker can be started.
    """
    views, step = rows.listed.views, rows.step
    grid = Grid(tuple(map(int.__floordiv__, rows.listed.wanted.pixels, model.spec.patch)))
    with told(f"while answering for {step // views} items at a time; --batch N takes fewer"):
        encoded = encode_for(model, grid)
        count = math.ceil(len(rows) / step)
        loader = Loader(rows, 0, count, model.device)
        try:
            for number in range(count):
                batch = loader.take(number, rows.rows(number))
                pixels = batch.pixels.numpy()
                logits = logits_of(model, pixels, step, encoded=encoded).float().numpy()
                own = logits.reshape(-1, views, logits.shape[1]).mean(axis=1)  # [n, classes]
                yield Answers(number * step // views, own, dict(batch.problems))
        finally:
            loader.close()


def write_table(
    stream: BinaryIO,
    answers: Iterable[Answers],
    listed: Listed,
    labels: tuple[str, ...],
    advance: Callable[[int], None],
) -> Count:
    """The head of the table and a row for every item.

    Args:
        labels: of the model.
        advance: called with the number of items just written.
    """
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    writer, count = csv.writer(text, lineterminator="\n"), Count()
    writer.writerow([*COLUMNS, *(f"p({label})" for label in labels)])
    names, ids = listed.dataset.labels, listed.ids
    for first, logits, problems in answers:
        probabilities = torch.from_numpy(logits).double().softmax(1).numpy()  # [n, classes]
        for item, row in enumerate(probabilities, first):
            label = names[listed.labels[item]] if listed.labels[item] >= 0 else ""
            problem = problems.get(item, "" if np.isfinite(row).all() else NOT_FINITE)
            count.items += 1
            if problem:
                count.problems += 1
                writer.writerow([ids[item], label, "", "", problem, *[""] * len(labels)])
                continue
            predicted = labels[row.argmax()]
            count.known += label in labels
            count.right += label == predicted
            shown = [f"{one:.9g}" for one in row.tolist()]
            writer.writerow([ids[item], label, predicted, shown[row.argmax()], "", *shown])
        advance(len(logits))
    text.detach()  # written out; whoever opened the file closes it
    return count
