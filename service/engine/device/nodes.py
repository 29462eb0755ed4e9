"""Sockets of one machine: its NUMA nodes, and the CPUs that are near the memory of each.

A graph that is computed by CPUs of two sockets reads half of its weights from the other one's
memory. So ``cpu:N`` is a device of its own: its sessions are opened, and run, by threads that stay
on the CPUs of node N, and Linux gives memory where it is first written. Format: Linux's
ABI/stable/sysfs-devices-node and the cpulist of its admin guide, cputopology.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from service.cpus import affinity

ON_NODE = re.compile("cpu:([0-9]+)")
NODE = re.compile("node([0-9]+)")
#: Where the machine tells of itself; tests bring their own.
ROOT = Path("/")


class NodeNotThere(RuntimeError):
    """A node that nothing can be computed on; the message says what there is."""


def cpus_near(device: str) -> frozenset[int] | None:
    """Of a device ``cpu:N`` the CPUs of node N that this process may use; None of all others.

    Raises:
        NodeNotThere: there is no such node, or none of its CPUs may be used.
    """
    match = ON_NODE.fullmatch(device)
    if match is None:
        return None
    nodes = _nodes(ROOT / "sys/devices/system/node")
    number = int(match[1])
    if number not in nodes:
        known = ", ".join(map(str, sorted(nodes))) or "none"
        raise NodeNotThere(f"there is no node {number}; nodes of this machine: {known}")
    near = parse_cpus(nodes[number].read_text()) & affinity()
    if not near:
        raise NodeNotThere(f"this process may use no CPU of node {number}")
    return frozenset(near)


def lane_cpus(device: str, usable: int) -> int:
    """How many CPUs the lanes of a device share: of those in use, as many as it has of all.

    Args:
        usable: CPUs of this process, which a container's quota or an operator may have bounded.

    Raises:
        NodeNotThere: as ``cpus_near``.
    """
    near = cpus_near(device)
    if near is None:
        return usable
    return max(1, len(near) * usable // len(affinity()))


def stay_on(cpus: Collection[int]) -> None:
    """Keep the calling thread, and those that it starts, on these CPUs."""
    os.sched_setaffinity(0, cpus)


def parse_cpus(text: str) -> set[int]:
    """``0-2,8`` is 0, 1, 2 and 8; nothing is none, as of a node that has memory alone."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def _nodes(folder: Path) -> dict[int, Path]:
    """Number -> the list of its CPUs; of a kernel without nodes nothing."""
    found = ((NODE.fullmatch(one.parent.name), one) for one in folder.glob("node*/cpulist"))
    return {int(match[1]): path for match, path in found if match is not None}
