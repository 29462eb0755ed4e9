"""How much memory the control group of this process holds, and how much it may.

A container's limit (``--memory 4g``) is of server and decode workers together: no process sees it
in its own size, and where it is passed the kernel kills one of them. Formats: Linux's admin guide,
cgroup-v2 (``memory.current``, ``memory.max``) and cgroup-v1 (``memory.usage_in_bytes`` and
``memory.limit_in_bytes``).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from service.cpus import groups

#: cgroup-v1 writes a number of this size where there is no limit.
NO_LIMIT = 2**60


class Memory(NamedTuple):
    """Of one control group, bytes."""

    used: float  # without the cache of files, which can be dropped; NaN where nobody counts
    limit: float  # infinite where there is none


def read_memory(root: Path = Path("/")) -> Memory:
    """Of the group with the tightest limit, or of the process's own where none has one.

    Args:
        root: where proc and the control groups are mounted; tests bring their own.
    """
    found = [one for group in groups(root, "memory") if (one := _read(group)) is not None]
    return min(found, key=lambda one: one.limit, default=Memory(math.nan, math.inf))


def _read(group: Path) -> Memory | None:
    """None where a group does not count memory, as the one at the top of cgroup-v2."""
    unified = (group / "memory.current").exists()
    used, limit = ("current", "max") if unified else ("usage_in_bytes", "limit_in_bytes")
    total = "" if unified else "total_"
    try:
        held = int((group / f"memory.{used}").read_text())
        most = float((group / f"memory.{limit}").read_text().replace("max", "inf"))
        rows = (group / "memory.stat").read_text().split()
        # Files that were used more than once, as archives of jobs, are active, and go as well.
        names = (f"{total}inactive_file", f"{total}active_file")
        cached = sum(int(rows[rows.index(name) + 1]) for name in names)
    except (OSError, ValueError):
        return None
    return Memory(held - cached, most if most < NO_LIMIT else math.inf)
