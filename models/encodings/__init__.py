"""The family of position encodings: one interface, one table."""

from __future__ import annotations

from models.encodings.absolute import Absolute
from models.encodings.base import Encoding
from models.encodings.liere import Liere
from models.spec import ModelSpec, SpecError

__all__ = ["ENCODINGS", "Encoding", "make_encoding"]

ENCODINGS: dict[str, type[Encoding]] = {
    "absolute": Absolute,
    "liere": Liere,
}


def make_encoding(spec: ModelSpec) -> Encoding:
    """The encoding that a model spec names; an unknown name raises SpecError."""
    if spec.encoding.name not in ENCODINGS:
        known = ", ".join(sorted(ENCODINGS))
        raise SpecError(f"unknown encoding {spec.encoding.name!r}; known: {known}")
    return ENCODINGS[spec.encoding.name](spec)
