"""The commands of docs/scale.md, run; those that start a cluster start the tests' own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import yaml  # type: ignore[import-untyped]

from deploy.ray.check import check
from tests.helpers.ray_cluster import CONFIG, Cluster
from tests.helpers.service_fixtures import CLEAN, ROOT, write_tiny_bundle

#: What the fixture ``cluster`` does in another way, and what needs more than this machine.
ELSEWHERE = ("set -a;", "ray start", "curl")


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "scale.md").read_text()


def test_every_command_is_run_here(
    page: str, cluster: Cluster, ray_environment: dict[str, str], tmp_path: Path
) -> None:
    """As they stand, but for the cluster, the port and a store of the test's own."""
    lines = "\n".join(re.findall(r"^```sh\n(.*?)^```$", page, flags=re.M | re.S)).splitlines()
    commands = [one for one in lines if one and not one.startswith(ELSEWHERE)]
    assert commands == [
        "python -m deploy.ray.check deploy/ray/serve.yaml", "serve run deploy/ray/serve.yaml"
    ]  # fmt: skip
    write_tiny_bundle(tmp_path / "bundles")
    config = tmp_path / "serve.yaml"
    config.write_text(yaml.safe_dump(cluster.config(tmp_path / "bundles")))
    address = ray.get_runtime_context().gcs_address
    programs = Path(sys.executable).parent
    for command in commands:
        words = command.replace(str(CONFIG.relative_to(ROOT)), str(config)).split()
        words += ["--address", address, "--non-blocking"] if words[0] == "serve" else []
        done = subprocess.run(
            [str(programs / words[0]), *words[1:]],
            cwd=ROOT, env=CLEAN | ray_environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    cluster.wait("RUNNING")
    cluster.url = cluster.root
    assert cluster.classify().status_code == 200


def test_the_scaling_of_the_guide_is_one(page: str) -> None:
    """Its lines in the place of those of the config."""
    (told,) = re.findall(r"^```yaml\n(.*?)^```$", page, flags=re.M | re.S)
    document = yaml.safe_load(CONFIG.read_text())
    document["applications"][0]["deployments"][0] |= yaml.safe_load(told)
    check(yaml.safe_dump(document))
