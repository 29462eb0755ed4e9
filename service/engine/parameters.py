"""What a client says beside its files, checked: who shall answer, with how many labels, by when.

The server and ``python -m service classify`` read it here, so one text means the same to both.
"""

from __future__ import annotations

from collections.abc import Mapping

from media.clips.clip_times import MAX_FRAMES
from media.spec import MAX_VIEWS
from service.engine.engine import Engine
from service.engine.failures import BadParameter
from service.engine.job import DEFAULT_TOP_K
from service.engine.model import Choice


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


def parse_views(text: str, frames: int) -> int:
    """The number of views wanted; BadParameter where their frames would be too many."""
    return _parse_count("views", text, min(MAX_VIEWS, MAX_FRAMES // frames), f" of {frames} frames")


def _parse_count(name: str, text: str, most: int, unit: str = "") -> int:
    if text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= most:
        return int(text)
    raise BadParameter(f"{name}: expected a whole number from 1 to {most}{unit}, got {text[:20]!a}")
