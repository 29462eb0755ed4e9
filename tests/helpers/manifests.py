"""What ``deploy/kubernetes`` says once kustomize has put it together."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from tests.conftest import ROOT
from tests.helpers.programs import do_without, tool

KUBERNETES = ROOT / "deploy" / "kubernetes"
SCALED = ("cpu", "gpu", "keys", "keda")
OVERLAYS = (*SCALED, "jobs")
#: Every folder that somebody would apply.
APPLIED = ("base", *(f"overlays/{name}" for name in OVERLAYS), "monitoring")

Manifest = dict[str, Any]


@functools.cache
def kubectl() -> str:
    """Where it lies; without one that knows components the test is skipped."""
    path = tool("kubectl")
    told = subprocess.run(
        [path, "version", "--client", "--output=json"], capture_output=True, text=True, check=False
    )
    version = json.loads(told.stdout or "{}").get("kustomizeVersion", "")  # since kubectl 1.24
    if not version:
        do_without("kubectl", f"{path} is older than 1.24, whose kustomize knows no components")
    return path


@functools.cache
def rendered(folder: str | Path) -> list[Manifest]:
    """A folder below deploy/kubernetes, or any other; what kustomize refuses fails the test."""
    words = [kubectl(), "kustomize", str(KUBERNETES / folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # kustomize warns of what will not be read by the next version
    assert "Warning" not in done.stderr, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def only(kind: str, folder: str | Path) -> Manifest:
    """The one manifest of a kind."""
    (found,) = (one for one in rendered(folder) if one["kind"] == kind)
    return found


def read(name: str) -> Manifest:
    """A file below deploy/kubernetes that kustomize has no part in."""
    parsed: Manifest = yaml.safe_load((KUBERNETES / name).read_text(encoding="utf-8"))
    return parsed


def pod(folder: str | Path) -> Manifest:
    """What the Deployment of a folder says of its pods: ``metadata`` and ``spec``."""
    template: Manifest = only("Deployment", folder)["spec"]["template"]
    return template


def container(folder: str | Path) -> Manifest:
    (one,) = pod(folder)["spec"]["containers"]
    found: Manifest = one
    return found


def environment(container: Manifest) -> dict[str, str]:
    """Variables of a container, none of which may be given twice."""
    named = [(one["name"], one["value"]) for one in container["env"]]
    assert len(named) == len(dict(named))
    return dict(named)


def metrics_of_pods() -> list[Manifest]:
    """What the autoscaler asks of pods, by the adapter."""
    metrics = only("HorizontalPodAutoscaler", "overlays/cpu")["spec"]["metrics"]
    return [one["pods"] for one in metrics if one["type"] == "Pods"]
