"""Strict JSON <-> dataclass, for every document of the house.

Apart from the classes themselves: a process that only reads media can do without pydantic.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import reprlib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from media.spec import SpecError

T = TypeVar("T")

#: What pydantic calls a value of the wrong type -> what was expected in its place.
EXPECTED = {
    "bool_type": "bool",
    "int_type": "int",
    "float_type": "float",
    "string_type": "str",
    "tuple_type": "a list",
    "dict_type": "an object",
    "dataclass_type": "an object",
    "model_type": "an object",
}
#: No number is taken from a text, no whole number from a bool, and none is NaN or infinite, which
#: JSON has not, though Python reads both, and 1e999 as well.
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def to_json(value: Any) -> Any:
    """A dataclass as plain JSON types (tuples become lists); ValueError for NaN and infinity."""
    return json.loads(json.dumps(value, default=_fields, allow_nan=False))


def _fields(value: Any) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return value.model_dump()
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def from_json(cls: type[T], data: Any, where: str) -> T:
    """Build ``cls`` from parsed JSON; unknown, missing or mistyped keys raise SpecError.

    Args:
        cls: a dataclass whose fields are numbers, strings, tuples, literals, mappings, dataclasses
            or pydantic models.
        data: what ``json.loads`` gave.
        where: name of the document, for the message.
    """
    try:
        adapter = _adapter(cls)  # type: ignore[arg-type]  # mypy: no type[T] is hashable
        (value,) = adapter.validate_json(json.dumps([data]))
    except ValidationError as error:
        raise SpecError(_told(cls, error.errors(include_url=False), where)) from error
    return typing.cast(T, value)


@functools.cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    """A tuple of one: settings cannot be given for a dataclass itself, but reach those inside."""
    return TypeAdapter(tuple[cls], config=STRICT)


def _told(cls: type, faults: list[ErrorDetails], where: str) -> str:
    """Where, what was expected and what came: the first fault, unknown keys before all others.

    A misspelt key is unknown and missing at once, and its own spelling says more.
    """
    fault = min(faults, key=lambda fault: fault["type"] != "unexpected_keyword_argument")
    kind, place, came = fault["type"], fault["loc"][1:], reprlib.repr(fault["input"])
    if kind == "json_invalid":  # half a surrogate pair, or nested too deep
        return f"{where}: {fault['msg']}"
    if kind == "value_error":  # of a class that checks itself, in its own words
        return f"{_path(where, place)}: {fault['ctx']['error']}"
    if kind == "unexpected_keyword_argument":
        known = sorted(field.name for field in dataclasses.fields(_type_at(cls, place[:-1])))
        return f"{_path(where, place[:-1])}: unknown key {place[-1]!r}; known: {', '.join(known)}"
    if kind == "missing":
        return f"{_path(where, place[:-1])}: missing key {place[-1]!r}"
    if kind == "finite_number":
        return f"{_path(where, place)}: expected a finite number, got {came}"
    if kind == "literal_error":
        choices = ", ".join(map(str, typing.get_args(_type_at(cls, place))))
        return f"{_path(where, place)}: expected one of {choices}, got {came}"
    expected, found = EXPECTED.get(kind, fault["msg"]), type(fault["input"]).__name__
    return f"{_path(where, place)}: expected {expected}, got {found} {came}"


def _type_at(hint: Any, place: tuple[int | str, ...]) -> Any:
    """The annotated type at a place of a document, without ``| None``."""
    for key in place:
        if dataclasses.is_dataclass(hint):
            hint = typing.get_type_hints(hint)[str(key)]
        else:
            hint = typing.get_args(hint)[isinstance(key, str)]  # of a tuple, or a dict's values
        if typing.get_origin(hint) in (types.UnionType, typing.Union):
            (hint,) = (kind for kind in typing.get_args(hint) if kind is not types.NoneType)
    return hint


def _path(where: str, place: tuple[int | str, ...]) -> str:
    """``manifest.json.input.mean[1]``."""
    return where + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)


def read_json(path: Path) -> Any:
    """Parse a JSON file; anything that is not JSON raises SpecError naming the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path.name}: not valid JSON ({type(error).__name__})") from error
