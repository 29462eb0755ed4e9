"""Frozen transformers -> ONNX graphs that share one file of weights."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from export.check import ATTENTION, EMBEDDING, OPSET, GraphError, check_graph
from media.files import write_atomic
from models.manifest import Precision

#: Smaller tensors stay inside the graph.
INLINE_BYTES = 1024
#: Where tensors begin in the file, so that a runtime may map them.
ALIGNMENT = 4096


class SharedWeights:
    """One external data file; tensors with the same content are stored once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offsets: dict[str, int] = {}
        self.stream = path.open("wb")

    def __enter__(self) -> SharedWeights:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()

    def move(self, tensor: TensorProto) -> None:
        """Replace a tensor's content by a reference into the file."""
        data = numpy_helper.to_array(tensor).tobytes()
        if len(data) < INLINE_BYTES:
            return
        offset = self._store(data)
        for field in ("raw_data", "float_data", "int32_data", "int64_data"):
            tensor.ClearField(field)
        tensor.data_location = TensorProto.EXTERNAL
        entries = {"location": self.path.name, "offset": offset, "length": len(data)}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))

    def _store(self, data: bytes) -> int:
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self.offsets:
            self.stream.write(b"\0" * (-self.stream.tell() % ALIGNMENT))
            self.offsets[digest] = self.stream.tell()
            self.stream.write(data)
        return self.offsets[digest]


def write_graph(
    module: nn.Module,
    example: torch.Tensor,
    path: Path,
    weights: SharedWeights,
    precision: Precision = "fp32",
    head: bool = True,
    *,
    attention: bool = False,
) -> None:
    """Write ``module`` as an ONNX graph "pixels" -> "logits", "embedding" with a free batch axis.

    Args:
        example: [B, *pixels per axis, C] with B at least 2 (1 would be taken as fixed), of the
            type that the graph shall take.
        weights: receives every large tensor; must lie beside ``path``.
        precision: what the module was made for.
        head: whether it ends in one; without, the graph gives "embedding" alone.
        attention: whether its second result is a rollout, the graph's output "attention".

    Raises:
        GraphError: the graph breaks the bundle's contract.
    """
    graph = to_onnx(module, example, head, attention)
    onnx.checker.check_model(graph)
    check_graph(graph, precision, str(example.dtype).removeprefix("torch."), attention)
    for tensor in graph.graph.initializer:
        weights.move(tensor)
    write_atomic(path, graph.SerializeToString())


def to_onnx(
    module: nn.Module, example: torch.Tensor, head: bool = True, attention: bool = False
) -> ModelProto:
    """The graph in memory, without anything that tells where it was made.

    Raises:
        GraphError: the module does not end in the head that it shall have.
    """
    batch = torch.export.Dim("batch", min=1, max=4096)
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["pixels"],
            output_names=["logits" if head else EMBEDDING, *[ATTENTION] * attention],
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
    if program is None:
        raise GraphError("the exporter gave no program")
    graph = program.model_proto
    _strip(graph)
    if head:
        _add_embedding(graph)
    return graph


def _add_embedding(graph: ModelProto) -> None:
    """Make what enters the head, float32 [B, W], the second output: it is computed anyway."""
    head = next(node for node in graph.graph.node if "logits" in node.output)
    weights = [held for held in graph.graph.initializer if held.name in head.input[1:2]]
    if head.op_type != "Gemm" or not weights:
        raise GraphError(f"expected a linear layer to give the logits, got {head.op_type}")
    given = {found.name: helper.get_attribute_value(found) for found in head.attribute}
    width = weights[0].dims[1 if given.get("transB") else 0]
    features = head.input[0]
    for node in graph.graph.node:
        for names in (node.input, node.output):
            names[:] = [EMBEDDING if name == features else name for name in names]
    output = helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["batch", width])
    graph.graph.output.append(output)


def _strip(graph: ModelProto) -> None:
    """Remove what the exporter remembers of source files and shapes in between."""
    graph.ClearField("metadata_props")
    graph.ClearField("doc_string")
    graph.graph.ClearField("metadata_props")
    graph.graph.ClearField("doc_string")
    graph.graph.ClearField("value_info")
    for part in (
        *graph.graph.node,
        *graph.graph.initializer,
        *graph.graph.input,
        *graph.graph.output,
    ):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports on absent optional packages and its own deprecations; errors raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
