"""How the commands of the service end: a status, and one line that says why."""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import NoReturn

#: 2 is a wrong command or a setting that cannot be used, 1 what failed in spite of a right one, 3
#: that the device has answered and does so no more: whoever started the process starts another.
OK, FAILED, WRONG_COMMAND, DEVICE_DIED = 0, 1, 2, 3


def complain(message: object, status: int, program: str = "service") -> int:
    """Tell the operator on stderr; the status to end with."""
    print(f"python -m {program}: {message}", file=sys.stderr)
    return status


def end_at_once(number: int, frame: FrameType | None) -> None:
    """For signals while nothing is under way; process 1 of a container ignores unhandled ones."""
    os._exit(128 + number)


def end_of_device() -> NoReturn:
    """End without the device's threads: one may never return, and Python would wait for it."""
    sys.stdout.flush()
    os._exit(DEVICE_DIED)
