"""Public weights walk the whole road: imported, exported, served, with the library's answers."""

from __future__ import annotations

import io
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from export.check import ATTENTION, EMBEDDING
from export.make import make_bundle
from export.options import Options
from export.parity import open_graph
from media.spec import Grid, InputSpec
from models.bundle import Bundle, read_bundle
from models.checkpoint import load_checkpoint
from models.pretrained.make import Options as ImportOptions
from models.pretrained.make import import_pretrained
from tests.helpers import exporter
from tests.helpers.made_once import made_once
from tests.helpers.pretrained_cases import NAMES, TOLERANCE, folder_of, runs_of
from tests.helpers.service_fixtures import serving

tables_of_operators = exporter.tables_of_operators

#: One server for the cases of each: starting one takes longer than all of their answers.
SERVED = {
    "transformers": [name for name in NAMES if name.startswith("hf_")],
    "authors": [name for name in NAMES if name.startswith(("meta_", "naver_"))],
    "timm, RoPE": [name for name in NAMES if name.startswith("timm_rope")],
    "timm": [
        name for name in NAMES if name.startswith("timm_") and not name.startswith("timm_rope")
    ],
}

#: Those that also tell where attention looked: a table, learned rotations, and prefix tokens.
EXPLAINED = ("timm_vit", "naver_rope_mixed", "timm_dinov3")


def case(name: str) -> Path:
    folder = folder_of(name)
    if folder is None:
        pytest.skip(f"{name} is not beside this checkout (../shared/reference/pretrained/cases)")
    return folder


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def picture_of(pixels: np.ndarray, spec: InputSpec) -> bytes:
    """A file whose prepared pixels are these, [H, W, 3]: noise around them where it is cut off.

    It has the size that pictures are resized to before the middle is cut, so nothing is resampled.
    """
    whole = [math.floor(side / spec.crop_ratio + 1e-6) for side in pixels.shape[:2]]
    noise = np.random.default_rng(6).integers(0, 256, (*whole, 3), dtype=np.uint8)
    top, left = (
        round((outer - side) / 2) for outer, side in zip(whole, pixels.shape, strict=False)
    )
    noise[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return png(noise)


def write_data(folder: Path, labels: tuple[str, ...]) -> Path:
    """Seven noisy pictures: of every label where there are some, else in one folder."""
    draw = np.random.default_rng(5)
    for place in range(7):
        into = folder / "test" / labels[place % len(labels)] if labels else folder
        into.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (23, 31, 3), dtype=np.uint8)
        (into / f"{place}.png").write_bytes(png(pixels))
    return folder


def grid_of(pixels: np.ndarray, patch: tuple[int, ...]) -> Grid:
    """Of [B, H, W, 3]."""
    sides = pixels.shape[1:3]
    return Grid(tuple(side // own for side, own in zip(sides, patch, strict=True)))


def exported(name: str, factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of the sizes of a case's runs, made once for a run of tests."""
    source = case(name)

    def write(folder: Path) -> None:
        import_pretrained(str(source), folder / "run", ImportOptions())
        _, description = load_checkpoint(folder / "run")
        patch = description.model.patch
        grids = tuple(grid_of(run["pixels"].numpy(), patch) for run in runs_of(source).values())
        data = write_data(folder / "data", description.labels)
        options = Options(
            folder / "run", grids, folder / "bundles", name.replace("_", "-"), data=data,
            parity_items=6, explain=name in EXPLAINED,
        )  # fmt: skip
        make_bundle(options, Console(quiet=True))

    made = made_once(factory, f"pretrained-{name}", write)
    return read_bundle(made / "bundles" / name.replace("_", "-"))


@pytest.mark.parametrize("name", NAMES)
def test_graphs_give_the_librarys_answers(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    """Of every case, at every size, to 5e-5: features, and logits where there is a head."""
    bundle = exported(name, tmp_path_factory)
    for run in runs_of(case(name)).values():
        pixels = run["pixels"].numpy()
        grid = str(grid_of(pixels, bundle.manifest.patch))
        (entry,) = (one for one in bundle.manifest.grids if one.grid == grid)
        outputs = ["logits", EMBEDDING] if "logits" in run else [EMBEDDING]
        found = open_graph(bundle.path(entry.graph)).run(outputs, {"pixels": pixels})
        assert abs(found[-1] - run["pooled"].numpy()).max() <= TOLERANCE
        if "logits" in run:
            assert abs(found[0] - run["logits"].numpy()).max() <= TOLERANCE
        if name in EXPLAINED:
            assert entry.attention is not None  # whose rollout was held to torch's
            assert 0 < entry.attention.rollout.worst_ratio <= 1
            both = open_graph(bundle.path(entry.attention.graph))
            logits, rollout = both.run(["logits", ATTENTION], {"pixels": pixels})
            assert abs(logits - run["logits"].numpy()).max() <= TOLERANCE
            assert 0 < rollout.sum(axis=1).min() <= rollout.sum(axis=1).max() < 1 + 1e-6


@pytest.mark.parametrize("group", SERVED)
def test_the_service_gives_the_librarys_answers(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, group: str
) -> None:
    """Over HTTP, of picture files, to 5e-5 at every size: features of all cases, and logits where
    there is a head. Files are decoded, and cut where the preparation cuts.
    """
    names = [name for name in SERVED[group] if folder_of(name)]
    if not names:
        pytest.skip("no such case beside this checkout (../shared/reference/pretrained/cases)")
    bundles = {name: exported(name, tmp_path_factory) for name in names}
    for bundle in bundles.values():
        shutil.copytree(bundle.root, tmp_path / bundle.root.name)
    compared = []
    with serving(tmp_path) as server:
        for name, bundle in bundles.items():
            for size, run in runs_of(case(name)).items():
                pictures = run["pixels"].numpy()  # [B, H, W, 3]
                grid = str(grid_of(pictures, bundle.manifest.patch))
                wanted = {"embedding": "pooled"} | ({"logits": "logits"} if "logits" in run else {})
                for row, pixels in enumerate(pictures):
                    file = picture_of(pixels, bundle.manifest.input)
                    for want, key in wanted.items():
                        said = {"bundle": bundle.manifest.name, "want": want, "grid": grid}
                        answer = server.classify(content=file, params=said)
                        assert answer.status_code == 200, answer.text
                        (result,) = answer.json()["results"]
                        off = abs(np.array(result[want]) - run[key][row].numpy()).max()
                        assert off <= TOLERANCE, f"{name} {size} {want}: {off:.1e}"
                    compared.append(name)
    assert set(compared) == set(names)


def test_every_case_is_served() -> None:
    """Each once."""
    assert sorted(name for names in SERVED.values() for name in names) == sorted(NAMES)


def test_a_licence_goes_into_card_and_manifest(tmp_path_factory: pytest.TempPathFactory) -> None:
    """DINOv3's binds what is made of the weights: a bundle says so, and whose weights they are."""
    bundle = exported("hf_dinov3", tmp_path_factory)
    licence = bundle.manifest.source["licence"]
    assert licence["name"] == "DINOv3 License (19 August 2025)"
    assert "does so under the same licence and adds a copy" in licence["terms"]
    card = bundle.path("README.md").read_text(encoding="utf-8")
    assert f"**Licence of the weights**: {licence['name']}. {licence['terms']}" in card
    assert "Public weights: hf_dinov3, imported from the names of transformers" in card
    assert "* the library resizes floating point values" in card
