"""``python -m client``: the commands of the client."""

from __future__ import annotations

import importlib
import sys

from client.exit_status import WRONG_COMMAND, complain

#: Command -> the module whose ``main`` it is.
COMMANDS = {"classify": "client.command", "jobs": "client.jobs_command"}
USAGE = """\
usage: python -m client classify PATH... [--out FILE]
       python -m client jobs submit | list | show | wait | results | cancel

Ask a LieRE server. python -m client classify --help says how, as does jobs --help."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the arguments name; the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if not arguments or arguments[0] not in COMMANDS:
        given = f"unknown command {arguments[0]!a}" if arguments else "no command"
        return complain(f"{given}; known: {', '.join(COMMANDS)}", WRONG_COMMAND)
    status: int = importlib.import_module(COMMANDS[arguments[0]]).main(arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
