"""What the catalog knows: bundles that were examined, and the targets that requests go to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from media.spec import Grid
from models.manifest import Manifest
from service.engine.decode.wire import Preparation

State = Literal["ready", "refused"]


@dataclass(frozen=True, slots=True)
class Target:
    """One grid of one bundle: how its pixels are asked for and which queue answers."""

    manifest: Manifest
    grid: str
    preparation: Preparation

    @classmethod
    def make(cls, manifest: Manifest, grid: str, views: int, seconds: float) -> Target:
        """``seconds``: wall time to decode one item."""
        parsed = Grid.parse(grid)
        asked = Preparation.make(manifest.input, parsed, manifest.patch, views, seconds)
        return cls(manifest, grid, asked)

    def with_views(self, views: int) -> Target:
        """The same for another number of views than the bundle's own."""
        return self.make(self.manifest, self.grid, views, self.preparation.seconds)

    @property
    def bundle(self) -> str:
        return self.manifest.name

    @property
    def labels(self) -> tuple[str, ...]:
        return self.manifest.labels

    @property
    def key(self) -> tuple[str, str]:
        return self.bundle, self.grid

    @property
    def pixels(self) -> tuple[int, ...]:
        """Per axis."""
        return self.preparation.shape[1:-1]

    @property
    def views(self) -> int:
        """Rows of one item."""
        return self.preparation.shape[0]

    @property
    def frames(self) -> int:
        """Of one view of a clip: pixels along the first axis."""
        return self.pixels[0]


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
    versions: tuple[str, ...] = ()  # that are on the disk, oldest first; the manifest's answers
    empty: bool = False  # neither manifest nor graphs: nobody's default

    def may_answer(self, modality: str) -> bool:
        """Whether requests of this modality are its own; of an unreadable one that is not known."""
        return self.modality in (modality, None)
