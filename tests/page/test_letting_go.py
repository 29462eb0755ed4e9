"""A page that is open for long: what it holds of files ends with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from media import read
from media.spec import Grid
from tests.helpers.service_fixtures import MEDIA, TINY, RunningServer, picture, wait_until
from tests.page.conftest import Open
from tests.page.test_page import expected, seen, show

pytestmark = pytest.mark.xdist_group("page")


def test_pixels_of_many_files_are_not_held_together(server: RunningServer, visit: Open) -> None:
    """Those of files long out of sight are let go of, and asked for again when they are shown."""
    media = {f"{seed}.png": picture(seed) for seed in range(11)}
    tab, asked = visit(server), list[str]()
    tab.page.on("request", lambda one: asked.append(one.url) if "/v1/prepare/" in one.url else None)
    tab.give(*media.items())
    tab.page.locator("#files .small", has_text="%").nth(10).wait_for()
    tab.page.locator(".seen canvas").wait_for()
    wait_until(lambda: tab.page.evaluate("1") and len(asked) == 11, "every file to be prepared")
    tiny = TINY["image"]
    for name, data in media.items():
        tab.page.locator("#files").get_by_role("button", name=name, exact=False).first.click()
        tab.page.get_by_role("heading", name=name, exact=True).wait_for()
        tab.page.locator(".seen canvas").wait_for()
        pixels = read(data, tiny.input, Grid.parse(tiny.grids[0]), tiny.patch).pixels[0]
        np.testing.assert_array_equal(seen(tab, ".seen canvas"), pixels)
    assert len(asked) >= 11 + 3  # eight are held


def test_cleared_files_leave_nothing_behind(server: RunningServer, visit: Open) -> None:
    """No row, no result, no address that keeps a file; and others can come."""
    tab = visit(server)
    tab.page.evaluate(
        """() => {
          window.open_ = new Set();
          const {createObjectURL, revokeObjectURL} = URL;
          URL.createObjectURL = (file) => {
            const made = createObjectURL(file);
            open_.add(made);
            return made;
          };
          URL.revokeObjectURL = (url) => { open_.delete(url); revokeObjectURL(url); };
        }"""
    )
    tab.give(*((f"{seed}.png", picture(seed)) for seed in range(4)), ("b.npy", MEDIA["volume"]()))
    tab.page.locator("#files .small", has_text="%").nth(4).wait_for()
    assert tab.page.evaluate("open_.size") == 4  # a scan is no picture
    tab.page.get_by_role("button", name="Clear", exact=True).click()
    assert tab.page.evaluate("open_.size") == 0
    assert tab.page.locator("#files li, .result").count() == 0
    assert not tab.page.locator("#files").is_visible()
    assert tab.page.evaluate("document.activeElement.id") == "file"
    show(tab, "image", picture(5))
    assert list(tab.answer()) == expected(picture(5), "image")


def test_clearing_ends_what_is_under_way(server: RunningServer, visit: Open) -> None:
    """What is answered later is nobody's, and is not told."""
    tab, waiting = visit(server), list[Any]()
    tab.page.route("**/v1/classify/**", lambda one: waiting.append(one))  # noqa: PLW0108 (it is marked)
    tab.give(*((f"{seed}.png", picture(seed)) for seed in range(4)))
    wait_until(lambda: tab.page.evaluate("1") and len(waiting) == 2, "two files to be sent")
    tab.page.get_by_role("button", name="Clear", exact=True).click()
    tab.page.unroute("**/v1/classify/**")
    show(tab, "image", picture(5))
    assert list(tab.answer()) == expected(picture(5), "image")
    assert tab.page.locator("#files li").count() == 1
    assert tab.page.locator("#live").inner_text().startswith("ant hill.png: ")
