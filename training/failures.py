"""How the commands of this room end: 0, 1 (it failed), 2 (bad input), or by a signal."""

from __future__ import annotations

from media.sources import SourceError
from media.spec import SpecError
from models.checkpoint import CheckpointError

BAD_INPUT = (SpecError, SourceError, CheckpointError, FileExistsError, FileNotFoundError)
FAILED = (OSError, FloatingPointError, MemoryError)
