"""Encodings by short names, as command lines and tables write them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from media.spec import SpecError, from_json
from models.encodings.base import Encoding
from models.spec import EncodingSpec


def parse_name(text: str, encodings: Mapping[str, type[Encoding]]) -> EncodingSpec:
    """See ``models.encodings.parse_encoding``, which hands over the table."""
    short, colon, rest = text.partition(":")
    name, assignments = _split(short, encodings)
    assignments += rest.split(",") if colon else []
    known = ["per_layer", "per_head", *encodings[name].OPTIONS]
    values: dict[str, object] = {"name": name}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or key not in known or key in values:
            raise SpecError(
                f"{name} takes key=value, each key once, of {', '.join(known)}; got {assignment!r}"
            )
        values[key] = _value(value)
    return from_json(EncodingSpec, values, name)


def short_name(encoding: EncodingSpec) -> str:
    """What ``parse_encoding`` reads as this spec: what it leaves to the encoding is not named."""
    block = "" if encoding.block is None else f"_{encoding.block}"
    plain = vars(EncodingSpec(encoding.name, encoding.block))
    options = [
        f"{key}={_text(value)}" for key, value in vars(encoding).items() if value != plain[key]
    ]
    return encoding.name + block + (":" + ",".join(options) if options else "")


def _split(short: str, encodings: Mapping[str, type[Encoding]]) -> tuple[str, list[str]]:
    """A name of the table, which may itself end in a number, and the block as an assignment."""
    if short in encodings:
        return short, []
    found = re.fullmatch(r"(.+)_([0-9]+)", short)
    if found and found[1] in encodings:
        return found[1], [f"block={found[2]}"]
    raise SpecError(f"unknown encoding {short!r}; known: {', '.join(sorted(encodings))}")


def _value(text: str) -> object:
    """JSON where it parses as JSON, text otherwise."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 100, not 100.0
    return value if isinstance(value, str) else json.dumps(value)
