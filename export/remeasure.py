"""What a manifest says of labelled data, measured again on them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

from export.answers import Answers
from export.calibrate import (
    VALIDATION,
    NoTemperature,
    check_validation,
    fit_apart,
    fit_temperature,
    in_both,
)
from export.parity import batch_of, fp16_bound, graph_logits, open_graph
from export.proof import Proof, failed, tried
from export.refigure import allowed_move, refigure, wobbled
from export.statements import stated_right
from media.dataset import Prepared, prepare_split
from media.index import Dataset, Wanted
from media.spec import Grid
from media.unread import Unread, fits, list_split
from models.bundle import Bundle, BundleError
from models.figures import FittedOn
from models.manifest import Accuracy, GridEntry, Manifest

#: What a temperature may be off by at most, relative.
MOST = 0.25


def remeasure(
    bundle: Bundle, dataset: Dataset, split: str | None, workers: int, entry: GridEntry
) -> Iterator[Proof]:
    """Accuracy, every other figure, and the temperature of one grid.

    Args:
        split: of the data; None takes the one that the manifest names.
        workers: threads that decode the data.
    """
    assert entry.accuracy is not None  # a bundle without labels is not measured on any
    name = split or entry.accuracy.split
    ask = partial(_ask, bundle, dataset, workers, entry)
    try:
        prepared, logits = ask(name, entry.accuracy)
    except Exception as error:  # as in ``tried``
        yield failed("accuracy", entry, error)
        return
    yield tried("accuracy", entry, partial(_accuracy, bundle.manifest, prepared, logits))
    measured = Answers.of(dataset, name, prepared, logits)
    del prepared  # a split of scans is large
    yield tried("figures", entry, partial(_figures, measured))

    def validation() -> Answers:
        check_validation(dataset, name)
        return Answers.of(dataset, VALIDATION, *ask(VALIDATION, None))

    yield tried("calibration", entry, partial(_calibration, validation, measured))


def _ask(
    bundle: Bundle,
    dataset: Dataset,
    workers: int,
    entry: GridEntry,
    split: str,
    measured: Accuracy | None,
) -> tuple[Prepared | Unread, np.ndarray]:
    """A split, which must be the one that was measured, and the graph's logits of its views.

    None is validation, which is compared when the temperature is.
    """
    manifest, grid = bundle.manifest, Grid.parse(entry.grid)
    if dataset.labels != manifest.labels:
        raise BundleError(f"expected labels {list(dataset.labels)}, got {list(manifest.labels)}")
    skip = measured is None  # as training was told; how many are used is known
    wanted = Wanted(manifest.input, grid.pixels(manifest.patch))
    prepared: Prepared | Unread
    if fits(len(dataset.split(split)), wanted):
        prepared = prepare_split(
            dataset, split, manifest.input, grid, manifest.patch, workers=workers,
            skip_unreadable=skip,
        )  # fmt: skip
    else:
        prepared = list_split(dataset, split, wanted, workers=workers, skip_unreadable=skip)
    found = (prepared.sha256, len(prepared.ids))
    if measured is not None and found != (measured.split_sha256, measured.items):
        raise BundleError(
            f"split {split!r} of {dataset.name} is not the one measured: expected "
            f"{measured.items} items of sha256 {measured.split_sha256[:12]}..., got "
            f"{len(prepared.ids)} of {prepared.sha256[:12]}..."
        )
    session = open_graph(bundle.path(entry.graph))
    return prepared, graph_logits(session, prepared.pixels, batch=batch_of(grid))  # [N * V, C]


def _accuracy(
    manifest: Manifest, prepared: Prepared | Unread, logits: np.ndarray, entry: GridEntry
) -> Proof:
    assert entry.accuracy is not None
    usual, own, items = fp16_bound(logits).atol, entry.parity.atol, entry.accuracy.items
    if manifest.precision == "fp16" and own > 1.01 * usual:  # torch's own spread is not known
        raise BundleError(f"expected a bound of {usual:.3g} for parity, got {own:.3g}")
    right, doubtful = judged(logits, prepared, entry)
    off = abs(right - round(stated_right(entry)))
    told = (
        f"top-1 {right / items:.4f}, {right} of {items} right, "
        f"{round(stated_right(entry))} stated; {doubtful} lie too near a tie to be sure of"
    )
    return Proof(f"accuracy {entry.grid}", off <= doubtful, told, off, doubtful)


def judged(logits: np.ndarray, prepared: Prepared | Unread, entry: GridEntry) -> tuple[int, int]:
    """Items that are right, and items that another processor may judge otherwise.

    Those are the ones whose own logit and best other one are nearer than twice the bound of
    parity: each of the two may move by that bound where sums are rounded in another order.

    Args:
        logits: [N * V, classes], of every view.
    """
    means, sizes = prepared.of_items(logits), prepared.of_items(np.abs(logits))  # [N, classes]
    items, labels = np.arange(len(means)), prepared.labels
    own, others = means[items, labels], means.copy()
    others[items, labels] = -np.inf
    rival = others.argmax(1)  # [N]
    largest = np.maximum(sizes[items, labels], sizes[items, rival])
    allowed = entry.parity.atol + entry.parity.rtol * largest
    near = np.abs(own - means[items, rival]) < 2 * allowed
    return int((means.argmax(1) == labels).sum()), int(near.sum())


def _figures(measured: Answers, entry: GridEntry) -> Proof:
    if entry.figures is None:
        return Proof(f"figures {entry.grid}", None, "not stated: the bundle is older than they are")
    count, worst, ratio = refigure(measured, entry)
    told = f"{count} numbers of figures and calibration, {worst} off by {ratio:.2g} of its bound"
    return Proof(f"figures {entry.grid}", ratio <= 1, told, ratio, 1)


def _calibration(
    validation: Callable[[], Answers], measured: Answers, entry: GridEntry
) -> Proof:
    stated, name = entry.calibration, f"calibration {entry.grid}"
    unfitted = f"no temperature was fitted: {stated.reason}"
    if stated.before is None:
        return Proof(name, None, unfitted)
    try:
        answers = validation()
        found, fitted_on = fit_apart(answers, measured)
    except NoTemperature as error:
        lost = f"temperature {stated.temperature:.6g} is stated, and none is found: {error}"
        return Proof(name, not stated.calibrated, lost if stated.calibrated else unfitted)
    if not stated.calibrated:
        return Proof(name, None, f"{unfitted}; from these data it would be {found:.6g}")
    if fitted_on != stated.fitted_on:
        told = f"expected {_told(stated.fitted_on)}, got {_told(fitted_on)}"
        return Proof(name, False, f"these items are not the ones fitted on: {told}")
    off = abs(found - stated.temperature)
    others = wobbled(answers.without(measured.digests), entry.parity)
    allowed = _allowed(found, others)
    told = f"temperature {found:.6g} of {fitted_on.items} items of {fitted_on.split}"
    return Proof(name, off <= allowed, f"{told}, {stated.temperature:.6g} stated", off, allowed)


def _told(fitted_on: FittedOn | None) -> str:
    if fitted_on is None:
        return "none"
    told = f"{fitted_on.items} items of {fitted_on.split}{in_both(fitted_on.left_out)}"
    return f"{told} (sha256 {fitted_on.split_sha256[:12]}...)"


def _allowed(found: float, others: Iterable[Answers]) -> float:
    """What a temperature may be off by.

    Others that give none say nothing of how far it moves. Near the ends of what can be fitted it
    moves without bounds, so a part of it is the most in any case.
    """
    moved = [found]
    for other in others:
        with contextlib.suppress(NoTemperature):
            moved.append(fit_temperature(other))
    return min(allowed_move(found, moved, unit=found), MOST * found)
