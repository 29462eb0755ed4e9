"""Proving a version in a process of its own: a graph may bring down whoever opens it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from pathlib import Path

from service.settings import Settings

log = logging.getLogger(__name__)

#: How the command begins what it says on stderr when it fails; the last such line is the reason.
COMPLAINT = b"python -m service: "
FAILED = 1
#: Below everything that serves: whoever waits for the proof has time.
NICE = 10
#: A proof that takes longer is taken to hang.
MOST_SECONDS = 600.0
ROOT = Path(__file__).resolve().parents[2]
#: Of the server's own settings: a proof needs one of each.
ALONE = {"LIERE_LANES": "1", "LIERE_THREADS": "1", "LIERE_DECODE_WORKERS": "1"}


async def prove_apart(settings: Settings, name: str, version: str) -> str | None:
    """Why a version of a bundle is refused by ``python -m service bundles verify``; None if good.

    Cancelling ends the process.
    """
    device = settings.device.split(",")[0]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "bundles", "verify", name, version,
        "--bundles", str(settings.bundles.resolve()), "--device", device,
        cwd=ROOT,
        env=os.environ | ALONE,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    with contextlib.suppress(OSError):  # it has ended, or may not be told
        os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
    try:
        async with asyncio.timeout(MOST_SECONDS):
            _, told = await process.communicate()
    except TimeoutError:
        return f"its proof took longer than {MOST_SECONDS:g} seconds"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _reason(process.returncode, told)


def _reason(status: int | None, told: bytes) -> str | None:
    if status == 0:
        return None
    for line in told.splitlines():
        log.warning("proof: %s", line.decode("utf-8", "replace")[:1000])
    if status is not None and status < 0:
        return f"its proof ended by signal {-status}"
    reasons = [line for line in told.splitlines() if line.startswith(COMPLAINT)]
    if status == FAILED and reasons:
        return reasons[-1].removeprefix(COMPLAINT).decode("utf-8", "replace")
    return f"its proof failed with status {status}; the log says why"
