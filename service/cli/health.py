"""``python -m service health``: is the server here ready? For containers, which have no curl."""

from __future__ import annotations

import argparse
import http.client

from service.addresses import reachable
from service.cli.exit_status import FAILED, OK, complain
from service.environment import own_variables

SECONDS = 3.0
MAX_DETAIL_BYTES = 500


def main(arguments: list[str]) -> int:
    """Ask ``GET /health/ready``: 0 if it answers 200, else 1 and a line that says what came."""
    options = _parse(arguments)
    host = reachable(options.host)
    connection = http.client.HTTPConnection(host, options.port, timeout=SECONDS)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        detail = answer.read(MAX_DETAIL_BYTES).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        return complain(f"no answer from {host} port {options.port}: {error!a}", FAILED)
    finally:
        connection.close()
    if answer.status != http.client.OK:
        return complain(f"not ready, status {answer.status}: {detail!a}", FAILED)
    print("ready")
    return OK


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m service health",
        description="Ask a running server on this machine whether it is ready. Exit status 0 if it "
        "is, else 1. Needs no key.",
    )
    variables = own_variables()
    parser.add_argument(
        "--host",
        default=variables.get("LIERE_HOST", "127.0.0.1"),
        help="address of the server (default: LIERE_HOST, else 127.0.0.1)",
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=variables.get("LIERE_PORT", "8000"),
        help="its TCP port (default: LIERE_PORT, else 8000)",
    )
    return parser.parse_args(arguments)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"expected a port from 1 to 65535, got {text!a}")
    return int(text)
