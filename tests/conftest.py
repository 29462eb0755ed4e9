"""What every test shares: where the data lies, and which tests can run without torch.

The suite runs in two parts: what needs training's or export's packages in an environment that
holds everything, the rest in one that holds what the service needs and no torch. Which part a
module belongs to is found by walking its imports. Without ``--torch`` all that can run does.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a module imports anywhere in its text; relative ones start with a dot.

    ``from a import b`` gives ``a.b``, whether ``b`` is a module or not.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            yield from (f"{start}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _is_import_call(node.func):
            yield from (
                argument.value
                for argument in node.args[:1]
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            )


def _is_import_call(function: ast.expr) -> bool:
    """``__import__(...)`` and ``importlib.import_module(...)``."""
    name = getattr(function, "id", getattr(function, "attr", ""))
    return name in ("__import__", "import_module")


def project_file(name: str) -> Path | None:
    """The file of this project that a dotted name is in: ``models.spec.Grid`` -> models/spec.py."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


@cache
def reached_packages(path: Path) -> frozenset[str]:
    """Top-level packages from outside that a file imports, itself or through project files."""
    outside: set[str] = set()
    seen, waiting = {path}, [path]
    while waiting:
        for name in imported_names(ast.parse(waiting.pop().read_text(encoding="utf-8"))):
            file = project_file(name)
            if file is None:
                outside.add(name.split(".")[0])
            elif file not in seen:
                seen.add(file)
                waiting.append(file)
    return frozenset(outside)


def working_packages() -> frozenset[str]:
    """Packages that only training and export need."""
    with (ROOT / "pyproject.toml").open("rb") as stream:
        extras = tomllib.load(stream)["project"]["optional-dependencies"]
    packages = {extra: {_import_name(line) for line in lines} for extra, lines in extras.items()}
    working = packages["train"] | packages["export"]
    serving = packages["serve"] | packages["cpu"] | packages["dev"]
    return frozenset(working - serving)


#: Packages that are imported under another name than they are installed under.
IMPORTED_AS = {"scikit_learn": "sklearn"}


def _import_name(requirement: str) -> str:
    """``"torch>=2.13"`` -> ``"torch"``; true of the packages that training and export add."""
    name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0].replace("-", "_").lower()
    return IMPORTED_AS.get(name, name)


WORKING = working_packages()
LACKING = frozenset(name for name in WORKING if not importlib.util.find_spec(name))
MODULES = frozenset(ROOT.glob("tests/test_*.py"))
#: Those that need more than the service does.
NEEDING = frozenset(path for path in MODULES if WORKING & reached_packages(path))
collect_ignore = [str(path) for path in NEEDING if LACKING & reached_packages(path)]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--torch",
        choices=("present", "absent"),
        help="run the part that needs torch (present) or the part that does not (absent); fail "
        "unless torch can, or cannot, be imported here",
    )


def pytest_configure(config: pytest.Config) -> None:
    expected = config.getoption("--torch")
    found = "present" if importlib.util.find_spec("torch") else "absent"
    if expected not in (None, found):
        raise pytest.UsageError(f"torch should be {expected} in {sys.prefix} and is {found}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave to the environment without torch what needs no more."""
    if config.getoption("--torch") == "present" and collection_path in MODULES - NEEDING:
        return True
    return None


def pytest_report_header() -> list[str]:
    if not LACKING:
        return []
    names = ", ".join(sorted(Path(path).name for path in collect_ignore)) or "none"
    return [f"not installed: {', '.join(sorted(LACKING))}; not collected for that: {names}"]


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def data_dir(repo_root: Path) -> Path:
    """Real media beside the checkout, too large to live in it."""
    path = repo_root.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the real media are not beside this checkout (../shared/data)")
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Where a small disk may be mounted; unmounted again."""
    yield tmp_path / "disk"
    if (tmp_path / "disk").is_mount():
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)
