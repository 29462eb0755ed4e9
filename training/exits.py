"""How the commands of this room end: 0, 1 (it failed), 2 (bad input), or by a signal."""

from __future__ import annotations

import torch

from models.checkpoint import CheckpointError
from models.sources import SourceError
from models.spec import SpecError

BAD_INPUT = (SpecError, SourceError, CheckpointError, FileExistsError, FileNotFoundError)
FAILED = (OSError, FloatingPointError, MemoryError, torch.OutOfMemoryError)
