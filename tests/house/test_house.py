"""The house: dependencies pinned, nothing installable, the commands that the README promises."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

PROMISED = ("serve", "test", "lint", "bench")
EXTRAS = {"serve", "cpu", "gpu", "train", "export", "scale", "dev"}


def _normal(name: str) -> str:
    """A distribution's name as indexes compare it: ``Pydantic_Settings`` -> pydantic-settings."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _requirement_name(requirement: str) -> str:
    """``"onnxruntime-gpu[cuda,cudnn]>=1.31"`` -> ``"onnxruntime-gpu"``."""
    return _normal(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])


@pytest.fixture
def project(repo_root: Path) -> dict[str, Any]:
    """pyproject.toml, parsed."""
    return tomllib.loads((repo_root / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture
def pins(repo_root: Path) -> dict[str, str]:
    """constraints.txt as name -> version; a line that is not an exact pin fails here."""
    found: dict[str, str] = {}
    for line in (repo_root / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pin = re.fullmatch(r"([\w.-]+)==((?:\d+!)?[\w.]+)", line)
        assert pin is not None, f"constraints.txt: expected name==version, got {line!r}"
        assert _normal(pin[1]) not in found, f"constraints.txt: {pin[1]} is pinned twice"
        found[_normal(pin[1])] = pin[2]
    return found


def _tracked_files(root: Path) -> list[Path]:
    """What git tracks; outside a checkout (an image, an archive) there is nothing to look at."""
    if not (root / ".git").exists():
        pytest.skip("this is not a git checkout")
    command = ["git", "-C", str(root), "ls-files", "-z"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [root / name for name in names.split("\0") if name and (root / name).is_file()]


def test_constraints_pin_torch(pins: dict[str, str]) -> None:
    """Models are trained and exported with one torch, whatever its build."""
    assert pins["torch"] == "2.13.0"


def test_constraints_pin_every_dependency(project: dict[str, Any], pins: dict[str, str]) -> None:
    """No extra names a package whose version is left to the day of the install."""
    extras = project["project"]["optional-dependencies"]
    named = {_requirement_name(line) for lines in extras.values() for line in lines}
    assert named - set(pins) == set()


def test_constraints_agree_with_the_build(project: dict[str, Any], pins: dict[str, str]) -> None:
    """The build tool is pinned where pip looks for it, to the version of the constraints."""
    assert project["build-system"]["requires"] == [f"setuptools=={pins['setuptools']}"]


def test_project_holds_no_installable_package(project: dict[str, Any]) -> None:
    """Installing the project brings its dependencies and no code."""
    assert project["tool"]["setuptools"] == {"packages": [], "py-modules": []}
    assert "dependencies" not in project["project"]


def test_extras_keep_the_environments_apart(project: dict[str, Any]) -> None:
    """Serving never asks for torch, and no extra but its own asks for a runtime."""
    extras = {
        name: {_requirement_name(line) for line in lines}
        for name, lines in project["project"]["optional-dependencies"].items()
    }
    assert set(extras) == EXTRAS
    for name in ("serve", "cpu", "gpu", "scale", "dev"):
        assert not extras[name] & {"torch", "onnx", "onnxscript", "safetensors"}
    for runtime, home in (("onnxruntime", "cpu"), ("onnxruntime-gpu", "gpu")):
        assert [name for name in extras if runtime in extras[name]] == [home]


def test_make_help_lists_the_promised_commands(repo_root: Path) -> None:
    """`make` alone tells a newcomer what there is."""
    environment = {name: value for name, value in os.environ.items() if name[:4] != "MAKE"}
    command = ["make", "--no-print-directory", "-C", str(repo_root)]
    text = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment
    ).stdout
    listed = re.findall(r"^make ([a-z-]+) +\S", text, flags=re.MULTILINE)
    assert set(PROMISED) <= set(listed)


def test_ci_runs_what_a_developer_runs(repo_root: Path) -> None:
    """The checks of a change are the README's commands, with more examples, and nothing else."""
    script = repo_root / ".ci" / "run"
    lines = script.read_text(encoding="utf-8").splitlines()
    assert os.access(script, os.X_OK)
    commands = [line for line in lines if line.startswith("make")]
    tests = "make test ARGS=--hypothesis-profile=large"
    assert commands == ["make lint", "make triton-env", tests, "make test-scale"]
    assert "    make test-containers" in lines  # where there is an engine


def test_readme_names_the_two_commands(repo_root: Path) -> None:
    """The first two commands that the README shows are those to serve and to test."""
    readme = repo_root / "README.md"
    if not readme.exists():
        pytest.skip("there is no README yet")
    text = readme.read_text(encoding="utf-8")
    commands = re.findall(r"^(?:.*`|[ $]*)make ([a-z-]+)", text, flags=re.MULTILINE)
    assert list(dict.fromkeys(commands))[:2] == ["serve", "test"]


def test_tracked_files_name_no_registry(repo_root: Path) -> None:
    """Where packages come from is the reader's own setting: no file names a registry's host."""
    hosts = [
        ".".join(parts).encode()
        for parts in (
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("download", "pytorch", "org"),
            ("pypi", "nvidia", "com"),
            ("registry", "npmjs", "org"),
            ("conda", "anaconda", "org"),
        )
    ]
    named = [
        f"{path.relative_to(repo_root)}: {host.decode()}"
        for path in _tracked_files(repo_root)
        for host in hosts
        if host in path.read_bytes()
    ]
    assert named == []
