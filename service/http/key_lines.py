"""What the server knows of a key, as a line of the keys file says it.

``SHA256 [NAME] [scopes=SCOPE,SCOPE...] [rate=N/s] [concurrency=N]``
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from service.http.problems import Forbidden

DIGEST = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
RATE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)/s")
COUNT = re.compile(r"[0-9]{1,6}")
#: How addresses begin, and the scope that a key needs there; elsewhere every key will do.
SCOPES = {"/v1": "classify", "/v2": "classify", "/metrics": "metrics", "/admin": "admin"}


@dataclass(frozen=True, slots=True)
class Key:
    """One key, and what it may."""

    digest: bytes  # SHA-256
    name: str  # for the access log; the keys of one client may share it
    scopes: frozenset[str] = frozenset({"classify", "metrics"})
    rate: float = math.inf  # requests a second
    concurrency: float = math.inf  # requests at once

    @classmethod
    def parse(cls, line: str) -> Key:
        """ValueError says what is wrong and never what was given."""
        known, *words = line.split() or [""]
        if not DIGEST.fullmatch(known):
            raise ValueError("expected a SHA-256 as 64 characters of 0-9 and a-f")
        name = words.pop(0) if words and "=" not in words[0] else known[:8]
        if not (NAME.fullmatch(name) and all("=" in word for word in words)):
            raise ValueError("expected at most one name of A-Z a-z 0-9 . _ @ - after the SHA-256")
        return cls(bytes.fromhex(known), name, **_parse_options(words))

    def check(self, path: str) -> None:
        """Forbidden unless it has the scope for this address, however that goes on."""
        needed = next((scope for start, scope in SCOPES.items() if path.startswith(start)), None)
        if needed is not None and needed not in self.scopes:
            known = ", ".join(sorted(self.scopes))
            raise Forbidden(f"expected a key with the scope {needed}; this one has {known}")


def _parse_scopes(text: str) -> frozenset[str]:
    given, known = text.split(","), tuple(dict.fromkeys(SCOPES.values()))
    if not set(given) <= set(known):
        raise ValueError(f"expected scopes= and some of {','.join(known)} with commas between them")
    return frozenset(given)


def _parse_rate(text: str) -> float:
    match = RATE.fullmatch(text)
    if match is None or float(match[1]) == 0:
        raise ValueError("expected rate=N/s with N requests a second, 0.001 to 999999.999")
    return float(match[1])


def _parse_concurrency(text: str) -> int:
    if not COUNT.fullmatch(text) or int(text) == 0:
        raise ValueError("expected concurrency=N with N requests at once, 1 to 999999")
    return int(text)


#: What may follow the name, in any order, each at most once.
OPTIONS: dict[str, Callable[[str], Any]] = {
    "scopes": _parse_scopes,
    "rate": _parse_rate,
    "concurrency": _parse_concurrency,
}


def _parse_options(words: Sequence[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in OPTIONS or name in options:
            known = ", ".join(f"{one}=" for one in OPTIONS)
            raise ValueError(f"expected each of {known} at most once, and no others")
        options[name] = OPTIONS[name](value)
    return options
