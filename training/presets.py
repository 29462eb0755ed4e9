"""Complete runs, one function each: a preset is a page one can read, run and override.

``python -m training PRESET --data PATH --out RUN [--set key=value ...]``
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from media.spec import InputSpec, VideoSpec, VolumeSpec
from models.spec import EncodingSpec, ModelSpec
from training.config import Augment, TrainConfig

#: A scan stretched to the input, between its own darkest and brightest half percent.
SCAN = InputSpec(
    modality="volume", channels=1, fit="stretch", mean=(0.5,), std=(0.5,), volume=VolumeSpec()
)


def cifar10_liere8(data: str) -> TrainConfig:
    """CIFAR-10 at 32 px, LieRE with block 8: the model of bundles/cifar10-liere8.

    python -m training cifar10-liere8 --data cifar10_jpeg.npz --out runs/cifar10-liere8
    About an hour on 2 CPU cores (196 images/s); test top-1 0.778 on JPEG-compressed pictures.
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
    ``--set model.grid=12x12``; only the last layers: ``--set freeze=4``. Clips and scans: their own
    presets, with --init-from. Pictures are decoded once, a quarter larger than they are trained on,
    so that steps wait for no decoder; parts of the whole picture in each step instead:
    ``--set augment.crop_from=picture --set augment.oversize=1``.
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


def finetune_images(data: str) -> TrainConfig:
    """A large pretrained model on your own photos, at 224 px; --init-from gives the model.

    python -m training finetune-images --init-from runs/dinov3 --data labels.csv --out runs/mine
    For weights from ``python -m models.pretrained`` and ``models.grow``: the head learns alone for
    an epoch, then all layers, rates falling by a quarter with every layer away from the head.
    Parts of the whole picture are decoded in each step. Of a model as large as DINOv3's nothing
    was fine-tuned here: its accuracy is not known. ``linear-probe`` takes seconds and tells first
    what there is to win.
    """
    config = dataclasses.replace(images(data), init_from="RUN")  # until --init-from names it
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, drop_path=0.1),
        epochs=30,
        batch=64,
        learning_rate=3e-4,
        warmup_steps=500,
        layer_decay=0.75,
        head_first=1,
        clip_norm=1.0,
        ema=0.999,
        betas=(0.9, 0.999),
        augment=Augment(
            crop_padding=0, crop_from="picture", crop_scale=(0.35, 1.0), colour=0.2, mixup=0.2
        ),
        workers=4,
    )


def small_pictures(data: str) -> TrainConfig:
    """Pictures of 32 px by the recipe of long runs, for a GPU: CIFAR-10, Tiny-ImageNet at 32 px.

    python -m training small-pictures --data tinyimagenet32.npz --out runs/tiny
    Never run to its end yet: BENCHMARKS.md says how far, and that in 16 epochs cifar10-liere8 is
    better. Learned absolute positions instead:
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


def images_224(data: str) -> TrainConfig:
    """Hundreds of thousands of pictures at 224 px, ViT-S/16 with LieRE, from scratch; for a GPU.

    python -m training images-224 --data 'imagenet/{train,val}-*.tar' --out runs/large
    The recipe of long runs on ImageNet (DeiT, arXiv 2012.12877): random parts of the whole picture,
    decoded in each step. It was never run to its end: nobody knows its accuracy. Fewer pictures at
    a time: ``--set accumulate=4``; as many ``workers`` as there are cores. Fine-tuning:
    ``--init-from RUN --set epochs=30 --set learning_rate=1e-4 --set layer_decay=0.75``.
    """
    return TrainConfig(
        data=data,
        model=ModelSpec(
            patch=(16, 16),
            grid=(14, 14),
            classes=0,
            width=384,
            depth=12,
            heads=6,
            mlp_dim=1536,
            pool="mean",
            drop_path=0.1,
            encoding=EncodingSpec("liere", block=8),
        ),
        input=InputSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        epochs=300,
        batch=1024,
        learning_rate=1e-3,
        warmup_steps=6000,
        betas=(0.9, 0.999),
        clip_norm=1.0,
        ema=0.9999,
        augment=Augment(
            crop_from="picture",
            crop_scale=(0.08, 1.0),
            operations=2,
            magnitude=0.9,
            erase=0.25,
            mixup=0.8,
            cutmix=1.0,
        ),
        precision="bf16",
        save_every=1000,
        workers=8,
    )


def clips(data: str) -> TrainConfig:
    """Your own short clips at 112 px, from scratch: eight frames, spread over the whole clip.

    python -m training clips --data labels.csv --out runs/clips
    Two views of every clip are kept: a step takes one of them, and answers average both. Frames
    half a second apart instead: ``--set input.video.stride=0.5``. Mirrored and reversed clips:
    ``--set augment.flip=true --set 'augment.flip_axes=["time"]'``.
    """
    return TrainConfig(
        data=data,
        model=ModelSpec(
            patch=(2, 16, 16),
            grid=(4, 7, 7),
            classes=0,
            width=128,
            depth=6,
            heads=4,
            mlp_dim=256,
            pool="mean",
            encoding=EncodingSpec("liere", block=8, per_layer=False),
        ),
        input=InputSpec(modality="video", video=VideoSpec(views=2)),
        epochs=60,
        batch=16,
        learning_rate=5e-4,
        warmup_steps=100,
        clip_norm=1.0,
        sampling="balanced",
        choose="balanced_accuracy",
        augment=Augment(flip=False, crop_scale=(0.5, 1.0), oversize=1.15, colour=0.2),
        precision="bf16",
        save_every=200,
        cache=".cache",
    )


def volumes(data: str) -> TrainConfig:
    """Your own scans at 64 voxels a side, from scratch; every scan is stretched to that size.

    python -m training volumes --data labels.csv --out runs/scans
    Left and right are told apart: ``--set augment.flip=true`` where they do not matter. Voxels of
    2 mm: ``--set 'input.volume.spacing=[2,2,2]'``; intensities of CT as a window:
    ``--set 'input.volume.window=[-100,300]'``.
    """
    return TrainConfig(
        data=data,
        model=ModelSpec(
            patch=(8, 8, 8),
            grid=(8, 8, 8),
            channels=1,
            classes=0,
            width=128,
            depth=6,
            heads=4,
            mlp_dim=256,
            pool="mean",
            encoding=EncodingSpec("liere", block=8, per_layer=False),
        ),
        input=SCAN,
        epochs=30,
        batch=32,
        learning_rate=5e-4,
        warmup_steps=100,
        clip_norm=1.0,
        sampling="balanced",
        choose="balanced_accuracy",
        augment=Augment(
            flip=False, crop_scale=(0.6, 1.0), crop_ratio=(0.9, 1.1), rotate=10.0, intensity=0.1
        ),
        precision="bf16",
        save_every=200,
        cache=".cache",
    )


def lung_ultrasound(data: str) -> TrainConfig:
    """A hundred ultrasound clips in three classes: the model of bundles/lung-ultrasound.

    python -m training lung-ultrasound --data lung.csv --out runs/lung
    So few clips leave no split to choose by: the last epoch counts. Grey, 64 px, eight frames;
    four views of every clip. 3 minutes on one CPU core; test top-1 0.741, mean of three seeds.
    """
    config = clips(data)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(
            config.model, channels=1, grid=(4, 4, 4), depth=4, drop_path=0.1
        ),
        input=InputSpec(
            modality="video", channels=1, mean=(0.25,), std=(0.25,), video=VideoSpec(views=4)
        ),
        epochs=300,
        learning_rate=1e-3,
        weight_decay=0.1,
        ema=0.99,
        choose="last",
        augment=Augment(flip=True, crop_scale=(0.5, 1.0), oversize=1.25, colour=0.3, mixup=0.4),
    )


def adrenal(data: str) -> TrainConfig:
    """AdrenalMNIST3D, the shape of a gland as a mask: the model of bundles/adrenal.

    python -m training adrenal --data adrenal.npz --out runs/adrenal
    That is MedMNIST's adrenalmnist3d_64.npz with an array ``classes``. The masks are read at 32
    voxels a side, an eighth of what they have. 9 minutes on one CPU core; test balanced accuracy
    0.755, ROC AUC 0.855.
    """
    config = volumes(data)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, grid=(4, 4, 4), drop_path=0.1),
        input=dataclasses.replace(SCAN, interpolation="bilinear", mean=(0.05,), std=(0.2,)),
        epochs=60,
        learning_rate=1e-3,
        ema=0.99,
        augment=Augment(
            flip=False,
            crop_scale=(0.6, 1.0),
            crop_ratio=(0.9, 1.1),
            oversize=1.25,
            rotate=15.0,
            mixup=0.2,
        ),
    )


def smoke_clips(data: str) -> TrainConfig:
    """``smoke`` for clips: the road end to end, next to nothing learned.

    python -m training smoke-clips --data labels.csv --out runs/smoke
    """
    config = smoke(data)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, patch=(2, 8, 8), grid=(2, 4, 4)),
        input=InputSpec(modality="video", video=VideoSpec(views=2)),
        batch=8,
    )


def smoke_volumes(data: str) -> TrainConfig:
    """``smoke`` for scans: the road end to end, next to nothing learned.

    python -m training smoke-volumes --data labels.csv --out runs/smoke
    """
    config = smoke(data)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, patch=(8, 8, 8), grid=(4, 4, 4), channels=1),
        input=SCAN,
        batch=8,
    )


PRESETS: dict[str, Callable[[str], TrainConfig]] = {
    "adrenal": adrenal,
    "cifar10-liere8": cifar10_liere8,
    "clips": clips,
    "finetune": finetune,
    "finetune-images": finetune_images,
    "images": images,
    "images-224": images_224,
    "lung-ultrasound": lung_ultrasound,
    "small-pictures": small_pictures,
    "smoke": smoke,
    "smoke-clips": smoke_clips,
    "smoke-volumes": smoke_volumes,
    "volumes": volumes,
}

#: Presets that begin from a checkpoint, always.
FROM_CHECKPOINT = ("finetune", "finetune-images")
#: Pixels on every axis of presets that do not keep the checkpoint's own size.
SIZES = {"finetune-images": 224}
