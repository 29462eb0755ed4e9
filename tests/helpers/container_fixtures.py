"""What the container tests stand on: the engine, its socket, Prometheus, one project of compose.

``make test-containers`` builds the images and names the engine in CONTAINER_ENGINE; anybody else
gets the reason why these tests are skipped. Whatever they start carries the name of this session
and is removed at its end, also after a failure; images stay, because they are a cache.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.helpers.containers import PROMETHEUS, Compose, Engine, new_project
from tests.helpers.service_fixtures import wait_until

#: Debian's Prometheus, laid out as the image is that compose names. See Dockerfile for scratch.
PROMETHEUS_DOCKERFILE = """
FROM debian:bookworm-slim AS debian
RUN apt-get update && apt-get install --yes --no-install-recommends prometheus \\
    && mkdir /prometheus && chown 65534:65534 /prometheus
FROM scratch
USER 65534:65534
ENTRYPOINT ["/usr/bin/prometheus"]
COPY --from=debian / /
"""


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The engine that built the images."""
    name = os.environ.get("CONTAINER_ENGINE")
    if not name:
        pytest.skip("make test-containers builds the images and runs this")
    engine = Engine(name)
    try:
        yield engine
    finally:
        engine.remove_all()


@pytest.fixture(scope="session")
def host(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What compose must know to find the engine: for podman, a socket that answers as docker."""
    if engine.name != "podman":
        yield {}
        return
    path = tmp_path_factory.mktemp("podman") / "socket"
    with subprocess.Popen(
        ["podman", "system", "service", "--time=0", f"unix://{path}"], stderr=subprocess.DEVNULL
    ) as service:
        try:
            wait_until(path.exists, "podman's socket")
            yield {"DOCKER_HOST": f"unix://{path}"}
        finally:
            service.terminate()


@pytest.fixture(scope="session")
def prometheus(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with Debian's Prometheus in the place of the one that is pulled."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "Dockerfile").write_text(PROMETHEUS_DOCKERFILE)
    engine("build", "--tag", PROMETHEUS, str(folder))
    return PROMETHEUS


@pytest.fixture(scope="module")
def compose(
    engine: Engine,
    host: dict[str, str],
    prometheus: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Compose]:
    """A project that nothing was started of yet."""
    with new_project(tmp_path_factory.mktemp("checkout"), engine, host) as project:
        yield project
