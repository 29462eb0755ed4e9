"""The folder of one run: checkpoints that survive a kill, and metrics as JSON lines.

    RUN/checkpoints/step-00001500/   a checkpoint and the optimiser's state
        last, best                   links to two of them, replaced atomically
        metrics.jsonl                one object a line
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from models.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_tensors,
    read_description,
    save_checkpoint,
    save_tensors,
)
from models.files import atomic_directory, sha256_file, sync_directory, write_atomic
from models.spec import InputSpec
from models.vit import VisionTransformer

OPTIMISER = "optimiser.safetensors"


class Run:
    """One run folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.metrics = root / "metrics.jsonl"

    def exists(self) -> bool:
        """Whether there is a checkpoint to continue from."""
        return (self.root / "last").is_symlink()

    def save(
        self,
        model: VisionTransformer,
        optimiser: torch.optim.Optimizer,
        input_spec: InputSpec,
        labels: tuple[str, ...],
        notes: dict[str, Any],
        best: bool,
    ) -> None:
        """Write the checkpoint of ``notes["step"]``, then point ``last`` (and ``best``) at it.

        An error (a full disk, say) leaves the previous checkpoints and links as they were.
        """
        folder = self.root / "checkpoints" / f"step-{notes['step']:08d}"
        if not folder.exists():
            with atomic_directory(folder) as temporary:
                save_tensors(temporary / OPTIMISER, _optimiser_tensors(optimiser))
                digest = sha256_file(temporary / OPTIMISER)
                notes = notes | {"optimiser_sha256": digest}
                save_checkpoint(temporary, model, input_spec, labels, notes)
        self._link("last", folder)
        if best:
            self._link("best", folder)
        self._prune()

    def restore(self, model: VisionTransformer, optimiser: torch.optim.Optimizer) -> None:
        """Load ``last`` into a model and an optimiser of the same shape, bit for bit."""
        folder = self.root / "last"
        stored, description = load_checkpoint(folder)
        model.load_state_dict(stored.state_dict())
        if sha256_file(folder / OPTIMISER) != description.notes["optimiser_sha256"]:
            raise CheckpointError(f"{folder / OPTIMISER} is cut short or changed")
        _load_optimiser(optimiser, load_tensors(folder / OPTIMISER))
        self._forget_after(description.notes["step"])

    def notes(self) -> dict[str, Any]:
        """What the last checkpoint remembers."""
        return read_description(self.root / "last").notes

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with self.metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def _forget_after(self, step: int) -> None:
        """Drop the lines of steps that will be taken again."""
        if self.metrics.exists():
            lines = self.metrics.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            write_atomic(self.metrics, "".join(line + "\n" for line in kept).encode())

    def _link(self, name: str, folder: Path) -> None:
        temporary = self.root / f".{name}.new"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(folder.relative_to(self.root))
        os.replace(temporary, self.root / name)
        sync_directory(self.root)

    def _prune(self) -> None:
        """Keep the checkpoints that a link names, and remove what a kill left half written."""
        kept = {
            (self.root / name).resolve()
            for name in ("last", "best")
            if (self.root / name).is_symlink()
        }
        for folder in (self.root / "checkpoints").iterdir():
            if folder.resolve() not in kept:
                shutil.rmtree(folder)


def _step_of(line: str) -> float:
    """A line that a kill cut short belongs to no step and is dropped."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return float("inf")


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimiser.state_dict()["state"]
    return {
        f"{index}.{key}": tensor.detach().contiguous()
        for index, values in state.items()
        for key, tensor in values.items()
    }


def _load_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = tensor
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
