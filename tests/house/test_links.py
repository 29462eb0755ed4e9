"""Whoever follows a link of a guide arrives."""

from __future__ import annotations

import functools
import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.helpers.service_fixtures import ROOT

PAGES = sorted(
    str(page.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "client/*.md")
    for page in ROOT.glob(pattern)
)
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
#: Of a link or an image in Markdown: its address.
LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)|^\[[^\]]+\]: (\S+)", re.MULTILINE)


@functools.cache
def text_of(page: Path) -> str:
    """Without its code."""
    return re.sub(r"`[^`\n]*`", "", FENCED.sub("", page.read_text(encoding="utf-8")))


@functools.cache
def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them: a second one of the same words has a number."""
    headings = re.findall(r"^#+ +(.+?) *$", FENCED.sub("", page.read_text("utf-8")), re.MULTILINE)
    made = Counter[str]()
    found = set[str]()
    for heading in headings:
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        plain = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{plain}-{made[plain]}" if made[plain] else plain)
        made[plain] += 1
    return found


def broken(page: Path, root: Path) -> list[str]:
    """Relative links of a page that lead nowhere, or out of the checkout."""
    found = []
    for link in ("".join(one) for one in LINK.findall(text_of(page))):
        if re.match(r"[a-z+]+:|//", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (page.parent / name).resolve() if name else page.resolve()
        arrives = target.is_relative_to(root.resolve()) and target.exists()
        if not arrives or (anchor and (target.suffix != ".md" or anchor not in anchors(target))):
            found.append(link)
    return found


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    """Files and headings that are linked to are there."""
    assert broken(ROOT / name, ROOT) == []


def test_pages_are_found_and_link() -> None:
    """The guides are among them, and links are seen."""
    assert {"README.md", "ARCHITECTURE.md", "BENCHMARKS.md", "CHANGELOG.md"} <= set(PAGES)
    assert sum(len(LINK.findall(text_of(ROOT / name))) for name in PAGES) > 30


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    """Files, folders and headings that are not there; what is code, or elsewhere, is left alone."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "b.md").write_text("# The `end` of it\n\n## Again\n\n## Again\n")
    page = tmp_path / "docs" / "a.md"
    page.write_text(
        "# Top, and more\n[1](b.md) [2](b.md#the-end-of-it) [3](#top-and-more) [4](b.md#again-1)\n"
        "[5](https://example.org/x) `[6](code.md)`\n```\n[7](code.md)\n# no heading\n```\n"
        "[8](c.md) ![9](d.png) [10](b.md#again-2) [11](#no-heading) [12](../../b.md)\n"
        "[13]: e.md\n"
    )
    lost = ["c.md", "d.png", "b.md#again-2", "#no-heading", "../../b.md", "e.md"]
    assert broken(page, tmp_path) == lost
