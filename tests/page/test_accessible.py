"""For everyone: no violation that axe-core finds, and nothing that needs a mouse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.service_fixtures import MEDIA, RunningServer, picture
from tests.page.conftest import Open
from tests.page.visit import Visit

pytestmark = pytest.mark.xdist_group("page")
AXE = Path(__file__).parent / "axe" / "axe.min.js"
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "narrow": {"viewport": {"width": 390, "height": 844}},
}
RUN = """async () => (await axe.run({resultTypes: ["violations"]})).violations
  .map(one => [one.id, one.nodes.map(node => node.html).slice(0, 3)])"""


def violations(tab: Visit) -> Any:
    """What axe finds now; animations are no matter of its."""
    tab.page.emulate_media(reduced_motion="reduce")
    if not tab.page.evaluate("() => 'axe' in window"):
        tab.page.evaluate(AXE.read_text(encoding="utf-8") + "; undefined")
    return tab.page.evaluate(RUN)


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing(server: RunningServer, visit: Open, look: str) -> None:
    """At the start, with a picture, a clip, a scan, a question, a problem, and with the dialog."""
    tab = visit(server, expected="status of 415", **LOOKS[look])
    tab.page.locator(".state.good").wait_for()
    tab.page.get_by_text("Card: data").first.click()
    found = {"start": violations(tab)}
    for name, media in {
        "a.png": picture(1),
        "b.gif": MEDIA["video"](),
        "c.npy": MEDIA["volume"](),
    }.items():
        tab.give((name, media))
        tab.page.locator(".seen canvas").first.wait_for()
        if name == "b.gif":
            tab.page.get_by_label("Clip", exact=True).check()
            tab.page.locator(".strip").wait_for()
        found[name] = violations(tab)
        width = "() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert tab.page.evaluate(width), f"{name} is wider than the window"
    for name in ("IM0001", "text.png"):
        tab.give((name, b"neither"))
        tab.page.locator(".question, .result .problem").wait_for()
        found[name] = violations(tab)
    tab.page.evaluate("() => document.querySelector('#ask').showModal()")
    found["dialog"] = violations(tab)
    assert found == {name: [] for name in found}


def test_keyboard_alone_is_enough(server: RunningServer, visit: Open) -> None:
    """From the first Tab to a frame of a clip: focus is seen, and never lost."""
    tab = visit(server)
    page = tab.page
    page.on("filechooser", lambda _: None)  # from now on there is no real one
    page.locator(".state.good").wait_for()

    def focused(of: str) -> Any:
        return page.evaluate(f"() => document.activeElement.{of}")

    def tab_to(what: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("what => document.activeElement.matches(what)", what):
                return
        raise AssertionError(f"Tab does not reach {what}; it is at {focused('outerHTML')}")

    page.keyboard.press("Tab")
    assert focused("textContent") == "To the content"
    page.keyboard.press("Enter")
    assert focused("id") == "main"
    tab_to("#file")
    outline = "() => getComputedStyle(document.querySelector('label[for=file]')).outlineStyle"
    assert page.evaluate(outline) == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    gif = {"name": "a.gif", "mimeType": "image/gif", "buffer": MEDIA["video"]()}
    chooser.value.set_files([gif])
    page.locator(".seen canvas").wait_for()
    assert page.locator("#live").inner_text().startswith("a.gif: ")
    tab_to(".controls input")
    page.keyboard.press("ArrowRight")  # from Image to Clip
    page.locator(".strip").wait_for()
    tab_to("input[type=range]")
    page.keyboard.press("ArrowRight")
    assert page.locator(".slider output").inner_text().startswith("2 of ")
    assert focused("ariaValueText").startswith("2 of ")
    tab_to(".code .choice input")
    page.keyboard.press("ArrowRight")
    assert "/v1/prepare/video" in page.locator(".code code").inner_text()
