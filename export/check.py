"""What every graph of a bundle must be; onnx alone, no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from models.manifest import Precision

OPSET = 23  # the first with the Attention operator
WEIGHTS = "weights.bin"
#: The second output, the features before the head; graphs from before lack it. The only one of a
#: model without a head.
EMBEDDING = "embedding"
#: Of a graph that explains, the rollout of attention.
ATTENTION = "attention"
#: What a graph may give.
OUTPUTS = [["logits"], ["logits", EMBEDDING], [EMBEDDING]]
EXPLAINED = ["logits", ATTENTION, EMBEDDING]
#: Whatever else stands in a graph has no business there: a convolution would be a second patch
#: embedding, a loop or a matrix inverse a position that is computed at a request.
OPERATORS = {
    "Add", "Cast", "Concat", "Expand", "Gather", "Gelu", "Gemm",
    "LayerNormalization", "MatMul", "Mul", "ReduceMean", "Reshape", "Shape", "Sigmoid", "Slice",
    "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze",
}  # fmt: skip
#: What takes the softmax of a layer: in one operator, or where the weights are told in one of its
#: own. There is one a layer.
SOFTMAX = {False: "Attention", True: "Softmax"}
FLOAT, HALF, UINT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8
#: dtype of an InputSpec -> type of the graph's pixels.
PIXELS = {"uint8": UINT8, "float32": FLOAT}
#: Operator of an fp16 graph -> the type of what enters it. MatMul: see ``_product_type``.
FP16_TYPES = {
    "Attention": HALF, "Gelu": HALF, "LayerNormalization": FLOAT, "Gemm": FLOAT, "Softmax": FLOAT,
}  # fmt: skip


class GraphError(RuntimeError):
    """A graph that breaks the bundle's contract."""


def check_graph(
    graph: ModelProto,
    precision: Precision = "fp32",
    dtype: str = "uint8",
    attention: bool = False,
) -> None:
    """Raise GraphError unless the graph keeps the bundle's contract.

    Values of external tensors are not needed; ``check_external`` is about those.

    Args:
        dtype: of the pixels, as the InputSpec says.
        attention: whether it tells the rollout of attention too.
    """
    nodes, softmax = graph.graph.node, SOFTMAX[attention]
    operators = {node.op_type for node in nodes}
    foreign = {node.domain for node in nodes} - {"", "ai.onnx"}
    strange = operators - OPERATORS - {softmax}
    if strange or foreign or graph.functions:
        raise GraphError(f"unexpected operators {strange} or domains {foreign}")
    opsets = {entry.domain: entry.version for entry in graph.opset_import}
    if softmax not in operators or opsets.get("") != OPSET:
        raise GraphError(f"expected {softmax} at opset {OPSET}, got opset {opsets.get('')}")
    if held := [node.op_type for node in nodes if any(map(_holds, node.attribute))]:
        raise GraphError(f"an attribute of {held[0]} holds a tensor or a graph of its own")
    _check_ends(graph, dtype, attention)
    used = {name for node in nodes for name in node.input}
    used |= {value.name for value in graph.graph.output}
    if idle := [node.name or node.op_type for node in nodes if not used & set(node.output)]:
        raise GraphError(f"the result of operator {idle[0]} is not used")
    _check_types(graph, precision)


def _holds(attribute: onnx.AttributeProto) -> bool:
    """Constants are initializers here, where they can be found and checked."""
    number = onnx.AttributeProto
    plain = (number.FLOAT, number.INT, number.STRING, number.FLOATS, number.INTS, number.STRINGS)
    return attribute.type not in plain


def _check_ends(graph: ModelProto, dtype: str, attention: bool) -> None:
    """Pixels of that type -> float32 logits, features or both; only the batch axis free."""
    ends = (*graph.graph.input, *graph.graph.output)
    names = [value.name for value in ends]
    wanted = [EXPLAINED] if attention else OUTPUTS
    if names[:1] != ["pixels"] or names[1:] not in wanted:
        told = ", ".join(EXPLAINED) if attention else f"logits or {EMBEDDING}"
        raise GraphError(f"expected input pixels and output {told}, got {names}")
    types = [value.type.tensor_type.elem_type for value in ends]
    if types != [PIXELS[dtype], *[FLOAT] * (len(ends) - 1)]:
        raise GraphError(f"expected {dtype} pixels and float32 outputs, got {_names(types)}")
    free = [
        [position for position, side in enumerate(sides) if side is None]
        for sides in map(sides_of, ends)
    ]
    if free != [[0]] * len(ends):
        raise GraphError(f"expected only the batch axis to be free, got {free}")


def sides_of(value: onnx.ValueInfoProto) -> list[int | None]:
    """Sides of an input or output; None where an axis is free."""
    sides = value.type.tensor_type.shape.dim
    return [side.dim_value if side.HasField("dim_value") else None for side in sides]


def _check_types(graph: ModelProto, precision: Precision) -> None:
    """fp32: no half precision anywhere. fp16: half precision where it belongs, and no detours."""
    types = _types(graph)
    if precision == "fp32":
        if halves := sorted(name for name, found in types.items() if found == HALF):
            raise GraphError(f"{halves[0]} is float16 in an fp32 graph")
        return
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.graph.initializer}
    cast = {node.output[0] for node in graph.graph.node if node.op_type == "Cast"}
    for node in graph.graph.node:
        if node.op_type == "Cast" and node.input[0] in cast:
            raise GraphError(f"{node.input[0]} is cast twice in a row")
        expected = _product_type(node, ranks) or FP16_TYPES.get(node.op_type)
        if expected and types[node.input[0]] != expected:
            wanted = _names([expected, types[node.input[0]]])
            raise GraphError(f"expected {node.op_type} of {wanted[0]}, got {wanted[1]}")
        given = {found.name: helper.get_attribute_value(found) for found in node.attribute}
        if node.op_type == "Attention" and given.get("softmax_precision") != FLOAT:
            raise GraphError(f"softmax of {node.name} is not taken in float32")


def _product_type(node: NodeProto, ranks: dict[str, int]) -> int | None:
    """Products with a layer's weights [in, out] are half; with rotations [M, side, side] not."""
    if node.op_type != "MatMul":
        return None
    return HALF if ranks.get(node.input[1]) == 2 else FLOAT


def _types(graph: ModelProto) -> dict[str, int]:
    """Every value's element type."""
    inferred = onnx.shape_inference.infer_shapes(graph, check_type=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.graph.initializer}


def _names(types: Iterable[int]) -> list[str]:
    return [TensorProto.DataType.Name(found).lower() for found in types]


def check_external(graph: ModelProto, folder: Path) -> int:
    """Number of tensors that lie in ``folder``'s weights; GraphError if one reaches elsewhere."""
    size = (folder / WEIGHTS).stat().st_size
    external = [t for t in graph.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    for tensor in external:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if set(entries) != {"location", "offset", "length"} or entries["location"] != WEIGHTS:
            raise GraphError(f"{tensor.name}: expected a place in {WEIGHTS}, got {entries}")
        offset, length = int(entries["offset"]), int(entries["length"])
        if not 0 <= offset <= offset + length <= size or length != _bytes(tensor):
            raise GraphError(
                f"{tensor.name}: expected {_bytes(tensor)} bytes inside the {size} of {WEIGHTS}, "
                f"got {length} from {offset}"
            )
    return len(external)


def _bytes(tensor: TensorProto) -> int:
    return math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
