"""The rules of Prometheus for its operator: ``python -m deploy.rules`` writes the file.

deploy/prometheus/rules.yml is where rules are changed. What the operator takes is the same text
below a head of its own.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

SOURCE = Path(__file__).parent / "prometheus" / "rules.yml"
PATH = Path(__file__).parent / "kubernetes" / "monitoring" / "rules.yaml"
HEAD = """\
# Written by python -m deploy.rules from deploy/prometheus/rules.yml: change them there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: liere
spec:
"""


def render() -> str:
    """The file, with every comment of its source."""
    return HEAD + textwrap.indent(SOURCE.read_text(encoding="utf-8"), "  ")


if __name__ == "__main__":
    PATH.write_text(render(), encoding="utf-8")
