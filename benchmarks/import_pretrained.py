"""How much memory and time does importing a ViT-L take?

The state of a DINOv3 ViT-L/16 (width 1024, 24 layers, 303 million numbers) is drawn, written as
transformers writes it, and imported in a process of its own. Of that process the anonymous memory
(RssAnon: not what is mapped from files, which the kernel takes back whenever it needs it) is read
every few milliseconds; the figure is its peak above what the process had once all was imported that
it needs, over the size of the state.

    python -m benchmarks.import_pretrained [--width 1024 --depth 24] [--folder /tmp]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from media.spec import Grid
from models.pretrained.convert import shapes
from models.pretrained.describe import Sizes
from models.pretrained.families.dinov3 import LAYOUTS
from models.pretrained.family import Found
from models.pretrained.layout import LAYER, Matched
from models.pretrained.make import Options, import_pretrained
from models.pretrained.source import Source

STATUS, EVERY = Path("/proc/self/status"), 0.003  # seconds
PATCH, REGISTERS, HEAD_DIM = 16, 4, 64


def main() -> None:
    words = _parser().parse_args()
    if words.imported:
        print(json.dumps(measure(words.imported)))
        return
    with tempfile.TemporaryDirectory(dir=words.folder) as folder:
        bytes_ = write(Path(folder), words.width, words.depth)
        command = [sys.executable, "-m", "benchmarks.import_pretrained", "--imported", folder]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    found["state_mb"] = round(bytes_ / 1e6)
    found["of_state"] = round(found["anonymous"] / bytes_, 3)
    told = f"{found['seconds']} s, {found['of_state']} of it in memory"
    print(f"state of {found['state_mb']} MB: {told}")
    print(json.dumps({"benchmark": "import_pretrained"} | found))


def write(folder: Path, width: int, depth: int) -> int:
    """The folder that is imported; bytes of its state."""
    layout = LAYOUTS[0]
    sizes = Sizes(width, depth, PATCH, REGISTERS, 0, 4 * width, packed=False)
    nothing = Matched(layout, {}, (), (), (), depth)
    empty = Source("", {}, {}, {}, {})
    found = Found(empty, nothing, width // HEAD_DIM, HEAD_DIM, Grid((14, 14)), words={})
    wanted = shapes(found, sizes)
    state: dict[str, Tensor] = {}
    for theirs, ours in layout.names.items():
        if ".gate." in ours or ours.endswith("key.bias"):
            continue
        for layer in range(depth if LAYER in ours else 1):
            state[theirs.replace(LAYER, str(layer))] = 0.02 * torch.randn(wanted[ours])
    save_file(state, folder / "model.safetensors")
    config = {"model_type": "dinov3_vit", "num_attention_heads": width // HEAD_DIM}
    (folder / "config.json").write_text(json.dumps(config))
    return sum(tensor.nbytes for tensor in state.values())


def measure(folder: Path) -> dict[str, float]:
    """Seconds, and bytes of anonymous memory at most above what there is now."""
    before, peak, done = anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(EVERY):
            peak = max(peak, anonymous())

    watching = threading.Thread(target=watch)
    watching.start()
    start, spent = time.perf_counter(), time.process_time()
    import_pretrained(str(folder), folder / "run", Options())
    seconds, processor = time.perf_counter() - start, time.process_time() - spent
    done.set()
    watching.join()
    return {
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),
        "anonymous": max(peak - before, 0),
    }


def anonymous() -> int:
    """RssAnon of this process, bytes."""
    found = re.search(r"RssAnon:\s+(\d+) kB", STATUS.read_text())
    assert found is not None
    return 1024 * int(found[1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.import_pretrained")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=24)
    parser.add_argument("--folder", type=Path, help="where the files lie meanwhile")
    parser.add_argument("--imported", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
