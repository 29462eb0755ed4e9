"""Settings from the command line, and what differs between two configs."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any

from media.spec import SpecError, from_json, to_json
from models.encodings import complete
from training.config import OUTSIDE_THE_RECIPE, TrainConfig


def override(config: TrainConfig, assignments: list[str]) -> TrainConfig:
    """Apply ``key=value`` texts, e.g. ``epochs=3`` or ``model.encoding.block=4``.

    Values are JSON where they parse as JSON, text otherwise. An unknown key is a SpecError that
    lists the valid ones; what an encoding takes its class knows, and null leaves it to that.
    """
    data = to_json(config)
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise SpecError(f"--set takes key=value, got {assignment!r}")
        *parents, leaf = key.split(".")
        node: Any = data
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        known = isinstance(node, dict) and (leaf in node or parents == ["model", "encoding"])
        if not known or isinstance(node.get(leaf), dict):
            raise SpecError(_unknown_key(key, data))
        node[leaf] = _value(text, node.get(leaf))
    return from_json(TrainConfig, data, "config")


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Dotted names of the fields in which two configs differ, but for those outside the recipe."""
    before, after = _flat(_whole(old)), _flat(_whole(new))
    return sorted(
        name
        for name in before | after
        if before.get(name) != after.get(name) and name not in OUTSIDE_THE_RECIPE
    )


def _whole(config: TrainConfig) -> dict[str, Any]:
    """The config as JSON with every option of its encoding, said or not."""
    data = to_json(config)
    data["model"]["encoding"] = to_json(complete(config.model.encoding))
    return data


def _value(text: str, old: Any) -> Any:
    """The text as the kind of value that it replaces; a grid or patch may be written 12x8."""
    if isinstance(old, list) and re.fullmatch(r"\d+(x\d+)+", text):
        return [int(side) for side in text.split("x")]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        name = prefix + key
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def _unknown_key(key: str, data: dict[str, Any]) -> str:
    valid = sorted(_flat(data))
    near = difflib.get_close_matches(key, valid, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"unknown key {key!r}{hint}; valid keys: {', '.join(valid)}"
