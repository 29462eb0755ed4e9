"""A checkpoint and a bundle of schema 1 are exported and proved as they were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from export.__main__ import main
from models.bundle import read_bundle
from tests.helpers.older_files import BUNDLE, DATA, RUN
from tests.helpers.spoilt_bundles import verify


def test_checkpoint_of_schema_1_is_exported(tmp_path: Path) -> None:
    """The bundle is of schema 2 and answers its goldens as the one that older code made."""
    words = [str(RUN), "--data", str(DATA), "--out", str(tmp_path), "--name", "shades"]
    assert main([*words, "--grid", "2x3", "--grid", "3x2", "--parity-items", "8"]) == 0
    written = json.loads((tmp_path / "shades" / "manifest.json").read_text())
    assert written["schema"] == 2
    assert written["encoding"] == {
        "name": "liere", "per_layer": False, "per_head": True, "block": 4,
        "position_rule": "published",
    }  # fmt: skip
    old, new = read_bundle(BUNDLE).manifest, read_bundle(tmp_path / "shades").manifest
    assert new.grids[0].accuracy == old.grids[0].accuracy
    for before, after in zip(old.goldens, new.goldens, strict=True):
        for grid, logits in before.logits.items():
            np.testing.assert_allclose(after.logits[grid], logits, rtol=1e-4, atol=1e-5)
    assert "Positions: `liere_4:" in (tmp_path / "shades" / "README.md").read_text()


def test_bundle_of_schema_1_is_verified(capsys: pytest.CaptureFixture[str]) -> None:
    """Every proof holds, accuracy on its data among them."""
    status, out, err = verify([BUNDLE, "--data", DATA], capsys)
    assert (status, err) == (0, "")
    assert "accuracy 3x2" in out
    assert out.endswith("verified\n")


@pytest.mark.parametrize("block", ["4", 4.5, True, -4])
def test_block_that_is_none_is_a_failed_proof(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], block: object
) -> None:
    """Bundles older than folding are held to their encoding's block, whatever stands there."""
    root = shutil.copytree(BUNDLE, tmp_path / "shades")
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["encoding"]["block"], manifest["rotations"] = block, None
    (root / "manifest.json").write_text(json.dumps(manifest))
    status, _, err = verify([root], capsys)
    assert status == 1
    assert "not verified: " in err
