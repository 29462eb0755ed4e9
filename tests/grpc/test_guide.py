"""The guide to gRPC: its program runs, against the bundle that it names."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from service.grpc.health import CHECKS
from service.grpc.statuses import CODES
from tests.helpers.grpc_serving import serving_grpc
from tests.helpers.service_fixtures import CLEAN, picture


@pytest.fixture
def guide(repo_root: Path) -> str:
    return (repo_root / "docs" / "grpc.md").read_text()


def test_program_of_the_guide_runs(guide: str, repo_root: Path, tmp_path: Path) -> None:
    """With tritonclient, in its environment: three labels of a picture, and rows of logits."""
    python = repo_root / ".venv/tritonclient/bin/python"
    if not python.exists():
        pytest.skip("make triton-env has not set up the environment of tritonclient here")
    (program,) = re.findall(r"^```python\n(.*?)^```$", guide, flags=re.MULTILINE | re.DOTALL)
    name = "cifar10-liere8"
    shutil.copytree(repo_root / "bundles" / name, tmp_path / "bundles" / name)
    (tmp_path / "photo.jpg").write_bytes(picture(1, (64, 48), "JPEG"))
    with serving_grpc(tmp_path / "bundles") as server:
        program = program.replace("127.0.0.1:8001", f"127.0.0.1:{server.front.port}")
        done = subprocess.run(
            [str(python), "-I", "-c", program], cwd=tmp_path, env=CLEAN, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(re.findall(r"b'-?[0-9.]+:[0-9]:[a-z]+'", " ".join(said[:-1]))) == 3
    assert said[-1] == "(8, 10)"


def test_guide_has_every_code_and_every_probe(guide: str) -> None:
    """What a call may end with, and what health may be asked after."""
    for code in CODES.values():
        assert f"`{code.name}`" in guide
    assert all(f"`{name}`" in guide for name in CHECKS if name and "." not in name)
