"""What every test shares: where the data lies, and which tests need torch.

The suite runs in two parts: the folders of ``NEED_TORCH`` in an environment that holds everything,
the others in one that holds what the service needs and no torch. Without ``--torch`` all that can
run does.

Workers of pytest-xdist share what ``helpers/made_once.py`` makes; what a module's own fixtures make
for all of its tests is made by one worker. Tests that kill, mount or ask after ports are marked
``@alone``: they run one after the other, whatever else runs beside them.
``--hypothesis-profile=large`` is for CI: more examples of every property, more kills.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from _pytest.nodeid import NodeId

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported, and for child processes
    os.environ["OMP_NUM_THREADS"] = "1"

hypothesis.settings.register_profile("small", max_examples=20, deadline=None)
hypothesis.settings.register_profile("large", max_examples=200, deadline=None)
hypothesis.settings.load_profile("small")

ROOT = Path(__file__).resolve().parent.parent
#: Rooms whose tests need torch.
NEED_TORCH = ("models", "training", "export")
TORCH = "present" if importlib.util.find_spec("torch") else "absent"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--torch",
        choices=("present", "absent"),
        help="run the part that needs torch (present) or the part that does not (absent); fail "
        "unless torch can, or cannot, be imported here",
    )


def pytest_configure(config: pytest.Config) -> None:
    expected = config.getoption("--torch")
    if expected not in (None, TORCH):
        raise pytest.UsageError(f"torch should be {expected} in {sys.prefix} and is {TORCH}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the rooms of the other part."""
    if collection_path.parent != ROOT / "tests" or not collection_path.is_dir():
        return None
    needs = collection_path.name in NEED_TORCH
    if needs and TORCH == "absent":
        return True
    return True if not needs and config.getoption("--torch") == "present" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of a group go to one worker: the long row of ``@alone`` first, and those that share a
    fixture of their module, or each worker would start the same servers and train the same runs.

    pytest-xdist 3.8 writes the groups where pytest 9.2 does not read them any more: into _nodeid.
    """
    if not config.getoption("loadgroup", False):  # which xdist sets in its workers
        return
    groups = {item: group_of(item) for item in items}
    items.sort(key=lambda item: groups[item] != "alone")
    for item, group in groups.items():
        if group and not item.nodeid.endswith(f"@{group}"):
            item._id = NodeId.parse(f"{item.nodeid}@{group}")


def group_of(item: pytest.Item) -> str | None:
    """The name of the tests that run in the same worker as this one."""
    if mark := item.get_closest_marker("xdist_group"):
        return str(mark.args[0])
    assert isinstance(item, pytest.Function)
    fixtures = item._fixtureinfo.name2fixturedefs.values()
    shares = any(one.scope == "module" for definitions in fixtures for one in definitions)
    return item.module.__name__ if shares else None


def pytest_collection_finish() -> None:
    """What is imported stays; without it the collector is through in less time.

    Exporting a graph makes objects by the million, and each full collection walked all of torch:
    a quarter of the processor time of such a test.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def pytest_report_header() -> list[str]:
    if TORCH == "present":
        return []
    return [f"torch is not installed; not collected for that: tests/{{{','.join(NEED_TORCH)}}}"]


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


@pytest.fixture(scope="session")
def field_dir(repo_root: Path) -> Path:
    """Small files of kinds that people have met in use, beside the checkout."""
    path = repo_root.parent / "shared" / "field"
    if not path.is_dir():
        pytest.skip("the files from the field are not beside this checkout (../shared/field)")
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Where a small disk may be mounted; unmounted again."""
    yield tmp_path / "disk"
    if (tmp_path / "disk").is_mount():
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)
