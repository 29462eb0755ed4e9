"""How long does a large data set take to open, and how much memory does an item of it take?

Tar shards of small JPEGs are made (400,000 items of about 1.3 KB by default, 1.2 GB), then, each in
a process of its own:

    indexing   shards without an index: opened, and an index left beside each
    reading    every item read once for its SHA-256, which is kept (``media.index.Digests``)
    start      what a run does before its first item: open, kept digests, what was listed, the
               columns mapped; and that first item
    memory     what a process has resident after that, and a worker that was given the data set and
               has read a thousand items; what the process had at most while it looked, once every
               digest was known, for equal bytes; of all shards, and of the first quarter of them

Bytes an item are the difference of the two sizes: what each takes whatever its size is no part of
it. Files are in the page cache: none of this measures a disk.

    python -m benchmarks.dataset_index
    python -m benchmarks.dataset_index --items 8000
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from media.duplicates import find_duplicates
from media.index import Dataset, Digests, fingerprint, open_dataset

SHARD = 4000  # items
PICTURES, CLASSES = 64, 10
#: Read by a worker before it is measured.
READ = 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=400_000, help="at least 4 shards of 4000")
    parser.add_argument("--folder", type=Path, help="made here and left, instead of a temporary")
    parser.add_argument("--way", choices=WAYS, help="measure this one in this process alone")
    parser.add_argument("--quarter", action="store_true", help="of the first quarter of the shards")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(WAYS[options.way](shards_in(options.folder, options.quarter))))
        return
    if options.items < 4 * SHARD:
        sys.exit(f"expected at least {4 * SHARD} items, got {options.items}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        make_shards(folder, options.items)
        results = measured(folder)
    show(results)
    print(json.dumps({"benchmark": "dataset_index", "items": options.items} | results))


def make_shards(folder: Path, items: int) -> None:
    """Every item has bytes of its own: one of a few pictures, and its number behind its end."""
    rng = np.random.default_rng(0)
    pictures = [jpeg(rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)) for _ in range(PICTURES)]
    for start in range(0, items, SHARD):
        split = "val" if start == SHARD else "train"
        with tarfile.open(folder / f"{split}-{start // SHARD:05d}.tar", "w") as shard:
            for item in range(start, min(start + SHARD, items)):
                add(shard, f"{item:08d}.jpg", pictures[item % PICTURES] + item.to_bytes(8))
                add(shard, f"{item:08d}.cls", str(item % CLASSES).encode())


def jpeg(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((48, 32)).save(stream, "JPEG")
    return stream.getvalue()


def add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    shard.addfile(entry, io.BytesIO(data))


def shards_in(folder: Path, quarter: bool) -> Path:
    """The folder, or a pattern of the first quarter of its shards."""
    if not quarter:
        return folder
    names = sorted((path.stem for path in folder.glob("*.tar")), key=lambda name: name[-5:])
    return folder / ("{" + ",".join(names[: len(names) // 4]) + "}.tar")


def measured(folder: Path) -> dict[str, Any]:
    def ask(way: str, *more: str) -> dict[str, float]:
        words = [sys.executable, "-m", "benchmarks.dataset_index", "--way", way, *more]
        command = [*words, "--folder", str(folder)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout)

    results: dict[str, Any] = {way: ask(way) for way in ("indexing", "reading", "start")}
    whole, part = ask("memory"), ask("memory", "--quarter")
    more = whole["items"] - part["items"]
    each = {who: (whole[who] - part[who]) / more for who in ("main", "worker", "judging")}
    results["memory"] = {f"{who}_bytes_an_item": round(size, 1) for who, size in each.items()}
    return results


def indexing(data: Path) -> dict[str, float]:
    began = time.perf_counter()
    items = len(open_dataset(data))
    seconds = time.perf_counter() - began
    return {"seconds": round(seconds, 2), "items_per_second": round(items / seconds)}


def reading(data: Path) -> dict[str, float]:
    digests = Digests(open_dataset(data), kept_in(data))
    began = time.perf_counter()
    digests.complete()
    seconds, count = time.perf_counter() - began, len(digests.dataset)
    return {"seconds": round(seconds, 2), "items_per_second": round(count / seconds)}


def start(data: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        dataset, digests = started(data, Path(folder))
        dataset.read(0)
        seconds = time.perf_counter() - began
    return {"seconds": round(seconds, 2), "not_read": len(digests.missing())}


def memory(data: Path) -> dict[str, float]:
    """Bytes that are resident once a run could begin, in this process and in a worker."""
    with tempfile.TemporaryDirectory() as folder:
        dataset, digests = started(data, Path(folder))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            worker = pool.apply(read_some, (dataset,))
        main = resident()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        contents = digests.contents()
        found = find_duplicates(contents)
        assert not found.across and not found.within
        judging = resident("VmHWM")
        return {"items": len(digests.column), "main": main, "worker": worker, "judging": judging}


def started(data: Path, folder: Path) -> tuple[Dataset, Digests]:
    dataset = open_dataset(data).kept(folder / "columns")
    digests = Digests(dataset, kept_in(data))
    for split in ("train", "val"):
        fingerprint(dataset, split)
    return dataset, digests


def kept_in(data: Path) -> Path:
    return (data.parent if data.name.endswith(".tar") else data) / ".digests"


def read_some(dataset: Dataset) -> int:
    for item in np.linspace(0, len(dataset) - 1, READ).astype(int).tolist():
        dataset.read(item)
    return resident()


def resident(field: str = "VmRSS") -> int:
    """Bytes; ``VmHWM`` for the most there were."""
    (kilobytes,) = re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(kilobytes)


WAYS: dict[str, Callable[[Path], dict[str, float]]] = {
    "indexing": indexing,
    "reading": reading,
    "start": start,
    "memory": memory,
}


def show(results: dict[str, Any]) -> None:
    table = Table("what", "measured")
    for way, row in results.items():
        table.add_row(way, ", ".join(f"{name} {value:g}" for name, value in row.items()))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
