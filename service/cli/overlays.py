"""Pictures of where the model looked, one beside another in a folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from media.files import write_atomic
from service.engine.job import Outcome

#: Of what has no name.
STDIN = "-"


class Overlays:
    """Written as NAME.png for the last part of each file's name; of a second one NAME-2.png.

    What lies there by such a name is replaced.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._names: Counter[str] = Counter()

    def write(self, file: str, outcome: Outcome) -> None:
        """Of a file that was explained; OSError if that cannot be written."""
        if outcome.explanation is None:
            return
        name = "stdin" if file == STDIN else Path(file).name
        self._names[name] += 1
        number = f"-{self._names[name]}" if self._names[name] > 1 else ""
        write_atomic(self._folder / f"{name}{number}.png", outcome.explanation.map.overlay)
