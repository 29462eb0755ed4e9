"""``/docs``: Swagger UI from this server alone."""

from __future__ import annotations

import pytest

from tests.helpers.service_fixtures import RunningServer
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
