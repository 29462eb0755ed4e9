"""Memory is told by the control group of a container, in either of the kernel's two versions."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from service.memory import read_memory
from tests.engine.test_cpus import V2_MOUNTS, machine

V1_MOUNTS = "33 31 0:29 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
V1 = "4:memory:/docker/1\n0::/\n"


def v2(
    used: str, limit: str, cached: int = 0, folder: str = "", again: int = 0
) -> dict[str, str]:
    """The files of one group; of what is cached some was read once, some ``again``."""
    stat = f"anon 5\ninactive_file {cached}\nactive_file {again}\n"
    files = {"memory.current": f"{used}\n", "memory.max": f"{limit}\n", "memory.stat": stat}
    return {f"{folder}{name}": text for name, text in files.items()}


@pytest.mark.parametrize(
    ("files", "used", "limit"),
    [
        (v2("1000", "4096", 300), 700, 4096),  # without files that can be dropped
        (v2("1000", "1024", 100, again=800), 100, 1024),  # an archive that was read twice
        (v2("1000", "max"), 1000, math.inf),
        (v2("700", "max", 0, "a/b/") | v2("900", "2000", 0, "a/"), 900, 2000),  # the tightest
        (v2("700", "1000", 0, "a/b/") | v2("900", "2000", 0, "a/"), 700, 1000),
        (v2("700", "max", 0, "a/b/") | v2("900", "max", 0, "a/"), 700, math.inf),  # its own
        (v2("much", "4096"), math.nan, math.inf),
        ({}, math.nan, math.inf),
    ],
)
def test_memory_of_unified_groups(
    tmp_path: Path, files: dict[str, str], used: float, limit: float
) -> None:
    """Of the group whose limit comes first."""
    root = machine(tmp_path, "0::/a/b\n", V2_MOUNTS.format(top="/"), files)
    assert read_memory(root) == pytest.approx((used, limit), nan_ok=True)


def test_memory_of_a_container_of_the_older_kind(tmp_path: Path) -> None:
    """What it may be told by a group of its own controller; the largest number is no limit."""
    files = {
        "memory/memory.usage_in_bytes": "1000\n",
        "memory/memory.limit_in_bytes": "4096\n",
        "memory/memory.stat": "cache 400\ninactive_file 1\ntotal_inactive_file 100\n"
        "active_file 1\ntotal_active_file 200\n",
    }
    mounts = V1_MOUNTS.format(top="/docker/1")
    assert read_memory(machine(tmp_path / "1", V1, mounts, files)) == (700, 4096)
    files["memory/memory.limit_in_bytes"] = "9223372036854771712\n"
    assert read_memory(machine(tmp_path / "2", V1, mounts, files)) == (700, math.inf)


def test_machine_without_control_groups_says_nothing(tmp_path: Path) -> None:
    """Not a number, which no alert takes for one."""
    assert read_memory(tmp_path) == pytest.approx((math.nan, math.inf), nan_ok=True)
