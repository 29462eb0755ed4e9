"""A decode worker with a mistake: files with a certain end kill it, others hold it up for ever.

``benchmarks.serving.planted --bad-inputs`` puts it in the place of the service's own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import Any

from media import read_fitting
from service.engine.decode import worker

#: How such files end.
KILLS, HOLDS = b"this file kills its decoder", b"this file holds its decoder up"
#: What ``planted`` makes of pictures of which this is every value.
NOT_FINITE, FAILS = 251, 7


def read_or_die(media: bytes, *arguments: Any) -> Any:
    if media.endswith(KILLS):
        os.kill(os.getpid(), signal.SIGSEGV)
    while media.endswith(HOLDS):
        time.sleep(60)
    return read_fitting(media, *arguments)


if __name__ == "__main__":
    worker.read_fitting = read_or_die  # type: ignore[assignment, attr-defined]
    with contextlib.suppress(BrokenPipeError):
        worker.main(*sys.argv[1:])
    sys.stdout = None  # nothing to flush: the pipe may be gone
