"""What the OpenAPI page says of prepared inputs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict  # pydantic takes typing's from Python 3.12 on

from media.spec import AXES
from service.engine import failures
from service.engine.vocabulary import PARAMETERS
from service.http import problems
from service.http.documents import Document
from service.http.examples import ANSWERS, ID, details
from service.http.openapi import KEY_PROBLEMS, about, answer, classify_extra, refer
from service.http.seen_documents import SeenClip, SeenImage, SeenScan

#: Modality -> name -> what its requests may say.
KNOWN = {
    modality: {name: one for name, one in known.items() if name in ("bundle", "grid", "views")}
    for modality, known in PARAMETERS.items()
}
#: Of the pixels that are given.
MAX_BYTES = 2**25
THINGS = {"image": "an image", "video": "a clip", "volume": "a scan"}
#: Of the examples' six bytes.
SHAPES = {"image": [1, 1, 2, 3], "video": [1, 2, 1, 1, 3], "volume": [1, 2, 1, 3, 1]}
#: Nothing is run and no labels are ranked.
NOT_OF_PREPARING = {
    failures.InferenceFailed,
    failures.NoAttention,
    failures.NoEmbedding,
    failures.NoLabels,
    failures.ExplanationTooLong,
}


class PreparedPixels(TypedDict):
    """The array."""

    axes: Annotated[list[str], Field(description="like view, height, width, channel")]
    shape: Annotated[list[int], Field(description="size of each axis")]
    dtype: Annotated[str, Field(description="uint8 or float32, little endian")]
    data: Annotated[str, Field(description="base64 of the array in C order; 0 to 255")]


class PreparedTiming(TypedDict):
    """Where the time went, milliseconds."""

    decode: Annotated[float, Field(description="upload to pixels, the wait for a worker included")]


class Prepared(Document):
    """A file as the network would get it."""

    id: str = Field(description="of the request, as in the header X-Request-ID")
    bundle: str
    version: str
    grid: str = Field(description="tokens per axis, like 8x8; with auto the one taken")
    timing_ms: PreparedTiming
    pixels: PreparedPixels


class PreparedImage(Prepared):
    """A picture."""

    seen: SeenImage = Field(description="which part of it is seen")


class PreparedClip(Prepared):
    """A clip."""

    seen: SeenClip = Field(description="when each frame is shown")


class PreparedScan(Prepared):
    """A scan."""

    seen: SeenScan = Field(description="how the scan was turned and resampled")


MODELS: dict[str, type[Prepared]] = {
    "image": PreparedImage,
    "video": PreparedClip,
    "volume": PreparedScan,
}


def prepare(modality: str) -> dict[str, Any]:
    """Arguments of the route that prepares a modality."""
    (result,) = ANSWERS[modality]["results"]
    axes = ["view", *AXES[modality], "channel"]
    example = {
        "id": ID,
        **{name: result[name] for name in ("bundle", "version", "grid", "seen")},
        "timing_ms": {"decode": result["timing_ms"]["decode"]},
        "pixels": {
            "axes": axes, "shape": SHAPES[modality], "dtype": "uint8", "data": "AAECAwQF",
        },
    }  # fmt: skip
    sentences = details(modality) | {
        problems.TooManyFiles: "a request may have at most one file",
        problems.UnknownParameter: (
            f"unknown parameter 'topk'; known parameters: {', '.join(KNOWN[modality])}"
        ),
        failures.BadParameter: f"expected an input of at most {MAX_BYTES} bytes; it has 50331648",
    }
    good = answer(MODELS[modality], example, "The array, and what it was made of.")
    return about(
        f"prepare{modality.title()}",
        f"See {THINGS[modality]} as the network would",
        "prepare",
        good | {"headers": refer("Server-Timing")},
        *(sentences.keys() - set(KEY_PROBLEMS) - NOT_OF_PREPARING),
        sentences=sentences,
        description="The pixels that enter the graph: what is left of the file after decoding, "
        "cutting and resizing. Values run from 0 to 255; mean and std are applied inside the "
        "network. One file a request.",
        openapi_extra=_extra(modality),
    )


def _extra(modality: str) -> dict[str, Any]:
    """Parameters and body: those of classifying, of one file."""
    told = classify_extra(modality)
    body = told["requestBody"]
    form = body["content"]["multipart/form-data"]["schema"]
    form["properties"] = {
        "file": form["properties"]["file"] | {"maxItems": 1},
        **{name: form["properties"][name] for name in KNOWN[modality]},
    }
    body["description"] = body["description"].replace("one or more parts", "one part")
    known = [one for one in told["parameters"] if one["name"] in KNOWN[modality]]
    return told | {"parameters": known}
