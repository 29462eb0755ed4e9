"""Which variables of the environment are the operator's, and which are a cluster's.

Kubernetes tells every container where the services of its namespace are. For one named ``liere`` or
``liere-serve`` it sets LIERE_SERVICE_HOST, LIERE_SERVICE_PORT, LIERE_SERVICE_PORT_HTTP,
LIERE_PORT=tcp://10.0.0.1:8000, LIERE_PORT_8000_TCP, LIERE_PORT_8000_TCP_ADDR and more of that kind.
None of them is a setting. Standard library alone: a health check reads this too.
"""

from __future__ import annotations

import os
import re

PREFIX = "LIERE_"
#: By their names alone; no setting ends like these.
INJECTED = re.compile(
    r"LIERE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
#: LIERE_PORT is a setting as well: a port is a number, what a cluster says is an address.
ADDRESS = re.compile(r"(tcp|udp|sctp)://\S*")


def own_variables() -> dict[str, str]:
    """The variables with our prefix that an operator has set, by name."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(PREFIX) and not is_injected(name, value)
    }


def is_injected(name: str, value: str) -> bool:
    """Whether this is a cluster's word about a service whose name begins like ours."""
    if INJECTED.fullmatch(name):
        return True
    return name.endswith("_PORT") and ADDRESS.fullmatch(value) is not None
