"""docs/dashboards.md, command by command: Grafana, and nginx with TLS in front of the server.

``make test-containers`` runs this; see ``container_fixtures.py``. The command that writes the
dashboard is in ``test_rules_live.py``.
"""

from __future__ import annotations

import json
import re
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from models.bundle import read_bundle
from tests.helpers.containers import BUNDLE, Compose, Done, Engine, guide_commands
from tests.helpers.service_fixtures import ROOT, wait_until

pytest_plugins = ("tests.helpers.container_fixtures",)
pytestmark = pytest.mark.timeout(600)

(START,) = guide_commands(ROOT, "Dashboards and alerts", "dashboards")
CERTIFY, MAKE_READABLE, START_TLS, ASK, READ_AGAIN = guide_commands(ROOT, "TLS", "dashboards")


def perform(compose: Compose, command: str) -> Done:
    """Run a command of the guide, but for compose's newer name and a free port."""
    here = command.replace("docker-compose ", " ".join(compose.words) + " ")
    return compose.shell(here.replace("localhost:8443", f"localhost:{compose.tls_port}"))


def served(compose: Compose) -> bytes:
    """The certificate that the proxy shows."""
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", compose.tls_port)))


def made(compose: Compose) -> bytes:
    """The certificate that the guide's command wrote last."""
    return ssl.PEM_cert_to_DER_cert((compose.folder / "deploy/tls/cert.pem").read_text())


def test_guide_has_no_other_command(repo_root: Path) -> None:
    """Whatever is added to it in another place is to be run here as well."""
    page = (repo_root / "docs" / "dashboards.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", "").splitlines()]
    changing = guide_commands(repo_root, "Changing them", "dashboards")
    assert lines == [START, *changing, CERTIFY, MAKE_READABLE, START_TLS, ASK, READ_AGAIN]
    assert changing == [".venv/train/bin/python -m deploy.dashboard"]


# --- TLS -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proxied(engine: Engine, compose: Compose) -> Compose:
    """The service behind nginx, as the guide starts both."""
    for command in (CERTIFY, MAKE_READABLE, START_TLS):
        perform(compose, command)
    proxy = compose.container("proxy")
    wait_until(lambda: engine.healthy(proxy), "the health check of the proxy", 60)
    wait_until(compose.ready, "the server to be ready", 120)
    return compose


def test_guide_reaches_the_server_through_tls(proxied: Compose) -> None:
    """curl trusts the certificate, and is told what the server says of itself."""
    told = json.loads(perform(proxied, ASK).stdout)
    assert told == httpx.get(f"{proxied.url}/health/ready").json()
    assert told["status"] == "ready"


def test_picture_is_answered_through_tls(proxied: Compose) -> None:
    """What torch said of a golden picture, from one container through the other."""
    bundle = read_bundle(ROOT / BUNDLE)
    golden = bundle.manifest.goldens[0]
    trust = ssl.create_default_context(cafile=proxied.folder / "deploy/tls/cert.pem")
    answer = httpx.post(
        f"https://localhost:{proxied.tls_port}/v1/classify/image",
        content=bundle.path(golden.file).read_bytes(), verify=trust, timeout=30,
    ).raise_for_status()  # fmt: skip
    logits = golden.logits[bundle.manifest.grids[0].grid]
    first = bundle.manifest.labels[logits.index(max(logits))]
    assert answer.json()["results"][0]["predictions"][0]["label"] == first


def test_new_certificate_is_read_on_sighup(proxied: Compose) -> None:
    """Made by the same command; until the proxy is told, it shows the one that it has."""
    before = made(proxied)
    perform(proxied, CERTIFY)
    perform(proxied, MAKE_READABLE)
    assert served(proxied) == before != made(proxied)
    perform(proxied, READ_AGAIN)
    # The process that leaves may still accept for a moment.
    wait_until(
        lambda: all(served(proxied) == made(proxied) for _ in range(20)), "the new certificate"
    )
    assert json.loads(perform(proxied, ASK).stdout)["status"] == "ready"


# --- Grafana ---------------------------------------------------------------------------------


def services(compose: Compose, command: str) -> dict[str, Any]:
    """What compose would start for a command of the guide."""
    told = perform(compose, command.replace("up -d", "config")).stdout
    found: dict[str, Any] = yaml.safe_load(told)["services"]
    return found


def test_grafana_has_its_address_and_its_files(compose: Compose, repo_root: Path) -> None:
    """Compose accepts the command, with the addresses of the guide and folders that are there."""
    found = services(compose, f"unset GRAFANA_PORT PROMETHEUS_PORT; {START}")
    assert "serve" in found
    page = (repo_root / "docs" / "dashboards.md").read_text(encoding="utf-8")
    for name, title in (("prometheus", "Prometheus"), ("grafana", "Grafana")):
        (address,) = set(re.findall(rf"{title} on http://([\d.]+:\d+)", page))
        host, port = address.split(":")
        assert re.search(rf"{host}\b.*\b{port}\b", str(found[name]["ports"]))
    mounts = str(found["grafana"]["volumes"])
    assert f"{compose.folder}/deploy/grafana" in mounts
    assert "/etc/grafana/provisioning" in mounts
    assert (compose.folder / "deploy/grafana/dashboards/liere.json").is_file()


def test_grafana_shows_the_dashboard(engine: Engine, compose: Compose) -> None:
    """Where its image can be had: anybody is shown every panel, and its Prometheus answers."""
    image = services(compose, START)["grafana"]["image"]
    if engine("image", "inspect", image, check=False).returncode:
        pulled = engine("pull", image, check=False)
        if pulled.returncode:
            pytest.skip(f"{image} is neither here nor in a registry: {pulled.stderr.strip()}")
    perform(compose, START)
    grafana = compose.container("grafana")
    wait_until(lambda: engine.healthy(grafana), "the health check of Grafana", 120)
    url = f"http://127.0.0.1:{compose.grafana_port}/api"
    shown = httpx.get(f"{url}/dashboards/uid/liere").raise_for_status().json()["dashboard"]
    file = compose.folder / "deploy/grafana/dashboards/liere.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    titles = [panel["title"] for panel in written["panels"]]
    assert [panel["title"] for panel in shown["panels"]] == titles
    asked = httpx.get(f"{url}/datasources/proxy/uid/prometheus/api/v1/query?query=vector(1)")
    assert asked.raise_for_status().json()["status"] == "success"
