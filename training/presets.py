"""Complete runs, one function each: a preset is a page one can read, run and override.

``python -m training PRESET --data PATH --out RUN [--set key=value ...]``
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from models.spec import EncodingSpec, InputSpec, ModelSpec
from training.config import Augment, TrainConfig


def cifar10_liere8(data: str) -> TrainConfig:
    """CIFAR-10 at 32 px, LieRE with block 8: the model of bundles/cifar10-liere8.

    python -m training cifar10-liere8 --data cifar10_jpeg.npz --out runs/cifar10-liere8
    About an hour on 2 CPU cores (196 images/s); test top-1 0.786 on JPEG-compressed pictures.
    """
    return TrainConfig(
        data=data,
        model=ModelSpec(
            patch=(4, 4),
            grid=(8, 8),
            classes=0,
            width=192,
            depth=6,
            heads=3,
            mlp_dim=384,
            pool="mean",
            encoding=EncodingSpec("liere", block=8),
        ),
        input=InputSpec(mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616)),
        epochs=16,
        batch=128,
        learning_rate=1e-3,
        warmup_steps=400,
        precision="bf16",
    )


def images(data: str) -> TrainConfig:
    """Your own pictures at 64 px, from scratch: a few thousand images in minutes on a CPU.

    python -m training images --data labels.csv --out runs/mine
    1,647 photos of sign language digits: 7 minutes on 2 CPU cores, test top-1 0.990.

    Text and hands read differently in a mirror, so flipping is off; turn it on with
    ``--set augment.flip=true`` where left and right do not matter.
    """
    return TrainConfig(
        data=data,
        model=ModelSpec(
            patch=(8, 8),
            grid=(8, 8),
            classes=0,
            width=192,
            depth=6,
            heads=3,
            mlp_dim=384,
            pool="mean",
            encoding=EncodingSpec("liere", block=8),
        ),
        input=InputSpec(),
        epochs=60,
        batch=64,
        learning_rate=1e-3,
        warmup_steps=100,
        augment=Augment(crop_padding=6, flip=False),
        precision="bf16",
        save_every=200,
    )


def smoke(data: str) -> TrainConfig:
    """A model of toy size on any images, to try the road end to end; it learns next to nothing.

    python -m training smoke --data labels.csv --out runs/smoke
    10 seconds for 1,647 photos on 2 CPU cores; validation top-1 0.2 with 10 classes.
    """
    return TrainConfig(
        data=data,
        model=ModelSpec(
            patch=(8, 8),
            grid=(4, 4),
            classes=0,
            width=64,
            depth=2,
            heads=2,
            mlp_dim=128,
            encoding=EncodingSpec("liere", block=8),
        ),
        input=InputSpec(),
        epochs=2,
        batch=32,
        warmup_steps=10,
        augment=Augment(crop_padding=2, flip=False),
        save_every=20,
    )


def finetune(data: str) -> TrainConfig:
    """The recipe for a checkpoint on your own images: --init-from gives the model and its input.

    python -m training finetune --init-from runs/mine --data other.csv --out runs/other
    Rates fall by a fifth with every layer away from the head. Another image size:
    ``--set model.grid=12x12``; only the last layers: ``--set freeze=4``.
    """
    config = images(data)
    return dataclasses.replace(
        config,
        epochs=30,
        learning_rate=5e-4,
        layer_decay=0.8,
        clip_norm=1.0,
        ema=0.99,
        augment=dataclasses.replace(
            config.augment, crop_scale=(0.5, 1.0), oversize=1.25, colour=0.2
        ),
    )


def small_pictures(data: str) -> TrainConfig:
    """Pictures of 32 px by the recipe of long runs, for a GPU: CIFAR-10, Tiny-ImageNet at 32 px.

    python -m training small-pictures --data tinyimagenet32.npz --out runs/tiny
    Never run to its end yet: BENCHMARKS.md says how far. Learned absolute positions instead:
    ``--set model.encoding.name=absolute --set model.encoding.block=null``.
    """
    config = cifar10_liere8(data)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, drop_path=0.1),
        epochs=200,
        warmup_steps=2000,
        clip_norm=1.0,
        ema=0.999,
        augment=Augment(operations=2, magnitude=0.3, erase=0.1, mixup=0.2, cutmix=1.0),
    )


PRESETS: dict[str, Callable[[str], TrainConfig]] = {
    "cifar10-liere8": cifar10_liere8,
    "finetune": finetune,
    "images": images,
    "small-pictures": small_pictures,
    "smoke": smoke,
}
