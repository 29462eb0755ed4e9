"""The family of position encodings: one interface, one table."""

from __future__ import annotations

from media.spec import SpecError
from models.encodings.absolute import Absolute
from models.encodings.axial_rope import AxialRope
from models.encodings.base import Encoding
from models.encodings.comrope import ComRopeAp, ComRopeLd
from models.encodings.dinov3_rope import Dinov3Rope
from models.encodings.liere import Liere
from models.encodings.masa import Masa
from models.encodings.names import parse_name, short_name
from models.encodings.published_axial import PublishedAxial
from models.encodings.rope_1d import Rope1d
from models.encodings.rope_mixed import RopeMixed
from models.encodings.sinusoidal import Sinusoidal
from models.encodings.spherical_rope import SphericalRope
from models.encodings.string_cayley import StringCayley
from models.encodings.string_circulant import StringCirculant
from models.spec import EncodingSpec, ModelSpec

__all__ = ["ENCODINGS", "Encoding", "make_encoding", "parse_encoding", "short_name"]

ENCODINGS: dict[str, type[Encoding]] = {
    "absolute": Absolute,
    "axial_rope": AxialRope,
    "comrope_ap": ComRopeAp,
    "comrope_ld": ComRopeLd,
    "dinov3_rope": Dinov3Rope,
    "liere": Liere,
    "masa": Masa,
    "published_axial": PublishedAxial,
    "rope_1d": Rope1d,
    "rope_mixed": RopeMixed,
    "sinusoidal": Sinusoidal,
    "spherical_rope": SphericalRope,
    "string_cayley": StringCayley,
    "string_circulant": StringCirculant,
}


def make_encoding(spec: ModelSpec) -> Encoding:
    """The encoding that a model spec names; an unknown name raises SpecError."""
    if spec.encoding.name not in ENCODINGS:
        known = ", ".join(sorted(ENCODINGS))
        raise SpecError(f"unknown encoding {spec.encoding.name!r}; known: {known}")
    return ENCODINGS[spec.encoding.name](spec)


def parse_encoding(text: str) -> EncodingSpec:
    """``"liere_8"``, ``"comrope_ld"`` or ``"masa:basis=givens,factors=8"`` as a spec.

    A name of the table, perhaps with ``_`` and a block; then, after a colon, options of
    EncodingSpec. ``short_name`` is the way back.

    Raises:
        SpecError: an unknown name or option, a value of the wrong type.
    """
    return parse_name(text, ENCODINGS)
