"""Every parameter of a request, once: how it is read, what it may be, who may say it.

The parser, the messages that list what is known, and the OpenAPI page go by these rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from media.clips.clip_times import MAX_FRAMES
from media.spec import AXES, MAX_VIEWS
from service.engine.failures import BadParameter


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A text.

    Attributes:
        description: for people.
        pattern: of the text, where not every one can be meant.
        only: the modality whose requests may have it; None where all may.
    """

    name: str
    description: str
    pattern: str | None = None
    only: str | None = None

    @property
    def schema(self) -> dict[str, Any]:
        """Of its value, as JSON Schema."""
        return {"type": "string"} | ({"pattern": self.pattern} if self.pattern else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Count(Parameter):
    """A whole number from 1 on.

    Attributes:
        most: whatever bundle answers; that, or the server, may have a lower bound.
    """

    most: int | None = None

    @property
    def schema(self) -> dict[str, Any]:
        bound = {"maximum": self.most} if self.most else {}
        return {"type": "integer", "minimum": 1} | bound

    def parse(self, text: str, most: int, unit: str = "") -> int:
        """The number; BadParameter outside 1 to ``most``."""
        if text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= most:
            return int(text)
        expected = f"expected a whole number from 1 to {most}{unit}"
        raise BadParameter(f"{self.name}: {expected}, got {text[:20]!a}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf(Parameter):
    """One of a few words, of which the first is meant where nothing is said."""

    known: tuple[str, ...]

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": [*self.known], "default": self.known[0]}

    def read(self, said: Mapping[str, str]) -> str:
        """The word; BadParameter for another."""
        if (given := said.get(self.name, self.known[0])) not in self.known:
            expected = f"expected one of {', '.join(self.known)}"
            raise BadParameter(f"{self.name}: {expected}; got {given[:20]!a}")
        return given


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag(OneOf):
    """``true``, or ``false`` where nothing is said."""

    known: tuple[str, ...] = ("false", "true")

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "boolean", "default": False}

    def is_set(self, said: Mapping[str, str]) -> bool:
        """Whether it is true; BadParameter for another word."""
        return self.read(said) == "true"


TOP_K = Count(
    name="top_k",
    description="Number of predictions, at most the number of labels; 5 (or all, if there are "
    "fewer) when it is not given.",
)
BUNDLE = Parameter(
    name="bundle",
    description="Name of a bundle; see GET /v1/bundles. NAME@VERSION insists on the version that "
    "answers.",
)
GRID = Parameter(
    name="grid",
    pattern="^(auto|[1-9][0-9]*(x[1-9][0-9]*)+)$",
    description="One of the bundle's grids; its first when it is not given. auto: for each file "
    "the largest whose input (grid times patch) is above the upright file on no axis, the smallest "
    "if all are, of equally large ones the nearest in shape; the answer names it. The size of a "
    "clip is that of its frames and their number (as many as the bundle's stride leaves), of a "
    "scan its voxels in SPL, counted in the bundle's own where these have a spacing.",
)
TIMEOUT_MS = Count(
    name="timeout_ms",
    description="When the answer is due, in milliseconds from the start of the request; at most, "
    "and where it is not given, the server's own time for this address. What cannot be answered in "
    "time is refused at once (429), or ended when the time has run out (504).",
)
WANT = OneOf(
    name="want",
    known=("labels", "probabilities", "logits", "embedding"),
    description="What a result holds: ranked labels; or, of all labels in the bundle's order, "
    "probabilities or logits; or the features before the head, where the bundle has them (else "
    "422).",
)
ENCODING_FORMAT = OneOf(
    name="encoding_format",
    known=("float", "base64"),
    description="Of arrays, so with another want than labels: a list of numbers, or base64 of "
    "little-endian float32.",
)
STRICT = Flag(name="strict", description="Whether the first file that fails ends its request.")
VIEWS = Count(
    name="views",
    only="video",
    most=MAX_VIEWS,
    description="How often a clip is sampled, at other times each, and the logits averaged; the "
    f"bundle's own number when it is not given. At most {MAX_FRAMES} frames in all.",
)

_ALL = (TOP_K, BUNDLE, GRID, TIMEOUT_MS, WANT, ENCODING_FORMAT, STRICT, VIEWS)
#: Modality -> name -> what its requests may say.
PARAMETERS: dict[str, dict[str, Parameter]] = {
    modality: {one.name: one for one in _ALL if one.only in (None, modality)} for modality in AXES
}
#: The same of requests for jobs, whatever their files are.
OF_JOBS: dict[str, Parameter] = {one.name: one for one in (TOP_K, BUNDLE, GRID, VIEWS)}
