"""The bundles of this checkout, served: what they say of their goldens is what a client gets."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from models.bundle import Bundle, read_bundle
from tests.helpers.older_files import BUNDLE
from tests.helpers.service_fixtures import ROOT, RunningServer, serving

SHIPPED = ROOT / "bundles"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """A server of all of them."""
    with serving(SHIPPED) as running:
        yield running


def test_bundle_of_schema_1_answers_as_it_did(tmp_path: Path) -> None:
    """A bundle that older code wrote is proven at start, and its goldens get their answers."""
    bundle = read_bundle(shutil.copytree(BUNDLE, tmp_path / BUNDLE.name))
    with serving(tmp_path) as running:
        for golden in bundle.manifest.goldens:
            for grid, logits in golden.logits.items():
                found = post(running, bundle, golden.file, grid)
                wanted = probabilities(logits)
                given = [found[label] for label in bundle.manifest.labels]
                np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-4)


def probabilities(logits: tuple[float, ...]) -> np.ndarray:
    """float64 [classes]."""
    powers = np.exp(np.array(logits))
    return powers / powers.sum()


@pytest.mark.parametrize("folder", sorted(SHIPPED.iterdir()), ids=lambda folder: folder.name)
def test_goldens_get_the_answers_of_the_manifest(server: RunningServer, folder: Path) -> None:
    """Every golden, posted at every grid: all labels, ranked by the probabilities of its logits."""
    bundle = read_bundle(folder)
    labels, tolerance = bundle.manifest.labels, bundle.manifest.tolerance("cpu")
    for golden in bundle.manifest.goldens:
        for grid, logits in golden.logits.items():
            found = post(server, bundle, golden.file, grid)
            assert sorted(found) == sorted(labels)
            assert list(found.values()) == sorted(found.values(), reverse=True)
            # a probability moves by no more than half of what the logits move, and is rounded
            moved = tolerance.atol + tolerance.rtol * np.abs(logits).max()
            np.testing.assert_allclose(
                [found[label] for label in labels], probabilities(logits), 0, moved / 2 + 1e-6
            )


def post(server: RunningServer, bundle: Bundle, golden: str, grid: str) -> dict[str, float]:
    """Label -> the network's own probability, in the order of the answer."""
    manifest = bundle.manifest
    answer = server.classify(
        f"/v1/classify/{manifest.modality}",
        content=bundle.path(golden).read_bytes(),
        params={
            "bundle": manifest.name, "grid": grid, "top_k": str(len(manifest.labels)),
            "raw": "true",
        },
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    assert (result["bundle"], result["grid"]) == (manifest.name, grid)
    return {one["label"]: one["probability"] for one in result["predictions"]}
