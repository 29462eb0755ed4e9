"""A bundle without labels on the page: how many features it gave, and nothing about being right."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.service_fixtures import picture, serving, write_tiny_bundle
from tests.page.conftest import Open

pytestmark = pytest.mark.xdist_group("page")


def test_features_are_counted_and_nothing_is_ranked(tmp_path: Path, visit: Open) -> None:
    """No label, figure or explanation is offered; the bundle says so, and so does the code."""
    write_tiny_bundle(tmp_path, "features", headless=True)
    with serving(tmp_path) as server:
        tab = visit(server)
        tab.page.locator(".state.good").wait_for()
        assert "No labels: its answer is the features" in tab.page.locator(".card").inner_text()
        tab.give(("a.png", picture(1)))
        assert tab.page.locator(".top strong").inner_text() == "5 features"
        tab.page.locator(".seen canvas").first.wait_for()
        assert tab.page.locator(".figures").count() == 0
        assert tab.page.get_by_role("button", name="Where the model looked").count() == 0
        assert "want=embedding" in tab.page.locator(".code pre").inner_text()
