"""The schemas of what a network saw of a file: what is sent, and what OpenAPI shows."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict  # pydantic takes typing's from Python 3.12 on

_SECONDS = "for every view, when each of its frames is shown, from the start of the clip"
_AXES = "where depth, height and width run to: S superior, P posterior, L left"
_SPACING = "between two voxels of depth, height and width as the network saw them; null where the "
_SPACING += "file does not say"
_SEEN_BOX = "what the network saw of a frame: top and bottom, left and right, pixels; null where "
_SEEN_BOX += "frames change their size"
_SEEN_VOXELS = "from where to where the network saw along each axis, in those voxels; what lies "
_SEEN_VOXELS += "beyond the scan was filled"
Box = list[list[float]]


class SeenImage(TypedDict):
    """Of a picture."""

    size: Annotated[list[int], Field(description="height and width of the upright original")]
    turn: Annotated[int, Field(description="EXIF orientation that made it upright", ge=1, le=8)]
    box: Annotated[Box, Field(description="what was seen of it: top and bottom, left and right")]


class SeenClip(TypedDict):
    """Of a clip."""

    seconds: Annotated[list[list[float]], Field(description=_SECONDS)]
    size: Annotated[list[int] | None, Field(description="height and width of upright frames")]
    box: Annotated[Box | None, Field(description=_SEEN_BOX)]


class SeenScan(TypedDict):
    """Of a scan."""

    orientation: Annotated[str, Field(description=_AXES)]
    spacing_mm: Annotated[list[float] | None, Field(description=_SPACING)]
    size: Annotated[list[int], Field(description="voxels of the scan per axis, before resampling")]
    box: Annotated[Box, Field(description=_SEEN_VOXELS)]


class OfImage(TypedDict):
    """A part of what is answered to a picture."""

    seen: Annotated[SeenImage, Field(description="which part of the picture the network saw")]


class OfClip(TypedDict):
    """A part of what is answered to a clip."""

    seen: Annotated[SeenClip, Field(description="which frames the network saw")]


class OfScan(TypedDict):
    """A part of what is answered to a scan."""

    seen: Annotated[SeenScan, Field(description="how the network saw the scan")]
