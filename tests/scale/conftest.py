"""Tests with Ray: in an environment of their own (the extra ``scale``), and with one cluster.

Ray is slow to start, and so kept out of ``make test``.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.serving.ray_environment import environment

if TYPE_CHECKING:
    from tests.helpers.ray_cluster import Cluster

collect_ignore_glob: list[str] = []
if importlib.util.find_spec("ray"):
    FOLDER = Path(tempfile.mkdtemp(prefix="liere-"))
    RAY_ENVIRONMENT = environment(FOLDER)
    os.environ.update(RAY_ENVIRONMENT)  # before the tests import ray
else:
    collect_ignore_glob.append("test_*.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever asks for the cluster first waits for all of it, and replicas take seconds to come."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def ray_environment() -> dict[str, str]:
    """What the cluster starts with, and whoever joins it: its token, for one."""
    return RAY_ENVIRONMENT


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Ray on this machine, with nothing deployed."""
    from tests.helpers.ray_cluster import running_cluster  # noqa: PLC0415

    with running_cluster(FOLDER) as running:
        yield running
    shutil.rmtree(FOLDER)
