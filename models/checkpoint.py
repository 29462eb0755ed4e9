"""A checkpoint on disk: weights beside a readable description of what they are.

    checkpoint.json        schema, ModelSpec, InputSpec, labels, notes, SHA-256 of the weights
    weights.safetensors    the state dictionary

No pickle: a checkpoint may come from anybody.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from media.files import sha256_file, write_atomic
from media.spec import InputSpec, SpecError
from media.strict_json import from_json, read_json, to_json
from models.encodings import options_of
from models.spec import ModelSpec, encoding_from_schema_1, of_known_schema
from models.vit import VisionTransformer

SCHEMA = 2
DESCRIPTION = "checkpoint.json"
WEIGHTS = "weights.safetensors"
#: Of a run, where its best checkpoint is.
BEST = "best"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used. The message says what was expected and what came."""


@dataclasses.dataclass(frozen=True)
class Description:
    """checkpoint.json, field by field.

    Attributes:
        notes: what training wants to remember: config, step, data, metrics.
    """

    schema: int
    model: ModelSpec
    input: InputSpec
    labels: tuple[str, ...]
    weights_sha256: str
    notes: dict[str, Any]

    @property
    def licence(self) -> dict[str, str]:
        """``name`` and ``terms`` of the public weights that these are or began from; {} of none."""
        for note in ("imported", "grown", "init"):
            if licence := (self.notes.get(note) or {}).get("licence"):
                return dict(licence)
        return {}

    @property
    def answers(self) -> str:
        """What the model gives of an item, in a word."""
        return "logits" if self.labels else "features"


@dataclasses.dataclass(frozen=True)
class _Notes:
    """The notes that more than one reader takes apart; any may be absent."""

    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    best: dict[str, Any] | None = None
    init: dict[str, Any] | None = None
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


KNOWN = [field.name for field in dataclasses.fields(_Notes)]


def save_checkpoint(
    folder: Path,
    model: VisionTransformer,
    input_spec: InputSpec,
    labels: tuple[str, ...],
    notes: dict[str, Any],
) -> None:
    """Write both files into an existing folder; the description last, so it vouches for both."""
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    save_tensors(folder / WEIGHTS, state)
    digest = sha256_file(folder / WEIGHTS)
    description = Description(SCHEMA, model.spec, input_spec, labels, digest, notes)
    text = json.dumps(to_json(description), indent=1, ensure_ascii=False) + "\n"
    write_atomic(folder / DESCRIPTION, text.encode())


def checkpoint_folder(path: Path) -> Path:
    """A run stands for its best checkpoint.

    Raises:
        CheckpointError: it is neither a run that has one nor a checkpoint; what it is instead.
    """
    for folder in (path, path / BEST):
        if (folder / DESCRIPTION).is_file():
            return folder
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
    elif any(path.glob("*.safetensors")):
        found = "weights of others: python -m models.pretrained makes a checkpoint of them"
    else:
        found = "a folder with neither, such as a run whose first epoch is not over"
    raise CheckpointError(
        f"expected a run with {BEST}/{DESCRIPTION} in it, or a checkpoint folder with "
        f"{DESCRIPTION}: {path} is {found}"
    )


def load_checkpoint(folder: Path) -> tuple[VisionTransformer, Description]:
    """The model in evaluation mode, on the CPU, and its description.

    Raises:
        CheckpointError: a file is missing, cut short, changed, or does not fit the description.
    """
    description = read_description(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise CheckpointError(f"expected {WEIGHTS} beside {DESCRIPTION} in {folder}")
    if sha256_file(weights) != description.weights_sha256:
        raise CheckpointError(
            f"{weights} is not the file that {DESCRIPTION} describes (cut short or changed): "
            f"expected sha256 {description.weights_sha256[:12]}..."
        )
    try:
        model = VisionTransformer(description.model, description.input)
    except SpecError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    try:
        model.load_state_dict(load_tensors(weights))
    except RuntimeError as error:
        raise CheckpointError(f"{weights} does not fit its model: {error}") from error
    return model.eval(), description


def read_description(folder: Path) -> Description:
    """checkpoint.json alone, of this schema or an older one; CheckpointError where it is unfit."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise CheckpointError(f"expected a checkpoint folder with {DESCRIPTION}, got {folder}")
    try:
        document = upgrade(of_known_schema(read_json(path), SCHEMA, DESCRIPTION))
        description = from_json(Description, document, DESCRIPTION)
        options_of(description.model.encoding)
        from_json(_Notes, {k: v for k, v in description.notes.items() if k in KNOWN}, "notes")
    except SpecError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    if len(description.labels) != description.model.classes:
        raise CheckpointError(
            f"{folder}: the head has {description.model.classes} classes, "
            f"the description {len(description.labels)} labels"
        )
    return description


def upgrade(document: dict[str, Any]) -> dict[str, Any]:
    """A description of an older schema as one of this; what is wrong with it stays so.

    Every later schema adds its step here, from the one before it.

    2: an encoding names its own options alone, in the model and in the config of its training.
    """
    if document["schema"] == 1:
        document = encoding_from_schema_1(document, "model", "encoding")
        document = encoding_from_schema_1(document, "notes", "config", "model", "encoding")
        document = document | {"schema": 2}
    return document


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """safetensors at ``path``; a full disk or any other failure is an OSError that names it."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error
    path.chmod(0o644)  # it comes readable by its owner alone; who exports or serves may be another


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; CheckpointError if it is cut short or not one."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error
