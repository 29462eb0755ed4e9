"""docs/kubernetes.md: what can run without a cluster runs, the rest names what there is."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from tests.conftest import ROOT
from tests.helpers.manifests import (
    APPLIED,
    KUBERNETES,
    container,
    kubectl,
    metrics_of_pods,
    only,
    pod,
    rendered,
)

#: Commands that ask a cluster, or a chart from outside.
NEED_A_CLUSTER = re.compile(
    r"kubectl (--namespace liere )?(apply|create namespace|rollout|port-forward|get --raw)\b|helm "
)
#: And the one of those that says without a cluster what it would do.
SECRET = "kubectl --namespace liere create secret "


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")


def blocks(page: str, language: str = "") -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    return [text for spoken, text in fenced if spoken == language]


@pytest.fixture(scope="module")
def commands(page: str) -> list[str]:
    """Continued lines are joined."""
    return [line for one in blocks(page) for line in re.sub(r" *\\\n *", " ", one).splitlines()]


def shell(command: str, folder: Path) -> str:
    """Run in a folder, with this Python for every environment that the page names."""
    here = re.sub(r"\.venv/[a-z-]+/bin/", f"{Path(sys.executable).parent}/", command)
    path = f"{Path(kubectl()).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", here], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_command_runs_or_needs_a_cluster(commands: list[str], tmp_path: Path) -> None:
    """Those that render and check say what the page says, and a key becomes a Secret."""
    run = [one for one in commands if not NEED_A_CLUSTER.match(one)]
    rendering = [one for one in run if one.startswith("kubectl kustomize")]
    assert len(rendering) == 2
    shown, checked = (shell(one, ROOT) for one in rendering)
    assert list(yaml.safe_load_all(shown)) == rendered("overlays/cpu")
    assert checked.count(" passed for resource ") == len(rendered("overlays/gpu"))
    new_key, secret = (one for one in run if one not in rendering)
    shell(new_key, tmp_path)
    assert secret.startswith(SECRET)
    made = yaml.safe_load(shell(f"{secret} --dry-run=client --output=yaml", tmp_path))
    assert list(made["data"]) == ["keys.txt"]
    line = base64.b64decode(made["data"]["keys.txt"]).decode()
    assert re.fullmatch(r"[0-9a-f]{64} me\n", line)
    volumes = pod("overlays/keys")["spec"]["volumes"]
    (mounted,) = (one["secret"] for one in volumes if "secret" in one)
    assert mounted["secretName"] == made["metadata"]["name"]


def test_what_is_applied_is_there(commands: list[str]) -> None:
    """Folders and files that commands name exist; `site` is the reader's own."""
    for one in commands:
        for path in re.findall(r"(?:-k|-f|--values|kustomize) (\S+)", one):
            assert path == "site" or (ROOT / path).exists(), one


def test_the_readers_own_folder_renders(page: str, tmp_path: Path) -> None:
    """Its registry, its namespace, its bundles, its number of servers."""
    (text,) = blocks(page, "yaml")
    for overlay, image in (("cpu", "liere-serve"), ("keys", "liere-serve"),
                           ("gpu", "liere-serve-gpu")):  # fmt: skip
        site = tmp_path / overlay
        site.mkdir()
        up = os.path.relpath(ROOT / "deploy", site.resolve())
        own = text.replace("overlays/cpu", f"overlays/{overlay}")
        (site / "kustomization.yaml").write_text(own.replace("../deploy", up))
        assert container(site)["image"] == f"registry.example/{image}:0.1.0"
        assert {one["metadata"]["namespace"] for one in rendered(site)} == {"liere"}
        assert only("HorizontalPodAutoscaler", site)["spec"]["maxReplicas"] == 20
        mounts = {one["mountPath"] for one in container(site)["volumeMounts"]}
        assert mounts == {"/tmp", "/app/bundles"} | ({"/run/keys"} if overlay == "keys" else set())


def test_every_folder_has_its_row(page: str) -> None:
    """What can be applied or added is told; autoscalers are told with their overlays."""
    table = page.partition("\n## ")[0]
    named = set(re.findall(r"^\| `([a-z./-]+)` \|", table, flags=re.MULTILINE))
    files = KUBERNETES.rglob("kustomization.yaml")
    folders = {str(one.parent.relative_to(KUBERNETES)) for one in files}
    parts = {f"components/{name}" for name in ("keda", "queue-seconds")}
    assert named == folders - parts | {"kserve.yaml"}
    assert set(APPLIED) <= named


def test_probes_and_targets_are_those_of_the_manifests(page: str) -> None:
    """Addresses, paces and figures, row by row."""
    server = container("overlays/cpu")
    for kind in ("startup", "readiness", "liveness"):
        probe = server[f"{kind}Probe"]
        row = (f"| {kind} | `{probe['httpGet']['path']}` | {probe['periodSeconds']} s "
               f"| {probe['failureThreshold']} times |")  # fmt: skip
        assert row in page
    for one in metrics_of_pods():
        assert f"| `{one['metric']['name']}` | {one['target']['averageValue']} |" in page
    metrics = only("HorizontalPodAutoscaler", "overlays/cpu")["spec"]["metrics"]
    (cpu,) = (one["resource"] for one in metrics if one["type"] == "Resource")
    assert f"| `{cpu['name']}` | {cpu['target']['averageUtilization']} % |" in page
    spec = pod("overlays/cpu")["spec"]
    assert f"kills it after {spec['terminationGracePeriodSeconds']} s" in page
    assert f"for {server['lifecycle']['preStop']['sleep']['seconds']} s it goes on" in page


def test_it_says_that_no_cluster_was_at_hand(page: str) -> None:
    """Nobody takes what was rendered for what was run."""
    assert "None of it was run on a cluster" in page
