"""What a client says beside its files, checked: who shall answer, with how many labels, by when.

The server and ``python -m service classify`` read it here, so one text means the same to both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from media.clips.clip_times import MAX_FRAMES
from media.spec import MAX_VIEWS
from service.engine.engine import Engine
from service.engine.failures import BadParameter
from service.engine.job import DEFAULT_TOP_K, EncodingFormat, Want
from service.engine.model import Choice
from service.engine.vocabulary import (
    ABSTAIN,
    ENCODING_FORMAT,
    RAW,
    STRICT,
    TIMEOUT_MS,
    TOP_K,
    VIEWS,
    WANT,
)

#: Of the wants of a job those that clients may say.
WANTS = WANT.words
#: Of those the ones that tell probabilities.
PROBABLE = WANTS[:2]
FORMATS = ENCODING_FORMAT.words


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
        want = WANT.read(parameters)
        if want != "labels" and "top_k" in parameters:
            raise BadParameter(f"top_k: only of want=labels; with want={want} all are given")
        if want == "labels" and "encoding_format" in parameters:
            raise BadParameter("encoding_format: only of arrays, so with another want than labels")
        if want not in PROBABLE:
            for one in (RAW, ABSTAIN):
                if one.name in parameters:
                    raise BadParameter(f"{one.name}: only of probabilities; want={want} has none")
        encoding_format = cast(EncodingFormat, ENCODING_FORMAT.read(parameters))
        strict, raw = (one.read(parameters) == "true" for one in (STRICT, RAW))
        said = parameters.get(ABSTAIN.name)
        abstain = None if said is None else ABSTAIN.parse_share(said)
        return cls(cast(Want, want), encoding_format, strict, raw, abstain)


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
    if not manifest.labels:  # none are ranked, and who wants them is told so
        return choice, DEFAULT_TOP_K
    return choice, parse_top_k(parameters.get("top_k"), len(manifest.labels))


def parse_timeout(text: str, most_seconds: float) -> float:
    """The seconds that ``timeout_ms`` means; BadParameter below a millisecond or above the most."""
    return TIMEOUT_MS.parse(text, round(1000 * most_seconds)) / 1000


def parse_top_k(text: str | None, labels: int) -> int:
    """The number of predictions wanted; BadParameter outside 1 to the number of labels."""
    return min(DEFAULT_TOP_K, labels) if text is None else TOP_K.parse(text, labels)


def parse_views(text: str, frames: int) -> int:
    """The number of views wanted; BadParameter where their frames would be too many."""
    return VIEWS.parse(text, min(MAX_VIEWS, MAX_FRAMES // frames), f" of {frames} frames")
