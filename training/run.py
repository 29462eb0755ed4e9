"""The folder of one run: checkpoints that survive a kill, and metrics as JSON lines.

Layout::

    RUN/checkpoints/step-00001500/   a checkpoint and the state of the training; "-measured"
                                     follows where it is the end of an epoch
        last, best                   links to two of them, replaced atomically
        previous                     link to the one before last, until last has proved itself: the
                                     step after it was finite. best waits for that too
        metrics.jsonl                one object a line
        tensorboard/                 the same figures and more, for TensorBoard
        not-finite.json              where a run stopped that could not go on
        index/                       what its data set lists, mapped by the processes that read it;
                                     with what of an npz or a tar.gz lies in memory, until it ends
        history.json                 settings that changed when it went on (training/history.py)
        report                       link to reports/N: figures and pictures, replaced as a whole

Step 0 is a checkpoint too, so a run can be resumed from its first moment on.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from media.files import atomic_directory, sha256_file, sync_directory, write_atomic
from media.index import Dataset, open_kept
from media.index.digests import digests_beside
from media.sources.stores import Held
from media.spec import InputSpec
from media.strict_json import read_json, to_json
from models.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_tensors,
    read_description,
    save_checkpoint,
    save_tensors,
)
from models.vit import VisionTransformer
from training.history import Change, read_changes, same
from training.optim import Average, LossScale

TRAINING_STATE = "training.safetensors"
INDEX = "index"
EVIDENCE, HISTORY = "not-finite.json", "history.json"


@dataclasses.dataclass(frozen=True)
class State:
    """What moves in a training.

    Attributes:
        average: moving average of the weights; where there is one, it is the checkpoint's model,
            and the weights themselves belong to the state of the training.
        loss_scale: where the precision has one.
    """

    model: VisionTransformer
    optimiser: torch.optim.Optimizer
    average: Average | None = None
    loss_scale: LossScale | None = None

    def measured(self) -> VisionTransformer:
        """The model that is measured and exported."""
        return self.average.module if self.average else self.model

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything a run needs to go on, besides the measured model's weights."""
        tensors = {f"optimiser.{k}": v for k, v in _optimiser_tensors(self.optimiser).items()}
        if self.average:
            weights = self.model.state_dict()
            tensors |= {f"model.{name}": tensor.detach() for name, tensor in weights.items()}
        if self.loss_scale:
            scale = self.loss_scale.tensors()
            tensors |= {f"loss_scale.{name}": tensor for name, tensor in scale.items()}
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    def restore(
        self, weights: Mapping[str, torch.Tensor], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Take everything over, bit for bit; a scale that was not there begins anew.

        Args:
            weights: of the measured model.
        """
        self.measured().load_state_dict(weights)
        _load_optimiser(self.optimiser, _below("optimiser.", tensors))
        if self.average:
            self.average.updates.fill_(_updates(self.optimiser))
            self.model.load_state_dict(_below("model.", tensors))
        if self.loss_scale:
            for name, tensor in _below("loss_scale.", tensors).items():
                self.loss_scale.tensors()[name].copy_(tensor)


class Run:
    """One run folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.checkpoints = root / "checkpoints"
        self.previous = root / "previous"
        self.metrics = root / "metrics.jsonl"
        self.curves = root / "tensorboard"

    def cache(self, folder: str | None) -> Path | None:
        """Where decoded splits are kept: a relative folder begins beside the run."""
        return None if folder is None else self.root.parent / folder

    def digests(self, cache: str | None) -> Path:
        """Where digests of data are kept (``media.index.Digests``)."""
        return digests_beside(self.root, cache)

    def exists(self) -> bool:
        """Whether there is a checkpoint to continue from."""
        return (self.root / "last").is_symlink()

    def check(self, resume: bool) -> None:
        """Refuse a folder that holds a run or anything else, or where nothing can be written.

        Raises:
            FileExistsError: it is in use and ``resume`` was not asked for.
            FileNotFoundError: there is nothing to resume.
            PermissionError: this user may not write there.
        """
        if resume and not self.exists():
            raise FileNotFoundError(f"{self.root} holds no checkpoint to resume from")
        if self.exists() and not resume:
            raise FileExistsError(
                f"{self.root} holds a run; continue it with --resume or choose another"
            )
        if not resume and self.root.exists() and not self._only_remains():
            raise FileExistsError(f"{self.root} exists and is not empty; choose another folder")
        there = next(path for path in (self.root, *self.root.absolute().parents) if path.exists())
        if not there.is_dir():
            raise FileExistsError(f"{self.root} cannot be made: {there} is a file")
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(f"{self.root} cannot be written: no permission for {there}")

    def begin(self) -> None:
        """Make the folder of a new run, or empty it of what a killed start left."""
        if self.checkpoints.exists():
            shutil.rmtree(self.checkpoints)
        self.checkpoints.mkdir(parents=True)
        sync_directory(self.root.parent)

    def save(
        self,
        state: State,
        input_spec: InputSpec,
        labels: tuple[str, ...],
        notes: dict[str, Any],
    ) -> None:
        """Write the checkpoint of ``notes["step"]``, then point ``last`` (and ``best``) at it.

        An error (a full disk, say) leaves the previous checkpoints and links as they were. The one
        that ``last`` named is kept as ``previous``, unless it has not proved itself either.
        """
        folder = self._folder(notes)
        if folder.exists():  # complete, but killed before a link named it
            shutil.rmtree(folder)
        with atomic_directory(folder) as temporary:
            save_tensors(temporary / TRAINING_STATE, state.tensors())
            digest = sha256_file(temporary / TRAINING_STATE)
            notes = notes | {"training_sha256": digest}
            save_checkpoint(temporary, state.measured(), input_spec, labels, notes)
        if self.exists() and not self.previous.is_symlink():
            self._link("previous", (self.root / "last").resolve())
        self._link("last", folder)
        self._settle(notes)

    def prove(self) -> None:
        """``last`` can be gone on from: what was kept in case it cannot is not needed."""
        self.previous.unlink(missing_ok=True)
        sync_directory(self.root)  # the link goes before what it names
        self._settle(self.notes())

    def go_back(self) -> int | None:
        """Point ``last`` at the checkpoint before it; its step, or None where none is kept.

        What was written of later steps is dropped at the resume.
        """
        last, before = ((self.root / name).resolve() for name in ("last", "previous"))
        if not self.previous.is_symlink() or last == before:  # a kill came before last was linked
            return None
        self._link("last", before)
        self.previous.unlink()
        return int(self.notes()["step"])

    def restore(self, state: State) -> None:
        """Load ``last`` into a state of the same shape, bit for bit."""
        folder = self.root / "last"
        stored, description = load_checkpoint(folder)
        path = folder / TRAINING_STATE
        if not path.is_file():
            raise CheckpointError(f"{folder} has no {TRAINING_STATE} and cannot be resumed")
        if sha256_file(path) != description.notes.get("training_sha256"):
            raise CheckpointError(f"{path} is cut short or changed")
        state.restore(stored.state_dict(), load_tensors(path))
        self._settle(description.notes)
        self._forget_after(description.notes["step"])

    def notes(self) -> dict[str, Any]:
        """What the last checkpoint remembers; CheckpointError if it is none of a run."""
        folder = self.root / "last"
        notes = read_description(folder).notes
        if missing := sorted({"step", "measured", "losses", "best", "config", "data"} - set(notes)):
            raise CheckpointError(f"{folder} does not say its {missing[0]}")
        for name in ("step", "measured", "losses"):
            if type(notes[name]) not in (int, float):
                raise CheckpointError(
                    f"{folder}: notes.{name}: expected a number, got {notes[name]!r:.100}"
                )
        return notes

    def history(self) -> list[Change]:
        """What changed of its settings, with what no checkpoint knows yet."""
        path = self.root / HISTORY
        return read_changes(read_json(path)) if path.exists() else []

    def keep_history(self, history: list[Change]) -> None:
        """Write history.json, before the first step that is taken by it."""
        if not history:  # of a change that was taken back before any step
            (self.root / HISTORY).unlink(missing_ok=True)
        elif not same(self.history(), history):
            text = json.dumps([to_json(change) for change in history], indent=1)
            write_atomic(self.root / HISTORY, (text + "\n").encode())

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl, on disk before the checkpoint that follows it."""
        with self.metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def keep_evidence(self, step: int, what: str, samples: list[str]) -> None:
        """Write down why a run could not go on: not-finite.json."""
        text = json.dumps({"step": step, "what": what, "samples": samples}, indent=1)
        write_atomic(self.root / EVIDENCE, (text + "\n").encode())

    def keep_index(self, dataset: Dataset) -> Dataset:
        """The data set with its columns mapped from here, unless they are mapped already."""
        if dataset.folder:
            return dataset
        for old in (self.root / INDEX, *self.root.glob(f".{INDEX}.*")):
            if old.exists():
                shutil.rmtree(old)
        return dataset.kept(self.root / INDEX)

    def drop_arrays(self) -> None:
        """Remove an index that holds a copy of the data; whoever maps it still may."""
        index = self.root / INDEX
        if index.exists() and isinstance(open_kept(index).store, Held):
            shutil.rmtree(index)

    def _folder(self, notes: dict[str, Any]) -> Path:
        """A run may stop at the end of an epoch, before it is measured.

        That step then has a second checkpoint, of another name: ``last`` stays whole meanwhile.
        """
        measured = "-measured" if 0 < notes["step"] == notes["measured"] else ""
        return self.checkpoints / f"step-{notes['step']:08d}{measured}"

    def _settle(self, notes: dict[str, Any]) -> None:
        """What follows ``last``, now or at the resume after a kill in between.

        Once it has proved itself, ``best`` is pointed at this step if it is the best. The folders
        that no link names are removed, with whatever a kill left half written.
        """
        proved = not self.previous.is_symlink()
        if proved and notes["best"] and notes["best"]["step"] == notes["step"]:
            self._link("best", self._folder(notes))
        kept = {os.path.realpath(self.root / name) for name in ("last", "best", "previous")}
        for folder in self.checkpoints.iterdir():
            if os.path.realpath(folder) not in kept:
                shutil.rmtree(folder)
        for name in (self.metrics.name, EVIDENCE, HISTORY):
            for remains in self.root.glob(f".{name}.*"):
                remains.unlink()

    def _forget_after(self, step: int) -> None:
        """Drop what was written of steps that will be taken again."""
        (self.root / EVIDENCE).unlink(missing_ok=True)
        if self.metrics.exists():
            lines = self.metrics.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            write_atomic(self.metrics, "".join(line + "\n" for line in kept).encode())

    def _link(self, name: str, folder: Path) -> None:
        temporary = self.root / f".{name}.new"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path(self.checkpoints.name, folder.name))
        temporary.replace(self.root / name)
        sync_directory(self.root)

    def _only_remains(self) -> bool:
        """Whether the folder is empty but for a start that was killed before its first link."""
        if not self.root.is_dir():
            return False
        names = {path.name for path in self.root.iterdir()} - {"checkpoints", ".last.new"}
        steps = self.checkpoints.iterdir() if self.checkpoints.is_dir() else ()
        return not names and all(re.match(r"\.?step-\d{8}", path.name) for path in steps)


def _step_of(line: str) -> float:
    """A line that a kill cut short belongs to no step and is dropped."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return float("inf")


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimiser.state_dict()["state"]
    return {
        f"{index}.{key}": tensor.detach()
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


def _updates(optimiser: torch.optim.Optimizer) -> int:
    """How many it has made: a step that was skipped is none."""
    return max((int(state["step"]) for state in optimiser.state.values()), default=0)


def _below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
