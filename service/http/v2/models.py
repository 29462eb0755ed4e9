"""The models of the protocol: of every bundle one that takes files, and a twin that takes arrays.

The twin is the bundle's graph as it is: rows of prepared pixels in, a row of logits for each, and
of probabilities where they are asked for; of a bundle without labels a row of features.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from service.engine.catalog import Catalog
from service.engine.failures import BadParameter, NotReady, UnknownBundle
from service.engine.model import Choice, ExaminedBundle
from service.http.v2.documents import IndexEntry, ModelMetadata, TensorMetadata
from service.http.v2.tensors import BYTES, DATATYPES, shown

#: How the name of a twin ends.
TENSOR = "_tensor"
INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/[^/]+)?/infer")
#: The input of a model that takes files, that of a twin, and the outputs of both.
FILE, PIXELS, LOGITS, PROBABILITIES = "file", "pixels", "logits", "probabilities"
OUTPUTS = (LOGITS, PROBABILITIES)
#: Of a bundle without labels the only one.
EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A bundle by one of its two names."""

    bundle: ExaminedBundle
    is_tensor: bool  # takes prepared pixels

    @property
    def name(self) -> str:
        return self.bundle.name + TENSOR * self.is_tensor

    @property
    def input(self) -> tuple[str, str]:
        """Name and datatype of its only input; of a bundle that is ready."""
        if not self.is_tensor:
            return FILE, BYTES
        assert self.bundle.manifest is not None
        return PIXELS, DATATYPES[self.bundle.manifest.input.dtype]

    @property
    def outputs(self) -> tuple[str, ...]:
        """What it can give, the first where nothing is said; of a bundle that is ready."""
        assert self.bundle.manifest is not None
        return OUTPUTS if self.bundle.manifest.labels else (EMBEDDING,)

    def choose(self, catalog: Catalog, version: str | None, grid: str | None = None) -> Choice:
        """Who answers a file; Failure where the bundle is refused, or version or grid unknown."""
        name = self.bundle.name if version is None else f"{self.bundle.name}@{version}"
        return catalog.select(self.bundle.modality or "", name, grid)

    def choose_by_shape(
        self, catalog: Catalog, version: str | None, shape: tuple[int, ...]
    ) -> Choice:
        """The grid whose graph takes rows of this shape; BadParameter says which there are.

        Args:
            shape: ``[*pixels per axis, channels]``; every view of a clip is a row of its own.
        """
        self.choose(catalog, version)
        targets = self.bundle.targets.values()
        for target in targets:
            if target.shape[1:] == shape:
                return Choice.of([target if target.views == 1 else target.with_views(1)])
        known = " or ".join(f"[rows, {', '.join(map(str, one.shape[1:]))}]" for one in targets)
        raise BadParameter(f"inputs[0].shape: expected {known}, got rows of {shown(shape)}")

    def metadata(self, catalog: Catalog, version: str | None) -> ModelMetadata:
        """As the protocol describes a model; sides that differ between its grids are -1."""
        self.choose(catalog, version)
        manifest = self.bundle.manifest
        assert manifest is not None
        name, datatype = self.input
        shapes = [target.shape[1:] for target in self.bundle.targets.values()]
        sides = [side[0] if len(set(side)) == 1 else -1 for side in zip(*shapes, strict=True)]
        shape = [-1, *sides] if self.is_tensor else [-1]
        numbers = [-1, manifest.features or len(manifest.labels)]
        return ModelMetadata(
            name=self.name,
            versions=[manifest.version],
            platform="onnxruntime_onnx",
            inputs=[TensorMetadata(name=name, datatype=datatype, shape=shape)],
            outputs=[
                TensorMetadata(name=output, datatype="FP32", shape=numbers)
                for output in self.outputs
            ],
        )

    def entry(self) -> IndexEntry:
        """Of the index of the repository."""
        manifest, ready = self.bundle.manifest, self.bundle.state == "ready"
        known = {"version": manifest.version} if manifest else {}
        return IndexEntry(
            name=self.name,
            state="READY" if ready else "UNAVAILABLE",
            reason=self.bundle.reason or "",
            **known,
        )


def find_model(catalog: Catalog, name: str) -> ServedModel | None:
    """The model of this name; a bundle that is itself called so comes before another's twin."""
    if (bundle := catalog.bundles.get(name)) is not None:
        return ServedModel(bundle, is_tensor=False)
    if (bundle := catalog.bundles.get(name.removesuffix(TENSOR))) is not None:
        return ServedModel(bundle, is_tensor=True)
    return None


def known_model(catalog: Catalog, name: str) -> ServedModel:
    """The same; NotReady while it may still come, UnknownBundle once it cannot."""
    if (model := find_model(catalog, name)) is not None:
        return model
    if not catalog.examined:
        raise NotReady("the bundles are still being checked")
    known = ", ".join(one.name for one in all_models(catalog)) or "none"
    raise UnknownBundle(f"unknown model {name[:80]!a}; known: {known}")


def all_models(catalog: Catalog) -> Iterator[ServedModel]:
    """By name, each before its twin."""
    for name, bundle in sorted(catalog.bundles.items()):
        yield ServedModel(bundle, is_tensor=False)
        if name + TENSOR not in catalog.bundles:
            yield ServedModel(bundle, is_tensor=True)


def modality_to_infer(catalog: Catalog, path: str) -> str | None:
    """Of the model that an address asks to infer; None of every other address and model."""
    match = INFER.fullmatch(path)
    model = find_model(catalog, match[1]) if match else None
    return model.bundle.modality if model else None
