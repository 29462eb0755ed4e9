"""The settings of a run over its steps: what changed when it went on, and what the run has now.

Every checkpoint holds the changes before it. RUN/history.json holds them too, and the one that no
checkpoint knows yet: a change counts from the moment it was asked for, whenever the run is killed.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any

from media.spec import SpecError
from media.strict_json import from_json
from training.config import TrainConfig
from training.settings import FIXED, MAY_CHANGE, WITHOUT_EFFECT, differences


@dataclasses.dataclass(frozen=True)
class Change:
    """What a run went on with.

    Attributes:
        step: how many had been taken before.
        time: when it was asked for, ISO 8601.
        changed: what each setting was and is; all of them are of the first level.
    """

    step: int
    time: str
    changed: dict[str, tuple[Any, ...]]

    def in_words(self) -> str:
        """``learning_rate 0.001 -> 0.0005``."""
        pairs = self.shown().changed
        return ", ".join(f"{name} {old} -> {new}" for name, (old, new) in pairs.items())

    def shown(self) -> Change:
        """As whoever reads of the run may see it."""
        pairs = {
            name: tuple(shown(name, value) for value in pair)
            for name, pair in self.changed.items()
        }
        return dataclasses.replace(self, changed=pairs)


def shown(name: str, value: Any) -> Any:
    """A setting's value; ids of items may name people and are counted."""
    return f"{len(value)} items" if name == "skip" else value


def read_changes(values: Any) -> list[Change]:
    """From parsed JSON; SpecError where it is anything else."""
    if not isinstance(values, list):
        raise SpecError(f"history: expected a list of changes, got {type(values).__name__}")
    return [from_json(Change, value, "history") for value in values]


def going_on(config: TrainConfig, notes: dict[str, Any], history: Sequence[Change]) -> TrainConfig:
    """The config with what the run has now in place of everything that may change."""
    now = dict(notes["config"])
    for change in history:
        now |= {name: new for name, (_, new) in change.changed.items()}
    stored = from_json(TrainConfig, now, "config")
    kept = {name: getattr(stored, name) for name in (*MAY_CHANGE, *WITHOUT_EFFECT)}
    return dataclasses.replace(config, **kept)


def change_to(config: TrainConfig, notes: dict[str, Any]) -> Change | None:
    """What a run changes that goes on with this config from a checkpoint's notes, if anything.

    Raises:
        SpecError: a setting differs that may not, with the reason.
    """
    changed = differences(from_json(TrainConfig, notes["config"], "config"), config)
    may = (*MAY_CHANGE, *WITHOUT_EFFECT)
    if fixed := [name for name in changed if name not in may]:
        reasons = (f"{name} ({FIXED[name.split('.')[0]]})" for name in fixed)
        raise SpecError(
            f"the run to resume was made with other values of: {', '.join(reasons)}; it may go on "
            f"with another {', '.join(may)}"
        )
    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Change(notes["step"], time, changed) if changed else None


def same(one: Sequence[Change], other: Sequence[Change]) -> bool:
    """Whether two histories tell the same, whenever it was asked for."""
    return _timeless(one) == _timeless(other)


def _timeless(history: Sequence[Change]) -> list[Change]:
    return [dataclasses.replace(change, time="") for change in history]
