"""Where the model looked, over what it saw."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.service_fixtures import CLEAN, MEDIA, ROOT, RunningServer
from tests.page.conftest import MODALITIES, Open

pytestmark = pytest.mark.xdist_group("page")
NAMES = {"image": "a.png", "video": "b.mp4", "volume": "c.npy"}  # the bytes decide what it is


#: What the page calls an axis.
WORDS = {"time": "in time", "depth": "along the body", "height": "down", "width": "across"}


def told(explanation: dict[str, Any]) -> str:
    """Where the peak is, in the page's words, if anything spoke for the label."""
    if explanation["peak"]["value"] <= 0:
        return "No part spoke for it: hiding any of them helped, or changed nothing."
    parts = []
    for axis in explanation["axes"]:
        name, unit = axis["name"], axis["unit"]
        digits = Decimal("0.01" if unit == "s" else "1")
        begin, end = (
            Decimal(place).quantize(digits, ROUND_HALF_UP)  # as a browser, and not as Python
            for place in explanation["peak"]["where"][name]
        )
        parts.append(f"{begin} to {end} {unit} {WORDS[name]}")
    return f"It counted most at {', '.join(parts)}."


@pytest.mark.parametrize("modality", MODALITIES)
def test_button_shows_the_map_of_the_server(
    server: RunningServer, visit: Open, tmp_path: Path, modality: str
) -> None:
    """Its overlay as it is, the label it is of, where it counted most, and code that gets both."""
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
    assert source.partition(",")[2] == explanation["overlay"]
    assert shown.evaluate("image => image.naturalWidth") > 1
    legend = tab.page.locator(".legend").inner_text()
    assert f"spoke for {explanation['label']}" in legend
    assert told(explanation) in tab.page.locator(".explanation").inner_text().splitlines()
    tab.page.get_by_label("Where it looked", exact=True).check()
    assert "explain=occlusion" in tab.page.locator(".code code").inner_text()
    tab.page.get_by_label("Python", exact=True).check()
    (tmp_path / NAMES[modality]).write_bytes(media)
    code = tab.page.locator(".code code").inner_text()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=CLEAN | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    where = {name: tuple(place) for name, place in explanation["peak"]["where"].items()}
    assert done.stdout == f"{explanation['peak']['value']} {where}\n"
    overlay = base64.b64decode(explanation["overlay"])
    assert (tmp_path / "overlay.png").read_bytes() == overlay


@pytest.mark.parametrize("turn", [1, 6])
def test_map_lies_on_the_picture(server: RunningServer, visit: Open, turn: int) -> None:
    """Both fill one box, also where a header turns the picture: a cell is over what it is of."""
    image, exif, encoded = Image.new("RGB", (90, 40), "gray"), Image.Exif(), io.BytesIO()
    exif[274] = turn
    image.save(encoded, "JPEG", exif=exif)
    tab = visit(server)
    tab.give(("a.jpg", encoded.getvalue()))
    tab.page.get_by_role("button", name="Where the model looked").click()
    both = tab.page.locator(".overlay img")
    both.nth(1).wait_for()
    under, over = both.nth(0).bounding_box(), both.nth(1).bounding_box()
    shape = under["width"] / under["height"]
    assert shape == pytest.approx(90 / 40 if turn == 1 else 40 / 90, rel=0.02)
    for side, value in under.items():
        assert over[side] == pytest.approx(value, abs=1), side


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


def test_map_of_nothing_that_spoke_for_the_label_says_so(
    server: RunningServer, visit: Open
) -> None:
    """Its greatest value is no part that counted."""

    def without(route: Any) -> None:
        answer = route.fetch()
        document = answer.json()
        document["results"][0]["explanation"]["peak"]["value"] = -0.1
        route.fulfill(response=answer, json=document)

    tab = visit(server)
    tab.page.route(re.compile("explain=occlusion"), without)
    tab.give(("a.png", MEDIA["image"](3)))
    tab.page.get_by_role("button", name="Where the model looked").click()
    said = tab.page.get_by_text("No part spoke for it")
    said.wait_for()
    assert "It counted most" not in tab.page.locator(".explanation").inner_text()


@pytest.mark.parametrize("modality", MODALITIES)
def test_another_button_shows_where_attention_went(
    server: RunningServer, visit: Open, modality: str
) -> None:
    """Of bundles that tell it; the other way is still offered; the code is of what was asked."""
    tab, media = visit(server), MEDIA[modality](3)
    tab.give((NAMES[modality], media))
    tab.page.get_by_role("button", name="Where attention went").click()
    shown = tab.page.locator(".overlay img").last
    shown.wait_for()
    grid = tab.page.get_by_label("Grid", exact=True).input_value()
    answer = server.classify(
        f"/v1/classify/{modality}", content=media, params={"explain": "attention", "grid": grid}
    ).json()
    explanation = answer["results"][0]["explanation"]
    assert (shown.get_attribute("src") or "").partition(",")[2] == explanation["overlay"]
    part = tab.page.locator(".explanation").inner_text()
    assert "more than the mean of all patches" in part
    assert f"{explanation['peak']['value']:.1f} times an even share came from" in part
    tab.page.get_by_label("Where it looked", exact=True).check()
    assert "explain=attention" in tab.page.locator(".code code").inner_text()
    assert tab.page.get_by_role("button", name="Where attention went").count() == 0
    tab.page.get_by_role("button", name="Where the model looked").click()
    tab.page.get_by_text("spoke against it").wait_for()
    tab.page.get_by_label("Where it looked", exact=True).check()
    assert "explain=occlusion" in tab.page.locator(".code code").inner_text()


def test_bundle_without_attention_has_no_button_for_it(server: RunningServer, visit: Open) -> None:
    """What it does not have cannot be asked for."""
    tab = visit(server)
    tab.give(("a.png", MEDIA["image"](3)))
    tab.page.get_by_role("button", name="Where attention went").wait_for()
    tab.page.get_by_label("Bundle", exact=True).select_option("b-image")
    tab.page.locator(".answerer").get_by_text("b-image, version 7").wait_for()
    tab.page.get_by_role("button", name="Where the model looked").wait_for()
    assert tab.page.get_by_role("button", name="Where attention went").count() == 0
