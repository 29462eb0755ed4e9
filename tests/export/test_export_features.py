"""Bundles without labels: proved on features, and honest about having nothing else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.__main__ import main
from export.check import EMBEDDING, GraphError, check_graph, sides_of
from export.golden import golden_files
from export.parity import graph_logits, open_graph
from export.proofs import prove
from media import read
from media.spec import Grid, InputSpec, SpecError
from media.strict_json import read_json, to_json
from models.bundle import Bundle
from models.figures import Calibration
from models.manifest import Accuracy, Manifest, parse_manifest
from tests.helpers.export_bundles import squares_data
from tests.helpers.features_bundles import (
    FEATURES,
    GRIDS,
    features_bundle,
    make_model,
    pictures,
    save,
)
from tests.helpers.service_fixtures import serving


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of both precisions; not to be written to."""
    return features_bundle(tmp_path_factory, request.param)


def test_graphs_give_the_checkpoints_features_alone(bundle: Bundle) -> None:
    """One output, the features that torch computes; goldens in the manifest are the same."""
    manifest, model = bundle.manifest, make_model()
    for entry in manifest.grids:
        graph = onnx.load(bundle.path(entry.graph), load_external_data=False)
        (output,) = graph.graph.output
        assert (output.name, sides_of(output)) == (EMBEDDING, [None, FEATURES])
        for golden, data in zip(
            manifest.goldens, golden_files(InputSpec(), []).values(), strict=True
        ):
            grid = Grid.parse(entry.grid)
            pixels = read(data, InputSpec(), grid, manifest.patch).pixels.copy()
            expected = model.features(torch.from_numpy(pixels)).detach().numpy()
            np.testing.assert_allclose(golden.logits[entry.grid], expected[0], atol=1e-4)
            found = graph_logits(open_graph(bundle.path(entry.graph)), pixels)
            tolerance = 1e-4 if manifest.precision == "fp32" else 2e-2
            np.testing.assert_allclose(found, expected, atol=tolerance)


def test_manifest_states_parity_and_nothing_of_labels(bundle: Bundle) -> None:
    """No labels, accuracy, figures, temperature or threshold; how many features there are."""
    manifest = bundle.manifest
    assert (manifest.labels, manifest.features) == ((), FEATURES)
    for entry in manifest.grids:
        assert (entry.accuracy, entry.figures, entry.abstain) == (None, None, None)
        assert entry.parity.items == 10
        assert entry.parity.worst_ratio <= 1
        assert entry.calibration == Calibration(reason="there are no labels")
        assert (entry.rounded is not None) == (manifest.precision == "fp16")


def test_card_says_that_nothing_is_ranked(bundle: Bundle) -> None:
    """What it gives, how near the checkpoint it is, and no table of accuracy."""
    card = bundle.path("README.md").read_text(encoding="utf-8")
    assert "It has **no labels**: its answer is 64 features of an item" in card
    assert "Besides: biases of query, value, layer scale, 2 registers, gated MLPs." in card
    assert "no head. Trained at grid 3x2." in card
    assert "top-1" not in card
    assert "Trained elsewhere, on data that are not known here" in card


def test_bundle_without_labels_is_verified(bundle: Bundle) -> None:
    """Every proof that needs no label passes, and what there is none of is said."""
    proofs = [*prove(bundle.root, None)]
    assert not [proof for proof in proofs if proof.passed is False]
    passed = {proof.what for proof in proofs if proof.passed}
    assert {"files", "statements", "goldens 3x2", "goldens 4x5", "rotations 4x5"} <= passed
    told = {proof.what: proof.told for proof in proofs if proof.passed is None}
    for what in ("accuracy", "figures", "calibration"):
        assert told[what] == "not stated: there is no head; features are proved by their goldens"
    assert "it is stated as 3x2" in told["parity"]


def test_labelled_data_cannot_verify_features(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused before anything is read, with why, and what is proved without them."""
    data = str(squares_data(tmp_path_factory))
    assert main(["verify", str(bundle.root), "--data", data]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "has no head, so its answers cannot be compared with the labels of --data" in said.err
    assert "proved by its goldens" in said.err
    assert main(["verify", str(bundle.root)]) == 0
    assert capsys.readouterr().out.endswith("verified\n")


def test_served_bundle_gives_the_checkpoints_features(bundle: Bundle) -> None:
    """Export, proof at start and answer: what torch computes of the same picture, at each grid."""
    (media, *_) = golden_files(InputSpec(), []).values()
    with serving(bundle.root.parent) as server:
        for grid in GRIDS:
            said = {"want": "embedding", "grid": str(grid)}
            (result,) = server.classify(content=media, params=said).json()["results"]
            pixels = read(media, InputSpec(), grid, bundle.manifest.patch).pixels.copy()
            expected = make_model().features(torch.from_numpy(pixels))[0].detach().numpy()
            tolerance = 1e-4 if bundle.manifest.precision == "fp32" else 2e-2
            np.testing.assert_allclose(result["embedding"], expected, atol=tolerance)


def test_export_without_labels_refuses_what_needs_them(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """A threshold, no data at all, too few items: each with what to do, and no bundle is left."""
    checkpoint, data = save(tmp_path / "run"), pictures(tmp_path_factory)
    words = [str(checkpoint), "--grid", "3x2", "--out", str(tmp_path / "out")]
    for more, message in (
        (["--data", str(data), "--abstain", "0.5"], "--abstain needs probabilities"),
        ([], "the checkpoint does not say where data of its kind are: pass --data"),
        (["--data", str(data)], "parity needs 256 items and the data have 12: lower"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def changed(bundle: Bundle, **changes: object) -> Manifest:
    """Its manifest with other fields, read again."""
    return parse_manifest(to_json(dataclasses.replace(bundle.manifest, **changes)))  # type: ignore[arg-type]


def test_manifest_that_contradicts_itself_is_refused(bundle: Bundle) -> None:
    """Labels without accuracy, accuracy without labels, features of several lengths."""
    grids, (golden, *goldens) = bundle.manifest.grids, bundle.manifest.goldens
    assert changed(bundle) == bundle.manifest
    measured = dataclasses.replace(grids[0], accuracy=Accuracy("test", 8, 0.5, "2" * 64))
    with pytest.raises(SpecError, match="accuracy if, and only if, it has labels"):
        changed(bundle, grids=(measured, *grids[1:]))
    with pytest.raises(SpecError, match="has no labels, and states figures"):
        changed(bundle, grids=(dataclasses.replace(grids[0], abstain=0.5), *grids[1:]))
    with pytest.raises(SpecError, match="labels: expected at least two, each once, or none"):
        changed(bundle, labels=("one",))
    short = dataclasses.replace(golden, logits={**golden.logits, "4x5": (0.5,)})
    with pytest.raises(SpecError, match="equally many features a grid"):
        changed(bundle, goldens=(short, *goldens))


def test_graph_that_gives_neither_is_refused(bundle: Bundle) -> None:
    """The contract of a graph names its outputs."""
    graph = onnx.load(bundle.path("graphs/3x2.onnx"), load_external_data=False)
    graph.graph.output[0].name = "other"
    for node in graph.graph.node:
        node.output[:] = ["other" if name == EMBEDDING else name for name in node.output]
    with pytest.raises(GraphError, match="output logits or embedding, got"):
        check_graph(graph, bundle.manifest.precision)


def test_manifest_is_written_with_null_in_the_place_of_accuracy(bundle: Bundle) -> None:
    """So who reads it need not guess; no schema had to change for others."""
    document = read_json(bundle.path("manifest.json"))
    assert document["schema"] == 2
    assert [entry["accuracy"] for entry in document["grids"]] == [None] * len(GRIDS)
    assert json.dumps(document["labels"]) == "[]"
