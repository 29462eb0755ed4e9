"""The schema of an explanation: what is sent, and what OpenAPI shows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict  # pydantic takes typing's from Python 3.12 on

_UNIT = "px of the upright original, s, mm or voxel from the scan's first voxel in its orientation"
_UNIT += "; input px where the frames of a clip change their size"
_CELLS = "[from, to] of every cell; of time a list of these for every view, from a cell's first "
_CELLS += "frame to its last"
_VALUES = "what the log odds lost in the mean of the masks over a cell, below 0 where hiding it "
_VALUES += "helped: a nested list [*axes], of a clip [views, *axes]"
_MULTIPLES = "how many times an even share of all patches, 1 in the mean where share is 1: a "
_MULTIPLES += "nested list [*axes], of a clip [views, *axes]"
_SHARE = "of the patches together; the rest came from tokens that are no part of the file"
_OVERLAY = "base64 of a PNG: what the model saw, under the values"
_LOG_ODDS = "of the label with nothing hidden: log(p / (1 - p))"


class ExplanationAxis(TypedDict):
    """Where the cells of a map lie in the file, along one axis."""

    name: Annotated[str, Field(description="time or depth, height, width")]
    unit: Annotated[str, Field(description=_UNIT)]
    cells: Annotated[list[list[float] | list[list[float]]], Field(description=_CELLS)]


class Peak(TypedDict):
    """The cell that was worth most."""

    value: float
    index: Annotated[list[int], Field(description="of the greatest value in values")]
    where: Annotated[dict[str, list[float]], Field(description="axis to [from, to] of its cell")]


class Occlusion(TypedDict):
    """What hiding each part of the file took from a label."""

    method: Literal["occlusion"]
    label: Annotated[str, Field(description="the one that is explained")]
    index: Annotated[int, Field(description="of the label in the bundle's list", ge=0)]
    log_odds: Annotated[float, Field(description=_LOG_ODDS)]
    masks: Annotated[int, Field(description="rows that were run with something hidden")]
    axes: list[ExplanationAxis]
    values: Annotated[list[Any], Field(description=_VALUES)]
    peak: Peak
    overlay: Annotated[str, Field(description=_OVERLAY)]


class Attention(TypedDict):
    """How much of each patch attention carried into the answer."""

    method: Literal["attention"]
    share: Annotated[float, Field(description=_SHARE, ge=0, le=1)]
    axes: list[ExplanationAxis]
    values: Annotated[list[Any], Field(description=_MULTIPLES)]
    peak: Peak
    overlay: Annotated[str, Field(description=_OVERLAY)]


#: Where the model looked.
Explanation = Annotated[Occlusion | Attention, Field(discriminator="method")]
