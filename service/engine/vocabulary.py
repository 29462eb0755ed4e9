"""Every parameter of a request, once: how it is read, what it may be, who may say it.

The parser, the messages that list what is known, and the OpenAPI page go by these rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from media.clips.clip_times import MAX_FRAMES
from media.spec import AXES, MAX_VIEWS
from service.engine.failures import BadParameter

#: float() also reads nan, blanks, 1_0 and digits of other scripts.
NUMBER = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,3})?", re.IGNORECASE)

#: Of what may be wanted: an answer whose label can be explained.
EXPLAINED = ("labels", "probabilities", "logits")
OCCLUSION, ATTENTION = "occlusion", "attention"
#: Files of a request that are explained by occlusion: each is as much work as dozens of files.
MOST_EXPLAINED = 4


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of them.

    Attributes:
        schema: of its value, as JSON Schema; what a bundle or a server bounds more closely is
            bounded where it is read.
        description: for people.
        only: the modality whose requests may have it; None where all may.
    """

    name: str
    schema: Mapping[str, Any]
    description: str
    only: str | None = None

    def parse(self, text: str, most: int, unit: str = "") -> int:
        """A whole number; BadParameter outside 1 to ``most``."""
        if text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= most:
            return int(text)
        expected = f"expected a whole number from 1 to {most}{unit}"
        raise BadParameter(f"{self.name}: {expected}, got {text[:20]!a}")

    def parse_share(self, text: str) -> float:
        """A number from 0 to 1; BadParameter for another."""
        if NUMBER.fullmatch(text) and float(text) <= 1:
            return float(text)
        raise BadParameter(f"{self.name}: expected a number from 0 to 1, got {text[:20]!a}")

    @property
    def words(self) -> tuple[str, ...]:
        """Those of an enum, else of a boolean; the first is meant where nothing is said."""
        return tuple(self.schema.get("enum", ("false", "true")))

    def read(self, said: Mapping[str, str]) -> str:
        """One of the words; BadParameter for another."""
        if (given := said.get(self.name, self.words[0])) not in self.words:
            expected = f"expected one of {', '.join(self.words)}"
            raise BadParameter(f"{self.name}: {expected}; got {given[:20]!a}")
        return given


TOP_K = Parameter(
    "top_k",
    {"type": "integer", "minimum": 1},
    "Number of predictions, at most the number of labels; 5 (or all, if there are fewer) when it "
    "is not given.",
)
BUNDLE = Parameter(
    "bundle",
    {"type": "string"},
    "Name of a bundle; see GET /v1/bundles. NAME@VERSION insists on the version that answers.",
)
GRID = Parameter(
    "grid",
    {"type": "string", "pattern": "^(auto|[1-9][0-9]*(x[1-9][0-9]*)+)$"},
    "One of the bundle's grids; its first when it is not given. auto: for each file the largest "
    "whose input (grid times patch) is above the upright file on no axis, the smallest if all are, "
    "of equally large ones the nearest in shape; the answer names it. The size of a clip is that "
    "of its frames and their number (as many as the bundle's stride leaves), of a scan its voxels "
    "in SPL, counted in the bundle's own where these have a spacing.",
)
TIMEOUT_MS = Parameter(
    "timeout_ms",
    {"type": "integer", "minimum": 1},
    "When the answer is due, in milliseconds from the start of the request; at most, and where it "
    "is not given, the server's own time for this address. What cannot be answered in time is "
    "refused at once (429), or ended when the time has run out (504).",
)
WANT = Parameter(
    "want",
    {
        "type": "string",
        "enum": ["labels", "probabilities", "logits", "embedding"],
        "default": "labels",
    },
    "What a result holds: ranked labels; or, of all labels in the bundle's order, probabilities or "
    "logits; or the features before the head, where the bundle has them (else 422).",
)
ENCODING_FORMAT = Parameter(
    "encoding_format",
    {"type": "string", "enum": ["float", "base64"], "default": "float"},
    "Of arrays, so with another want than labels: a list of numbers, or base64 of little-endian "
    "float32.",
)
RAW = Parameter(
    "raw",
    {"type": "boolean", "default": False},
    "Whether probabilities are the network's own: not divided by the grid's temperature. Of labels "
    "and probabilities.",
)
ABSTAIN = Parameter(
    "abstain",
    {"type": "number", "minimum": 0, "maximum": 1},
    "Calibrated probability of the first label under which a result is abstained; 0 is never. The "
    "bundle's own when it is not given. Of labels and probabilities.",
)
STRICT = Parameter(
    "strict",
    {"type": "boolean", "default": False},
    "Whether the first file that fails ends its request.",
)
EXPLAIN = Parameter(
    "explain",
    {"type": "string", "enum": [OCCLUSION, ATTENTION]},
    f"Also say where the model looked, with want={', '.join(EXPLAINED)}. {OCCLUSION}: parts of "
    "every file are hidden, one after another, and the answer is asked for again; of at most "
    f"{MOST_EXPLAINED} files, as it is slow, and other work goes first. {ATTENTION}: how much of "
    "each patch attention carried into the answer; hardly slower than an answer, of bundles that "
    "were exported with it.",
)
EXPLAIN_LABEL = Parameter(
    "explain_label",
    {"type": "string"},
    f"With explain={OCCLUSION}: the label that is explained; the most probable one of each file "
    "when it is not given.",
)
VIEWS = Parameter(
    "views",
    {"type": "integer", "minimum": 1, "maximum": MAX_VIEWS},
    "How often a clip is sampled, at other times each, and the logits averaged; the bundle's own "
    f"number when it is not given. At most {MAX_FRAMES} frames in all.",
    only="video",
)

_ALL = (
    TOP_K, BUNDLE, GRID, TIMEOUT_MS, WANT, ENCODING_FORMAT, RAW, ABSTAIN, STRICT, EXPLAIN,
    EXPLAIN_LABEL, VIEWS,
)  # fmt: skip
#: Modality -> name -> what its requests may say.
PARAMETERS: dict[str, dict[str, Parameter]] = {
    modality: {one.name: one for one in _ALL if one.only in (None, modality)} for modality in AXES
}
#: The same of requests for jobs, whatever their files are.
OF_JOBS: dict[str, Parameter] = {
    one.name: one for one in (TOP_K, BUNDLE, GRID, VIEWS, WANT, ENCODING_FORMAT, RAW, ABSTAIN)
}
