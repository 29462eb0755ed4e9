"""Maps of attention: what is told and drawn of a rollout, whatever its rounding."""

from __future__ import annotations

import io
from pathlib import Path

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
