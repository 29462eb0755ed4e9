"""A real Chromium, and what it complains of: nothing may, unless a test says so."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.programs import do_without, tool
from tests.helpers.service_fixtures import RunningServer, serving, write_tiny_bundle
from tests.page.visit import Visit

MODALITIES = ("image", "video", "volume")
#: What a browser calls each.
KINDS = {"image": "Image", "video": "Clip", "volume": "Scan"}


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """Debian's Chromium."""
    path = tool("chromium")
    if importlib.util.find_spec("playwright") is None:
        do_without("chromium", "playwright is not installed here")
    sync_api = importlib.import_module("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


Open = Callable[..., Visit]


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Open a page; at the end of the test nothing may have been complained of."""
    visits: list[Visit] = []
    with ExitStack() as stack:

        def open_page(
            server: RunningServer, path: str = "/", expected: str = "$^", **options: Any
        ) -> Visit:
            context = browser.new_context(**options)
            stack.callback(context.close)
            visits.append(Visit(context, server.url, path, expected))
            return visits[-1]

        yield open_page
        assert [one.unexpected() for one in visits] == [[] for _ in visits]


@pytest.fixture(scope="package")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny bundles of every modality, another one of images, and one that is refused."""
    root = tmp_path_factory.mktemp("bundles")
    for modality in MODALITIES:
        write_tiny_bundle(root, f"a-{modality}", modality, embeds=True, looks=True)
    write_tiny_bundle(root, "b-image", version="7")
    (write_tiny_bundle(root, "c-spoilt") / "graphs" / "weights.bin").write_bytes(b"other")
    return root


@pytest.fixture(scope="package")
def server(bundles: Path) -> Iterator[RunningServer]:
    """A server of theirs without keys."""
    with serving(bundles) as running:
        yield running
