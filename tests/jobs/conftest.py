"""A server that keeps jobs, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.service_fixtures import RunningServer, TinySession, serving, write_tiny_bundle

#: Start a server on ``tmp_path / "jobs"``, with settings of the test's choice.
Start = Callable[..., tuple[RunningServer, TinySession]]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one tiny bundle."""
    root = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(root)
    return root


@pytest.fixture
def start(bundles: Path, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def start_one(**settings: Any) -> tuple[RunningServer, TinySession]:
            session = TinySession()
            chosen = {"bundles": bundles, "jobs": tmp_path / "jobs"} | settings
            server = stack.enter_context(serving(opener=lambda *_: session, **chosen))
            session.batches.clear()
            stack.callback(session.gate.set)  # never leave a batch hanging
            return server, session

        yield start_one
