"""How the commands of the client end: a status, and one line that says why."""

from __future__ import annotations

import sys

#: 1 is what failed in spite of a right command, 3 a server that answers nobody any more.
OK, FAILED, WRONG_COMMAND, SERVER_GONE, INTERRUPTED = 0, 1, 2, 3, 130


def complain(message: object, status: int) -> int:
    """Tell the caller on stderr; the status to end with."""
    print(f"python -m client: {message}", file=sys.stderr)
    return status
