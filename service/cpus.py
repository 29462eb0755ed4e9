"""How many CPUs this process may use: those it may run on, and no more than its quota pays for.

A container's limit (``--cpus 2``) hides no core from a process: it is a quota of CPU time, kept in
the control group of the process or in one above it. Formats: Linux's admin guide, cgroup-v2
(``cpu.max``) and cgroup-v1 (``cpu.cfs_quota_us`` and ``cpu.cfs_period_us``).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

#: What is mounted, where, its kind and its options; proc(5), mountinfo.
MOUNT = re.compile(r"\S+ \S+ \S+ (\S+) (\S+) .* - (\S+) \S* (\S+)$")


def affinity() -> set[int]:
    """The CPUs that this process may run on.

    Its first thread is asked: others may be held to some (``service.engine.device.nodes``).
    """
    return os.sched_getaffinity(os.getpid())


def usable_cpus(root: Path = Path("/")) -> int:
    """CPUs of the affinity mask or of the tightest quota, whichever is less; at least 1.

    Args:
        root: where proc and the control groups are mounted; tests bring their own.
    """
    quotas = [quota for group in groups(root, "cpu") if (quota := _quota(group)) is not None]
    return max(1, min([len(affinity()), *map(math.ceil, quotas)]))


def groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control groups for a controller (cpu, memory), parents too."""
    try:
        member = _lines(root / "proc/self/cgroup")
        mounts = _lines(root / "proc/self/mountinfo")
    except OSError:  # no proc: nothing says that there is a limit
        return
    rows = (one.split(":", 2) for one in member)
    paths = {row[1]: row[2] for row in rows if len(row) == 3}
    own = next((path for names, path in paths.items() if controller in names.split(",")), None)
    for mount in mounts:
        words = MOUNT.match(mount)
        if words is None:
            continue
        top, point, kind, options = words.groups()
        path = None
        if kind == "cgroup2":
            path = paths.get("")
        elif kind == "cgroup" and controller in options.split(","):
            path = own
        if path is not None:
            yield from _chain(root / point.lstrip("/"), top, path)


def _lines(path: Path) -> list[str]:
    """With the names of files in them, which may be of any bytes."""
    return os.fsdecode(path.read_bytes()).split("\n")


def _chain(mounted: Path, top: str, path: str) -> Iterator[Path]:
    """From the group of a process up to ``top``, which is what is mounted.

    A container may be told a path that does not lie there; then the top is its own group.
    """
    group = PurePosixPath(path)
    lies_there = group.is_relative_to(top) and ".." not in group.parts
    below = group.relative_to(top) if lies_there else PurePosixPath()
    yield from (mounted / one for one in (below, *below.parents))


def _quota(group: Path) -> float | None:
    """CPUs that a group may use at once; None where it sets no limit, or says what is none."""
    try:
        if (both := group / "cpu.max").exists():
            quota, period = both.read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text()
        cpus = int(quota) / int(period)
    except (OSError, ValueError, ArithmeticError):  # "max" is no number
        return None
    return cpus if cpus > 0 else None  # -1 is none
