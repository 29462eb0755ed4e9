"""The guide to answers is right: its commands run, and it names what manifests hold."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from export.__main__ import main
from models.figures import Calibration, Figures, Reliability
from tests.export.test_calibrated_bundle import write_data
from tests.helpers.export_bundles import know_graphs, make_model, save, squares


@pytest.fixture(scope="module")
def guide(repo_root: Path) -> str:
    return (repo_root / "docs" / "answers.md").read_text()


def test_commands_of_the_guide_run(
    guide: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One after the other, as they stand there."""
    save(tmp_path / "runs" / "squares" / "best", make_model(), write_data(tmp_path / "data"))
    know_graphs(monkeypatch, squares(tmp_path_factory))
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^python -m export (.+)$", guide, flags=re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert main(shlex.split(command)) == 0
    assert capsys.readouterr().out.endswith("verified\n")


def test_guide_names_every_key(guide: str) -> None:
    """Of figures, calibration and what is told before and after."""
    for kind in (Figures, Calibration, Reliability):
        for field in dataclasses.fields(kind):
            assert f"`{field.name}`" in guide or f".{field.name}`" in guide, field.name
