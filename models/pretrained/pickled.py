"""What torch.save wrote, read without running any code in it."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from models.checkpoint import CheckpointError

#: Files of torch.save begin so since torch 1.6; only these can be mapped instead of read.
ZIP = b"PK"


def load_plain(path: Path) -> Any:
    """Tensors and plain values; CheckpointError for anything else."""
    if not path.is_file():
        raise FileNotFoundError(f"expected a checkpoint file, got {path}")
    with path.open("rb") as stream:
        mapped = stream.read(2) == ZIP
    try:
        with warnings.catch_warnings():  # what torch would warn of is refused below, in one line
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError:
        raise
    except Exception as error:  # bytes that are no pickle end an unpickler in any way
        raise CheckpointError(f"{path}: {_refusal(error)}") from error


def _refusal(error: Exception) -> str:
    named = re.search(r"GLOBAL (\S+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and named:
        return (
            f"expected tensors and plain values, got a pickle that names {named[1]}: it could run "
            "code when it is loaded, and is refused"
        )
    kind = type(error).__name__
    return f"expected a file written by torch.save, got one that cannot be read as such ({kind})"
