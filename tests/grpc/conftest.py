"""What the tests of gRPC have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.grpc_serving import GrpcServer, serving_grpc
from tests.helpers.service_fixtures import TINY, TinySession, write_tiny_bundle

Start = Callable[..., tuple[GrpcServer, TinySession]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcServer]:
    """A server with a tiny bundle of every modality."""
    root = tmp_path_factory.mktemp("bundles")
    for modality in TINY:
        write_tiny_bundle(root, modality, modality)
    with serving_grpc(root, modalities=tuple(TINY)) as running:
        yield running


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one tiny bundle."""
    root = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(root)
    return root


@pytest.fixture
def start(bundles: Path) -> Iterator[Start]:
    """Start a server whose graphs are one ``TinySession``, with settings of the test's choice."""
    with ExitStack() as stack:

        def start_one(**settings: Any) -> tuple[GrpcServer, TinySession]:
            session = TinySession()
            server = stack.enter_context(serving_grpc(bundles, lambda *_: session, **settings))
            session.batches.clear()
            stack.callback(session.gate.set)  # never leave a batch hanging
            return server, session

        yield start_one
