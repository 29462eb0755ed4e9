"""A line of a job's results: its class is what is written down, what checks it and OpenAPI's."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict  # pydantic takes typing's from Python 3.12 on

from service.engine.bulk import Answer
from service.engine.failures import Failure
from service.engine.job import EncodingFormat
from service.http.documents import Answerer, Document, FileProblem, Wanted
from service.http.problems import members
from service.http.seen_documents import SeenClip, SeenImage, SeenScan

_NAME = "as the form called the file, in an archive or folder its path there"
_SEEN = "which part of the file the network saw: of a picture, of a clip or of a scan"


class Item(TypedDict):
    """Which file a line is of."""

    item: Annotated[int, Field(description="its number in the request, from 1", ge=1)]
    filename: Annotated[str, Field(description=_NAME)]


class OfAny(TypedDict):
    """A part of what is answered, whatever the file is."""

    seen: Annotated[SeenImage | SeenClip | SeenScan, Field(description=_SEEN)]


class AnsweredItem(Item, Answerer, OfAny, Wanted):
    """As a result of ``/v1/classify``."""


class FailedItem(Item):
    """A file that has no answer."""

    error: FileProblem


JOB_LINE: TypeAdapter[Any] = TypeAdapter(AnsweredItem | FailedItem, config=Document.model_config)


def encode_line(
    number: int, name: str, answer: Answer, encoding_format: EncodingFormat = "float"
) -> str:
    """What became of an item, as one line without its end; ValueError unless it fits the schema."""
    told: dict[str, Any] = {"item": number, "filename": name}
    if isinstance(answer, Failure):
        told["error"] = members(answer)
    else:
        told |= answer.document(encoding_format)
    # in ASCII: names and labels may hold what some readers take for the end of a line
    return json.dumps(JOB_LINE.validate_python(told), allow_nan=False)
