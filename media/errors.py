"""Why bytes could not become an array. Messages are for the sender: no paths, no internals."""

from __future__ import annotations


class MediaError(ValueError):
    """The media cannot be used."""


class UnsupportedMedia(MediaError):
    """The bytes are not of a type this modality reads."""


class BrokenMedia(MediaError):
    """The type is right and the content cannot be decoded."""


class MediaTooLarge(MediaError):
    """Decoding would exceed a limit; decided from the header, before pixels are allocated."""


def reason_of(error: Exception) -> str:
    """Why an item cannot be read; of an error of the system no path."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
