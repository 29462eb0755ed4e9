"""Where the model looked, over what it saw."""

from __future__ import annotations

import base64

import pytest

from tests.helpers.service_fixtures import MEDIA, RunningServer
from tests.page.conftest import MODALITIES, Open

pytestmark = pytest.mark.xdist_group("page")
NAMES = {"image": "a.png", "video": "b.mp4", "volume": "c.npy"}  # the bytes decide what it is


def explains(server: RunningServer) -> bool:
    """Whether the server says that it explains."""
    paths = server.get("/openapi.json").json()["paths"]
    parameters = paths["/v1/classify/image"]["post"]["parameters"]
    return "explain" in [one["name"] for one in parameters]


@pytest.mark.parametrize("modality", MODALITIES)
def test_button_shows_the_map_of_the_server(
    server: RunningServer, visit: Open, modality: str
) -> None:
    """Its overlay as it is, the label it is of, where it counted most, and the request as code."""
    if not explains(server):
        pytest.skip("this server does not explain")
    tab, media = visit(server), MEDIA[modality](3)
    tab.give((NAMES[modality], media))
    tab.page.get_by_role("button", name="Where the model looked").click()
    shown = tab.page.locator(".overlay img").last
    shown.wait_for()
    grid = tab.page.get_by_label("Grid", exact=True).input_value()
    answer = server.classify(
        f"/v1/classify/{modality}", content=media, params={"explain": "occlusion", "grid": grid}
    ).json()
    explanation = answer["results"][0]["explanation"]
    source = shown.get_attribute("src") or ""
    assert source.startswith("data:image/png;base64,")
    assert base64.b64decode(source.partition(",")[2])[:8] == b"\x89PNG\r\n\x1a\n"
    assert shown.evaluate("image => image.naturalWidth") > 1
    legend = tab.page.locator(".legend").inner_text()
    assert f"spoke for {explanation['label']}" in legend
    assert "It counted most at " in tab.page.locator(".explanation").inner_text()
    tab.page.get_by_label("Where it looked", exact=True).check()
    assert "explain=occlusion" in tab.page.locator(".code code").inner_text()


def test_there_is_no_button_where_nothing_is_explained(server: RunningServer, visit: Open) -> None:
    """A server without the parameter is not asked for it."""
    tab = visit(server)
    document = server.get("/openapi.json").json()
    for path in (f"/v1/classify/{modality}" for modality in MODALITIES):
        known = document["paths"][path]["post"]
        known["parameters"] = [one for one in known["parameters"] if one["name"] != "explain"]
    tab.page.route("**/openapi.json", lambda route: route.fulfill(json=document))
    with tab.page.expect_response("**/openapi.json"):
        tab.give(("a.png", MEDIA["image"](1)))
    tab.page.locator(".seen canvas").wait_for()
    assert tab.page.get_by_role("button", name="Where the model looked").count() == 0
