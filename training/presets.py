"""Complete runs, one function each: a preset is a page one can read, run and override.

``python -m training PRESET --data PATH --out RUN [--set key=value ...]``
"""

from __future__ import annotations

from collections.abc import Callable

from models.spec import EncodingSpec, InputSpec, ModelSpec
from training.config import TrainConfig


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
    ``--set flip=true`` where left and right do not matter.
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
        crop_padding=6,
        flip=False,
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
        crop_padding=2,
        flip=False,
        save_every=20,
    )


PRESETS: dict[str, Callable[[str], TrainConfig]] = {
    "cifar10-liere8": cifar10_liere8,
    "images": images,
    "smoke": smoke,
}
