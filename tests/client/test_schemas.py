"""What the client reads of jobs is what the server's schemas say, member for member."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from client.answers import Floats, Nested, Result
from client.jobs import Job, JobPage, LineHead
from tests.helpers.service_fixtures import RunningServer

#: As JSON Schema calls what the client's types are made of.
TYPES: dict[Any, set[str]] = {
    str: {"string"}, int: {"integer"}, float: {"number"}, bool: {"boolean"}, bytes: {"string"},
    tuple: {"array"}, dict: {"object"}, Floats: {"array", "string"}, Nested: {"array"},
    types.NoneType: {"null"},
}  # fmt: skip
#: A class of the client, the server's schema, and what of that the class leaves to others.
PAIRS: list[tuple[type, str, set[str]]] = [
    (LineHead, "FailedItem", set()),
    (LineHead, "AnsweredItem", {one.name for one in dataclasses.fields(Result)}),
    (Result, "AnsweredItem", {"item", "filename"}),
    (Job, "JobDocument", {"results"}),
    (JobPage, "JobList", {"results"}),
]


@pytest.fixture(scope="module")
def schemas(server: RunningServer) -> dict[str, Any]:
    """Those of the OpenAPI document, by name."""
    found: dict[str, Any] = server.get("/openapi.json").json()["components"]["schemas"]
    return found


@pytest.mark.parametrize(("kind", "name", "left"), PAIRS)
def test_client_reads_what_the_schema_says(
    schemas: dict[str, Any], kind: type, name: str, left: set[str]
) -> None:
    """Nothing is passed over, what is needed is always there, and types are the same."""
    check(kind, schemas[name], schemas, left)


def check(kind: type, schema: dict[str, Any], schemas: dict[str, Any], left: set[str]) -> None:
    """An object, and what is in it."""
    hints, told = get_type_hints(kind), schema["properties"]
    own = [one for one in dataclasses.fields(kind) if not one.metadata.get("whole")]
    assert told.keys() - left <= {one.name for one in own}
    needed = {one.name for one in own if one.default is dataclasses.MISSING}
    assert needed <= set(schema["required"])
    for one in own:
        if one.name in told:
            found = {option["type"] for option in alternatives(told[one.name], schemas)}
            read = types_of(hints[one.name])
            assert found | {"null"} == read | {"null"}, one.name
            assert read >= found, one.name  # what may be null is read as such
            for inner in inner_classes(hints[one.name]):
                objects = list(objects_in(told[one.name], schemas))
                assert objects, one.name
                for option in objects:
                    check(inner, option, schemas, left)


def alternatives(schema: dict[str, Any], schemas: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schemas that one stands for, none of which is a reference or a choice."""
    if "$ref" in schema:
        yield from alternatives(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    elif choice := schema.get("anyOf") or schema.get("oneOf"):
        for one in choice:
            yield from alternatives(one, schemas)
    else:
        yield schema


def objects_in(schema: dict[str, Any], schemas: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The objects with members in a schema, be it of one or of a list of them."""
    for one in alternatives(schema, schemas):
        if "items" in one:
            yield from objects_in(one["items"], schemas)
        elif "properties" in one:
            yield one


def types_of(hint: Any) -> set[str]:
    """As JSON Schema calls a type of the client."""
    if get_origin(hint) is types.UnionType:
        return set().union(*map(types_of, get_args(hint)))
    return {"object"} if dataclasses.is_dataclass(hint) else TYPES[get_origin(hint) or hint]


def inner_classes(hint: Any) -> Iterator[type]:
    """The dataclasses in a type."""
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        yield hint
    for one in get_args(hint):
        yield from inner_classes(one)
