"""The table of the family, and what its members take."""

from __future__ import annotations

import dataclasses
import textwrap

from media.spec import SpecError
from media.strict_json import from_json
from models.encodings.absolute import Absolute
from models.encodings.axial_rope import AxialRope
from models.encodings.base import Encoding, Options, TransformerShape
from models.encodings.comrope import ComRopeAp, ComRopeLd
from models.encodings.dinov3_rope import Dinov3Rope
from models.encodings.liere import Liere
from models.encodings.masa import Masa
from models.encodings.published_axial import PublishedAxial
from models.encodings.rope_1d import Rope1d
from models.encodings.rope_mixed import RopeMixed
from models.encodings.sinusoidal import Sinusoidal
from models.encodings.spherical_rope import SphericalRope
from models.encodings.string_cayley import StringCayley
from models.encodings.string_circulant import StringCirculant
from models.spec import EncodingSpec, ModelSpec

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
    """The encoding that a model spec names.

    Raises:
        SpecError: what ``options_of`` refuses, or the encoding needs another transformer.
    """
    options = options_of(spec.encoding)
    shape = TransformerShape(spec.training_grid, spec.depth, spec.heads, spec.head_dim)
    try:
        return ENCODINGS[spec.encoding.name](options, shape)
    except SpecError as error:
        raise SpecError(f"{spec.encoding.name}: {error}") from error


def options_of(encoding: EncodingSpec) -> Options:
    """What an encoding is told, by its class, defaults where the spec leaves it something.

    Raises:
        SpecError: an unknown name or option, a value of the wrong type, or one that cannot be.
    """
    if encoding.name not in ENCODINGS:
        known = ", ".join(sorted(ENCODINGS))
        raise SpecError(f"unknown encoding {encoding.name!r}; known: {known}")
    kind = ENCODINGS[encoding.name].OPTIONS
    own = [field.name for field in dataclasses.fields(kind)]
    for name, value in encoding.options.items():
        if name not in own:
            raise SpecError(
                f"{encoding.name} has no {name}, got {value!r}; its options: {', '.join(own)}"
            )
    return from_json(kind, encoding.options, encoding.name)


def complete(encoding: EncodingSpec) -> EncodingSpec:
    """The same encoding with every option said, so that a later default changes nothing."""
    return EncodingSpec(encoding.name, **vars(options_of(encoding)))


def options_help() -> str:
    """Every encoding and its own options with their defaults, a line each, for --help."""
    common = dataclasses.fields(Options)
    lines = []
    for name, encoding in ENCODINGS.items():
        own = dataclasses.fields(encoding.OPTIONS)[len(common) :]
        lines += [f"  {name}", *map(_line, own)]
    return "\n".join([*lines, "  of all that learn anything", *map(_line, common)])


def _line(field: dataclasses.Field[object]) -> str:
    default = "null" if field.default is None else str(field.default).lower()
    text = f"{field.name}={default}: {field.metadata['meaning']}"
    return textwrap.fill(text, 100, initial_indent="    ", subsequent_indent="      ")
