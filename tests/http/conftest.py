"""What most tests of the server have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.service_fixtures import write_tiny_bundle


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one tiny bundle."""
    root = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(root)
    return root
