"""How the service and a decode worker talk: a JSON header and raw bytes, both with a length.

For pixels that may be large memory goes beside a question (``memory``); its answer is then a header
alone. Not pickle: the worker has touched untrusted bytes, so nothing that it says may be executed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from media.spec import Grid, InputSpec, VideoSpec, VolumeSpec
from service.engine.decode import memory

#: Lengths of header and body, unsigned 32 bit, network order.
LENGTHS = struct.Struct(">II")
#: A worker's header is a status and what it saw, or one sentence; anything longer is not ours.
MAX_HEADER_BYTES = 4096
#: A worker whose service is gone ends itself after this many times the wall time of an item.
ORPHAN_FACTOR = 2


def head(header: bytes, body_bytes: int) -> bytes:
    """What stands before the body of a frame; bodies may be large and are sent as they are."""
    return LENGTHS.pack(len(header), body_bytes) + header


@dataclasses.dataclass(frozen=True, slots=True)
class Preparation:
    """What a worker is asked for, whatever the file.

    Attributes:
        header: sent before the bytes of an item.
        lending_header: the same where memory for its pixels goes beside it; empty where they are
            small, or this machine cannot lend any.
        shapes: grid -> shape of its pixels, ``[views, *pixels per axis, channels]``. Where there
            are several the worker chooses by the file's own size, and says which it took.
        lengths: of their pixels in bytes.
        seconds: wall time; then the worker is killed.
    """

    modality: str
    header: bytes
    lending_header: bytes
    shapes: dict[str, tuple[int, ...]]
    lengths: frozenset[int]
    dtype: np.dtype[np.generic]
    seconds: float

    @classmethod
    def make(
        cls,
        spec: InputSpec,
        grids: Sequence[Grid],
        patch: tuple[int, ...],
        views: int,
        seconds: float,
    ) -> Preparation:
        """The arguments of ``media.read_fitting``, and the time that it may take."""
        task = {
            "input": dataclasses.asdict(spec),
            "grids": [str(grid) for grid in grids],
            "patch": patch,
            "views": views,
            "seconds": ORPHAN_FACTOR * seconds,
        }
        shapes = {str(grid): (views, *grid.pixels(patch), spec.channels) for grid in grids}
        dtype = np.dtype(spec.dtype)
        lengths = frozenset(math.prod(shape) * dtype.itemsize for shape in shapes.values())
        header, lending = (json.dumps(task | {"lends": lends}).encode() for lends in (False, True))
        if max(lengths) < memory.LEAST_BYTES or not memory.IS_THERE:
            lending = b""
        return cls(spec.modality, header, lending, shapes, lengths, dtype, seconds)

    @property
    def most_bytes(self) -> int:
        """Of the pixels of an item."""
        return max(self.lengths)

    @property
    def is_large(self) -> bool:
        """Whether its pixels may be so large that they are not copied and not made in advance."""
        return self.most_bytes >= memory.LEAST_BYTES


@functools.lru_cache(maxsize=64)
def parse_task(
    header: bytes,
) -> tuple[InputSpec, tuple[Grid, ...], tuple[int, ...], int, float, bool]:
    """Arguments of ``media.read_fitting``, seconds of the worker, and whether memory was lent.

    The service wrote it of what it had checked; without a strict reader a worker starts sooner.
    """
    task = json.loads(header)
    spec = _tuples(task["input"])
    if spec["video"] is not None:
        spec["video"] = VideoSpec(**_tuples(spec["video"]))
    if spec["volume"] is not None:
        spec["volume"] = VolumeSpec(**_tuples(spec["volume"]))
    grids = tuple(Grid.parse(grid) for grid in task["grids"])
    views, seconds, lends = task["views"], task["seconds"], task["lends"]
    return InputSpec(**spec), grids, tuple(task["patch"]), views, seconds, lends


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(one) if isinstance(one, list) else one for key, one in fields.items()}
