"""Debian's Prometheus and nginx as processes of a test, with the files of ``deploy/``."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from tests.conftest import ROOT
from tests.helpers.containers import free_port
from tests.helpers.service_fixtures import wait_until

DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
SANS_PATH = "/usr/sbin:/usr/bin:/bin"


def tool(name: str) -> str:
    """Where a program of Debian's lies; a test is skipped where it is not."""
    path = shutil.which(name) or shutil.which(name, path=SANS_PATH)
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install prometheus nginx")
    return path


class Prometheus:
    """One that looks five times a second."""

    def __init__(self, folder: Path, targets: list[str]) -> None:
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "200ms", "scrape_timeout": "200ms",
                            "evaluation_interval": "200ms"}  # fmt: skip
        (job,) = config["scrape_configs"]
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": targets}]
        rules = RULES.read_text().replace("for: 1m", "for: 1s")
        (folder / "rules.yml").write_text(rules)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"

    def words(self) -> list[str]:
        address = self.url.removeprefix("http://")
        return [
            tool("prometheus"),
            f"--config.file={self.folder}/prometheus.yml",
            f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address={address}",
            "--log.level=warn",
        ]

    def ask(self, address: str, **parameters: str) -> Any:
        """The data of an answer of its API; what it refuses fails the test with its words."""
        answer = httpx.get(f"{self.url}/api/v1/{address}", params=parameters, verify=False).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def value(self, query: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.ask("query", query=query)["result"]
        return rows

    def firing(self, alert: str) -> list[str]:
        """The servers for which an alert fires."""
        rows = self.value(f'ALERTS{{alertname="{alert}", alertstate="firing"}}')
        return sorted(row["metric"].get("instance", "") for row in rows)


@contextlib.contextmanager
def prometheus(folder: Path, targets: list[str]) -> Iterator[Prometheus]:
    """Running, and ready to answer."""
    one = Prometheus(folder, targets)
    with subprocess.Popen(one.words(), stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: listens(f"{one.url}/-/ready"), "Prometheus")
            yield one
        finally:
            process.kill()


def listens(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, verify=False).status_code == 200
    except httpx.TransportError:
        return False
