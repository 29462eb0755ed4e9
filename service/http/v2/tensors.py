"""Tensors as the protocol writes them, in JSON or as bytes, and as the engine has them.

Bytes are little-endian and row-major. An element of BYTES is its length, four bytes, and itself; in
JSON, which has no bytes, it is base64.
"""

from __future__ import annotations

import binascii
import math
import sys
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from service.engine.failures import BadParameter, EmptyFile, FileTooLarge
from service.http.problems import BrokenTensors, TooManyFiles
from service.http.v2.request import OutputParameters, RequestInput
from service.settings import Limits

BYTES = "BYTES"
#: Of pixels, as bundles name them -> as the protocol does.
DATATYPES = {"uint8": "UINT8", "float32": "FP32"}
#: Of the length of an element of BYTES.
LENGTH_BYTES = 4
#: Of the numbers that JSON may hold for a datatype; a bool is none of them.
TYPES: dict[str, set[type]] = {"UINT8": {int}, "FP32": {int, float}}
assert sys.byteorder == "little", "tensors are sent as they lie in memory"


def read_files(asked: RequestInput, raw: bytearray, limits: Limits) -> list[bytearray]:
    """The elements of a tensor of BYTES, each an encoded file.

    Args:
        raw: the binary data, which is used up: its memory becomes that of the last file.

    Raises:
        Failure: 400, 413 or 422.
    """
    if len(asked.shape) != 1 or asked.shape[0] < 1:
        raise BadParameter(f"inputs[0].shape: expected [files], got {shown(asked.shape)}")
    if (count := asked.shape[0]) > limits.files:
        raise TooManyFiles(f"a request may have at most {limits.files} files")
    if asked.data is None:
        files = _split(raw, count)
    elif len(asked.data) == count:
        files = [_from_base64(number, text) for number, text in enumerate(asked.data)]
    else:
        raise BadParameter(f"inputs[0].data: expected {count} texts, got {len(asked.data)}")
    for number, file in enumerate(files, 1):
        if len(file) > limits.file_bytes:
            raise FileTooLarge(f"a file may have at most {limits.file_bytes} bytes")
        if not file:
            raise EmptyFile(f"file {number} has no bytes")
    return files


def _split(raw: bytearray, count: int) -> list[bytearray]:
    """Exactly so many elements, each behind its length; BrokenTensors if they are not that."""
    files = []
    for number in range(1, count + 1):
        size = int.from_bytes(raw[:LENGTH_BYTES], "little")
        left = len(raw) - LENGTH_BYTES
        if left < size or (number == count and left > size):
            where = f"element {number} of {count}"
            raise BrokenTensors(f"{where}: its length is {size}, and {max(left, 0)} bytes follow")
        del raw[:LENGTH_BYTES]
        files.append(raw if number == count else raw[:size])
        if number < count:
            del raw[:size]
    return files


def _from_base64(number: int, text: Any) -> bytearray:
    try:
        if isinstance(text, str):
            return bytearray(binascii.a2b_base64(text, strict_mode=True))
    except ValueError:
        pass  # told below, with what is no text at all
    raise BadParameter(f"inputs[0].data[{number}]: expected a file as a text in base64")


def read_pixels(asked: RequestInput, raw: bytearray) -> np.ndarray:
    """A tensor of pixels, ``[rows, *pixels per axis, channels]``; BadParameter if it is not whole.

    Args:
        asked: of a datatype that pixels have and with a shape that was looked at.
        raw: the binary data, whose memory is that of the array.
    """
    dtype = next(np.dtype(name) for name, known in DATATYPES.items() if known == asked.datatype)
    count = math.prod(asked.shape)
    if asked.data is not None:
        pixels = _from_json(asked, count)
    elif len(raw) == count * dtype.itemsize:
        pixels = np.frombuffer(raw, dtype)
    else:
        raise BadParameter(
            f"inputs[0]: expected {count * dtype.itemsize} bytes for {asked.datatype} "
            f"{shown(asked.shape)}, got {len(raw)}"
        )
    # Not only for NaN: values of another scale would be answered, with nonsense.
    if pixels.dtype != np.uint8 and not (pixels.min() >= 0 and pixels.max() <= 255):
        raise BadParameter(
            f"pixels: expected 0 to 255, got {pixels.min():.4g} to {pixels.max():.4g}"
        )
    return pixels.astype(dtype, copy=False).reshape(asked.shape)


def _from_json(asked: RequestInput, count: int) -> np.ndarray:
    """The numbers in the JSON, flat or nested as the shape is; float64, which has every pixel.

    Looked at before numpy sees them: it makes an array of whatever comes, and of texts each is as
    long as the longest.
    """
    assert asked.data is not None
    leaves = _leaves(asked.data, asked.shape) or _leaves(asked.data, (count,))
    if leaves is None:
        raise BadParameter(
            f"inputs[0].data: expected {count} numbers, or lists of them for "
            f"{shown(asked.shape)}"
        )
    try:
        if set(map(type, leaves)) <= TYPES[asked.datatype]:
            return np.array(leaves, np.float64)
    except OverflowError:
        pass  # a whole number of hundreds of digits: told below
    what = "whole numbers" if asked.datatype == "UINT8" else "numbers"
    raise BadParameter(f"inputs[0].data: expected {what} from 0 to 255 for {asked.datatype}")


def _leaves(data: list[Any], shape: tuple[int, ...]) -> list[Any] | None:
    """What stands in lists that are nested as a shape is, in its order; None if they are not."""
    level: list[Any] = [data]
    for side in shape:
        if not all(type(one) is list and len(one) == side for one in level):
            return None
        level = list(chain.from_iterable(level))
    return level


def shown(shape: Sequence[int]) -> str:
    """A client's shape, short."""
    text = ", ".join(str(side)[:20] for side in shape[:6])
    return f"[{text}{', ...' if len(shape) > 6 else ''}]"


def write_output(
    name: str, values: np.ndarray, labels: Sequence[str], wanted: OutputParameters, is_binary: bool
) -> tuple[dict[str, Any], bytes]:
    """An output as the JSON of the answer has it, and its bytes behind that.

    Args:
        values: float ``[rows, classes]``.
        wanted: of classes at most as many as there are.
        is_binary: whether it comes as bytes.
    """
    if wanted.classification is None:
        floats = values.astype("<f4")
        document = {"name": name, "shape": list(values.shape), "datatype": "FP32"}
        return _with_data(document, floats.ravel().tolist(), floats.tobytes(), is_binary)
    texts = [text for row in values for text in classify(row, labels, wanted.classification)]
    raw = b"".join(
        len(one).to_bytes(LENGTH_BYTES, "little") + one for one in (text.encode() for text in texts)
    )
    shape = [len(values), wanted.classification]
    document = {"name": name, "shape": shape, "datatype": BYTES}
    return _with_data(document, texts, raw, is_binary)


def classify(row: np.ndarray, labels: Sequence[str], count: int) -> list[str]:
    """VALUE:INDEX:LABEL of the highest values, descending; the lower index wins a tie."""
    order = np.argsort(-row, kind="stable")[:count]
    return [f"{row[index]:.6f}:{index}:{labels[index]}" for index in order.tolist()]


def _with_data(
    document: dict[str, Any], data: list[Any], raw: bytes, is_binary: bool
) -> tuple[dict[str, Any], bytes]:
    if is_binary:
        return document | {"parameters": {"binary_data_size": len(raw)}}, raw
    return document | {"data": data}, b""
