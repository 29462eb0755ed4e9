"""What the processes of a run have in common: its folder, its weights, and what must be alike.

One of them, the writer, can read and write the folder; the others hear from it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import reprlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from media.files import sha256_file
from media.index import Dataset, fingerprint, open_kept
from media.spec import InputSpec, SpecError
from media.strict_json import from_json, to_json
from models.checkpoint import Description, load_checkpoint
from models.vit import VisionTransformer
from training.history import Change, read_changes
from training.own_folder import own_folder
from training.processes import Processes
from training.run import INDEX, Run, State

ROOT = Path(__file__).resolve().parent.parent
#: Folders whose code decides what a step computes.
CODE = ("media", "models", "training")


class SharedRun(Run):
    """A run folder as several processes use it, all of them with the same calls.

    What goes wrong goes wrong at the writer, which then ends the others.
    """

    def __init__(self, root: Path, processes: Processes) -> None:
        super().__init__(root)
        self._own, self._processes = Run(root), processes

    def exists(self) -> bool:
        return self._processes.from_writer(self._own.exists)

    def check(self, resume: bool) -> None:
        self._once(lambda: self._own.check(resume))

    def begin(self) -> None:
        self._once(self._own.begin)

    def save(
        self,
        state: State,
        input_spec: InputSpec,
        labels: tuple[str, ...],
        notes: dict[str, Any],
    ) -> None:
        self._once(lambda: self._own.save(state, input_spec, labels, notes))

    def prove(self) -> None:
        self._once(self._own.prove)

    def go_back(self) -> int | None:
        return self._processes.from_writer(self._own.go_back)

    def restore(self, state: State) -> None:
        self._once(lambda: self._own.restore(state))

    def notes(self) -> dict[str, Any]:
        return self._processes.from_writer(self._own.notes)

    def history(self) -> list[Change]:
        return read_changes(self._processes.from_writer(lambda: to_json(self._own.history())))

    def keep_history(self, history: list[Change]) -> None:
        self._once(lambda: self._own.keep_history(history))

    def log(self, record: dict[str, Any]) -> None:
        self._once(lambda: self._own.log(record))

    def keep_evidence(self, step: int, what: str, samples: list[str]) -> None:
        self._once(lambda: self._own.keep_evidence(step, what, samples))

    def keep_index(self, dataset: Dataset) -> Dataset:
        """Once for every machine, where the run does not lie in a folder of the system's."""
        folder = ""
        if self._processes.writer:
            folder = str(self._own.keep_index(dataset).folder)
        elif self._processes.leader:
            self._index = own_folder()
            folder = str(dataset.kept(Path(self._index.name) / INDEX).folder)
        folders = self._processes.gather(folder and str(Path(folder).absolute()))
        return open_kept(Path(folders[self._processes.rank - self._processes.local_rank]))

    def drop_arrays(self) -> None:
        """By the writer, for whom nobody waits: the run may have failed."""
        if self._processes.writer:
            self._own.drop_arrays()

    def _once(self, write: Callable[[], None]) -> None:
        self._processes.from_writer(write)


def share_state(state: State, processes: Processes) -> None:
    """All processes take over the writer's weights, optimiser and average."""
    if processes.size == 1:
        return
    weights = state.measured().state_dict()
    tensors = weights | {f"state.{name}": tensor for name, tensor in state.tensors().items()}
    kinds = {name: (list(one.shape), str(one.dtype)) for name, one in tensors.items()}
    for name, (shape, dtype) in processes.from_writer(lambda: kinds).items():
        if processes.writer:
            processes.copy_writers([tensors[name]])
        else:
            tensors[name] = torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
            processes.copy_writers([tensors[name]])
    if not processes.writer:
        rest = {n.removeprefix("state."): t for n, t in tensors.items() if n.startswith("state.")}
        state.restore({name: tensors[name] for name in weights}, rest)


def shared_checkpoint(
    folder: Path, processes: Processes
) -> tuple[VisionTransformer, Description]:
    """What ``load_checkpoint`` gives, read by the writer alone."""
    if processes.size == 1:
        return load_checkpoint(folder)
    read: list[tuple[VisionTransformer, Description]] = []

    def described() -> Any:
        read.append(load_checkpoint(folder))
        return to_json(read[0][1])

    description = from_json(Description, processes.from_writer(described), str(folder))
    if processes.writer:
        model, _ = read[0]
    else:
        model = VisionTransformer(description.model, description.input).eval()
    processes.copy_writers(list(model.state_dict().values()))
    return model, description


# --- what must be alike ----------------------------------------------------------------------


def agree(processes: Processes, what: str, values: Callable[[], Mapping[str, Any]]) -> None:
    """SpecError names every one of the values, plain JSON, that is another one somewhere."""
    if processes.size == 1:
        return
    found = processes.gather(dict(values()))
    differing = []
    for name in sorted({name for one in found for name in one}):
        ranks = _ranks(json.dumps(one.get(name)) for one in found)
        if len(ranks) > 1:
            told = (f"{reprlib.repr(json.loads(v))} in {r}" for v, r in ranks.items())
            differing.append(f"{name}: {'; '.join(told)}")
    if differing:
        raise SpecError(
            f"the processes of the run disagree about {what}, each with its rank: "
            f"{' | '.join(differing)}; start all with the same command, data and code"
        )


def _ranks(values: Iterable[str]) -> dict[str, str]:
    """Every value that there is, with the ranks that gave it."""
    ranks: dict[str, list[str]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(str(rank))
    return {value: ", ".join(of) for value, of in ranks.items()}


def find_device(processes: Processes, find: Callable[[], torch.device]) -> torch.device:
    """What every process finds for itself; all of them know of one that finds none.

    Raises:
        SpecError: in all of them, where one raised it or the types differ, with the ranks.
    """
    if processes.size == 1:
        return find()
    device, refused = None, ""
    try:
        device = find()
    except SpecError as error:
        refused = str(error)
    found = processes.gather([device.type if device else "", refused])
    types, refusals = (_ranks(values) for values in zip(*found, strict=True))
    if list(refusals) != [""]:
        told = [f"{what} (in {ranks})" for what, ranks in refusals.items() if what]
        raise SpecError(f"no run of these processes, each with its rank: {' | '.join(told)}")
    if len(types) > 1:
        told = [f"{name} in {ranks}" for name, ranks in types.items()]
        raise SpecError(
            f"expected devices of one type in all processes, got {'; '.join(told)}: set device="
            "cpu, or see why torch sees no GPU there"
        )
    assert device
    return device


def versions() -> dict[str, str]:
    """What computes: the code of this project and what it stands on."""
    digest = hashlib.sha256()
    for path in sorted(path for room in CODE for path in (ROOT / room).rglob("*.py")):
        digest.update(f"{path.relative_to(ROOT)} {sha256_file(path)}\n".encode())
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "code": digest.hexdigest()[:12],
    }


def told_of(dataset: Dataset) -> dict[str, Any]:
    """What tells a data set apart before anything of it is read; not when its files changed."""
    splits = {split: fingerprint(dataset, split)["items"][:12] for split in dataset.present()}
    items = {f"items of {split}": sum(of) for split, of in dataset.counts().items()}
    return {"labels": list(dataset.labels), "rule": dataset.rule} | items | splits
