"""``/docs``: Swagger UI from this server alone."""

from __future__ import annotations

import pytest

from tests.helpers.service_fixtures import RunningServer
from tests.page.conftest import Open

pytestmark = pytest.mark.xdist_group("page")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_docs_show_every_operation_offline(server: RunningServer, visit: Open, scheme: str) -> None:
    """Nothing comes from elsewhere or is blocked, and all that the document lists is there."""
    tab = visit(server, "/docs", color_scheme=scheme)
    tab.page.locator(".opblock").first.wait_for()
    document = server.get("/openapi.json").json()
    listed = {one for item in document["paths"].values() for one in item}
    operations = sum(len(item) for item in document["paths"].values())
    assert listed <= {"get", "post", "delete"}
    assert tab.page.locator(".opblock").count() == operations
    dark = tab.page.evaluate("() => document.documentElement.classList.contains('dark-mode')")
    assert dark == (scheme == "dark")
