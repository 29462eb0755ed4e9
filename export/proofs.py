"""The proofs of a finished bundle, one at a time. No torch: no checkpoint is needed for any."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx.external_data_helper import load_external_data_for_model

from export.check import (
    EMBEDDING,
    OPSET,
    SOFTMAX,
    GraphError,
    check_external,
    check_graph,
    sides_of,
)
from export.constants import normalisation, plane_tables, rotation_tables
from export.parity import batch_of, graph_logits, open_graph
from export.proof import Proof, tried
from export.remeasure import remeasure
from export.statements import statements
from media import read
from media.index import Dataset
from media.spec import Grid
from models.bundle import Bundle, BundleError, changed_files, read_manifest
from models.manifest import GridEntry, Manifest

#: Largest |R^T R - I| and |det R - 1| of a rotation that was rounded once, to float32.
ORTHOGONAL = 1e-6
#: Largest relative difference of the scale and shift of pixels: a few roundings.
NORMALISED = 1e-6


def prove(
    root: Path, dataset: Dataset | None, split: str | None = None, workers: int = 1
) -> Iterator[Proof]:
    """Every proof of a bundle, in order; one that fails does not stop the others.

    Only what makes the others meaningless does: no manifest, or a graph that breaks the contract.

    Args:
        dataset: labelled data to measure accuracy and the other figures on, or None; of a bundle
            without labels None.
        split: of the data; None takes the one that the manifest names.
        workers: threads that decode the data.
    """
    try:
        bundle = Bundle(root, read_manifest(root))
    except BundleError as error:
        yield Proof("files", False, str(error))
        return
    yield _files(bundle)
    yield statements(bundle.manifest)
    for entry in bundle.manifest.grids:
        for graph in entry.graphs:
            explains = graph != entry.graph
            contract = tried("graph", entry, partial(_contract, bundle, graph))
            yield _of(contract, explains)
            if contract.passed:
                yield from (_of(proof, explains) for proof in _grid(bundle, graph, entry))
                if dataset is not None and not explains:
                    yield from remeasure(bundle, dataset, split, workers, entry)
    if dataset is None:
        told = "not measured again: --data was not given"
        if not bundle.manifest.labels:
            told = "not stated: there is no head; features are proved by their goldens"
        for what in ("accuracy", "figures", "calibration"):
            yield Proof(what, None, told)
    stated = ", ".join(
        f"{entry.grid} {entry.parity.max_abs:.2g} on {entry.parity.items} items"
        for entry in bundle.manifest.grids
    )
    told = f"cannot be measured again without the checkpoint; it is stated as {stated}"
    yield Proof("parity", None, told)


def _of(proof: Proof, explains: bool) -> Proof:
    """The proof, said to be of the graph that explains where it is."""
    name = f"{proof.what} with attention" if explains else proof.what
    return dataclasses.replace(proof, what=name)


def _grid(bundle: Bundle, path: str, entry: GridEntry) -> Iterator[Proof]:
    graph = onnx.load(bundle.path(path), load_external_data=False)
    load_external_data_for_model(graph, str(bundle.path(path).parent))
    yield tried("pixels", entry, partial(_pixels, bundle.manifest, graph))
    yield tried("rotations", entry, partial(_rotations, bundle.manifest, graph))
    del graph  # the runtime loads its own
    yield tried("goldens", entry, partial(_goldens, bundle, path))


def _files(bundle: Bundle) -> Proof:
    listed = bundle.manifest.files
    if changed := changed_files(bundle.root, listed):
        return Proof("files", False, "; ".join(changed), len(changed), 0)
    size = sum(bundle.path(name).stat().st_size for name in listed)
    return Proof("files", True, f"{len(listed)} files of {size / 1e6:.1f} MB as listed", 0, 0)


# --- one graph ----------------------------------------------------------------------------------


def _contract(bundle: Bundle, file: str, entry: GridEntry) -> Proof:
    manifest, path, explains = bundle.manifest, bundle.path(file), file != entry.graph
    graph = onnx.load(path, load_external_data=False)
    external = check_external(graph, path.parent)  # before anything follows a reference
    onnx.checker.check_model(str(path))
    check_graph(graph, manifest.precision, manifest.input.dtype, explains)
    grid, outputs = Grid.parse(entry.grid), graph.graph.output
    ends = [
        (graph.graph.input[0], [None, *grid.pixels(manifest.patch), manifest.input.channels]),
        (outputs[0], [None, manifest.features or len(manifest.labels)]),
    ]
    for value, expected in [*ends, (outputs[1], [None, grid.tokens])] if explains else ends:
        if sides_of(value) != expected:
            raise GraphError(f"expected {value.name} {expected}, got {sides_of(value)}")
    if (graph.graph.output[0].name == EMBEDDING) != (not manifest.labels):
        wanted = "logits" if manifest.labels else EMBEDDING
        raise GraphError(f"expected the output {wanted}, got {graph.graph.output[0].name}")
    if manifest.opset != OPSET:
        raise GraphError(f"the graph has opset {OPSET}, the manifest says {manifest.opset}")
    told = f"{len(graph.graph.node)} operators at opset {OPSET}, {external} tensors inside weights"
    return Proof(f"graph {entry.grid}", True, told)


def _pixels(manifest: Manifest, graph: onnx.ModelProto, entry: GridEntry) -> Proof:
    """Mean and std stand in the manifest for people; the graph is what uses them."""
    std, mean = np.array(manifest.input.std), np.array(manifest.input.mean)  # each [channels]
    difference = 0.0
    for found, expected in zip(
        normalisation(graph), (1 / (255 * std), -mean / std), strict=True
    ):
        largest = np.abs(expected).max() or 1.0  # a mean of 0 shifts nothing
        difference = max(difference, float(np.abs(found - expected).max() / largest))
    told = f"mean and std of the manifest, to {difference:.1e} (bound {NORMALISED:.0e})"
    name = f"pixels {entry.grid}"
    return Proof(name, difference <= NORMALISED, told, difference, NORMALISED)


def _rotations(manifest: Manifest, graph: onnx.ModelProto, entry: GridEntry) -> Proof:
    """Tables of the form that the manifest states, in every layer, and of no other form.

    Whether a basis was folded cannot be seen from a graph: its projections are matrices like any.
    """
    form = manifest.turning
    layers = sum(node.op_type in SOFTMAX.values() for node in graph.graph.node)
    turned = layers if manifest.rotations is None else 2 * layers  # older graphs turn both at once
    blocks, planes = rotation_tables(graph), plane_tables(graph)
    for name, found in (("blocks", len(blocks)), ("planes", len(planes))):
        if found != (expected := turned if form.form == name else 0):
            raise GraphError(
                f"expected rotations by {name} {expected} times in {layers} layers, got {found}"
            )
    worst, told = 0.0, f"none, positions are {manifest.encoding.name}"
    if form.block is not None:
        own = {id(table): table for table in blocks}.values()  # layers may share one
        worst = max(_not_a_rotation(table, form.block) for table in own)
        told = _told(len(own), blocks[0], layers, "|R^T R - I| and |det R - 1|", worst)
    elif planes:
        pairs = {id(pair[0]): pair for pair in planes}.values()
        lengths = [pair[0].astype(float) ** 2 + pair[1].astype(float) ** 2 for pair in pairs]
        worst = max(float(np.abs(length - 1).max()) for length in lengths)
        told = _told(len(pairs), planes[0][0], layers, "|cos^2 + sin^2 - 1|", worst)
    return Proof(f"rotations {entry.grid}", worst <= ORTHOGONAL, told, worst, ORTHOGONAL)


def _told(count: int, table: np.ndarray, layers: int, what: str, worst: float) -> str:
    shape = "x".join(map(str, table.shape))
    return (
        f"{count} of {shape} for {layers} layers, {what} at most {worst:.1e} "
        f"(bound {ORTHOGONAL:.0e})"
    )


def _not_a_rotation(table: np.ndarray, block: int) -> float:
    """How far the worst of [M, side, side], made of blocks on the diagonal, is from a rotation.

    The determinant is taken block by block: two mirrors in one matrix would make a rotation.
    """
    table = table.astype(np.float64)
    side = table.shape[-1]
    product = table.mT @ table - np.eye(side)  # [M, side, side]
    corners = range(0, side, block)
    blocks = np.stack([table[:, c : c + block, c : c + block] for c in corners])  # [J, M, K, K]
    return float(max(np.abs(product).max(), np.abs(np.linalg.det(blocks) - 1).max()))


# --- answers ------------------------------------------------------------------------------------


def _goldens(bundle: Bundle, path: str, entry: GridEntry) -> Proof:
    """Through the decoder that serves, all side by side and each view alone."""
    manifest, grid = bundle.manifest, Grid.parse(entry.grid)
    media = [bundle.path(golden.file).read_bytes() for golden in manifest.goldens]
    views = [read(one, manifest.input, grid, manifest.patch).pixels for one in media]
    pixels, session = np.concatenate(views), open_graph(bundle.path(path))  # [N V, ...]
    rows = [graph_logits(session, pixels, batch=batch) for batch in (batch_of(grid), 1)]
    actual = np.stack(rows).reshape(2, len(media), -1, manifest.features or len(manifest.labels))
    actual = actual.mean(axis=2)  # [2, N, V, classes] -> [2, N, classes]
    expected = np.array([golden.logits[entry.grid] for golden in manifest.goldens])
    tolerance = manifest.tolerance("cpu")
    difference = np.abs(actual - expected)  # [2, N, classes]
    ratio = difference / (tolerance.atol + tolerance.rtol * np.abs(expected))
    worst = float(ratio.max())  # NaN where any is
    told = (
        f"{len(media)} together and alone on the cpu, largest difference {difference.max():.2g}, "
        f"{worst:.2g} of the tolerance {tolerance.atol:.2g} + {tolerance.rtol:.2g} |logit|"
    )
    return Proof(f"goldens {entry.grid}", worst <= 1, told, worst, 1)
