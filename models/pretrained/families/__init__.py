"""The published families whose weights are read: one table, a file for each."""

from __future__ import annotations

from models.pretrained.families import deit3, dinov2, dinov3, eva02, rope_vit, vit
from models.pretrained.family import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        dinov3.FAMILY,
        dinov2.FAMILY,
        *rope_vit.FAMILIES,
        vit.FAMILY,
        deit3.FAMILY,
        eva02.FAMILY,
    )
}
