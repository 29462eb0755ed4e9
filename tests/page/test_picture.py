"""The README's picture can be made again, and is of this page."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.page import picture

pytestmark = pytest.mark.xdist_group("page")


def test_picture_is_made_from_the_shipped_bundles(browser: Any, repo_root: Path) -> None:
    """Three answers of three bundles, as large as the one that is shown."""
    made = Image.open(io.BytesIO(picture.take_picture(browser)))
    with Image.open(repo_root / "docs" / "page.png") as shown:
        assert made.width == shown.width
        assert abs(made.height - shown.height) < 0.2 * shown.height
