"""What can go wrong with a request, whoever asked: server, command line, a program.

The class says what happened; ``detail`` says it of this one time, for the sender: what was expected
and what came, never a path, an address or a library's own words. How HTTP says it is the affair of
``service.http.problems``. Whatever is not a ``Failure`` is explained in the log alone.
"""

from __future__ import annotations


class Failure(Exception):
    """A request that cannot be answered.

    Attributes:
        detail: what happened this time.
    """

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


# --- whether there is room -------------------------------------------------------------------


class Draining(Failure):
    """The server is about to end."""


class NotReady(Failure):
    """Nothing can be answered yet, or any more."""


class Overloaded(Failure):
    """All the work that is allowed is inside.

    Args:
        retry_seconds: when there should be room again; None where that was not measured.
        reason: what there was too much of, as the refusals are counted.
    """

    def __init__(self, detail: str, retry_seconds: int | None = None, reason: str = "") -> None:
        super().__init__(detail)
        self.retry_seconds = retry_seconds
        self.reason = reason


# --- who is asked, and for what --------------------------------------------------------------


class BadParameter(Failure):
    """A parameter has a value out of range."""


class UnknownBundle(Failure):
    """There is no bundle of this name, or none for this modality."""


class UnknownVersion(Failure):
    """The bundle answers, and with another version than the one that was asked for."""


class UnknownGrid(Failure):
    """The bundle has no graph for this grid."""


class NoEmbedding(Failure):
    """The graph has no features to give: it was exported before graphs had them."""


class NoAttention(Failure):
    """The bundle has no graph that tells where attention looked."""


class NoLabels(Failure):
    """The bundle has no head: it gives features, and there is nothing to rank or explain."""


class ExplanationTooLong(Failure):
    """The rows of an explanation take longer than the answer has time."""


class BundleRefused(Failure):
    """The bundle failed its checks."""


# --- who shall answer ------------------------------------------------------------------------


class CandidateRefused(Failure):
    """A version failed its proof, or cannot take the place of the one that answers."""


class VersionInUse(Failure):
    """A version answers, so it cannot be removed."""


class FolderFixed(Failure):
    """The folder of bundles cannot be changed: it is read-only, or full."""


class NoShadow(Failure):
    """No version of the bundle sees, or saw, copies of its requests."""


# --- files -> pixels -------------------------------------------------------------------------


class UnreadableFile(Failure):
    """The file cannot be opened or read: of the command line, which is given names of files."""


class EmptyFile(Failure):
    """There is not a byte in it."""


class FileTooLarge(Failure):
    """The encoded file has more bytes than its modality may have."""


class UnsupportedMedia(Failure):
    """The bytes are of no type that is read here."""


class BrokenMedia(Failure):
    """The type is known and the file cannot be decoded."""


class MediaTooLarge(Failure):
    """The decoded file would be too large."""


class DecodeTimeout(Failure):
    """Decoding took longer than it may."""


# --- pixels -> answer ------------------------------------------------------------------------


class DeadlinePassed(Failure):
    """The answer came too late."""


class InferenceFailed(Failure):
    """The graph failed on this input."""


class InternalError(Failure):
    """A mistake of ours."""
