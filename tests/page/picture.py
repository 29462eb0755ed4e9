"""Make the README's picture of the page, from the bundles that are shipped.

    python -m tests.page.picture

writes ``docs/page.png``. The picture on it is drawn here; clip and scan are goldens of their
bundles, which are generated: nothing on it belongs to a data set.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFilter

from media.files import write_atomic
from tests.helpers.service_fixtures import ROOT, serving
from tests.page.visit import Visit

TO = ROOT / "docs" / "page.png"
BUNDLES = ROOT / "bundles"
WIDTH, HEIGHT = 1240, 1060
MARGIN = 8  # pixels below both halves of the result


def plane() -> bytes:
    """A PNG of an aeroplane in the sky, 640 x 480."""
    column = Image.linear_gradient("L").resize((1, 480))
    sky = Image.composite(
        Image.new("RGB", (1, 480), (205, 225, 240)),
        Image.new("RGB", (1, 480), (120, 170, 220)),
        column,
    ).resize((640, 480))
    draw = ImageDraw.Draw(sky)
    hull, shade, wing, tail = (238, 240, 243), (150, 158, 170), (120, 128, 142), (60, 80, 140)
    hull_edge = [(60, 250), (120, 205), (480, 215), (590, 235), (600, 250), (560, 265), (120, 275)]
    draw.polygon(hull_edge, fill=hull)
    draw.polygon([(120, 245), (590, 248), (560, 265), (120, 275)], fill=shade)
    draw.polygon([(70, 240), (40, 140), (95, 140), (160, 225)], fill=tail)
    draw.polygon([(240, 250), (330, 250), (190, 370), (150, 370)], fill=wing)
    draw.polygon([(300, 222), (360, 220), (250, 150), (222, 150)], fill=(200, 205, 212))
    for left in range(180, 520, 26):
        draw.rectangle((left, 228, left + 9, 238), fill=(70, 85, 110))
    encoded = io.BytesIO()
    sky.filter(ImageFilter.GaussianBlur(1.5)).save(encoded, "PNG")
    return encoded.getvalue()


def golden(bundle: str, name: str) -> bytes:
    return (BUNDLES / bundle / "golden" / name).read_bytes()


def take_picture(browser: Any, url: str) -> bytes:
    """A PNG of the page of a server with those bundles, with three answers."""
    viewport = {"width": WIDTH, "height": HEIGHT}
    context = browser.new_context(viewport=viewport, device_scale_factor=1.5)
    tab = Visit(context, url)
    tab.page.locator(".state.good").wait_for()
    tab.give(
        ("aeroplane.png", plane()),
        ("lung.mp4", golden("lung-ultrasound", "0.mp4")),
        ("gland.nrrd", golden("adrenal", "1.nrrd")),
    )
    tab.page.locator("#files .small", has_text="%").nth(2).wait_for()
    tab.page.locator(".seen canvas").first.wait_for()
    tab.page.locator("#files canvas").nth(1).wait_for()
    tab.page.get_by_role("button", name="Where the model looked").wait_for()
    box = tab.page.locator(".result .two").bounding_box()
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": box["y"] + box["height"] + MARGIN}
    encoded: bytes = tab.page.screenshot(clip=clip, full_page=True)
    assert tab.complaints == []
    context.close()
    return encoded


def main() -> None:
    """Write the picture."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 (tests skip without it)

    with serving(BUNDLES) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        write_atomic(TO, take_picture(browser, server.url))
        browser.close()
    print(TO.relative_to(Path.cwd()))


if __name__ == "__main__":
    main()
