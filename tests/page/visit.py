"""A tab of a real browser on the page, and what it complains of."""

from __future__ import annotations

import re
from typing import Any

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
        self.page.wait_for_selector("#main:not([aria-busy])")  # it is painted before it works

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
