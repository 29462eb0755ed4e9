"""Rollout of attention: the product of the layers' weights, as one row of shares."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import models.vit
from media.spec import Grid
from models.attention_rollout import attention_rollout, shares_read
from models.vit import VisionTransformer
from tests.models.test_vit import make_model as make_plain
from tests.models.test_vit import make_pixels
from tests.models.test_vit_families import FAMILIES, make_model

GRID = Grid((3, 5))


def whole_product(
    model: VisionTransformer, pixels: Tensor, patched: pytest.MonkeyPatch
) -> Tensor:
    """Of every token in every other, float64 [B, S, S], from what ``attend`` itself is given."""
    plain, product = models.vit.attend, torch.eye(1, dtype=torch.float64)

    def watched(query: Tensor, key: Tensor, value: Tensor, towards: Tensor | None) -> Tensor:
        nonlocal product
        scores = torch.einsum("bhsd,bhtd->bhst", query.double(), key.double())
        scores = scores / query.shape[-1] ** 0.5 + (0 if towards is None else towards)
        weights = torch.softmax(scores, -1).mean(1)  # [B, S, S]
        layer = (weights + torch.eye(weights.shape[-1])) / 2
        product = layer if product.shape[-1] == 1 else layer @ product
        return plain(query, key, value, towards)

    with patched.context() as patch:
        patch.setattr(models.vit, "attend", watched)
        model(pixels)
    return product


@pytest.mark.parametrize("family", [*FAMILIES, "inflated"])
def test_rollout_is_the_row_that_the_head_reads(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a class token its row, of a mean the rows' mean, of both half of each; other grids too."""
    inflated, grid = family == "inflated", GRID
    if inflated:  # whose prefix tokens weigh as much as their patches
        grid, model = Grid((3, 2, 5)), make_plain(3, balance_prefix=True, registers=2)
    else:
        model = make_model(family)
    pixels, prefix = make_pixels(model, 3, grid), model.spec.prefix_tokens
    product = whole_product(model, pixels, monkeypatch)  # [B, S, S]
    rows = {"class": product[:, 0], "mean": product[:, prefix:].mean(1)}  # [B, S] each
    names = ["class", "mean"] if model.spec.pool == "both" else [model.spec.pool]
    expected = sum(rows[name] for name in names) / len(names)
    assert isinstance(expected, Tensor)
    found = attention_rollout(model, pixels)
    assert found.shape == (3, grid.tokens)
    torch.testing.assert_close(found.double(), expected[:, prefix:], rtol=1e-5, atol=1e-7)
    together = expected.sum(1)
    torch.testing.assert_close(together, torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("pool", ["class", "mean", "both"])
def test_who_looks_everywhere_alike_sees_an_even_share(pool: Any) -> None:
    """Queries of 0 make all scores equal; of a class token half of its own stays at each layer."""
    model = make_plain(pool=pool)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("query_key_value.weight"):
                parameter[: model.spec.width] = 0
    found = attention_rollout(model, make_pixels(model, 2, GRID))
    even = found.mean(1, keepdim=True).expand_as(found)
    torch.testing.assert_close(found, even)
    if pool == "mean":
        torch.testing.assert_close(found, torch.full_like(found, 1 / GRID.tokens))


def test_hooks_are_taken_off_again() -> None:
    """Also when the pass fails; the model answers as before."""
    model = make_plain()
    pixels = make_pixels(model, 2, GRID)
    before = model(pixels)
    attention_rollout(model, pixels)
    with pytest.raises(AttributeError):
        attention_rollout(model, pixels, encoded=(1, 2))  # type: ignore[arg-type]
    assert not any(part._forward_pre_hooks for part in model.modules())
    assert (model(pixels) == before).all()


def test_shares_that_are_read_add_up_to_one() -> None:
    """Prefix tokens but the class token are read by no pooling."""
    model = make_plain(pool="both", registers=3)
    shares = shares_read(model.spec, GRID)
    assert shares.shape == (4 + GRID.tokens,)
    assert shares[:4].tolist() == pytest.approx([0.5, 0, 0, 0])
    torch.testing.assert_close(shares.sum(), torch.tensor(1.0))
