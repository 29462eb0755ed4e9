"""Public weights walk the whole road: imported, exported, served, with the library's answers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from export.check import EMBEDDING
from export.freeze import FrozenTransformer
from export.graph import SharedWeights, write_graph
from export.make import make_bundle
from export.options import Options
from export.parity import graph_logits, open_graph
from export.plan import plan_of
from media import read
from media.spec import Grid
from models.bundle import Bundle
from models.checkpoint import load_checkpoint
from models.pretrained.make import Options as ImportOptions
from models.pretrained.make import import_pretrained
from tests.helpers import exporter
from tests.helpers.pretrained_cases import HERE, NAMES, TOLERANCE, folder_of, runs_of
from tests.helpers.service_fixtures import serving

tables_of_operators = exporter.tables_of_operators

#: How far a service may be from torch: its JSON has fewer digits, and its graph another order.
SERVED = 1e-4


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_data(folder: Path, labels: tuple[str, ...]) -> Path:
    """Six noisy pictures: of every label where there are some, else in one folder."""
    draw = np.random.default_rng(5)
    for place in range(6):
        into = folder / "test" / labels[place % len(labels)] if labels else folder
        into.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (23, 31, 3), dtype=np.uint8)
        (into / f"{place}.png").write_bytes(png(pixels))
    return folder


def exported(name: str, folder: Path) -> Bundle:
    """A bundle of the sizes of a case's runs."""
    import_pretrained(str(HERE / name), folder / "run", ImportOptions())
    _, description = load_checkpoint(folder / "run")
    sizes = [tuple(map(int, size.split("x"))) for size in runs_of(HERE / name)]
    grids = tuple(Grid((height // 4, width // 4)) for height, width in sizes)
    data = write_data(folder / "data", description.labels)
    options = Options(
        folder / "run", grids, folder / "bundles", name.replace("_", "-"), data=data,
        parity_items=6,
    )  # fmt: skip
    return make_bundle(options, Console(quiet=True))


@pytest.mark.parametrize("name", NAMES)
def test_graphs_give_the_librarys_answers(tmp_path: Path, name: str) -> None:
    """Of every case, at every size, to 5e-5: features, and logits where there is a head."""
    folder = folder_of(name)
    if folder is None:
        pytest.skip(f"{name} is not beside this checkout (../shared/reference/pretrained/cases)")
    import_pretrained(str(folder), tmp_path / "run", ImportOptions())
    model, _ = load_checkpoint(tmp_path / "run")
    for size, run in runs_of(folder).items():
        grid = model.grid_of(run["pixels"])
        frozen = FrozenTransformer(model, grid, "fp32", plan_of(model))
        two, path = run["pixels"].expand(2, -1, -1, -1), tmp_path / f"{size}.onnx"  # [2, h, w, 3]
        with SharedWeights(tmp_path / f"{size}.bin") as weights:
            write_graph(frozen, two, path, weights, head=bool(model.spec.classes))
        session, given = open_graph(path), {"pixels": run["pixels"].numpy()}
        features = session.run([EMBEDDING], given)[0]
        assert abs(features - run["pooled"].numpy()).max() <= TOLERANCE
        if "logits" in run:
            found = graph_logits(session, given["pixels"])
            assert abs(found - run["logits"].numpy()).max() <= TOLERANCE


@pytest.mark.parametrize("name", ["hf_dinov3", "timm_rope_mixed_ape"])
def test_the_service_gives_the_checkpoints_answers(tmp_path: Path, name: str) -> None:
    """Features over HTTP are torch's of the file; of a stretched one they are the library's."""
    exported(name, tmp_path)
    model, description = load_checkpoint(tmp_path / "run")
    run = runs_of(HERE / name)["12x20"]
    file = png(run["pixels"][0].numpy())
    with serving(tmp_path / "bundles") as server:
        said = {"want": "embedding", "grid": "3x5"}
        answer = server.classify("/v1/classify/image", content=file, params=said)
        assert answer.status_code == 200, answer.text
    pixels = read(file, description.input, Grid((3, 5)), (4, 4)).pixels.copy()
    expected = model.features(torch.from_numpy(pixels))[0].detach().numpy()
    (result,) = answer.json()["results"]
    assert abs(np.array(result["embedding"]) - expected).max() <= SERVED
    if description.input.fit == "stretch":  # so that a file of its size is its pixels
        assert abs(expected - run["pooled"][0].numpy()).max() <= TOLERANCE


def test_a_licence_goes_into_card_and_manifest(tmp_path: Path) -> None:
    """DINOv3's binds what is made of the weights: a bundle says so, and whose weights they are."""
    bundle = exported("hf_dinov3", tmp_path)
    licence = bundle.manifest.source["licence"]
    assert licence["name"] == "DINOv3 License (19 August 2025)"
    assert "does so under the same licence and adds a copy" in licence["terms"]
    card = bundle.path("README.md").read_text(encoding="utf-8")
    assert f"**Licence of the weights**: {licence['name']}. {licence['terms']}" in card
    assert "Public weights: hf_dinov3, imported from the names of transformers" in card
    assert "* the library resizes floating point values" in card
