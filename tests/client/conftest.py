"""One server of every modality, which most tests of the client share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.service_fixtures import TINY, RunningServer, serving, write_tiny_bundle


@pytest.fixture(scope="package")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny bundle of every modality, named after it."""
    root = tmp_path_factory.mktemp("bundles")
    for modality in TINY:
        write_tiny_bundle(root, modality, modality)
    return root


@pytest.fixture(scope="module")
def server(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """It keeps jobs, and reads paths below ``settings.jobs_paths``."""
    jobs, allowed = (tmp_path_factory.mktemp(name) for name in ("jobs", "allowed"))
    with serving(bundles, jobs=jobs, jobs_paths=allowed) as running:
        yield running
