"""Heads that mean the same to whoever reads them, read without the parser.

Nearly every request for work has one: a line each, names that come once, visible ASCII, one length.
Whatever is not so, also where the parser takes it, is not plain, and nothing is said about it here:
where two readers could part a request in two ways, the parser is the only one that may.
"""

from __future__ import annotations

import re
from typing import NamedTuple

#: A longer one is not plain.
MAX_PLAIN_BYTES = 4096
PLAIN = re.compile(
    rb"POST (/v1/classify/[a-z]+)(?:\?[A-Za-z0-9.,_@%&=+-]*)? HTTP/1\.1\r\n"
    rb"((?:[A-Za-z0-9-]+: [!-~](?:[ -~]*[!-~])?\r\n)+)\r\n"
)
HEADER = re.compile(rb"([^:\r\n]+): ([^\r]+)\r\n")
LENGTH = re.compile(rb"[0-9]{1,9}")
#: What may say where a request ends, beside its length, and what follows it.
FRAMING = frozenset((b"transfer-encoding", b"upgrade", b"proxy-connection", b"expect"))


class PlainHead(NamedTuple):
    """A POST to ``/v1/classify/...``, which keeps its connection."""

    path: bytes  # without the query
    headers: dict[bytes, bytes]  # names in lower case
    size: int  # bytes of the head
    length: int  # bytes of the body


def read_plain_head(data: bytes) -> PlainHead | None:
    """What a request begins with, where that is a whole plain head."""
    match = PLAIN.match(data, 0, MAX_PLAIN_BYTES)
    if match is None:
        return None
    lines = HEADER.findall(match[2])
    headers = {name.lower(): value for name, value in lines}
    if len(headers) < len(lines) or not FRAMING.isdisjoint(headers):
        return None
    if headers.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    length = headers.get(b"content-length", b"")
    if not LENGTH.fullmatch(length):
        return None
    return PlainHead(match[1], headers, match.end(), int(length))
