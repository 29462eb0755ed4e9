"""``/docs``: Swagger UI from this server alone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.service_fixtures import RunningServer, picture
from tests.page.conftest import Open

pytestmark = pytest.mark.xdist_group("page")


def test_docs_show_every_operation_offline(server: RunningServer, visit: Open) -> None:
    """Nothing comes from elsewhere or is blocked, and all that the document lists is there."""
    tab = visit(server, "/docs")
    tab.page.locator(".opblock").first.wait_for()
    document = server.get("/openapi.json").json()
    operations = sum(len(item) for item in document["paths"].values())
    assert tab.page.locator(".opblock").count() == operations
    assert tab.page.locator("html.dark-mode").count() == 0
    tab.page.emulate_media(color_scheme="dark")
    tab.page.locator("html.dark-mode").wait_for(state="attached")


def test_both_pages_work_below_a_path_that_a_proxy_strips(
    server: RunningServer, visit: Open
) -> None:
    """Everything that they ask for is asked for below it."""
    tab = visit(server)
    below = f"{server.url}/liere/"

    def strip(route: Any) -> None:
        assert route.request.url.startswith(below)
        route.fulfill(response=route.fetch(url=route.request.url.replace("/liere/", "/")))

    tab.page.route("**/*", strip)
    tab.page.goto(below)
    tab.page.locator(".state.good").wait_for()
    tab.give(("a.png", picture(1)))
    tab.page.locator(".seen canvas").wait_for()
    assert f"{below}v1/classify/image" in tab.page.locator(".code code").inner_text()
    tab.page.get_by_role("link", name="API").click()
    tab.page.locator(".opblock").first.wait_for()
    assert tab.page.url == f"{below}docs"
