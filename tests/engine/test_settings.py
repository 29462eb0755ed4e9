"""Settings come from flags and from the operator's variables, never from what a cluster injects."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.environment import is_injected
from service.settings import SettingsError, make_settings, read_settings
from tests.helpers.service_fixtures import complaint, run

#: What Kubernetes sets for services named liere, liere-serve and liere-2.
INJECTED = {
    "LIERE_SERVICE_HOST": "10.0.0.1",
    "LIERE_SERVICE_PORT": "8000",
    "LIERE_SERVICE_PORT_HTTP": "8000",
    "LIERE_PORT": "tcp://10.0.0.1:8000",
    "LIERE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "LIERE_PORT_8000_TCP_PROTO": "tcp",
    "LIERE_PORT_8000_TCP_PORT": "8000",
    "LIERE_PORT_8000_TCP_ADDR": "10.0.0.1",
    "LIERE_SERVE_SERVICE_HOST": "fd00::7",
    "LIERE_SERVE_SERVICE_PORT": "53",
    "LIERE_SERVE_SERVICE_PORT_DNS_UDP": "53",
    "LIERE_SERVE_PORT": "udp://[fd00::7]:53",
    "LIERE_SERVE_PORT_53_UDP": "udp://[fd00::7]:53",
    "LIERE_SERVE_PORT_53_UDP_ADDR": "fd00::7",
    "LIERE_2_PORT_9_SCTP_PROTO": "sctp",
}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a pod beside such services, with nothing else of ours."""
    for name in [name for name in os.environ if name.startswith("LIERE_")]:
        monkeypatch.delenv(name)
    for name, value in INJECTED.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("cluster")
def test_injected_variables_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """They neither stop the server nor move its port or host; the operator's own still count."""
    for settings in (read_settings([]), make_settings()):
        assert (settings.port, settings.host) == (8000, "127.0.0.1")
    monkeypatch.setenv("LIERE_HOST", "0.0.0.0")
    monkeypatch.setenv("LIERE_PORT", "9000")  # the operator's word replaces the cluster's
    settings = read_settings([])
    assert (settings.port, settings.host) == (9000, "0.0.0.0")
    assert read_settings(["--port", "9001"]).port == 9001


def test_health_command_asks_where_the_server_is_and_not_where_the_cluster_says() -> None:
    """LIERE_PORT=tcp://... is no port of it; what the operator says is."""
    line = complaint(run("health", "--host", "127.0.0.2", **INJECTED), 1)
    assert "no answer from 127.0.0.2 port 8000" in line
    line = complaint(run("health", **INJECTED | {"LIERE_PORT": "1", "LIERE_HOST": "127.0.0.2"}), 1)
    assert "no answer from 127.0.0.2 port 1:" in line


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIERE_SERVE_PORT", "8000"),
        ("LIERE_SERVICE_HOSTS", "10.0.0.1"),
        ("LIERE_PORTS", "tcp://10.0.0.1:8000"),
        ("LIERE_PORT_8000", "1"),
        ("LIERE_PORT_TCP", "8000"),
        ("LIERE_MAX_BACH", "7"),
        ("LIERE_HOST_PORT", "http://10.0.0.1"),
    ],
)
def test_what_no_cluster_injects_is_still_a_mistake(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """A variable with our prefix that nobody reads is named, beside all that are passed over."""
    assert not is_injected(name, value)
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"unknown variable {name};"):
        read_settings([])


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("value", ["tcp:/10.0.0.1", "http://10.0.0.1:80", "99999", ""])
def test_port_that_is_none_is_a_mistake(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Only the form that a cluster writes is passed over."""
    monkeypatch.setenv("LIERE_PORT", value)
    with pytest.raises(SettingsError, match="port"):
        read_settings([])


@pytest.mark.parametrize(("tokens", "rows"), [(64, 32), (1024, 16), (4096, 4), (100_000, 1)])
def test_batches_are_bounded_in_tokens_too(tmp_path: Path, tokens: int, rows: int) -> None:
    """Of rows with so many tokens; one always goes."""
    assert make_settings(bundles=tmp_path).most_rows(tokens) == rows
