"""Good and hostile files in one stream of requests, and whether each ended as it may.

Good ones are the goldens of the bundles and, for images, JPEGs of 640x427. Hostile ones are made of
them: cut off, with flipped bits, with zeros behind their first bytes, empty, text, of another
modality; and, of a folder of files (``--data``), whatever is in its hostile.tar.gz.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.serving.bare import Bare
from benchmarks.serving.media import photographs
from benchmarks.serving.planted_worker import FAILS, HOLDS, KILLS, NOT_FINITE
from benchmarks.serving.running import ROOT, Running, read_result, start_load
from models.bundle import Bundle, read_bundle

GOOD = "good"
#: What a hostile file may come to: an answer after all, or the word that it is at fault.
ITS_OWN_FAULT = frozenset({"200", "wrong", "400", "413", "415", "422"})
#: Any of them may, and is counted.
REFUSED = frozenset({"429"})
INFERENCE_FAILED, BROKEN = frozenset({"500"}), frozenset({"422"})
#: The share of requests of each modality, where all are served: clips and scans cost many images.
SHARES = {"image": 0.9, "video": 0.05, "volume": 0.05}
PATIENCE = 60.0
HEAD_BYTES, FLIPS = 16, 32


@dataclass(frozen=True)
class Item:
    """One file: of what kind, the best label that its answer must have, how it may end."""

    path: Path
    kind: str
    label: str = "-"
    allowed: frozenset[str] = ITS_OWN_FAULT


@dataclass(frozen=True)
class Traffic:
    """What is sent to the address of a modality, in turn, at a constant rate."""

    items: Sequence[Item]
    rate: float


# --- files -----------------------------------------------------------------------------------


def good_items(bundle: Bundle, folder: Path) -> list[Item]:
    """The goldens of a bundle, and photographs for images."""
    manifest = bundle.manifest
    grid = manifest.grids[0].grid
    labels = {
        bundle.path(golden.file): manifest.labels[int(np.argmax(golden.logits[grid]))]
        for golden in manifest.goldens
    }
    if manifest.modality == "image":
        files = photographs(folder)
        labels |= dict(zip(files, Bare(bundle, 1).best_labels(files), strict=True))
    return [Item(path, GOOD, label, frozenset({"200"})) for path, label in labels.items()]


def hostile_items(good: Sequence[Item], folder: Path, data: Path | None) -> list[Item]:
    """What can be made of good files, and what lies in a folder; written into ``folder``."""
    generator = np.random.default_rng(0)
    found = {"empty": b"", "text": b"Not a picture, not a clip and not a scan.\n" * 20}
    for item in good:
        media, name = item.path.read_bytes(), item.path.stem
        found[f"cut-{name}"] = media[: len(media) // 2]
        found[f"zeros-{name}"] = media[:HEAD_BYTES] + bytes(len(media) - HEAD_BYTES)
        flipped = np.frombuffer(media, np.uint8).copy()
        places = generator.integers(HEAD_BYTES, len(media), FLIPS)
        flipped[places] ^= (1 << generator.integers(0, 8, FLIPS)).astype(np.uint8)
        found[f"flipped-{name}"] = flipped.tobytes()
    found |= archived(data) if data else {}
    return [_written(folder, name, media) for name, media in found.items()]


def planted_items(good: Sequence[Item], folder: Path) -> list[Item]:
    """Images that are bad where ``benchmarks.serving.planted --bad-inputs`` serves."""
    media = good[-1].path.read_bytes()
    return [
        _written(folder, "not_finite", _grey(NOT_FINITE), INFERENCE_FAILED),
        _written(folder, "fails", _grey(FAILS), INFERENCE_FAILED),
        _written(folder, "kills", media + KILLS, BROKEN),
        _written(folder, "holds", media + HOLDS, BROKEN),
    ]


def archived(data: Path) -> dict[str, bytes]:
    """Every file of hostile.tar.gz; nothing is extracted."""
    with tarfile.open(data / "hostile.tar.gz") as archive:
        streams = ((one.name, archive.extractfile(one)) for one in archive if one.isfile())
        files = {name.replace("/", "_"): stream.read() for name, stream in streams if stream}
    return {f"archived-{name}": media for name, media in files.items()}


def _written(
    folder: Path, name: str, media: bytes, allowed: frozenset[str] = ITS_OWN_FAULT
) -> Item:
    path = folder / f"hostile-{name}"
    path.write_bytes(media)
    return Item(path, name.partition("-")[0], allowed=allowed)


def _grey(value: int) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (64, 64), (value,) * 3).save(encoded, "PNG")
    return encoded.getvalue()


# --- requests --------------------------------------------------------------------------------


def mixed(good: Sequence[Item], hostile: Sequence[Item], share: float) -> list[Item]:
    """A round in which every hostile file comes once, evenly among good ones."""

    def turns() -> Iterator[Item]:
        bad, owed = iter(hostile), 0.0
        for number in range(round(len(hostile) / share)):
            owed += share
            if owed >= 1 - 1e-9:
                owed -= 1
                yield next(bad)
            else:
                yield good[number % len(good)]

    return list(turns())


def all_traffic(
    bundles: Mapping[str, Bundle],
    rate: float,
    hostile_share: float,
    folder: Path,
    data: Path | None,
    planted_every: int = 0,
) -> dict[str, Traffic]:
    """By modality, good and hostile files of each, written into ``folder``.

    Args:
        rate: requests per second, of all together.
        planted_every: of the rounds of hostile images so many go to one of the planted ones; 0 for
            none of these.
    """
    traffic = {}
    for modality, one in rates(bundles, rate).items():
        place = folder / modality
        place.mkdir()
        good = good_items(bundles[modality], place)
        hostile = hostile_items(good, place, data)
        if modality == "image" and planted_every:
            hostile = planted_items(good, place) + hostile * planted_every
        traffic[modality] = Traffic(mixed(good, hostile, hostile_share), one)
    return traffic


@dataclass
class Tally:
    """Kind -> outcome -> requests; ``bad`` has those that may not end so."""

    ended: defaultdict[str, Counter[str]]
    bad: Counter[str]

    @classmethod
    def of_nothing(cls) -> Tally:
        return cls(defaultdict(Counter), Counter())

    def count(self, item: Item, outcome: str) -> None:
        self.ended[item.kind][outcome] += 1
        if outcome not in item.allowed | REFUSED:
            self.bad[f"{item.path.name}: {outcome}"] += 1

    @property
    def requests(self) -> int:
        return sum(outcomes.total() for outcomes in self.ended.values())

    @property
    def good(self) -> int:
        return self.ended[GOOD].total()

    @property
    def refused(self) -> int:
        """Good requests that were told to come later: the machine is too busy for the rate."""
        return self.ended[GOOD]["429"]

    @property
    def lost(self) -> int:
        """Good requests that got neither their right answer nor that word."""
        return self.good - self.ended[GOOD]["200"] - self.refused

    def document(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "good": self.good,
            "lost": self.lost,
            "refused": self.refused,
            "bad": dict(self.bad),
            "ended": {kind: dict(sorted(one.items())) for kind, one in sorted(self.ended.items())},
        }


@contextmanager
def sending(
    server: Running, traffic: Mapping[str, Traffic], seconds: float, tally: Tally
) -> Iterator[None]:
    """Loads under way, a process for each modality; what came of them is counted at the end."""
    with ExitStack() as stack:
        loads = {}
        for modality, one in traffic.items():
            labels = [item.label for item in one.items]
            arguments = ("--phases", f"{one.rate}x{seconds}", "--patience", str(PATIENCE))
            files = [item.path for item in one.items]
            load = start_load(server.url(modality), files, *arguments, expect=labels)
            loads[modality] = stack.enter_context(load)
        yield
        for modality, load in loads.items():
            for record in read_result(load).records:
                tally.count(traffic[modality].items[record.number], record.outcome)


def by_modality(folder: Path) -> dict[str, Bundle]:
    """A bundle of each modality; SystemExit if a folder has none for images."""
    bundles = [read_bundle(path.parent) for path in sorted(folder.glob("*/manifest.json"))]
    found = {bundle.manifest.modality: bundle for bundle in reversed(bundles)}
    if "image" not in found:
        raise SystemExit(f"--bundles: expected a bundle for images, got {folder} without one")
    return found


def rates(modalities: Iterable[str], rate: float) -> dict[str, float]:
    """Requests per second of each modality, together ``rate``."""
    shares = {modality: SHARES[modality] for modality in modalities}
    return {modality: rate * share / sum(shares.values()) for modality, share in shares.items()}


def add_mixture_options(parser: argparse.ArgumentParser, rate: float) -> None:
    add = parser.add_argument
    bundles = "a folder with a bundle for images, and for clips and scans where they shall come too"
    add("--bundles", type=Path, default=ROOT / "bundles", help=bundles)
    add("--rate", type=float, default=rate, help=f"requests per second (default: {rate:g})")


def add_data_option(parser: argparse.ArgumentParser) -> None:
    what = "a folder with a hostile.tar.gz, whose files are sent too"
    parser.add_argument("--data", type=Path, help=what)
