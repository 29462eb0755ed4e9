"""Proving a version in a process of its own: a graph may bring down whoever opens it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from pathlib import Path

from service.environment import PREFIX
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
#: Of each a proof needs one.
ALONE = ("lanes", "threads", "decode_workers")
#: What a bundle may be refused by; the server's own may come from its flags.
AS_HERE = ("decode_seconds", "slow_decode_seconds", "max_batch", "batch_seconds", "batch_tokens")
#: Bytes of its log that are kept, from its end.
MOST_TOLD = 2**16


async def prove_apart(settings: Settings, name: str, version: str) -> str | None:
    """Why a version of a bundle is refused by ``python -m service bundles verify``; None if good.

    Cancelling ends the process.
    """
    device = settings.device.split(",")[0]
    asked = {name: 1 for name in ALONE} | {name: getattr(settings, name) for name in AS_HERE}
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "service", "bundles", "verify", name, version,
            "--bundles", str(settings.bundles.resolve()), "--device", device,
            cwd=ROOT,
            env=os.environ | {PREFIX + name.upper(): str(asked[name]) for name in asked},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        log.error("the proof of bundle %s %s cannot be started: %s", name, version, error)
        return f"its proof cannot be started: {error.strerror}"
    with contextlib.suppress(OSError):  # it has ended, or may not be told
        os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
    try:
        async with asyncio.timeout(MOST_SECONDS):
            told = await _end_of(process.stderr)
            await process.wait()
    except TimeoutError:
        return f"its proof took longer than {MOST_SECONDS:g} seconds"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _reason(process.returncode, told)


async def _end_of(stream: asyncio.StreamReader | None) -> bytes:
    """The last of what comes."""
    assert stream is not None
    told = b""
    while piece := await stream.read(MOST_TOLD):
        told = (told + piece)[-MOST_TOLD:]
    return told


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
