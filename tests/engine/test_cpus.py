"""CPUs are counted by affinity and by the quota of a container, whichever is less."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service import cpus
from service.cpus import usable_cpus
from service.engine.device.lanes import choose_lanes
from service.engine.device.session import open_session
from service.engine.engine import Engine
from service.settings import make_settings
from tests.conftest import ROOT

V1 = """\
9:name=systemd:/docker/1
3:cpuset:/docker/1
2:cpu,cpuacct:/docker/1
0::/
"""
V1_MOUNTS = """\
21 20 0:19 / /proc rw,nosuid - proc proc rw
31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
33 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw shared:9 master:1 - cgroup cgroup rw,cpu,cpuacct
34 31 0:30 {top} /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
"""
V2_MOUNTS = "33 31 0:29 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host has 64, whatever runs the tests."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))


def machine(root: Path, member: str, mounts: str, files: dict[str, str]) -> Path:
    """A root with proc and control groups; ``files`` are below /sys/fs/cgroup."""
    proc = root / "proc/self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(member)
    (proc / "mountinfo").write_text(mounts)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("member", "top", "files", "expected"),
    [
        ("0::/\n", "/", {"cpu.max": "200000 100000\n"}, 2),  # a container's own view
        ("0::/\n", "/", {"cpu.max": "150000 100000\n"}, 2),  # rounded up
        ("0::/\n", "/", {"cpu.max": "5000 100000\n"}, 1),  # never none
        ("0::/\n", "/", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", "/", {"cpu.max": "9900000 100000\n"}, 64),  # more than there are
        ("0::/\n", "/", {}, 64),  # the root of a host has no such file
        ("0::/a/b\n", "/", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ("0::/a/b\n", "/", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "100000 100000"}, 1),
        ("0::/a/b\n", "/a/b", {"cpu.max": "400000 100000"}, 4),  # mounted from below the root
        ("0::/host/1\n", "/other", {"cpu.max": "400000 100000"}, 4),  # a path of the host's
        ("0::/../x\n", "/", {"cpu.max": "400000 100000"}, 4),
    ],
)
def test_quota_of_cgroup_v2_counts(
    tmp_path: Path, member: str, top: str, files: dict[str, str], expected: int
) -> None:
    """The tightest limit of the group and of all above it, rounded up, from 1 to the affinity."""
    assert usable_cpus(machine(tmp_path, member, V2_MOUNTS.format(top=top), files)) == expected


@pytest.mark.parametrize(
    ("top", "folder", "quota", "expected"),
    [
        ("/docker/1", "", "200000", 2),
        ("/", "docker/1", "250000", 3),
        ("/", "docker", "50000", 1),
        ("/docker/1", "", "-1", 64),
    ],
)
def test_quota_of_cgroup_v1_counts(
    tmp_path: Path, top: str, folder: str, quota: str, expected: int
) -> None:
    """The older form, whose controllers have a folder each and share one."""
    files = {
        f"cpu,cpuacct/{folder}/cpu.cfs_quota_us": f"{quota}\n",
        f"cpu,cpuacct/{folder}/cpu.cfs_period_us": "100000\n",
        "cpuset/cpu.cfs_quota_us": "100000\n",  # of another controller: nobody looks
    }
    assert usable_cpus(machine(tmp_path, V1, V1_MOUNTS.format(top=top), files)) == expected


@pytest.mark.parametrize(
    "odd",
    ["", "\n", "200000", "200000 0", "0 0", "0 100000", "many 100000", "1 2 3", "-5 100000",
     "²000 1", "9" * 400 + " 1"],
)  # fmt: skip
@pytest.mark.parametrize("version", [1, 2], ids=["v1", "v2"])
def test_group_that_says_no_quota_is_passed_over(tmp_path: Path, odd: str, version: int) -> None:
    """What is written there is none: the group above it still counts."""
    if version == 2:
        mounts, files = V2_MOUNTS, {"a/cpu.max": odd, "cpu.max": "300000 100000"}
    else:
        quota, _, period = odd.partition(" ")
        mounts, folder = V1_MOUNTS, "cpu,cpuacct"
        files = {
            f"{folder}/a/cpu.cfs_quota_us": quota, f"{folder}/a/cpu.cfs_period_us": period,
            f"{folder}/cpu.cfs_quota_us": "300000", f"{folder}/cpu.cfs_period_us": "100000",
        }  # fmt: skip
    root = machine(tmp_path, "2:cpu,cpuacct:/a\n0::/a\n", mounts.format(top="/"), files)
    assert usable_cpus(root) == 3


@pytest.mark.parametrize("odd", ["", "33 31", "33 31 0:29 /", "1 2 3 4 5 - cgroup2", " - ", "-"])
def test_line_of_proc_that_cannot_be_read_is_passed_over(tmp_path: Path, odd: str) -> None:
    """The lines around it count; optional fields may be many or none."""
    mounts = f"{odd}\n33 31 0:29 / /sys/fs/cgroup rw - cgroup2 none rw\n{odd}\n"
    files = {"cpu.max": "200000 100000"}
    assert usable_cpus(machine(tmp_path, f"{odd}\n0::/\n{odd}\n", mounts, files)) == 2


def test_names_of_groups_and_mounts_may_be_of_any_bytes(tmp_path: Path) -> None:
    """Linux knows no encoding; also a character that Python takes for the end of a line counts."""
    name = os.fsdecode(b"\xff") + "\x85x"
    mounts = f"20 1 0:1 / /{name} rw - tmpfs {name} rw\n" + V2_MOUNTS.format(top="/")
    root = machine(tmp_path, "", "", {f"{name}/cpu.max": "200000 100000"})
    (root / "proc/self/cgroup").write_bytes(os.fsencode(f"0::/{name}\n"))
    (root / "proc/self/mountinfo").write_bytes(os.fsencode(mounts))
    assert usable_cpus(root) == 2


def test_affinity_counts_where_nothing_says_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No proc, no control group: the mask alone; and a wide quota does not widen it."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7})
    assert usable_cpus(tmp_path) == 3
    limited = machine(tmp_path, "0::/\n", V2_MOUNTS.format(top="/"), {"cpu.max": "800000 100000"})
    assert usable_cpus(limited) == 3


def test_workers_and_threads_follow_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --cpus 2 on a host of 64 cores three workers start, and lanes share two threads."""
    root = machine(tmp_path, "0::/\n", V2_MOUNTS.format(top="/"), {"cpu.max": "200000 100000"})
    own = cpus.groups
    monkeypatch.setattr(cpus, "groups", lambda _, controller: own(root, controller))
    engine = Engine(make_settings(bundles=tmp_path))
    assert (engine.pool.staff.workers, engine.backlog.rates["cpu"]) == (3, 2)
    row = np.zeros((1, 8, 12, 3), np.uint8)
    for given, expected in (({"lanes": 1}, (1, 2)), ({"threads": 1}, (2, 1))):
        settings = make_settings(bundles=tmp_path, **given)
        assert choose_lanes(settings, open_session, tmp_path, "cpu", row) == expected
    assert Engine(make_settings(bundles=tmp_path, decode_workers=5)).pool.staff.workers == 5


def test_count_of_this_machine_is_that_of_a_new_process() -> None:
    """The real files are read: a process held to one core counts one."""
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from service.cpus import usable_cpus; print(usable_cpus())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"
