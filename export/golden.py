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

#: A server's processor adds in another order than the exporter's; a GPU in yet another. TF32 is
#: off there, so fp32 stays fp32.
FP32_TOLERANCES = (
    Tolerance("cpu", "fp32", atol=1e-4, rtol=1e-3),
    Tolerance("cuda", "fp32", atol=1e-3, rtol=1e-3),
)
#: Times the export's own bound. Half of an fp16 error comes from the weights and is the same
#: everywhere; what another processor rounds differently is no larger than all of it. Nothing was
#: measured on a GPU: twice as much again is left to one.
FP16_FACTORS = {"cpu": 2.0, "cuda": 4.0}

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
    """What a server's replay may differ by, per device; fp16 takes the widest grid's bound."""
    if precision == "fp32":
        return FP32_TOLERANCES
    atol = max(entry.parity.atol for entry in entries)
    rtol = max(entry.parity.rtol for entry in entries)
    return tuple(
        Tolerance(device, precision, factor * atol, factor * rtol)
        for device, factor in FP16_FACTORS.items()
    )
