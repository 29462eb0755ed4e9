"""What the catalog knows: bundles that were examined, and the targets that requests go to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from media.spec import Grid
from models.manifest import GridEntry, Manifest
from service.engine.decode.wire import Preparation
from service.engine.device.queues import Key
from service.engine.failures import UnknownGrid

State = Literal["ready", "refused"]
#: In the place of a grid: the one that fits the file's own size.
AUTO = "auto"


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Model:
    """One version of one bundle, opened on every device and never changed.

    Its queues and sessions are there as long as anybody holds it: the catalog while it answers,
    every request that was let in to it, by its targets. So another version takes its place by one
    assignment, and what is inside ends with the one that it began with.
    """

    manifest: Manifest
    number: int  # no other one of this process has it


@dataclass(frozen=True, slots=True)
class Target:
    """One grid of one model: how its pixels are asked for and which queue answers."""

    model: Model
    grid: str
    preparation: Preparation

    @classmethod
    def make(cls, model: Model, grid: str, views: int, seconds: float) -> Target:
        """``seconds``: wall time to decode one item."""
        manifest, parsed = model.manifest, Grid.parse(grid)
        asked = Preparation.make(manifest.input, [parsed], manifest.patch, views, seconds)
        return cls(model, grid, asked)

    def with_views(self, views: int) -> Target:
        """The same for another number of views than the bundle's own."""
        return self.make(self.model, self.grid, views, self.preparation.seconds)

    @property
    def manifest(self) -> Manifest:
        return self.model.manifest

    @property
    def entry(self) -> GridEntry:
        """What the manifest says of the grid."""
        return next(one for one in self.manifest.grids if one.grid == self.grid)

    @property
    def temperature(self) -> float:
        """By which logits are divided before the softmax, 1 where none was fitted.

        Of a clip the mean over its views is: export fits it to such means, and measures what they
        give.
        """
        return self.entry.calibration.temperature

    @property
    def bundle(self) -> str:
        return self.manifest.name

    @property
    def labels(self) -> tuple[str, ...]:
        return self.manifest.labels

    @property
    def key(self) -> tuple[int, str]:
        """Of its queue."""
        return self.model.number, self.grid

    @property
    def attention_key(self) -> tuple[int, str, str]:
        """Of the queue whose graph also tells where attention looked, where there is one."""
        return self.model.number, self.grid, "attention"

    @property
    def keys(self) -> list[Key]:
        """Of all of its queues."""
        return [self.key] if self.entry.attention is None else [self.key, self.attention_key]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one item: ``[views, *pixels per axis, channels]``."""
        return self.preparation.shapes[self.grid]

    @property
    def pixels(self) -> tuple[int, ...]:
        """Per axis."""
        return self.shape[1:-1]

    @property
    def views(self) -> int:
        """Rows of one item."""
        return self.shape[0]

    @property
    def is_as_measured(self) -> bool:
        """Whether an item has as many views as when the bundle was measured."""
        return self.views == self.manifest.input.views

    @property
    def frames(self) -> int:
        """Of one view of a clip: pixels along the first axis."""
        return self.pixels[0]


@dataclass(frozen=True, slots=True)
class Choice:
    """Who of one bundle may answer a file: one target, or all of whom its own size takes one.

    Attributes:
        targets: by grid.
        preparation: asks for whichever fits.
        said_grid, said_views: what the request said of them; None where that was nothing, and the
            bundle's own ones are taken.
    """

    targets: dict[str, Target]
    preparation: Preparation
    said_grid: str | None = None
    said_views: int | None = None

    @classmethod
    def of(
        cls,
        targets: Iterable[Target],
        said_grid: str | None = None,
        said_views: int | None = None,
    ) -> Choice:
        """Among targets of one bundle with equally many views."""
        by_grid = {one.grid: one for one in targets}
        first, *others = by_grid.values()
        if not others:
            return cls(by_grid, first.preparation, said_grid, said_views)
        manifest, grids = first.manifest, [Grid.parse(grid) for grid in by_grid]
        asked = Preparation.make(
            manifest.input, grids, manifest.patch, first.views, first.preparation.seconds
        )
        return cls(by_grid, asked, said_grid, said_views)

    def with_views(self, views: int) -> Choice:
        """The same for a number of views that was said."""
        targets = (one.with_views(views) for one in self.targets.values())
        return self.of(targets, self.said_grid, views)

    def among(self, grids: Sequence[str]) -> Choice:
        """The same with some of its grids alone; UnknownGrid if one is none of them, or none is."""
        unknown = [grid for grid in grids if grid not in self.targets]
        if unknown or not grids:
            what = f"unknown grid {unknown[0][:32]!a}" if unknown else "no grid is named"
            known = ", ".join(self.targets)
            raise UnknownGrid(f"{what} for bundle {self.manifest.name}; known: {known}")
        said = grids[0] if len(grids) == 1 else AUTO
        return self.of((self.targets[grid] for grid in grids), said, self.said_views)

    @property
    def manifest(self) -> Manifest:
        return next(iter(self.targets.values())).manifest

    @property
    def grid(self) -> str:
        """The only one, or ``AUTO`` while that is open."""
        return AUTO if len(self.targets) > 1 else next(iter(self.targets))

    @property
    def frames(self) -> int:
        """Of one view of a clip, where they are the most."""
        return max(one.frames for one in self.targets.values())


@dataclass(slots=True)
class ExaminedBundle:
    """What became of one folder."""

    name: str
    state: State
    modality: str | None = None  # None where not even that can be read
    reason: str | None = None
    manifest: Manifest | None = None
    device: str | None = None
    targets: dict[str, Target] = field(default_factory=dict)  # by grid; the first is the default
    versions: tuple[str, ...] = ()  # that were on the disk, oldest first; the manifest's answers
    empty: bool = False  # neither manifest nor graphs: nobody's default
    home: Path | None = None  # its folder, or that of its versions
    newcomer: bool = False  # came refused while others served: no reason to send nobody to them

    def may_answer(self, modality: str) -> bool:
        """Whether requests of this modality are its own; of an unreadable one that is not known."""
        return self.modality in (modality, None)
