"""Where a bundle came from, as its manifest tells it: no path, no name of a machine."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path
from typing import Any

import onnx
import torch

from export.golden import NAMES
from models.checkpoint import Description


def origin(
    description: Description, measured_on: str, duplicates: dict[str, Any], chosen_goldens: bool
) -> dict[str, Any]:
    """The manifest's ``source``.

    Args:
        duplicates: of the data that it was measured on, counts alone.
    """
    notes, made = description.notes, NAMES[description.input.modality]
    licence = {"licence": description.licence} if description.licence else {}
    return licence | {
        "checkpoint_sha256": description.weights_sha256,
        "step": notes.get("step"),
        "data": _public(notes.get("data", {})),
        "measured_on": measured_on,
        "duplicates": duplicates,
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "goldens": "chosen by its maker" if chosen_goldens else f"generated {made}",
    }


def _public(data: dict[str, Any]) -> dict[str, Any]:
    """Skipped items and duplicates as numbers: ids may be paths."""
    public = data | {"skipped": len(data.get("skipped", ()))}
    if found := data.get("duplicates"):
        public["duplicates"] = {key: found[key] for key in ("across", "within")}
    return public


def _commit() -> str:
    """The commit of this code, ``unknown`` outside a checkout, ``+changes`` where it was edited."""
    root = Path(__file__).parent.parent
    try:
        head = _git(root, "rev-parse", "HEAD")
        edited = _git(root, "status", "--porcelain", "--", "media", "models", "export")
        return head + ("+changes" if edited else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()
