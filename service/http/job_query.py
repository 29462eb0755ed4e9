"""What the addresses of jobs are asked with: how many, behind which line, before which job."""

from __future__ import annotations

import re
import struct

from fastapi import Request

from service.engine.failures import BadParameter
from service.jobs.inputs import MAX_ITEMS
from service.jobs.store import Job, Place

#: A place among jobs: the bits of a time, neither an infinity nor what is no number, and the id of
#: the job that it is right behind, whether or not that is still there.
CURSOR = "[0-6][0-9a-f]{39}"


def parse_limit(request: Request, unless_said: int) -> int:
    """How many are wanted; at least 1."""
    limit = parse_count("limit", request.query_params.get("limit", str(unless_said)))
    if not 1 <= limit <= MAX_ITEMS:
        raise BadParameter(f"limit: expected a whole number from 1 to {MAX_ITEMS}, got {limit}")
    return limit


def parse_count(name: str, text: str) -> int:
    """A whole number; BadParameter for another."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise BadParameter(f"{name}: expected a whole number, got {text[:20]!a}")
    return int(text)


def cursor_of(job: Job) -> str:
    """Where the older ones begin; nothing is in it but what its owner knows of the job."""
    return struct.pack(">d", job.created).hex() + job.id


def parse_cursor(request: Request) -> Place | None:
    """The place that ``before`` names; None where it is not given, BadParameter for no cursor."""
    if (text := request.query_params.get("before")) is None:
        return None
    if not re.fullmatch(CURSOR, text):
        raise BadParameter(f"before: expected what next of a list has there, got {text[:20]!a}")
    (created,) = struct.unpack(">d", bytes.fromhex(text[:16]))
    return Place(created, text[16:])
