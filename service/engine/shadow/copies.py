"""Copies of what was answered: whose turn it is to be seen, and how much memory a copy holds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.engine.decode.task import Encoded
from service.engine.job import Job

#: Of what was sent, so much is looked at, in so many pieces spread evenly over it: scans of one
#: scanner begin and end alike.
LOOKED_AT, PIECES = 2**12, 16


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """What a candidate shall answer, and what was answered.

    Attributes:
        job: for the candidate.
        size: bytes of memory that it holds.
        answered: calibrated probabilities, float64 ``[classes]``.
        seconds: of a lane, that the answer took.
    """

    job: Job
    size: int
    answered: np.ndarray
    seconds: float


def fraction(media: Encoded | memoryview | np.ndarray) -> float:
    """Where what was sent lies in [0, 1): the same bytes always at the same place, others anywhere.

    Who sees all below a share sees the same again, on every server, and with a larger share more.
    """
    if isinstance(media, np.ndarray):
        media = np.ascontiguousarray(media).data
    raw = memoryview(media).cast("B")
    digest = hashlib.blake2b(len(raw).to_bytes(8, "big"), digest_size=8)
    if len(raw) <= LOOKED_AT:
        digest.update(raw)
    else:
        piece = LOOKED_AT // PIECES
        for number in range(PIECES):
            begin = number * (len(raw) - piece) // (PIECES - 1)
            digest.update(raw[begin : begin + piece])
    return int.from_bytes(digest.digest(), "big") / 2**64


def held_bytes(media: Encoded | np.ndarray) -> int:
    """Memory that cannot be given back while somebody holds this: of a row, that of its tensor."""
    whole: Any = media
    while (base := getattr(whole, "base", None)) is not None:
        whole = base
    return memoryview(whole).nbytes
