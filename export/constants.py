"""What a graph holds as constants, found by how they are used and not by what they are called."""

from __future__ import annotations

from typing import cast

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from export.check import GraphError


def normalisation(graph: ModelProto) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift that the pixels meet first, as they stand in the graph (one per channel)."""
    constants, name = _constants(graph), "pixels"
    found: list[TensorProto] = []
    floats = graph.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    for operator in ("Mul", "Add") if floats else ("Cast", "Mul", "Add"):
        users = [node for node in graph.graph.node if name in node.input]
        users = [node for node in users if node.op_type != "Shape"]  # it sees no values
        if [node.op_type for node in users] != [operator]:
            raise GraphError(f"expected {operator} alone to take {name}, got {_types(users)}")
        found += [constants[part] for part in users[0].input if part in constants]
        name = users[0].output[0]
    if len(found) != 2:
        raise GraphError(f"expected a constant scale and shift of the pixels, got {len(found)}")
    return numpy_helper.to_array(found[0]), numpy_helper.to_array(found[1])


def rotation_tables(graph: ModelProto) -> list[np.ndarray]:
    """The constants [M, side, side] that queries and keys are multiplied by, in layer order.

    They are the only stacks of matrices among the constant factors of products. What the graph
    itself does to them before (joining blocks) is done here too. What shares a constant gets the
    same array.
    """
    makers, constants = _makers(graph), _constants(graph)
    factors = [node.input[1] for node in graph.graph.node if node.op_type == "MatMul"]
    tables: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(factors):
        nodes = _makers_of(name, makers, constants)
        if nodes is not None and (value := _value(name, nodes, constants)).ndim > 2:
            tables[name] = value.reshape(-1, *value.shape[-2:])
    return [tables[name] for name in factors if name in tables]


def plane_tables(graph: ModelProto) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cosines and sines [S, H or 1, P] that queries and keys are turned by, in layer order.

    Halves x and y of the channels become x cos - y sin, the only difference of products in a
    graph, and y cos + x sin. What shares constants gets the same arrays.

    Raises:
        GraphError: the halves of a query or key are not turned by the same tables.
    """
    makers, constants = _makers(graph), _constants(graph)
    arrays = {name: numpy_helper.to_array(held) for name, held in constants.items()}
    found: dict[str, list[tuple[str, ...]]] = {"Sub": [], "Add": []}
    for node in graph.graph.node:
        products = [makers[part] for part in node.input if part in makers]
        if node.op_type in found and [product.op_type for product in products] == ["Mul"] * 2:
            names = [name for product in products for name in product.input if name in arrays]
            found[node.op_type].append(tuple(names))
    if found["Sub"] != found["Add"] or any(len(pair) != 2 for pair in found["Sub"]):
        raise GraphError("expected the halves of queries and keys to be turned by one table each")
    return [(arrays[cosine], arrays[sine]) for cosine, sine in found["Sub"]]


def _makers_of(
    name: str, makers: dict[str, NodeProto], constants: dict[str, TensorProto]
) -> list[NodeProto] | None:
    """The nodes, in order, that compute a value from constants alone; None if it needs pixels."""
    if name in constants or not name:
        return []
    if name not in makers:
        return None
    needed: list[NodeProto] = []
    for part in makers[name].input:
        before = _makers_of(part, makers, constants)
        if before is None:
            return None
        needed += [node for node in before if node not in needed]
    return [*needed, makers[name]]


def _value(name: str, nodes: list[NodeProto], constants: dict[str, TensorProto]) -> np.ndarray:
    if not nodes:
        return numpy_helper.to_array(constants[name])
    parts = {part for node in nodes for part in node.input} & set(constants)
    output = helper.make_value_info(name, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "constant", [], [output], [constants[part] for part in parts])
    values = ReferenceEvaluator(helper.make_model(graph)).run(None, {})
    return cast(list[np.ndarray], values)[0]


def _makers(graph: ModelProto) -> dict[str, NodeProto]:
    return {output: node for node in graph.graph.node for output in node.output}


def _constants(graph: ModelProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in graph.graph.initializer}


def _types(nodes: list[NodeProto]) -> str:
    return ", ".join(node.op_type for node in nodes) or "nothing"
