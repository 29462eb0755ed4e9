"""Debian's Prometheus and nginx as processes of a test, with the files of ``deploy/``."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml  # type: ignore[import-untyped]

from tests.conftest import ROOT
from tests.helpers.containers import free_port
from tests.helpers.programs import tool
from tests.helpers.service_fixtures import wait_until

DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"


class Prometheus:
    """One that looks five times a second.

    ``relabel``: rules that give its targets labels, as a cluster would.
    """

    def __init__(
        self, folder: Path, targets: list[str], relabel: Sequence[dict[str, Any]] = ()
    ) -> None:
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "200ms", "scrape_timeout": "200ms",
                            "evaluation_interval": "200ms"}  # fmt: skip
        (job,) = config["scrape_configs"]
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": targets}]
        job["relabel_configs"] = list(relabel)
        rules = re.sub(r":(5m|30m)\]", ":1s]", RULES.read_text().replace("for: 1m", "for: 1s"))
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
def prometheus(
    folder: Path, targets: list[str], relabel: Sequence[dict[str, Any]] = ()
) -> Iterator[Prometheus]:
    """Running, and ready to answer."""
    one = Prometheus(folder, targets, relabel)
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


class Proxy:
    """nginx with deploy/nginx, where a test can run it: other folders, another port, one server."""

    def __init__(self, folder: Path, server: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        self.certificate = folder / "cert.pem"
        here = {
            "/run/tls/": f"{folder}/",
            "/tmp/": f"{folder}/",
            " 8443 ": f" 127.0.0.1:{self.port} ",
            "http://serve:8000": server,
        }
        text = (DEPLOY / "nginx" / "nginx.conf").read_text(encoding="utf-8")
        assert all(there in text for there in here)
        text = re.sub("|".join(here), lambda found: here[found[0]], text)
        (folder / "nginx.conf").write_text(text)
        (folder / "resolver.conf").write_text("resolver 127.0.0.1;\n")
        self.words = [tool("nginx"), "-e", "stderr", "-c", str(folder / "nginx.conf")]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, verify=self.trust, timeout=20)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, verify=self.trust, timeout=20, **options)

    def connect(self, trust: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        """A connection that has shaken hands."""
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        return (trust or self.trust).wrap_socket(raw, server_hostname="localhost")

    @property
    def trust(self) -> ssl.SSLContext:
        """Of its certificate alone."""
        return ssl.create_default_context(cafile=str(self.certificate))


@contextlib.contextmanager
def proxy(folder: Path, server: str) -> Iterator[Proxy]:
    """Running, with the certificate that docs/dashboards.md makes."""
    folder.chmod(0o755)
    one = Proxy(folder, server)
    command = documented("openssl").replace("deploy/tls/", f"{folder}/")
    subprocess.run(command, shell=True, check=True, capture_output=True)
    with subprocess.Popen([*one.words, "-g", "daemon off;"]) as process:
        try:
            wait_until(lambda: accepts(one.port) or process.poll() is not None, "nginx")
            assert process.poll() is None
            yield one
        finally:
            process.terminate()


def documented(program: str) -> str:
    """The command of docs/dashboards.md that begins so, joined to one line."""
    page = (ROOT / "docs" / "dashboards.md").read_text(encoding="utf-8").replace("\\\n", "")
    (command,) = (line for line in page.splitlines() if line.startswith(f"{program} "))
    return command


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True
