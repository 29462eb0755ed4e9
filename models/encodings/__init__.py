"""The family of position encodings: one interface, one table."""

from models.encodings.base import Encoding
from models.encodings.names import parse_encoding, short_name
from models.encodings.table import ENCODINGS, complete, make_encoding, options_help, options_of

__all__ = [
    "ENCODINGS",
    "Encoding",
    "complete",
    "make_encoding",
    "options_help",
    "options_of",
    "parse_encoding",
    "short_name",
]
