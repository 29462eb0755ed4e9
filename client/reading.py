"""JSON -> the dataclasses of ``answers``: every member of its own type, others passed over."""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import struct
import types
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from client.answers import Floats, Nested
from client.errors import BadAnswer

T = TypeVar("T")
NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
NAMES |= {list: "a list", dict: "an object"}


def read_json(kind: type[T], body: bytes) -> T:
    """The document that ``kind`` describes; BadAnswer names the member that is not as it should."""
    try:
        value = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"expected JSON, got {body[:40]!a}") from error
    return _read(kind, value, "answer")


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _read(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _read_object(kind, value, where)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is types.UnionType:
        return _read_either(inner, value, where)
    if kind is Floats:
        return _read_floats(value, where)
    if kind is Nested:
        return _read_nested(value, where)
    if kind is bytes:
        return _read_bytes(value, where)
    if origin is tuple:
        items = _check(list, value, where)
        return tuple(_read(inner[0], one, f"{where}[{n}]") for n, one in enumerate(items))
    if origin is dict:
        members = _check(dict, value, where)
        return {name: _read(inner[1], one, f"{where}.{name}") for name, one in members.items()}
    if kind is float and type(value) is int:
        return float(value)
    return _check(kind, value, where)


def _read_either(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """X | None; of objects the first kind whose members are there, else the last one."""
    first, other = kinds
    if other is types.NoneType:
        return None if value is None else _read(first, value, where)
    needed = {one.name for one in dataclasses.fields(first)}
    is_first = isinstance(value, dict) and needed <= value.keys()
    return _read(first if is_first else other, value, where)


def _read_floats(value: Any, where: str) -> Floats:
    """Numbers, or base64 of little-endian float32."""
    if not isinstance(value, str):
        return Floats(_read(tuple[float, ...], value, where))
    try:
        data = base64.b64decode(value, validate=True)
        return Floats(struct.unpack(f"<{len(data) // 4}f", data))
    except (ValueError, struct.error) as error:
        raise BadAnswer(f"{where}: expected base64 of float32, got {_shown(value)}") from error


def _read_nested(value: Any, where: str) -> Nested:
    """Lists of lists of numbers, or of numbers."""
    items = _check(list, value, where)
    return Nested(
        _read(Nested if isinstance(one, list) else float, one, f"{where}[{n}]")
        for n, one in enumerate(items)
    )


def _read_bytes(value: Any, where: str) -> bytes:
    try:
        return base64.b64decode(_check(str, value, where), validate=True)
    except ValueError as error:
        raise BadAnswer(f"{where}: expected base64, got {_shown(value)}") from error


def _read_object(kind: Any, value: Any, where: str) -> Any:
    members, found = _check(dict, value, where), {}
    hints = _hints(kind)
    for one in dataclasses.fields(kind):
        if one.metadata.get("whole"):
            found[one.name] = members
        elif one.name in members:
            found[one.name] = _read(hints[one.name], members[one.name], f"{where}.{one.name}")
        elif one.default is dataclasses.MISSING:
            raise BadAnswer(f"{where}: expected a member {one.name}, got {_shown(members)}")
    return kind(**found)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _check(kind: type, value: Any, where: str) -> Any:
    if type(value) is not kind:  # true is no whole number
        raise BadAnswer(f"{where}: expected {NAMES[kind]}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
