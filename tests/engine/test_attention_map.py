"""Maps of attention: what is told and drawn of a rollout, whatever its rounding."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from models.bundle import read_bundle
from service.engine.decode.task import Decoded
from service.engine.explain.attention import attention_of
from service.engine.model import Model, Target
from service.http.explain_documents import Explanation
from tests.helpers.service_fixtures import write_tiny_bundle


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    """Of pictures."""
    folder = write_tiny_bundle(tmp_path_factory.mktemp("bundles"), embeds=True, looks=True)
    manifest = read_bundle(folder).manifest
    return Target.make(Model(manifest, 1), manifest.grids[0].grid, 1, 10.0)


def item_of(target: Target) -> Decoded:
    """A picture of noise, which came prepared."""
    pixels = np.random.default_rng(3).integers(0, 256, target.shape, np.uint8)
    return Decoded(target.grid, pixels, {})


def test_share_that_rounding_puts_above_1_can_be_sent(target: Target) -> None:
    """Float32 shares of all patches add up to 1 but for rounding; the document has 1 at most."""
    rollout = np.full((1, 6), (1 + 4e-6) / 6, np.float32)
    told = attention_of(target, item_of(target), rollout).document()
    assert told["share"] == 1
    TypeAdapter(Explanation).validate_python(told, strict=True)


def test_picture_has_no_colour_where_all_patches_are_alike(target: Target) -> None:
    """Also where half of all stayed with the class token: less than 1 is not less than others."""
    rollout = np.full((1, 6), 0.5 / 6, np.float32)
    found = attention_of(target, item_of(target), rollout)
    assert found.document()["values"] == np.full(found.map.values.shape, 0.5).tolist()
    picture = np.asarray(Image.open(io.BytesIO(found.map.overlay)).convert("RGB"))
    assert (picture == picture[..., :1]).all()


def test_picture_is_orange_above_the_mean_and_blue_below(target: Target) -> None:
    """Though all patches have less than an even share of all."""
    rollout = np.full((1, 6), 0.05, np.float32)
    rollout[0, 2], rollout[0, 3] = 0.1, 0.02
    found = attention_of(target, item_of(target), rollout)
    picture = np.asarray(Image.open(io.BytesIO(found.map.overlay)).convert("RGB")).astype(int)
    red, blue = ((picture[..., one] - picture[..., 2 - one]) > 20 for one in (0, 2))
    rows, columns = found.map.values.shape
    for colour, (row, column) in ((red, (0, 2)), (blue, (1, 0))):
        half = np.s_[picture.shape[0] * row // rows :, picture.shape[1] * column // columns :]
        cell = colour[half][: picture.shape[0] // rows, : picture.shape[1] // columns]
        assert cell.mean() > 0.9
    assert red.mean() < 0.25
