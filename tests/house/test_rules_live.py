"""Debian's Prometheus scrapes real servers: alerts fire, every query of the house is answered."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from deploy import dashboard
from tests.helpers.effort import alone
from tests.helpers.measured_grids import measured_grids
from tests.helpers.programs import tool
from tests.helpers.service_fixtures import (
    CLEAN,
    ROOT,
    picture,
    running,
    serving,
    wait_until,
    write_tiny_bundle,
    write_tiny_versions,
)
from tests.helpers.watching import DEPLOY, RULES, Prometheus, documented, prometheus

pytestmark = alone


class Watched(NamedTuple):
    """Two servers, and who watches them."""

    prometheus: Prometheus
    good: str  # address of one that is ready, a process
    pid: int
    refusing: str  # and of one that refuses its only bundle


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    tool("prometheus")
    root = tmp_path_factory.mktemp("watched")
    for name in ("good", "bad", "prometheus"):
        (root / name).mkdir()
    home = write_tiny_versions(root / "good", "tiny", "1", "2", grids=measured_grids())
    (home / "serving.json").write_text('{"schema": 1, "version": "1"}')
    spoilt = write_tiny_bundle(root / "bad")
    (spoilt / "graphs" / "weights.bin").write_bytes(bytes(10))
    with ExitStack() as stack:
        arguments = ("--open-metrics", "--jobs", str(root / "jobs"), "--shadow", "tiny@2=1")
        process, port, _ = stack.enter_context(running(root / "good", *arguments))
        refusing = stack.enter_context(serving(root / "bad"))
        addresses = [f"127.0.0.1:{one}" for one in (port, refusing.port)]
        one = stack.enter_context(prometheus(root / "prometheus", addresses))
        yield Watched(one, addresses[0], process.pid, addresses[1])


def queries() -> list[str]:
    """Of the dashboard that is committed, with the values that Grafana would put in."""
    panels = json.loads(dashboard.PATH.read_text(encoding="utf-8"))["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    filled = [one.replace("$__rate_interval", "1m").replace("$instance", ".*") for one in found]
    assert not any("$" in one for one in filled)
    return filled


def test_refused_bundle_is_told_and_its_server_is_not_ready(watched: Watched) -> None:
    """Both alerts fire for that server, and neither for the one that is well."""
    for alert in ("LiereBundleRefused", "LiereNotReady"):
        wait_until(lambda name=alert: watched.prometheus.firing(name), alert)
        assert watched.prometheus.firing(alert) == [watched.refusing]
    assert watched.prometheus.firing("LiereGone") == []


def test_every_rule_is_evaluated(watched: Watched) -> None:
    """Without an error, on what the service really says."""
    known = sum(len(one["rules"]) for one in yaml.safe_load(RULES.read_text())["groups"])

    def rules() -> list[dict[str, Any]]:
        groups = watched.prometheus.ask("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] != "unknown" for rule in rules()), "every rule")
    assert [rule["name"] for rule in rules() if rule["health"] != "ok"] == []
    assert len(rules()) == known


def test_every_query_of_the_dashboard_is_answered(watched: Watched) -> None:
    """Without an error; and of a server that has answered none but a few says nothing."""
    url = f"http://{watched.good}/v1/classify/image"

    def counted() -> bool:
        """A rate is of what came after a series was first seen, so one request is not enough."""
        assert httpx.post(url, content=picture(), verify=False).status_code == 200
        counts = ("job:liere_answers:rate5m > 0", "liere_shadow_difference_count > 0")
        return all(map(watched.prometheus.value, counts))

    wait_until(counted, "traffic to be counted", 60)  # a candidate is proven first
    asked = queries()
    assert len(asked) > 30

    def silent() -> list[str]:
        return [query for query in asked if not watched.prometheus.value(query)]

    # Nothing was refused, nothing ended without an answer.
    nothing = [one for one in asked if "liere_refused_total" in one or "liere_dropped_total" in one]
    assert len(nothing) == 2
    wait_until(lambda: silent() == nothing, "rules to be evaluated on what was counted")


def test_server_that_leaves_or_is_killed_is_not_ready(watched: Watched) -> None:
    """Not ready fires for it as well; the last test, because it ends the server."""
    assert watched.good not in watched.prometheus.firing("LiereNotReady")
    os.kill(watched.pid, signal.SIGKILL)
    both = sorted([watched.good, watched.refusing])
    wait_until(lambda: watched.prometheus.firing("LiereNotReady") == both, "not ready")


def test_committed_dashboard_is_what_the_code_makes(tmp_path: Path) -> None:
    """The guide's command, in a copy without the file, writes the one that is committed."""
    copy = tmp_path / dashboard.PATH.relative_to(ROOT)
    copy.parent.mkdir(parents=True)
    shutil.copy(DEPLOY / "dashboard.py", tmp_path / "deploy")
    _, *words = shlex.split(documented(".venv/train/bin/python"))
    subprocess.run([sys.executable, *words], cwd=tmp_path, env=CLEAN, check=True)
    assert copy.read_bytes() == dashboard.PATH.read_bytes()


def test_panels_have_places_and_queries_of_their_own() -> None:
    """No two panels lie over one another or share a number, no two queries of one a letter."""
    panels = json.loads(dashboard.encoded())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(one["gridPos"]["x"], one["gridPos"]["y"]) for one in panels}) == len(panels)
    for panel in panels:
        letters = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(letters)) == len(letters)
        assert all(letters)
