"""Starting from a checkpoint: what is taken over, and what must match."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from media.spec import SpecError
from models.checkpoint import (
    Description,
    checkpoint_folder,
    load_checkpoint,
    read_description,
)
from models.encodings import short_name
from models.encodings.resize import table_at
from models.vit import VisionTransformer
from training.config import TrainConfig

#: Fields of the model in which a fine-tuning may differ from its checkpoint.
MAY_DIFFER = ("grid", "classes", "dropout", "drop_path")


def recipe_for(config: TrainConfig, path: Path) -> TrainConfig:
    """A preset's recipe for the model of a checkpoint: its architecture and its input.

    What belongs to the training stays the preset's: dropout and drop_path.

    Raises:
        SpecError: the preset is for another modality than the checkpoint.
    """
    description = read_description(checkpoint_folder(path))
    if description.input.modality != config.input.modality:
        raise SpecError(
            f"the checkpoint is of another modality: expected {config.input.modality}, which the "
            f"preset is for, got {description.input.modality}"
        )
    model = dataclasses.replace(
        description.model,
        classes=0,
        dropout=config.model.dropout,
        drop_path=config.model.drop_path,
    )
    return dataclasses.replace(config, model=model, input=description.input, init_from=str(path))


def at_size(config: TrainConfig, pixels: int) -> TrainConfig:
    """The recipe at so many pixels an axis; SpecError where the patch does not divide them."""
    patch = config.model.patch
    if any(pixels % side for side in patch):
        raise SpecError(
            f"the preset is for {pixels} pixels: expected a patch that divides them, got "
            f"{list(patch)}; the preset finetune keeps the size of the checkpoint"
        )
    grid = tuple(pixels // side for side in patch)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, grid=grid))


def adopt(model: VisionTransformer, config: TrainConfig, labels: tuple[str, ...]) -> dict[str, Any]:
    """Take over the weights of ``config.init_from``; returns where they came from.

    With another training grid the positions follow: the model begins with the answers that the
    checkpoint gives at that grid. A head for other labels begins anew.

    Raises:
        SpecError: the models differ, or the head shall be kept and the labels differ.
        CheckpointError: there is no checkpoint, or it is broken.
    """
    trained, description = load_checkpoint(checkpoint_folder(Path(config.init_from or "")))
    check_match(description, config)
    keep = keeps_head(description, config, labels)
    own = ("head.",) if not keep else ()
    state = {
        name: tensor
        for name, tensor in trained.state_dict().items()
        if not name.startswith(("encoding.", "position_table", *own))
    }
    with torch.no_grad():
        model.load_state_dict(state, strict=False)
        if model.position_table is not None:
            grids = trained.spec.training_grid, model.spec.training_grid
            rule = model.spec.position_table
            assert trained.position_table is not None and rule is not None  # noqa: PT018
            model.position_table.copy_(table_at(trained.position_table, *grids, rule))
    model.encoding.adopt(trained.encoding.to(model.device))
    return origin(description) | {"head": "kept" if keep else "new"}


def origin(description: Description) -> dict[str, Any]:
    """What a run remembers of the checkpoint that it began from; a licence binds what follows."""
    licence = {"licence": description.licence} if description.licence else {}
    return licence | {
        "weights_sha256": description.weights_sha256,
        "step": description.notes.get("step"),
        "data": (description.notes.get("data") or {}).get("name"),
        "labels": len(description.labels),
    }


def check_origin(notes: dict[str, Any], config: TrainConfig) -> None:
    """Refuse to continue a fine-tuning as if it were none, and the other way round.

    The checkpoint that it began from may have moved on or away: a resume needs nothing of it.
    """
    words = ["--init-from" if began else "none" for began in (notes.get("init"), config.init_from)]
    if words[0] != words[1]:
        raise SpecError(f"the run to resume began otherwise: expected {words[0]}, got {words[1]}")


def check_match(description: Description, config: TrainConfig) -> None:
    """SpecError that names the fields in which the models differ and may not."""
    old, new = (vars(model).copy() for model in (description.model, config.model))
    old["channels"], new["channels"] = description.input.channels, config.input.channels
    old["encoding"], new["encoding"] = short_name(old["encoding"]), short_name(new["encoding"])
    wrong = [
        f"model.{name}: expected {old[name]}, got {new[name]}"
        for name in old
        if name not in MAY_DIFFER and old[name] != new[name]
    ]
    if len(new["grid"]) != len(old["grid"]):
        wrong.append(f"model.grid: expected {len(old['grid'])} axes, got {new['grid']}")
    modalities = description.input.modality, config.input.modality
    if modalities[0] != modalities[1]:
        wrong.insert(0, "input.modality: expected {}, got {}".format(*modalities))
    if wrong:
        other = old["encoding"] != new["encoding"] and config.model.encoding.name == "liere"
        hint = "; python -m models.grow makes LieRE of other rotations" if other else ""
        raise SpecError(f"the checkpoint is of another model: {'; '.join(wrong)}{hint}")


def keeps_head(description: Description, config: TrainConfig, labels: tuple[str, ...]) -> bool:
    """Whether the head of the checkpoint is of use."""
    same = description.labels == labels
    if config.head == "keep" and not same:
        raise SpecError(
            f"head=keep needs the labels of the checkpoint: expected {list(description.labels)}, "
            f"got {list(labels)}"
        )
    return same and config.head != "new"
