"""What a client says beside its files, checked: who shall answer, with how many labels, by when.

The server and ``python -m service classify`` read it here, so one text means the same to both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from media.clips.clip_times import MAX_FRAMES
from media.spec import MAX_VIEWS
from service.engine.engine import Engine
from service.engine.failures import BadParameter
from service.engine.job import DEFAULT_TOP_K, EncodingFormat, Want
from service.engine.model import Choice

#: Of the wants of a job those that clients may say.
WANTS = ("labels", "probabilities", "logits", "embedding")
#: Of those the ones that tell probabilities.
PROBABLE = WANTS[:2]
FORMATS = ("float", "base64")
SWITCH = ("false", "true")
#: float() also reads nan, blanks, 1_0 and digits of other scripts.
NUMBER = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,3})?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the answer shall hold, and how.

    Attributes:
        want: one of ``WANTS``.
        encoding_format: of arrays.
        strict: the first file that fails ends its request.
        raw, abstain: as of a ``Job``.
    """

    want: Want = "labels"
    encoding_format: EncodingFormat = "float"
    strict: bool = False
    raw: bool = False
    abstain: float | None = None

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> Asked:
        """From text; BadParameter for what is no such value, or means nothing with the others."""
        want = _one_of(WANTS, "want", parameters)
        if want != "labels" and "top_k" in parameters:
            raise BadParameter(f"top_k: only of want=labels; with want={want} all are given")
        if want == "labels" and "encoding_format" in parameters:
            raise BadParameter("encoding_format: only of arrays, so with another want than labels")
        if want not in PROBABLE:
            for name in ("raw", "abstain"):
                if name in parameters:
                    raise BadParameter(f"{name}: only of probabilities; want={want} has none")
        encoding_format = _one_of(FORMATS, "encoding_format", parameters)
        strict, raw = (_one_of(SWITCH, name, parameters) == "true" for name in ("strict", "raw"))
        abstain = parse_abstain(parameters.get("abstain"))
        return cls(cast(Want, want), cast(EncodingFormat, encoding_format), strict, raw, abstain)


def choose(engine: Engine, modality: str, parameters: Mapping[str, str]) -> tuple[Choice, int]:
    """Who answers, and with how many predictions.

    Args:
        parameters: ``bundle``, ``grid``, ``top_k`` and, of clips, ``views``, as text.

    Raises:
        Failure: nobody answers this, or a parameter is out of range.
    """
    choice = engine.catalog.select(modality, parameters.get("bundle"), parameters.get("grid"))
    manifest = choice.manifest
    if (views := parameters.get("views")) is not None:
        if modality != "video":
            raise BadParameter(f"views: of clips only; bundle {manifest.name} is for {modality}")
        choice = choice.with_views(parse_views(views, choice.frames))
    return choice, parse_top_k(parameters.get("top_k"), len(manifest.labels))


def parse_timeout(text: str, most_seconds: float) -> float:
    """The seconds that ``timeout_ms`` means; BadParameter below a millisecond or above the most."""
    return _parse_count("timeout_ms", text, round(1000 * most_seconds)) / 1000


def parse_top_k(text: str | None, labels: int) -> int:
    """The number of predictions wanted; BadParameter outside 1 to the number of labels."""
    return min(DEFAULT_TOP_K, labels) if text is None else _parse_count("top_k", text, labels)


def parse_abstain(text: str | None) -> float | None:
    """The threshold that is meant; BadParameter outside 0 to 1."""
    if text is None:
        return None
    if NUMBER.fullmatch(text) and float(text) <= 1:
        return float(text)
    raise BadParameter(f"abstain: expected a number from 0 to 1, got {text[:20]!a}")


def parse_views(text: str, frames: int) -> int:
    """The number of views wanted; BadParameter where their frames would be too many."""
    return _parse_count("views", text, min(MAX_VIEWS, MAX_FRAMES // frames), f" of {frames} frames")


def _one_of(known: tuple[str, ...], name: str, parameters: Mapping[str, str]) -> str:
    """What a parameter says, the first where it is not given; BadParameter for another word."""
    if (given := parameters.get(name, known[0])) not in known:
        raise BadParameter(f"{name}: expected one of {', '.join(known)}; got {given[:20]!a}")
    return given


def _parse_count(name: str, text: str, most: int, unit: str = "") -> int:
    if text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= most:
        return int(text)
    raise BadParameter(f"{name}: expected a whole number from 1 to {most}{unit}, got {text[:20]!a}")
