"""Encodings by short names, as command lines and tables write them."""

from __future__ import annotations

import dataclasses
import json
import re

from media.spec import SpecError
from media.strict_json import from_json
from models.encodings.table import ENCODINGS, options_of
from models.spec import EncodingSpec


def parse_encoding(text: str) -> EncodingSpec:
    """``"liere_8"``, ``"comrope_ld"`` or ``"masa:basis=givens,factors=8"`` as a spec.

    A name of the table, perhaps with ``_`` and a block; then, after a colon, its options.
    ``short_name`` is the way back.

    Raises:
        SpecError: an unknown name or option, a value that the option cannot have.
    """
    short, colon, rest = text.partition(":")
    name, assignments = _split(short)
    assignments += rest.split(",") if colon else []
    known = [field.name for field in dataclasses.fields(ENCODINGS[name].OPTIONS)]
    values: dict[str, object] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or key not in known or key in values:
            raise SpecError(
                f"{name} takes key=value, each key once, of {', '.join(known)}; got {assignment!r}"
            )
        values[key] = _value(value)
    encoding = from_json(EncodingSpec, {"name": name, **values}, name)
    options_of(encoding)
    return encoding


def short_name(encoding: EncodingSpec) -> str:
    """What ``parse_encoding`` reads as this encoding: its block, and what is not a default.

    However a spec was written, the same encoding has the same name.
    """
    options, defaults = vars(options_of(encoding)), vars(ENCODINGS[encoding.name].OPTIONS())
    block = f"_{options['block']}" if "block" in options else ""
    told = [
        f"{key}={_text(value)}"
        for key, value in options.items()
        if key != "block" and value != defaults[key]
    ]
    return encoding.name + block + (":" + ",".join(told) if told else "")


def _split(short: str) -> tuple[str, list[str]]:
    """A name of the table, which may itself end in a number, and the block as an assignment."""
    if short in ENCODINGS:
        return short, []
    found = re.fullmatch(r"(.+)_([0-9]+)", short)
    if found and found[1] in ENCODINGS:
        return found[1], [f"block={found[2]}"]
    raise SpecError(f"unknown encoding {short!r}; known: {', '.join(sorted(ENCODINGS))}")


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
