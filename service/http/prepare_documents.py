"""What the OpenAPI page says of prepared inputs."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from media.spec import AXES
from service.engine import failures
from service.http import problems
from service.http.documents import Document, SeenClip, SeenScan
from service.http.examples import ANSWERS, ID, details
from service.http.openapi import KEY_PROBLEMS, add_problems, answer, classify_extra

#: Modality -> names of the parameters.
KNOWN = {"image": ("bundle", "grid"), "video": ("bundle", "grid", "views")}
KNOWN["volume"] = KNOWN["image"]
#: Of the pixels that are given.
MAX_BYTES = 2**25
OPERATIONS = {
    "image": ("prepareImage", "See an image as the network would"),
    "video": ("prepareVideo", "See a clip as the network would"),
    "volume": ("prepareVolume", "See a scan as the network would"),
}
#: Of the examples' six bytes.
SHAPES = {"image": [1, 1, 2, 3], "video": [1, 2, 1, 1, 3], "volume": [1, 2, 1, 3, 1]}
#: Nothing is run and no labels are ranked.
NOT_OF_PREPARING = {failures.InferenceFailed, failures.NoEmbedding}


class PreparedPixels(Document):
    """The array."""

    axes: list[str] = Field(description="what the axes are, like view, height, width, channel")
    shape: list[int] = Field(description="size of each")
    dtype: str = Field(description="uint8 or float32, little endian")
    data: str = Field(description="the array in C order as base64; values are from 0 to 255")


class PreparedTiming(Document):
    """Where the time went, milliseconds."""

    decode: float = Field(description="upload to pixels, the wait for a worker included")


class Prepared(Document):
    """A picture as the network would get it."""

    id: str = Field(description="of the request, as in the header X-Request-ID")
    bundle: str
    version: str
    grid: str = Field(description="tokens per axis, like 8x8; with auto the one taken")
    timing_ms: PreparedTiming
    pixels: PreparedPixels


class PreparedClip(Prepared):
    """A clip."""

    seen: SeenClip = Field(description="when each frame is shown")


class PreparedScan(Prepared):
    """A scan."""

    seen: SeenScan = Field(description="how the scan was turned and resampled")


MODELS: dict[str, type[Prepared]] = {
    "image": Prepared,
    "video": PreparedClip,
    "volume": PreparedScan,
}


def responses(modality: str) -> dict[int | str, dict[str, Any]]:
    """What the operation may end as."""
    (result,) = ANSWERS[modality]["results"]
    told = {name: result[name] for name in ("bundle", "version", "grid", "seen") if name in result}
    axes = ["view", *AXES[modality], "channel"]
    example = (
        {"id": ID}
        | told
        | {
            "timing_ms": {"decode": result["timing_ms"]["decode"]},
            "pixels": {
                "axes": axes,
                "shape": SHAPES[modality],
                "dtype": "uint8",
                "data": "AAECAwQF",
            },
        }
    )
    sentences = details(modality) | {
        problems.TooManyFiles: "a request may have at most one file",
        problems.UnknownParameter: (
            f"unknown parameter 'topk'; known parameters: {', '.join(KNOWN[modality])}"
        ),
        failures.BadParameter: f"expected an input of at most {MAX_BYTES} bytes; it has 50331648",
    }
    kinds = sentences.keys() - set(KEY_PROBLEMS) - NOT_OF_PREPARING
    told_well = answer(MODELS[modality], example, "The array, and what it was made of.")
    return {200: told_well, **add_problems({}, *kinds, sentences=sentences)}


def extra(modality: str) -> dict[str, Any]:
    """Parameters and body of the operation: those of classifying, of one file."""
    about = classify_extra(modality)
    body = about["requestBody"]
    form = body["content"]["multipart/form-data"]["schema"]
    form["properties"] = {
        "file": form["properties"]["file"] | {"maxItems": 1},
        **{name: form["properties"][name] for name in KNOWN[modality]},
    }
    body["description"] = body["description"].replace("one or more parts", "one part")
    known = [one for one in about["parameters"] if one["name"] in KNOWN[modality]]
    return about | {"parameters": known}
