"""The page of the bundles that are shipped: with real files, and for the README's picture."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.service_fixtures import RunningServer, serving
from tests.page import picture
from tests.page.conftest import KINDS, Open

pytestmark = pytest.mark.xdist_group("page")
#: A photograph that is turned by its header, a clip with B-frames, a scan with its own directions.
REAL = {
    "image": "images/exif_orientation/hopper_orientation_6.jpg",
    "video": "video/nasa_13013.mp4",
    "volume": "volume/anatomical.nii",
}


@pytest.fixture(scope="module")
def shipped() -> Iterator[RunningServer]:
    """A server of theirs."""
    with serving(picture.BUNDLES) as running:
        yield running


def test_real_files_are_answered_and_shown(
    shipped: RunningServer, visit: Open, data_dir: Path
) -> None:
    """A photograph, a clip and a scan: the answers of the server, and something to see of each."""
    tab = visit(shipped)
    tab.page.locator(".state.good").wait_for()
    for modality, name in REAL.items():
        media = (data_dir / "decode" / name).read_bytes()
        tab.give((Path(name).name, media))
        answer = shipped.classify(f"/v1/classify/{modality}", content=media).json()
        (result,) = answer["results"]
        first = result["predictions"][0]
        assert tab.answer() == (first["label"], f"{100 * first['probability']:.1f}\u202f%")
        tab.page.locator(".seen canvas").first.wait_for()
        assert tab.page.get_by_label(KINDS[modality], exact=True).is_checked()
        _, values = tab.pixels(".seen canvas")
        assert len(set(values)) > 20  # shades, and no empty canvas
    caption = tab.page.locator(".seen > .caption").inner_text()
    size = " × ".join(map(str, result["seen"]["size"]))
    assert f"from {size}, " in caption
    assert " mm each" in caption


def test_what_was_measured_of_bundles_is_seen_whole(shipped: RunningServer, visit: Open) -> None:
    """No column of a card's table lies outside its card, of grids of three axes either."""
    page = visit(shipped).page
    page.locator(".card > .wide").nth(2).wait_for()
    widths = page.evaluate(
        "() => [...document.querySelectorAll('.card > .wide')]"
        ".map(one => [one.scrollWidth, one.clientWidth])"
    )
    assert len(widths) == 3
    assert all(inside <= shown for inside, shown in widths)


def test_picture_is_made_again(browser: Any, shipped: RunningServer, repo_root: Path) -> None:
    """Three answers of three bundles, about as large as the picture that is shown."""
    made = Image.open(io.BytesIO(picture.take_picture(browser, shipped.url)))
    with Image.open(repo_root / "docs" / "page.png") as shown:
        assert made.width == shown.width
        assert abs(made.height - shown.height) < 0.2 * shown.height
