"""``python -m service``: the server, or one of the small commands beside it."""

from __future__ import annotations

import importlib
import sys

from service.cli.exit_status import WRONG_COMMAND, complain

#: Command -> the module whose ``main`` it is; loaded when asked for: a health check must be cheap.
COMMANDS = {
    "bundles": "service.cli.bundles",
    "classify": "service.cli.offline",
    "health": "service.cli.health",
    "jobs": "service.cli.jobs",
    "new-key": "service.cli.new_key",
    "shadow": "service.cli.shadow",
}
SERVER = "service.cli.serve"


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the arguments name, the server if they name none; the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0].startswith("-"):
        module = SERVER
    elif arguments[0] in COMMANDS:
        module, arguments = COMMANDS[arguments[0]], arguments[1:]
    else:
        known = ", ".join(COMMANDS)
        return complain(
            f"unknown command {arguments[0]!a}; known: {known}; without one it serves",
            WRONG_COMMAND,
        )
    status: int = importlib.import_module(module).main(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
