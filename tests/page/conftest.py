"""A real Chromium, and what it complains of: nothing may, unless a test says so."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.service_fixtures import RunningServer, serving, write_tiny_bundle

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed here")

MODALITIES = ("image", "video", "volume")
#: What a browser calls each.
KINDS = {"image": "Image", "video": "Clip", "volume": "Scan"}
#: The page is slow on a busy machine, and never for long.
PATIENCE_MS = 20_000


class Visit:
    """A tab on the page of one server.

    Attributes:
        page: Playwright's.
        complaints: what the console said, broken scripts, requests that went elsewhere.
        expected: pattern of complaints that a test provokes.
    """

    def __init__(self, context: Any, url: str, path: str = "/", expected: str = "$^") -> None:
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.url, self.expected = url, expected
        self.complaints: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(f"broken: {error}"))
        self.page.on("request", self._follow)
        self.page.goto(url + path)

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def _follow(self, request: Any) -> None:
        if not request.url.startswith((self.url, "blob:", "data:")):
            self.complaints.append(f"elsewhere: {request.url}")

    def unexpected(self) -> list[str]:
        """Complaints that nobody provoked."""
        return [one for one in self.complaints if not re.search(self.expected, one)]

    def give(self, *files: tuple[str, bytes]) -> None:
        """Choose files by name and bytes."""
        payloads = [
            {"name": name, "mimeType": "application/octet-stream", "buffer": data}
            for name, data in files
        ]
        self.page.set_input_files("#file", payloads)

    def answer(self) -> tuple[str, str]:
        """The label on top and its probability, once they are there."""
        top = self.page.locator(".top")
        return top.locator("strong").inner_text(), top.locator("span").inner_text()

    def pixels(self, selector: str) -> list[Any]:
        """A canvas as the browser has it, ``[height, width, 4]``."""
        shape, flat = self.page.locator(selector).first.evaluate(
            "one => { const {width, height} = one;"
            " return [[height, width],"
            " Array.from(one.getContext('2d').getImageData(0, 0, width, height).data)]; }"
        )
        return [shape, flat]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium here: apt-get install chromium")
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


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny bundles of every modality, another one of images, and one that is refused."""
    root = tmp_path_factory.mktemp("bundles")
    for modality in MODALITIES:
        write_tiny_bundle(root, f"a-{modality}", modality)
    write_tiny_bundle(root, "b-image", version="7")
    (write_tiny_bundle(root, "c-spoilt") / "graphs" / "weights.bin").write_bytes(b"other")
    return root


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[RunningServer]:
    """A server of theirs without keys."""
    with serving(bundles) as running:
        yield running
