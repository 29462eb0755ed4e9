"""Everything that decides a run, as one frozen object."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import torch

from media.spec import AXES, InputSpec, SpecError
from models.encodings import make_encoding
from models.spec import ModelSpec

#: Options of ``Augment`` that only some modalities have.
ONLY = {
    "colour": ("image", "video"),
    "operations": ("image", "video"),
    "intensity": ("volume",),
    "noise": ("volume",),
    "rotate": ("volume",),
}


@dataclasses.dataclass(frozen=True)
class Augment:
    """What training items go through before a step; every item draws for itself.

    All frames of a clip go through the same. Of a scan, area means volume.

    Attributes:
        crop_from: what parts are cut out of. ``item``: of the item as it was decoded, once for the
            run. ``picture``: of the whole picture, scan or clip in its file (of a clip at any
            moment), decoded for every step anew: they reach the borders and keep their detail.
        crop_padding: pixels by which an item may be shifted, edges mirrored; without crops only.
        flip: mirror half of the items left to right.
        flip_axes: other axes along which half of the items are mirrored, each for itself: height;
            depth of scans; time of clips, which then run backwards.
        crop_scale: smallest and largest share of its area that is cut out of an item and drawn to
            full size; both 1 for no crop.
        crop_ratio: smallest and largest width over height of such a part, relative to the item's,
            which is the network's; of a scan each side over the mean of the three.
        oversize: items are decoded this many times as large as the network's input, so that crops
            keep their detail; memory grows with its square, of scans with its cube. Of parts of
            the whole picture it has no meaning.
        rotate: scans are turned about each axis by up to so many degrees.
        operations: how many operations of RandAugment an image or clip goes through.
        magnitude: their strength, 0 to 1.
        colour: strength of random brightness, contrast, saturation and hue of images and clips,
            0 to 1.
        intensity: strength of random scale, offset and gamma of scans, 0 to 1.
        noise: of scans, the largest standard deviation of normal noise, as a share of white.
        erase: probability that a rectangle, of a scan a box, is filled with the item's mean colour.
        mixup, cutmix: alpha of the Beta distribution of the shares; 0 for off. With both on, each
            item goes through one of them.
    """

    crop_padding: int = 4
    flip: bool = True
    flip_axes: tuple[str, ...] = ()
    crop_scale: tuple[float, ...] = (1.0, 1.0)
    crop_ratio: tuple[float, ...] = (0.75, 4 / 3)
    oversize: float = 1.0
    rotate: float = 0.0
    operations: int = 0
    magnitude: float = 0.3
    colour: float = 0.0
    intensity: float = 0.0
    noise: float = 0.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    crop_from: Literal["item", "picture"] = "item"

    def __post_init__(self) -> None:
        for name in ("crop_padding", "operations"):
            _at_least(self, name, 0)
        for name in ("magnitude", "colour", "intensity", "noise", "erase"):
            _between(self, name, 0, 1)
        _between(self, "rotate", 0, 180)
        for name in ("mixup", "cutmix"):
            _between(self, name, 0, 100)
        _between(self, "oversize", 1, 2)  # crops are sampled without a filter: more would alias
        _range(self, "crop_scale", 1.0)
        _range(self, "crop_ratio", 10.0)
        if self.oversize > 1 and self.reads_parts:
            raise SpecError(
                "augment.crop_from=picture reads parts as large as the network's input: expected "
                f"augment.oversize 1, got {self.oversize}"
            )
        if self.oversize > 1 and not self.crops:
            raise SpecError(
                f"augment.oversize {self.oversize} needs crops: expected augment.crop_scale below "
                f"1, got {list(self.crop_scale)}"
            )

    @property
    def crops(self) -> bool:
        """Whether parts are cut out of decoded items and drawn to full size."""
        return not self.reads_parts and self.crop_scale != (1.0, 1.0)

    @property
    def reads_parts(self) -> bool:
        """Whether a part of an item is decoded, another one in every step."""
        return self.crop_from == "picture"

    @property
    def changes_values(self) -> bool:
        """Whether more happens to items than that their pixels move."""
        return self.crops or any(
            (self.rotate, self.operations, self.colour, self.intensity, self.noise, self.erase)
        )

    @property
    def mixes(self) -> bool:
        """Whether items are mixed with each other."""
        return bool(self.mixup or self.cutmix)

    def check_modality(self, modality: str) -> None:
        """SpecError that names an option which items of this modality do not have."""
        for name, modalities in ONLY.items():
            if getattr(self, name) and modality not in modalities:
                raise SpecError(
                    f"augment.{name} is for {' and '.join(modalities)} input; expected 0 for "
                    f"{modality}, got {getattr(self, name)}"
                )
        *others, _ = AXES[modality]  # the last one is what ``flip`` mirrors
        named = list(self.flip_axes)
        if not set(named) <= set(others) or len(set(named)) < len(named):
            raise SpecError(
                f"augment.flip_axes of {modality} input must be some of {', '.join(others)}, each "
                f"once (augment.flip mirrors left to right); got {named}"
            )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run. Saved, resolved, with every checkpoint.

    Attributes:
        data: path of a folder, .csv, .npz, .zip, .tar, .tar.gz or .tgz, or a pattern of tar shards
            (see ``media.sources``).
        model: its ``classes`` is 0 until the labels of the data are known.
        init_from: checkpoint whose weights a fine-tuning starts from.
        head: of such a checkpoint: ``keep`` insists on its labels, ``new`` starts anew, ``auto``
            keeps it where the labels are the same.
        freeze: layers, from the first on, that stay as they are, and with them everything before
            them and the encoding; 0 for none.
        head_first: epochs, from the first on, in which the head learns alone, as with ``freeze`` at
            all layers: a head that begins anew would pull at what the others know.
        items: training items at most, drawn alike from every class, the same ones for every seed;
            0 for all.
        skip: ids of training items to leave out, one more with every ``--set skip=ID``. Order and
            number of steps stay; in their places other items of their classes come once more.
        epochs: the rate falls to 0 at the end of so many, also where a run goes on with another
            number of them.
        patience: end the run after so many epochs without a better figure than the best one, by
            ``choose``; 0 for never.
        batch: items per update, of all processes together; a last, smaller batch of an epoch is
            left out.
        accumulate: parts that a batch is computed in, one after the other, to need less memory, in
            every process; as many items at a time are measured.
        learning_rate: the peak, reached after ``warmup_steps``.
        schedule: of the rate after that. ``cosine`` and ``linear`` fall to 0 at once, ``wsd`` stays
            (warm-up, stable, decay; arXiv 2404.06395) and falls in the ``cooldown``, ``constant``
            never falls.
        cooldown: of ``wsd``, the last share of all steps, in which the rate falls linearly to 0.
        warmup_steps: never more than a fifth of all steps.
        betas: of AdamW, how much of their past its two means keep: of the gradient, of its square.
        layer_decay: what the rate is multiplied by with every layer away from the head.
        weight_decay: of matrices only; norms, biases, tokens and encodings have none.
        clip_norm: gradients longer than this are shortened to it; 0 for never.
        ema: decay of the exponential moving average of the weights, which is then what is
            measured and exported; 0 for none. It begins faster: (1 + n) / (10 + n) after n updates.
        label_smoothing: share of the target given to all classes alike.
        class_weights: ``balanced`` weighs an item by items / (classes * items of its class).
        sampling: ``balanced`` draws every class equally often; an epoch has as many items.
        choose: what ``best`` is chosen by, on the validation split; ``last`` takes the last epoch,
            for a split too small to choose by.
        precision: ``bf16`` and ``fp16`` autocast the network, ``tf32`` lets a GPU round the factors
            of its products; rotations stay float32 in all. The loss of ``fp16`` is scaled; a step
            whose gradient overflows is skipped and the scale halved.
        recompute: of the forward pass keep only what enters each layer, and compute the layers
            again for the gradient: less memory for one more forward pass, the same weights.
        compile: run the network through torch.compile; needs a C++ compiler.
        save_every: steps between checkpoints; the end of an epoch always saves.
        log_every: steps between looks at loss and gradient, for which a GPU is waited for; 0 for
            every one on a CPU, where it costs nothing, and every 25th on a GPU. A step that is
            not finite changes no weight, and ends the run at the next look.
        read: ``once`` decodes all items before the first step, ``each-step`` those of a batch when
            a step wants them. ``auto`` reads in each step where parts of whole pictures are
            trained on, and where decoded items would take more than half of the memory and neither
            ``cache`` nor ``skip_unreadable`` asks to decode them all. A validation split that
            large is read whenever it is measured on.
        workers: processes that read ahead of the steps, 0 for none: the step then waits for its
            batch. With ``read=once`` threads that decode, 1 at least.
        cache: folder that keeps decoded splits for all later runs, as plain arrays that are
            mapped and may be larger than the memory; a relative one begins beside the run. null:
            every run decodes for itself, into memory.
        timeout: minutes that a process of several waits for the others, who may be decoding or
            measuring; one that has ended is noticed at once.
        skip_unreadable: leave broken items out, named, of what is decoded before the first step,
            instead of stopping. One that is read in a step ends the run, with how to skip it.
        allow_duplicates: go on where the same bytes lie in two splits; report and card say so.
    """

    data: str
    model: ModelSpec
    input: InputSpec
    init_from: str | None = None
    head: Literal["auto", "keep", "new"] = "auto"
    freeze: int = 0
    head_first: int = 0
    items: int = 0
    skip: tuple[str, ...] = ()
    epochs: int = 20
    patience: int = 0
    batch: int = 128
    accumulate: int = 1
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    cooldown: float = 0.2
    layer_decay: float = 1.0
    weight_decay: float = 0.05
    warmup_steps: int = 500
    betas: tuple[float, ...] = (0.9, 0.98)
    clip_norm: float = 0.0
    ema: float = 0.0
    label_smoothing: float = 0.1
    class_weights: Literal["none", "balanced"] = "none"
    sampling: Literal["shuffle", "balanced"] = "shuffle"
    choose: Literal["top1", "balanced_accuracy", "loss", "last"] = "top1"
    augment: Augment = dataclasses.field(default_factory=Augment)
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    recompute: bool = False
    compile: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    save_every: int = 500
    log_every: int = 0
    read: Literal["auto", "once", "each-step"] = "auto"
    workers: int = 2
    cache: str | None = None
    timeout: int = 120
    skip_unreadable: bool = False
    allow_duplicates: bool = False

    @property
    def items_at_a_time(self) -> int:
        """That go through the network together."""
        return self.batch // self.accumulate

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "save_every", "timeout"):
            _at_least(self, name, 1)
        for name in ("weight_decay", "warmup_steps", "clip_norm", "freeze", "head_first", "items",
                     "seed", "patience", "log_every", "workers"):  # fmt: skip
            _at_least(self, name, 0)
        if not 0 < self.learning_rate < math.inf:
            raise SpecError(f"learning_rate must be positive, got {self.learning_rate}")
        for name in ("layer_decay", "cooldown"):
            if not 0 < getattr(self, name) <= 1:
                raise SpecError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise SpecError(f"betas must be two numbers in [0, 1), got {list(self.betas)}")
        for name in ("label_smoothing", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise SpecError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.patience and self.choose == "last":
            raise SpecError(
                "patience waits for a better figure and choose=last asks for none: expected "
                "patience to be 0 or another choose"
            )
        if self.batch % self.accumulate:
            raise SpecError(f"batch {self.batch} is not divisible by accumulate {self.accumulate}")
        object.__setattr__(self, "skip", tuple(dict.fromkeys(self.skip)))
        if self.freeze > self.model.depth:
            raise SpecError(f"freeze must be at most depth {self.model.depth}, got {self.freeze}")
        if self.class_weights == self.sampling == "balanced":
            raise SpecError(
                "class_weights and sampling both balance: expected one of them balanced, got both"
            )
        if self.init_from is None and (self.freeze or self.head_first or self.head != "auto"):
            raise SpecError(
                "freeze, head_first and head are for fine-tuning: expected --init-from, got none"
            )
        if self.augment.mixes and self.batch == 1:
            raise SpecError(
                "augment.mixup and augment.cutmix mix the items of a batch: expected batch to be "
                "at least 2, got 1"
            )
        if self.read == "once" and self.augment.reads_parts:
            raise SpecError(
                "augment.crop_from=picture decodes another part in every step: expected read to be "
                "each-step or auto, got once"
            )
        axes = AXES[self.input.modality]
        if len(self.model.grid) != len(axes):
            raise SpecError(
                f"{self.input.modality} input has the axes {', '.join(axes)}; "
                f"got model.grid {self.model.grid}"
            )
        self.augment.check_modality(self.input.modality)
        with torch.device("meta"):  # an encoding that cannot be is refused before data are read
            make_encoding(self.model)


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
