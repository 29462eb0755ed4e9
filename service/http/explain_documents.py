"""The schema of an explanation, for the OpenAPI page."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """Base of the documents below."""

    model_config = ConfigDict(extra="forbid")


class ExplanationAxis(Part):
    """Where the cells of a map lie in the file, along one axis."""

    name: str = Field(description="time or depth, height, width")
    unit: str = Field(
        description="px of the upright original, s, mm or voxel from the scan's first voxel in its "
        "orientation; input px where the frames of a clip change their size"
    )
    cells: list[list[float] | list[list[float]]] = Field(
        description="[from, to] of every cell; of time a list of these for every view, from a "
        "cell's first frame to its last"
    )


class Peak(Part):
    """The cell that was worth most."""

    value: float
    index: list[int] = Field(description="of the greatest value in values")
    where: dict[str, list[float]] = Field(description="axis to [from, to] of its cell")


class Explanation(Part):
    """Where the model looked."""

    method: str
    label: str = Field(description="the one that is explained")
    index: int = Field(description="of the label in the bundle's list", ge=0)
    log_odds: float = Field(description="of the label with nothing hidden: log(p / (1 - p))")
    masks: int = Field(description="rows that were run with something hidden")
    axes: list[ExplanationAxis]
    values: list[Any] = Field(
        description="what the log odds lost in the mean of the masks over a cell, below 0 where "
        "hiding it helped: a nested list [*axes], of a clip [views, *axes]"
    )
    peak: Peak
    overlay: str = Field(description="base64 of a PNG: what the model saw, under the values")
