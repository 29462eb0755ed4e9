"""deploy/prometheus: the rules mean what docs/dashboards.md says, by Debian's promtool."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from deploy import dashboard
from service.metrics import STAGE_BUCKETS, Metrics
from tests.helpers.programs import tool
from tests.helpers.watching import DEPLOY, RULES

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def page(repo_root: Path) -> str:
    return (repo_root / "docs" / "dashboards.md").read_text(encoding="utf-8")


def promtool(*words: str) -> str:
    """What it says; the test fails with it where it finds fault."""
    done = subprocess.run(
        [tool("promtool"), *words], cwd=HERE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_configuration_and_rules() -> None:
    """No key and no expression that Prometheus does not know, and every rule is found."""
    told = promtool("check", "config", str(DEPLOY / "prometheus" / "prometheus.yml"))
    assert "1 rule files found" in told


@pytest.mark.parametrize("file", ["rules.test.yml", "rules_days.test.yml"])
def test_alerts_fire_when_they_should(file: str) -> None:
    """Each of them for what it is there for, and for nothing that only looks like it."""
    promtool("test", "rules", file)


def test_every_alert_is_tested(rules: list[dict[str, Any]]) -> None:
    """No alert that nobody has seen fire."""
    fired = set()
    for file in HERE.glob("*.test.yml"):
        for test in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]:
            told = test["alert_rule_test"]
            fired |= {one["alertname"] for one in told if one.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in rules if "alert" in rule}


def test_rules_and_dashboard_ask_for_series_that_the_service_has(
    rules: list[dict[str, Any]],
) -> None:
    """A renamed series would leave an alert silent for ever."""
    families = {one.name for one in Metrics().registry.collect()}
    ends = ("", "_total", "_count", "_sum", "_bucket")
    known = {f"{one}{end}" for one in families for end in ends}
    recorded = {rule["record"] for rule in rules if "record" in rule}
    charts = [chart for row in dashboard.ROWS.values() for chart in row]
    asking = [query for chart in charts for query in chart.queries.values()]
    asking += [rule["expr"] for rule in rules]
    asked = set(re.findall(r"[a-z:]*(?:liere|process)_[\w:]+", " ".join(asking)))
    assert asked - recorded <= known
    assert asked >= {"liere_ready", "liere_requests_total", "job:liere_latency:burn3d"}


def test_slow_answers_are_told_by_buckets_that_there_are(rules: list[dict[str, Any]]) -> None:
    """A bound between two buckets would count nothing."""
    (slow,) = (rule for rule in rules if rule.get("record") == "job:liere_slow_answers:rate5m")
    assert {float(one) for one in re.findall(r'le="([\d.]+)"', slow["expr"])} <= set(STAGE_BUCKETS)


def test_page_tells_the_slo_of_the_rules(rules: list[dict[str, Any]], page: str) -> None:
    """What is promised is what is watched over."""
    burns = {rule["record"]: rule["expr"] for rule in rules if ":burn" in rule.get("record", "")}
    budgets = {name.split(":")[1]: expr.rsplit(" / ", 1)[1] for name, expr in burns.items()}
    assert budgets == {"liere_availability": "0.005", "liere_latency": "0.01"}
    assert len(burns) == 10
    assert "99.5 % of all requests" in page
    assert "99 % of the answers" in page
    (slow,) = (rule for rule in rules if rule.get("record") == "job:liere_slow_answers:rate5m")
    assert 'modality="image", le="1.0"' in slow["expr"]
    assert 'modality!="image", le="10.0"' in slow["expr"]
    assert "images within 1 s, clips and scans within 10 s" in page


def test_page_says_what_to_do_about_every_alert(rules: list[dict[str, Any]], page: str) -> None:
    """In the order of the rules, with how urgent each is."""
    rows = re.findall(r"^\| `(Liere\w+)` \| (\w+) \| \S.* \| \S.* \|$", page, flags=re.M)
    alerts = [(rule["alert"], rule["labels"]["severity"]) for rule in rules if "alert" in rule]
    assert rows == alerts
