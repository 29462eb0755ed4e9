"""What TensorBoard shows of a run: ``tensorboard --logdir RUN``.

TensorBoard's own writer hands its records to a thread. There a full disk is a traceback on the
terminal that the training loop learns of with some later record, and a kill loses what the thread
has not written. Here the same records are written by whoever adds them.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Self

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

#: TensorBoard takes every file with ``tfevents`` in its name, in the order of their names.
PREFIX = "events.out.tfevents."


class Curves:
    """Scalars over steps, in a file of its own for every start of the run.

    A kill may leave half a record at the end of a file: readers stop there and go on with the next
    file, so nothing is ever appended to an old one.

    Args:
        folder: made where it is missing.
        step: steps taken so far, 0 for a new run. Whatever an earlier start wrote of later steps
            is hidden, because they are taken again.

    Raises:
        OSError: here and in every method: a full disk, for one.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.stream = (folder / f"{PREFIX}{_next_number(folder):08d}").open("xb")
        self.records = RecordWriter(self.stream)
        # without both of these a reader keeps the steps that are taken again
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, step: int, values: dict[str, float]) -> None:
        """The values after so many steps, by name; a kill of the process loses none of them."""
        rows = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=rows)))

    def flush(self) -> None:
        """Everything added so far outlives a power cut too."""
        os.fsync(self.stream.fileno())

    def close(self) -> None:
        """Close the file; once more does nothing."""
        self.stream.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        try:
            self.records.write(event.SerializeToString())
            self.stream.flush()
        except OSError:
            with contextlib.suppress(OSError):  # closing tries to write the rest once more
                self.stream.close()
            raise


def _next_number(folder: Path) -> int:
    """One more than the last file's: unlike a time of day it never runs backwards."""
    numbers = (path.name.removeprefix(PREFIX) for path in folder.glob(f"{PREFIX}*"))
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=0)
