"""Settings from the command line, what differs between two configs, and which of it may differ."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from typing import Any

from media.spec import SpecError
from media.strict_json import from_json, to_json
from models.encodings import ENCODINGS, complete
from training.config import TrainConfig

#: Where things lie. Data are compared by their content; a checkpoint to begin from is needed once.
PLACES = ("data", "init_from", "cache")
#: What decides no weight and no figure.
WITHOUT_EFFECT = (
    "save_every", "log_every", "read", "workers", "timeout", "skip_unreadable",
    "allow_duplicates",
)  # fmt: skip
#: What may change when a run goes on: how far its next steps go, how they are computed, what they
#: draw, and how many there are.
MAY_CHANGE = (
    "learning_rate", "schedule", "cooldown", "warmup_steps", "betas", "weight_decay", "clip_norm",
    "precision", "accumulate", "recompute", "compile", "device", "seed", "skip", "epochs",
    "patience",
)  # fmt: skip
#: Why nothing else may.
FIXED = {
    "model": "its weights are those of that model",
    "input": "its weights have learned from that input",
    "head": "it belongs to the beginning",
    "items": "it decides which items are trained on",
    "batch": "it decides what a step is; accumulate makes one need less memory",
    "freeze": "the state of the optimiser is of those layers",
    "head_first": "it belongs to the beginning",
    "layer_decay": "the state of the optimiser is of those groups",
    "ema": "the average of the steps so far is of that decay",
    "label_smoothing": "the losses of its epochs could not be compared",
    "class_weights": "the losses of its epochs could not be compared",
    "sampling": "an epoch would be half of each",
    "augment": "the losses of its epochs could not be compared",
    "choose": "the best checkpoint so far was chosen by it",
}
#: Settings that a name is added to; a JSON list stands for all of them.
LISTS = ("skip",)


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
        value = _value(text, node.get(leaf))
        node[leaf] = [*node[leaf], text] if key in LISTS and not isinstance(value, list) else value
    try:
        return from_json(TrainConfig, data, "config")
    except SpecError as error:
        raise SpecError(f"{error}{_left_over(data['model']['encoding'])}") from error


def _left_over(encoding: dict[str, Any]) -> str:
    """How to leave out what the encoding of the preset was told and the one asked for has not."""
    if encoding["name"] not in ENCODINGS:
        return ""
    own = {field.name for field in dataclasses.fields(ENCODINGS[encoding["name"]].OPTIONS)}
    strange = {name for name, value in encoding.items() if value is not None} - own - {"name"}
    ways = ", ".join(f"--set model.encoding.{name}=null" for name in sorted(strange))
    return f"; to leave out what it has not: {ways}" if strange else ""


def differences(old: TrainConfig, new: TrainConfig) -> dict[str, tuple[Any, ...]]:
    """What each setting was and is, by its dotted name, where it differs; places do not count."""
    before, after = named(old), named(new)
    pairs = {name: (before.get(name), after.get(name)) for name in sorted(before | after)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def named(config: TrainConfig) -> dict[str, Any]:
    """Every setting by its dotted name, as JSON has it, but for places."""
    return {name: value for name, value in _flat(_whole(config)).items() if name not in PLACES}


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
