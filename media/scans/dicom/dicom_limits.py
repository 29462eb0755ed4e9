"""What reading DICOM may cost, and how whatever goes wrong in it is told."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
import zlib
from collections.abc import Iterator

from media.errors import BrokenMedia, MediaError, MediaTooLarge
from media.limits import ScanLimits

PIECE_BYTES = 16  # of a sequence that is taken apart when it is asked for

logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)  # it quotes values of the patient's


class Budget:
    """How many pieces may still be taken apart; the files of a series share one.

    Attributes:
        limits: of the scan.
    """

    def __init__(self, limits: ScanLimits) -> None:
        self.limits, self._left = limits, limits.pieces

    def spend(self, pieces: int = 1) -> None:
        """Take some off; BrokenMedia where none is left."""
        self._left -= pieces
        if self._left < 0:
            raise BrokenMedia(f"expected DICOM headers of at most {self.limits.pieces} pieces")


class HeaderStream(io.BytesIO):
    """Bytes in memory, for pydicom, with a bound on the number of reads."""

    def __init__(self, data: bytes, budget: Budget) -> None:
        super().__init__(data)
        self._budget = budget

    def read(self, size: int | None = -1, /) -> bytes:
        self._budget.spend()
        return super().read(size)


def inflate(data: memoryview, most: int) -> bytes:
    """A raw deflate stream; of one that goes on behind ``most`` bytes one byte more than those.

    What follows the stream is not looked at: some writers end a data set as gzip ends a file.
    """
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = engine.decompress(data, most + 1)
    except zlib.error as error:
        raise BrokenMedia("the deflated data are damaged") from error
    if len(inflated) <= most and not engine.eof:
        raise BrokenMedia("the deflated data are truncated")
    return inflated


@contextlib.contextmanager
def told_as_media_errors() -> Iterator[None]:
    """Whatever a decoder raises becomes a MediaError; its warnings reach nobody."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except MediaError:
        raise
    except MemoryError as error:
        raise MediaTooLarge("the scan needs more memory than its decoder may use") from error
    except Exception as error:  # decoders raise nearly every type there is on hostile bytes
        raise BrokenMedia("the DICOM data are truncated or corrupt; they do not decode") from error
