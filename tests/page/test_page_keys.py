"""A server with keys: its page is open, asks for a key, keeps it for the tab alone."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.http.key_lines import Key
from service.http.keys import Keys
from tests.helpers.service_fixtures import RunningServer, picture, serving
from tests.page.conftest import Open
from tests.page.visit import Visit

pytestmark = pytest.mark.xdist_group("page")
REFUSED = "status of 40[13]"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture(scope="module")
def key() -> str:
    return secrets.token_urlsafe(32)


@pytest.fixture(scope="module")
def server(bundles: Path, key: str) -> Iterator[RunningServer]:
    """A server that wants this key."""
    with serving(bundles, key_sha256=(digest(key),)) as running:
        yield running


def enter(tab: Visit, key: str) -> None:
    """Into the dialog, with the keyboard."""
    field = tab.page.get_by_label("Key", exact=True)
    field.fill(key)
    field.press("Enter")


def test_page_asks_for_a_key_and_keeps_it_for_the_tab(
    server: RunningServer, visit: Open, key: str
) -> None:
    """A wrong one is told and asked for again; the right one is in sessionStorage alone."""
    tab = visit(server, expected=REFUSED)
    dialog = tab.page.get_by_role("dialog", name="This server wants a key")
    dialog.wait_for()
    assert tab.page.get_by_label("Key", exact=True).get_attribute("type") == "password"
    enter(tab, "not-this-one")
    dialog.get_by_text("does not know the key").wait_for()
    enter(tab, key)
    tab.page.locator(".state.good").wait_for()
    tab.give(("a.png", picture(1)))
    tab.page.locator(".seen canvas").wait_for()
    kept = tab.page.evaluate(
        "() => [Object.values(sessionStorage), Object.values(localStorage), document.cookie]"
    )
    assert kept == [[key], [], ""]
    assert key not in tab.page.content()
    assert '-H "Authorization: Bearer $LIERE_KEY"' in tab.page.locator(".code code").inner_text()
    tab.page.reload()
    tab.page.locator(".state.good").wait_for()
    other = tab.page.context.new_page()
    other.goto(server.url)
    other.get_by_role("dialog", name="This server wants a key").wait_for()


def test_old_key_is_told_and_another_is_asked_for(
    server: RunningServer, visit: Open, key: str
) -> None:
    """The operator takes a key away while its page is open: the file is answered with the next."""
    newer, keys = secrets.token_urlsafe(32), server.app.state.keys
    tab = visit(server, expected=REFUSED)
    enter(tab, key)
    tab.page.locator(".state.good").wait_for()
    keys.become(Keys([Key.parse(digest(newer))]))
    try:
        tab.give(("a.png", picture(1)))
        dialog = tab.page.get_by_role("dialog", name="This server wants a key")
        dialog.get_by_text("The server does not know the key of this tab (any more).").wait_for()
        enter(tab, newer)
        tab.page.locator(".top").wait_for()
    finally:
        keys.become(Keys([Key.parse(digest(key))]))


def test_without_a_key_the_page_says_so_and_stays_usable(
    server: RunningServer, visit: Open, key: str
) -> None:
    """Esc closes the dialog; the problem offers to try again."""
    tab = visit(server, expected=REFUSED)
    tab.page.get_by_role("dialog").wait_for()
    tab.page.keyboard.press("Escape")
    tab.page.get_by_role("heading", name="This address wants a key.").wait_for()
    tab.page.get_by_role("button", name="Key", exact=True).click()
    enter(tab, key)
    tab.page.locator(".state.good").wait_for()


def test_key_without_the_right_is_told(server: RunningServer, visit: Open, key: str) -> None:
    """403 is a problem in words: another key may help, and can be given."""
    weak, keys = secrets.token_urlsafe(32), server.app.state.keys
    keys.become(Keys([Key.parse(digest(key)), Key.parse(f"{digest(weak)} weak scopes=metrics")]))
    tab = visit(server, expected=REFUSED)
    enter(tab, weak)
    tab.page.get_by_role("heading", name="The key may not do this.").wait_for()
    told = tab.page.locator(".cards").inner_text()
    assert "Expected a key with the scope classify; this one has metrics." in told


def test_docs_ask_for_the_key_too(server: RunningServer, visit: Open, key: str) -> None:
    """Swagger's page is open, its document is not; with the key it is shown, and tried with it."""
    tab = visit(server, "/docs", expected=REFUSED)
    enter(tab, key)
    operation = tab.page.locator("#operations-bundles-listBundles")
    operation.wait_for()
    operation.click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()
    operation.locator(".responses-table.live-responses-table").get_by_text("200").first.wait_for()
