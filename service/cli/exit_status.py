"""How the commands of the service end: a status, and one line that says why."""

from __future__ import annotations

import os
import sys
from types import FrameType

#: 2 is a wrong command or a setting that cannot be used, 1 what failed in spite of a right one.
OK, FAILED, WRONG_COMMAND = 0, 1, 2


def complain(message: object, status: int) -> int:
    """Tell the operator on stderr; the status to end with."""
    print(f"python -m service: {message}", file=sys.stderr)
    return status


def end_at_once(number: int, frame: FrameType | None) -> None:
    """For signals while nothing is under way; process 1 of a container ignores unhandled ones."""
    os._exit(128 + number)
