"""What OpenAPI promises is kept, whatever is asked: what it allows and what it forbids, at random.

``schemathesis.toml`` beside this says which checks cannot hold for which operations, and why.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.effort import effort
from tests.helpers.service_fixtures import (
    CLEAN,
    ROOT,
    RunningServer,
    serving,
    write_tiny_bundle,
    write_tiny_versions,
)

KEY = "an-example-key-of-43-characters-0123456789a"
BEARER = {"Authorization": f"Bearer {KEY}"}
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a bundle of every modality, two versions of one, jobs, and a key for it all."""
    root = tmp_path_factory.mktemp("served")
    write_tiny_versions(root / "bundles", "image", "1", "2")
    for modality in ("video", "volume"):
        write_tiny_bundle(root / "bundles", modality, modality)
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    (root / "keys").write_text(f"{digest} tester scopes=classify,metrics,admin\n")
    (root / "media").mkdir()
    with serving(
        root / "bundles", keys_file=root / "keys", jobs=root / "jobs", jobs_paths=root / "media"
    ) as running:
        yield running


@pytest.mark.timeout(300)
def test_every_operation_does_what_openapi_says(server: RunningServer, tmp_path: Path) -> None:
    """Status, media type, headers and body of every answer are those of the document; what it
    forbids is refused, what it allows taken; nothing is answered without a key; nothing is 500.
    """
    document = server.get("/openapi.json", headers=BEARER).json()
    operations = sum(len(item) for item in document["paths"].values())
    command = [
        Path(sys.executable).with_name("schemathesis"), "--config-file",
        HERE / "schemathesis.toml", "run", server.url + "/openapi.json",
        "--header", f"Authorization: {BEARER['Authorization']}",
        "--max-examples", str(effort(3, 25)), "--no-color",
    ]  # fmt: skip
    hooks = {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_media.py")}
    done = subprocess.run(
        [str(one) for one in command], cwd=tmp_path, env=CLEAN | hooks, capture_output=True,
        text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"Tested: (\d+)", done.stdout) == [str(operations)], done.stdout
