"""What was measured and fitted is on the page, where the server tells it, and nothing where not."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from models.figures import Calibration, Coverage, Estimate, Figures, FittedOn, Reliability
from tests.helpers.service_fixtures import RunningServer, picture
from tests.page.conftest import Open
from tests.page.visit import Visit

pytestmark = pytest.mark.xdist_group("page")
FIGURES = Figures(
    top1=Estimate(0.8125, 0.75, 0.875, 1000),
    top5=None,
    balanced_accuracy=Estimate(0.7, 0.6, 0.8, 1000),
    roc_auc=Estimate(None, reason="one class"),
    drawn="items",
    units=64,
    confidence=0.8,
    mix=(0.2,) * 5,
    coverage=(Coverage(0.5, 0.9, 0.95),),
)
CALIBRATION = Calibration(
    True, 2.0, "", FittedOn("val", 32, "0" * 64), Reliability(0.19, 1.0, 0.5),
    Reliability(0.021, 0.8, 0.4),
)  # fmt: skip


def tell(tab: Visit, path: str, change: Any) -> None:
    """Let the server's answer say something more."""

    def answer(route: Any) -> None:
        response = route.fetch()
        document = response.json()
        change(document)
        route.fulfill(response=response, body=json.dumps(document))

    tab.page.route(f"**{path}", answer)


def measured(document: Any) -> None:
    for bundle in document["bundles"]:
        for grid in bundle["grids"]:
            grid["figures"] = dataclasses.asdict(FIGURES)
            grid["calibration"] = dataclasses.asdict(CALIBRATION)


def test_figures_stand_beside_the_answer_and_in_the_list(
    server: RunningServer, visit: Open
) -> None:
    """With their intervals, of the grid that answered; a figure that there is not is left out."""
    tab = visit(server)
    tell(tab, "/v1/bundles", measured)
    tab.page.reload()
    tab.page.locator(".state.good").wait_for()
    card = tab.page.locator(".card", has_text="b-image").inner_text()
    assert "81.3\u202f%\n75.0\u202f% to 87.5\u202f%" in card
    tab.give(("a.png", picture(1)))
    told = tab.page.locator(".figures").inner_text()
    assert "95 % interval 60.0\u202f% to 80.0\u202f%" in told
    assert "2.1\u202f%\nbefore it was calibrated 19.0\u202f%" in told
    assert "ROC AUC" not in told
    assert "first five" not in told


def test_answer_that_is_withheld_says_so_first(server: RunningServer, visit: Open) -> None:
    """Not the label in large letters; which it would have been, and what the threshold leaves."""

    def abstain(document: Any) -> None:
        (result,) = document["results"]
        coverage = dataclasses.asdict(FIGURES.coverage[0])
        result |= {"calibrated": True, "abstained": True, "coverage": coverage}

    tab = visit(server)
    tell(tab, "/v1/classify/image*", abstain)
    tab.give(("a.png", picture(1)))
    assert tab.answer()[0] == "Not sure enough"
    assert tab.page.locator("#live").inner_text().startswith("a.png: not sure enough, ")
    told = tab.page.locator(".labels").inner_text()
    best = tab.page.locator(".bars .label").first.inner_text()
    assert f"Most probable is {best}, and that is below the threshold" in told
    assert "90.0\u202f% were answered, 95.0\u202f% of them right." in told


def test_probabilities_that_are_not_calibrated_are_called_so(
    server: RunningServer, visit: Open
) -> None:
    """And nothing is said of calibrated ones: they are what they seem."""

    def plain(document: Any) -> None:
        document["results"][0]["calibrated"] = False

    tab = visit(server)
    tell(tab, "/v1/classify/image*", plain)
    tab.give(("a.png", picture(1)))
    tab.page.get_by_text("These probabilities are not calibrated").wait_for()
