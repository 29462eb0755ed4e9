"""Inputs that a server replays before it calls a bundle ready.

By default they are generated, so that no one's data travels in a bundle: several sizes, both
orientations, in formats that every decoder turns into the same values.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import cast

from media.spec import InputSpec
from models.manifest import GridEntry, Precision, Tolerance

#: Times the export's own bound: atol, and rtol. A server's processor adds in another order than
#: the exporter's; a GPU in yet another, TF32 is off there, so fp32 stays fp32. Half of an fp16
#: error comes from the weights and is the same everywhere; what another processor rounds
#: differently is no larger than all of it. Nothing was measured of fp16 on a GPU: twice as much
#: again is left to one.
FACTORS: dict[Precision, dict[str, tuple[float, float]]] = {
    "fp32": {"cpu": (10, 10), "cuda": (100, 10)},
    "fp16": {"cpu": (2, 2), "cuda": (4, 4)},
}

#: Modality -> module whose ``generated(spec)`` makes the goldens; loaded when first used.
GENERATED = {
    "image": "export.generated.image",
    "video": "export.generated.video",
    "volume": "export.generated.volume",
}
#: What a model card calls them.
NAMES = {"image": "pictures", "video": "clips", "volume": "scans"}


def golden_files(spec: InputSpec, chosen: list[Path]) -> dict[str, bytes]:
    """File name -> bytes: the chosen files, or generated ones where none were chosen."""
    if not chosen:
        made = importlib.import_module(GENERATED[spec.modality]).generated(spec)
        return cast(dict[str, bytes], made)
    return {f"{number}{_ending(path)}": path.read_bytes() for number, path in enumerate(chosen)}


def _ending(path: Path) -> str:
    """``.nii.gz`` is one ending."""
    return "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix


def tolerances(precision: Precision, entries: list[GridEntry]) -> tuple[Tolerance, ...]:
    """What a server's replay may differ by, per device, from the widest grid's bound."""
    atol = max(entry.parity.atol for entry in entries)
    rtol = max(entry.parity.rtol for entry in entries)
    return tuple(
        Tolerance(device, precision, absolute * atol, relative * rtol)
        for device, (absolute, relative) in FACTORS[precision].items()
    )
