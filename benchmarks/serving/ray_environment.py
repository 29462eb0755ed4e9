"""The variables that Ray starts with; it reads some of them when it is imported."""

from __future__ import annotations

import secrets
import shlex
import socket
from pathlib import Path

from benchmarks.serving.running import ROOT


def environment(folder: Path) -> dict[str, str]:
    """deploy/ray/ray.env as a shell would read it, and places of its own for HAProxy.

    Args:
        folder: a short path, for sockets.
    """
    lines = (ROOT / "deploy" / "ray" / "ray.env").read_text().splitlines()
    words = [word for line in lines for word in shlex.split(line, comments=True)]
    told = dict(word.replace("$PWD", str(ROOT)).split("=", 1) for word in words)
    names = {"CONFIG_FILE_LOC": "haproxy.cfg", "SOCKET_PATH": "admin.sock",
             "SERVER_STATE_BASE": "", "SERVER_STATE_FILE": "state",
             "METRICS_SOCKET_PATH": "metrics.sock"}  # fmt: skip
    places = {f"RAY_SERVE_HAPROXY_{name}": str(folder / file) for name, file in names.items()}
    wanted = ("HAPROXY_STATS_PORT", "HAPROXY_METRICS_PORT", "FALLBACK_PROXY_HTTP_PORT")
    ports = {f"RAY_SERVE_{name}": str(free_port()) for name in wanted}
    # A busy machine is no reason to kill a front that is still coming up.
    patience = {f"RAY_SERVE_PROXY_{name}_CHECK_TIMEOUT_S": "60" for name in ("READY", "HEALTH")}
    # Whoever joins needs the mode too: a process of Ray sets it for its own children alone.
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return told | places | ports | patience | token


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
