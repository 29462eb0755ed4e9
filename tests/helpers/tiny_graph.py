"""The graph of a tiny network as ONNX bytes, written without onnx: Cast, Div, Reshape, MatMul.

``pixels`` [batch, *pixels per axis, channels] -> ``logits`` float32 [batch, classes]: the values,
divided by 255, times the weights in ``weights.bin``. Field numbers are those of onnx.proto3.
"""

from __future__ import annotations

import math
import struct

import numpy as np

FLOAT, UINT8, INT64, INT = 1, 2, 7, 2  # TensorProto.DataType, AttributeProto.AttributeType
EXTERNAL = 1


def tiny_graph(
    shape: tuple[int, ...], classes: int, dtype: str, embeds: bool = False, output: str = "logits",
    towards: np.ndarray | None = None,
) -> bytes:
    """A ModelProto for items of ``shape``, ``[*pixels per axis, channels]``.

    ``embeds``: the values before the product are its second output, ``embedding``. ``output``: the
    name of the first one. ``towards``: float32 [values, patches]; the softmax of the product with
    the values is the output ``attention``.
    """
    values, flat = math.prod(shape), "embedding" if embeds else "flat"
    second = _field(12, _value(flat, FLOAT, (values,))) if embeds else b""
    if towards is not None:
        patches = towards.shape[1]
        second = b"".join(
            (
                _field(1, _node("MatMul", [flat, "towards"], "scores")),
                _field(1, _node("Softmax", ["scores"], "attention")),
                _field(5, _inside("towards", FLOAT, towards.shape, _field(9, towards.tobytes()))),
                _field(12, _value("attention", FLOAT, (patches,))),
                second,
            )
        )
    graph = b"".join(
        (
            _field(1, _node("Cast", ["pixels"], "f", _field(5, _cast_to_float()))),
            _field(1, _node("Div", ["f", "scale"], "s")),
            _field(1, _node("Reshape", ["s", "shape"], flat)),
            _field(1, _node("MatMul", [flat, "weights"], output)),
            _field(2, b"tiny"),
            _field(5, _outside("weights", (values, classes))),
            _field(5, _inside("scale", FLOAT, (), _field(4, struct.pack("<f", 255)))),
            _field(5, _inside("shape", INT64, (2,), _field(7, _varint(-1) + _varint(values)))),
            _field(11, _value("pixels", UINT8 if dtype == "uint8" else FLOAT, shape)),
            _field(12, _value(output, FLOAT, (classes,))),
            second,
        )
    )
    return _number(1, 9) + _field(7, graph) + _field(8, _number(2, 18))  # IR version, opset


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _node(kind: str, inputs: list[str], output: str, attributes: bytes = b"") -> bytes:
    names = b"".join(_field(1, name.encode()) for name in inputs)
    return names + _field(2, output.encode()) + _field(4, kind.encode()) + attributes


def _cast_to_float() -> bytes:
    return _field(1, b"to") + _number(3, FLOAT) + _number(20, INT)


def _inside(name: str, kind: int, sides: tuple[int, ...], data: bytes) -> bytes:
    """A tensor whose values stand in the graph."""
    dims = b"".join(_number(1, side) for side in sides)
    return dims + _number(2, kind) + _field(8, name.encode()) + data


def _outside(name: str, sides: tuple[int, ...]) -> bytes:
    """A float tensor whose values stand in ``weights.bin``."""
    entries = {"location": "weights.bin", "offset": "0", "length": str(4 * math.prod(sides))}
    places = (
        _field(13, _field(1, key.encode()) + _field(2, text.encode()))
        for key, text in entries.items()
    )
    return _inside(name, FLOAT, sides, b"".join(places) + _number(14, EXTERNAL))


def _value(name: str, kind: int, sides: tuple[int, ...]) -> bytes:
    """ValueInfoProto with a free first axis."""
    dims = _field(1, _field(2, b"batch")) + b"".join(_field(1, _number(1, side)) for side in sides)
    tensor = _number(1, kind) + _field(2, dims)
    return _field(1, name.encode()) + _field(2, _field(1, tensor))
