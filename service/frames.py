"""How the service and a decode worker talk: a JSON header and raw bytes, both with a length.

Not pickle: the worker has touched untrusted bytes, so nothing that it says may be executed.
"""

from __future__ import annotations

import json
import struct

from models.spec import Grid, InputSpec, to_json

#: Lengths of header and body, unsigned 32 bit, network order.
LENGTHS = struct.Struct(">II")
#: A worker's header is a status and one sentence; anything longer is not ours.
MAX_HEADER_BYTES = 4096


def pack(header: bytes, body: bytes) -> bytes:
    """One frame: ``LENGTHS``, header, body."""
    return b"".join((LENGTHS.pack(len(header), len(body)), header, body))


def task_header(spec: InputSpec, grid: Grid, patch: tuple[int, ...], seconds: float) -> bytes:
    """What the service sends before the bytes of an item.

    Args:
        seconds: wall time after which the worker ends itself, should nobody be left to kill it.
    """
    task = {"input": to_json(spec), "grid": str(grid), "patch": patch, "seconds": seconds}
    return json.dumps(task).encode()
