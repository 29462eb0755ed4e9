"""Everything that decides a run, as one frozen object."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
from typing import Any, Literal

from models.spec import AXES, InputSpec, ModelSpec, SpecError, from_json, to_json

#: Fields that may change when a run is resumed: they decide nothing. The data's content, which
#: does, is compared by its hash.
FREE = ("data", "init_from", "workers", "skip_unreadable")


@dataclasses.dataclass(frozen=True)
class Augment:
    """What training items go through before a step; every item draws for itself.

    Attributes:
        crop_padding: pixels by which an item may be shifted, edges mirrored; without crops only.
        flip: mirror half of the items left to right.
        crop_scale: smallest and largest share of its area that is cut out of an item and drawn to
            full size; both 1 for no crop.
        crop_ratio: smallest and largest width over height of such a part, relative to the item's.
        oversize: items are decoded this many times as large as the network's input, so that crops
            keep their detail; memory grows with its square.
        operations: how many operations of RandAugment an item goes through.
        magnitude: their strength, 0 to 1.
        colour: strength of random brightness, contrast, saturation and hue, 0 to 1.
        erase: probability that a rectangle is filled with the item's mean colour.
        mixup, cutmix: alpha of the Beta distribution of the shares; 0 for off. With both on, each
            item goes through one of them.
    """

    crop_padding: int = 4
    flip: bool = True
    crop_scale: tuple[float, ...] = (1.0, 1.0)
    crop_ratio: tuple[float, ...] = (0.75, 4 / 3)
    oversize: float = 1.0
    operations: int = 0
    magnitude: float = 0.3
    colour: float = 0.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name in ("crop_padding", "operations"):
            _at_least(self, name, 0)
        for name in ("magnitude", "colour", "erase"):
            _between(self, name, 0, 1)
        for name in ("mixup", "cutmix"):
            _between(self, name, 0, 100)
        _between(self, "oversize", 1, 2)  # crops are sampled without a filter: more would alias
        _range(self, "crop_scale", 1.0)
        _range(self, "crop_ratio", 10.0)
        if self.oversize > 1 and not self.crops:
            raise SpecError(
                f"augment.oversize {self.oversize} needs crops: expected augment.crop_scale below "
                f"1, got {list(self.crop_scale)}"
            )

    @property
    def crops(self) -> bool:
        """Whether parts are cut out and drawn to full size."""
        return self.crop_scale != (1.0, 1.0)

    @property
    def changes_values(self) -> bool:
        """Whether more happens to items than that their pixels move."""
        return self.crops or bool(self.operations or self.colour or self.erase)

    @property
    def mixes(self) -> bool:
        """Whether items are mixed with each other."""
        return bool(self.mixup or self.cutmix)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run. Saved, resolved, with every checkpoint.

    Attributes:
        data: path of a folder, .csv, .npz, .zip, .tar, .tar.gz or .tgz (see ``models.sources``).
        model: its ``classes`` is 0 until the labels of the data are known.
        init_from: checkpoint whose weights a fine-tuning starts from.
        head: of such a checkpoint: ``keep`` insists on its labels, ``new`` starts anew, ``auto``
            keeps it where the labels are the same.
        freeze: layers, from the first on, that stay as they are, and with them everything before
            them and the encoding; 0 for none.
        batch: items per update; a last, smaller batch of an epoch is left out.
        accumulate: parts that a batch is computed in, one after the other, to need less memory.
        learning_rate: the peak, reached after ``warmup_steps``; then a cosine down to 0.
        warmup_steps: never more than a fifth of all steps.
        layer_decay: what the rate is multiplied by with every layer away from the head.
        weight_decay: of matrices only; norms, biases, tokens and encodings have none.
        clip_norm: gradients longer than this are shortened to it; 0 for never.
        ema: decay of the exponential moving average of the weights, which is then what is
            measured and exported; 0 for none. It begins faster: (1 + n) / (10 + n) after n updates.
        label_smoothing: share of the target given to all classes alike.
        class_weights: ``balanced`` weighs an item by items / (classes * items of its class).
        sampling: ``balanced`` draws every class equally often; an epoch has as many items.
        choose: what ``best`` is chosen by, on the validation split.
        precision: ``bf16`` autocasts the network; rotations stay float32 in either.
        compile: run the network through torch.compile; needs a C++ compiler.
        save_every: steps between checkpoints; the end of an epoch always saves.
        workers: threads that decode the data before the first step.
        skip_unreadable: leave broken items out, named, instead of stopping.
    """

    data: str
    model: ModelSpec
    input: InputSpec
    init_from: str | None = None
    head: Literal["auto", "keep", "new"] = "auto"
    freeze: int = 0
    epochs: int = 20
    batch: int = 128
    accumulate: int = 1
    learning_rate: float = 1e-3
    layer_decay: float = 1.0
    weight_decay: float = 0.05
    warmup_steps: int = 500
    clip_norm: float = 0.0
    ema: float = 0.0
    label_smoothing: float = 0.1
    class_weights: Literal["none", "balanced"] = "none"
    sampling: Literal["shuffle", "balanced"] = "shuffle"
    choose: Literal["top1", "balanced_accuracy", "loss"] = "top1"
    augment: Augment = dataclasses.field(default_factory=Augment)
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    save_every: int = 500
    workers: int = 2
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "save_every", "workers"):
            _at_least(self, name, 1)
        for name in ("weight_decay", "warmup_steps", "clip_norm", "freeze", "seed"):
            _at_least(self, name, 0)
        if not 0 < self.learning_rate < math.inf:
            raise SpecError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 < self.layer_decay <= 1:
            raise SpecError(f"layer_decay must be in (0, 1], got {self.layer_decay}")
        for name in ("label_smoothing", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise SpecError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.batch % self.accumulate:
            raise SpecError(f"batch {self.batch} is not divisible by accumulate {self.accumulate}")
        if self.freeze > self.model.depth:
            raise SpecError(f"freeze must be at most depth {self.model.depth}, got {self.freeze}")
        if self.class_weights == self.sampling == "balanced":
            raise SpecError(
                "class_weights and sampling both balance: expected one of them balanced, got both"
            )
        if self.init_from is None and (self.freeze or self.head != "auto"):
            raise SpecError("freeze and head are for fine-tuning: expected --init-from, got none")
        axes = AXES[self.input.modality]
        if len(self.model.grid) != len(axes):
            raise SpecError(
                f"{self.input.modality} input has the axes {', '.join(axes)}; "
                f"got model.grid {self.model.grid}"
            )


def _at_least(config: Any, name: str, least: int) -> None:
    value = getattr(config, name)
    if not least <= value < 2**63:
        words = f"at least {least}" if least else "0 or more"
        raise SpecError(f"{name} must be {words}, got {value}")


def _between(config: Any, name: str, least: float, most: float) -> None:
    value = getattr(config, name)
    if not least <= value <= most:
        raise SpecError(f"augment.{name} must be from {least} to {most}, got {value}")


def _range(config: Any, name: str, most: float) -> None:
    value = getattr(config, name)
    if len(value) != 2 or not 0 < value[0] <= value[1] <= most:
        raise SpecError(
            f"augment.{name} must be two numbers, smallest first, above 0 and up to {most:g}; "
            f"got {list(value)}"
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
        node[leaf] = _value(text, node[leaf])
    return from_json(TrainConfig, data, "config")


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Dotted names of the fields in which two configs differ, but for the FREE ones."""
    before, after = _flat(to_json(old)), _flat(to_json(new))
    return sorted(
        name for name in before | after if before.get(name) != after.get(name) and name not in FREE
    )


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
