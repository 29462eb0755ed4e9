"""What the command line asks of an export."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from export import workers
from media.spec import Grid
from models.manifest import Precision


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        checkpoint: folder of the checkpoint.
        version: goes into a folder of its own beside other versions; None is the only one.
        data: labelled data whose ``split`` measures parity and accuracy; None takes the path
            that training used.
        about: Markdown for the head of the model card.
        parity_items: real inputs per grid that torch and the graph must agree on, every view of a
            clip being one; an fp16 graph must on the whole split, and on these with every result
            rounded as well.
        goldens: files to replay instead of generated ones; they travel in the bundle.
        workers: threads that decode the data.
        abstain: probability, above 0 and below 1, under which a bundle says that it does not know.
        allow_duplicates: go on where the same bytes lie in two splits; the card says so.
        explain: write a second graph a grid that tells where the model looked, by attention.
    """

    checkpoint: Path
    grids: tuple[Grid, ...]
    out: Path
    name: str
    version: str | None = None
    precision: Precision = "fp32"
    data: Path | None = None
    split: str = "test"
    about: str = ""
    parity_items: int = 256
    max_table_mb: float = 256.0
    goldens: tuple[Path, ...] = ()
    workers: int = workers.DEFAULT
    allow_duplicates: bool = False
    abstain: float | None = None
    explain: bool = False
