"""An engine and a project of compose, as objects; the fixtures are in ``container_fixtures``."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.helpers.service_fixtures import wait_until

NAME = f"liere-test-{os.getpid()}"
#: What an image is built from and compose mounts, with one of the bundles: the tests ask for it.
BUNDLE = "bundles/cifar10-liere8"
COPIED = (
    *("Dockerfile", ".dockerignore", "Makefile", "docker-compose.yml", "deploy"),
    *("pyproject.toml", "constraints.txt", "media", "models", "service", "training", "export"),
    BUNDLE,
)
PROMETHEUS = "liere-test-prometheus"
Done = subprocess.CompletedProcess[str]


class Engine:
    """docker or podman, as a command."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *words: str, check: bool = True) -> Done:
        return run([self.name, *words], check=check)

    def start(self, *words: str) -> str:
        """``run --detach`` with this session's label; the container's id."""
        return self("run", "--detach", "--label", NAME, *words).stdout.strip()

    def python(self, container: str, code: str) -> str:
        """What ``code`` prints inside a running container."""
        return self("exec", container, "python", "-c", code).stdout.strip()

    def inspect(self, container: str, form: str) -> str:
        return self("inspect", "--format", form, container).stdout.strip()

    def logs(self, container: str) -> str:
        """What it has said so far, on either stream."""
        done = self("logs", container)
        return done.stdout + done.stderr

    def healthy(self, container: str) -> bool:
        """Whether its own health check says so; podman without systemd runs none by itself."""
        if self.name == "podman":
            self("healthcheck", "run", container, check=False)
        return self.inspect(container, "{{.State.Health.Status}}") == "healthy"

    def remove_all(self) -> None:
        """The containers of this session."""
        if left := self("ps", "--all", "--quiet", "--filter", f"label={NAME}").stdout.split():
            self("rm", "--force", "--volumes", *left)


class Compose:
    """One project in a copy of the checkout, on free ports, with Debian's Prometheus."""

    def __init__(self, folder: Path, engine: Engine, host: dict[str, str]) -> None:
        self.folder = folder
        self.engine = engine
        self.words = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
        self.port, self.prometheus_port = free_port(), free_port()
        self.grafana_port, self.tls_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.project = f"{NAME}-{folder.name}".lower()
        (folder / "debian.yml").write_text(f"services: {{prometheus: {{image: {PROMETHEUS}}}}}\n")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        self.environment = (
            kept
            | host
            | {
                "COMPOSE_PROJECT_NAME": self.project,
                "COMPOSE_FILE": "docker-compose.yml:debian.yml",
                "COMPOSE_HTTP_TIMEOUT": "300",  # removing a container may take more than 60 s
                "ENGINE": engine.name,
                "PORT": str(self.port),
                "PROMETHEUS_PORT": str(self.prometheus_port),
                "GRAFANA_PORT": str(self.grafana_port),
                "TLS_PORT": str(self.tls_port),
            }
        )

    def __call__(self, *words: str) -> Done:
        """``docker-compose WORDS``."""
        return run([*self.words, *words], cwd=self.folder, environment=self.environment)

    def shell(self, command: str) -> Done:
        """One command of a person who stands in the checkout."""
        words = ["bash", "-euo", "pipefail", "-c", command]
        return run(words, cwd=self.folder, environment=self.environment)

    def container(self, service: str) -> str:
        """The id of a service's container."""
        return self("ps", "--quiet", service).stdout.strip()

    def up(self, *services: str) -> None:
        """Start services, and wait until the server is ready."""
        self("up", "--detach", *services)
        wait_until(self.ready, "the server to be ready", 120)

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    @contextlib.contextmanager
    def files(self, *names: str) -> Iterator[None]:
        """Within this block compose reads other files."""
        before = self.environment["COMPOSE_FILE"]
        self.environment["COMPOSE_FILE"] = ":".join(names)
        try:
            yield
        finally:
            self.environment["COMPOSE_FILE"] = before

    def down(self) -> None:
        profiles = [word for name in ("train", "grafana", "tls") for word in ("--profile", name)]
        self(*profiles, "down", "--volumes", "--remove-orphans", "--timeout", "5")


def run(
    words: list[str],
    *,
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
    check: bool = True,
) -> Done:
    """Run a command; where it fails, the test fails with all that it said."""
    done = subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        pytest.fail(f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


def guide_commands(root: Path, heading: str, guide: str = "containers") -> list[str]:
    """The commands of the fenced blocks below a heading, up to the next one; joined lines."""
    text = (root / "docs" / f"{guide}.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, flags=re.M | re.S)
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", section, flags=re.M | re.S)
    plain = [block for language, block in blocks if not language]
    return [line for block in plain for line in block.replace("\\\n", "").splitlines()]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextlib.contextmanager
def new_project(folder: Path, engine: Engine, host: dict[str, str]) -> Iterator[Compose]:
    """What compose needs of this checkout, in ``folder``; all that was started there is removed."""
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    project = Compose(folder, engine, host)
    try:
        yield project
    finally:
        project.down()
