"""Weights of others as they lie on the disk: a folder or a file, its tensors and its words."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from media.files import sha256_file
from media.spec import SpecError
from media.strict_json import read_json
from models.checkpoint import BEST, DESCRIPTION, CheckpointError, load_tensors
from models.pretrained.pickled import load_plain

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
#: What folders of the hub call their weights, the ones to be preferred first.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
SAFE, PICKLED = (".safetensors",), (".pth", ".pt", ".bin")
#: What is said of files that somebody may take for weights.
OTHERS = {
    ".onnx": ": a graph, from which no model can be trained; take the weights it was made of",
    ".gguf": ": a file of llama.cpp; take the weights it was made of",
    ".h5": ": weights of Keras; take those of torch",
    ".msgpack": ": weights of Flax; take those of torch",
    ".npz": ": arrays of JAX; take the same weights of transformers or timm",
    ".json": ": words about weights; name the folder that it lies in",
}
#: A clone of a repository of the hub has such text in place of files, until they are fetched.
POINTER = b"version https://git-lfs"
#: Under which a file of torch.save keeps the tensors, if not as they are.
INSIDE = ("model", "state_dict")
#: Before every name, of a model that was saved as DistributedDataParallel has it.
WRAPPED = "module."


@dataclasses.dataclass(frozen=True)
class Source:
    """What was found.

    Attributes:
        name: what it is called, without the folders above it.
        tensors: by name, as stored; mapped from the files where their format allows.
        config: of config.json, ``{}`` where there is none.
        preprocessor: of preprocessor_config.json, likewise.
        files: SHA-256 of every file of weights.
    """

    name: str
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    preprocessor: dict[str, Any]
    files: dict[str, str]


def open_source(path: Path, name: str = "") -> Source:
    """A folder of the hub, or a file of weights with what stands beside it in such a folder.

    Raises:
        FileNotFoundError: there is nothing.
        CheckpointError: weights are missing, cut short, no tensors, or would run code.
    """
    if not path.exists():
        hint = ""
        if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
            hint = f"; hf://{path} fetches what the hub has under that name"
        raise FileNotFoundError(
            f"expected a file of weights or a folder with one, got {path}, which is not there{hint}"
        )
    if (path / DESCRIPTION).is_file() or (path / BEST / DESCRIPTION).is_file():
        raise CheckpointError(
            f"expected weights of others, got {path}, which is a checkpoint of this project already"
        )
    folder, weights = (path, _weights(path)) if path.is_dir() else (path.parent, path)
    beside = path.is_dir() or weights.name.removesuffix(INDEX) in WEIGHTS
    files = _shards(weights) if weights.name.endswith(INDEX) else {weights: None}
    tensors: dict[str, Tensor] = {}
    for file, listed in files.items():
        held = _tensors(file)
        _check_listed(file, held, listed)
        tensors |= held
    return Source(
        name=name or path.name or path.resolve().name,
        tensors={key: _checked(key, tensor) for key, tensor in tensors.items()},
        config=_json(folder / CONFIG) if beside else {},
        preprocessor=_json(folder / PREPROCESSOR) if beside else {},
        files={file.name: sha256_file(file) for file in files},
    )


def _weights(folder: Path) -> Path:
    """The file of weights in a folder, or the list of its shards."""
    for name in WEIGHTS:
        for path in (folder / name, folder / (name + INDEX)):
            if path.is_file():
                return path
    found = sorted(path for path in folder.iterdir() if path.suffix in SAFE + PICKLED)
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:4]) or "none"
        others = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
        if others and not found:
            names = f"none among {', '.join(others[:6])}{' and more' if len(others) > 6 else ''}"
        raise CheckpointError(
            f"{folder}: expected {WEIGHTS[0]}, its shards with {WEIGHTS[0]}{INDEX}, {WEIGHTS[1]} "
            f"or one other file of weights, got {names}"
        )
    return found[0]


def _shards(index: Path) -> dict[Path, set[str] | None]:
    """Every shard that an index names, and which tensors it must hold."""
    listed = _json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise CheckpointError(f"{index}: expected weight_map, a file for every tensor")
    shards: dict[Path, set[str] | None] = {}
    for name in sorted(set(map(str, listed.values()))):
        path = index.parent / name
        if Path(name).name != name:
            raise CheckpointError(f"{index}: expected shards beside it, got {name!r}")
        if not path.is_file():
            count = len(set(listed.values()))
            raise CheckpointError(f"{index}: expected its {count} shards beside it, {name} is not")
        shards[path] = {key for key, file in listed.items() if file == name}
    return shards


def _check_listed(file: Path, held: dict[str, Tensor], listed: set[str] | None) -> None:
    if listed is not None and (different := sorted(listed ^ set(held))):
        raise CheckpointError(
            f"{file}: expected the tensors that the index lists, got another set: "
            f"{', '.join(different[:3])}"
        )


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file; CheckpointError where it holds none by name."""
    if path.suffix not in SAFE + PICKLED:
        known = ", ".join(SAFE + PICKLED)
        raise CheckpointError(
            f"expected a file of weights ({known}), got {path.name}{OTHERS.get(path.suffix, '')}"
        )
    with path.open("rb") as stream:
        if stream.read(len(POINTER)) == POINTER:
            raise CheckpointError(
                f"{path}: expected tensors, got a pointer of Git LFS to them: fetch the file that "
                "it names (git lfs pull)"
            )
    if path.suffix in SAFE:
        return load_tensors(path)
    loaded = load_plain(path)
    for key in INSIDE:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict) or not all(isinstance(one, str) for one in loaded):
        raise CheckpointError(
            f"{path}: expected tensors by name, directly or under {' or '.join(INSIDE)}, "
            f"got a {type(loaded).__name__}"
        )
    wrapped = all(name.startswith(WRAPPED) for name in loaded)
    return {name.removeprefix(WRAPPED): one for name, one in loaded.items()} if wrapped else loaded


def _checked(name: str, tensor: Any) -> Tensor:
    """The tensor; CheckpointError unless it is dense, of floating point and finite."""
    dense = isinstance(tensor, Tensor) and tensor.layout == torch.strided
    if not dense or not tensor.is_floating_point():
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise CheckpointError(f"{name}: expected a dense tensor of floating point, got {kind}")
    # Sums say it without a mask of all values: infinite or NaN where any value is.
    if not tensor.sum(dtype=torch.float64).isfinite():
        raise CheckpointError(f"{name}: expected finite values, got some that are not")
    return tensor


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        document = read_json(path)
    except SpecError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: expected an object, got {type(document).__name__}")
    return document
