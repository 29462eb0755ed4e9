"""Everything that decides a run, as one frozen object."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from typing import Any, Literal

from models.spec import AXES, InputSpec, ModelSpec, SpecError, from_json, to_json

#: Fields that may change when a run is resumed: they decide nothing. The data's content, which
#: does, is compared by its hash.
FREE = ("data", "workers", "skip_unreadable")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run. Saved, resolved, with every checkpoint.

    Attributes:
        data: path of a folder, .csv or .npz (see ``models.sources``).
        model: its ``classes`` is 0 until the labels of the data are known.
        batch: items per step; a last, smaller batch of an epoch is left out.
        learning_rate: the peak, reached after ``warmup_steps``; then a cosine down to 0.
        weight_decay: of matrices only; norms, biases, tokens and encodings have none.
        label_smoothing: share of the target given to all classes alike.
        crop_padding: pixels by which a training image may be shifted, edges mirrored.
        flip: mirror half of the training images left to right.
        precision: ``bf16`` autocasts the network; rotations stay float32 in either.
        save_every: steps between checkpoints; the end of an epoch always saves.
        workers: threads that decode the data before the first step.
        skip_unreadable: leave broken items out, named, instead of stopping.
    """

    data: str
    model: ModelSpec
    input: InputSpec
    epochs: int = 20
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 500
    label_smoothing: float = 0.1
    crop_padding: int = 4
    flip: bool = True
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    save_every: int = 500
    workers: int = 2
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "save_every", "workers"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("weight_decay", "warmup_steps", "crop_padding", "seed"):
            if not 0 <= getattr(self, name) < 2**63:
                raise SpecError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise SpecError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.label_smoothing < 1:
            raise SpecError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        axes = AXES[self.input.modality]
        if len(self.model.grid) != len(axes):
            raise SpecError(
                f"{self.input.modality} input has the axes {', '.join(axes)}; "
                f"got model.grid {self.model.grid}"
            )


def override(config: TrainConfig, assignments: list[str]) -> TrainConfig:
    """Apply ``key=value`` texts, e.g. ``epochs=3`` or ``model.encoding.block=4``.

    Values are JSON where they parse as JSON, text otherwise. An unknown key is a SpecError that
    lists the valid ones.
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
        if not isinstance(node, dict) or leaf not in node or isinstance(node[leaf], dict):
            raise SpecError(_unknown_key(key, data))
        node[leaf] = _value(text)
    return from_json(TrainConfig, data, "config")


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Dotted names of the fields in which two configs differ, but for the FREE ones."""
    before, after = _flat(to_json(old)), _flat(to_json(new))
    return sorted(
        name for name in before | after if before.get(name) != after.get(name) and name not in FREE
    )


def _value(text: str) -> Any:
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
