"""A bundle's graph without a server: what it must answer, and the least that a picture costs."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from media import prepare
from media.spec import Grid
from models.bundle import Bundle


class Bare:
    """The graph of a bundle's first grid in ONNX Runtime, with so many threads."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self.manifest = bundle.manifest
        entry = self.manifest.grids[0]
        self.grid = Grid.parse(entry.grid)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            str(bundle.path(entry.graph)), options, providers=["CPUExecutionProvider"]
        )

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 ``[batch, height, width, 3]`` -> logits ``[batch, classes]``."""
        return self.session.run(None, {"pixels": pixels})[0]

    def best_labels(self, files: Sequence[Path]) -> list[str]:
        """What the server must answer to each file, prepared as the bundle says."""
        spec, patch = self.manifest.input, self.manifest.patch
        rows = [prepare(path.read_bytes(), spec, self.grid, patch) for path in files]
        return [self.manifest.labels[best] for best in self.run(np.stack(rows)).argmax(axis=1)]

    def decode(self, encoded: bytes) -> np.ndarray:
        """As one would without this project: Pillow, the whole picture, then resized."""
        height, width = self.grid.pixels(self.manifest.patch)
        picture = Image.open(io.BytesIO(encoded)).convert("RGB")
        return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))

    def cost(self, files: Sequence[Path], seconds: float) -> tuple[float, float]:
        """Milliseconds of processor time, and by the clock, of decoding and running a picture.

        All files are one batch.
        """
        media = [path.read_bytes() for path in files]
        rounds, started, spent = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - started < seconds:
            self.run(np.stack([self.decode(one) for one in media]))
            rounds += 1
        pictures = rounds * len(media)
        spent, elapsed = time.process_time() - spent, time.perf_counter() - started
        return 1000 * spent / pictures, 1000 * elapsed / pictures
