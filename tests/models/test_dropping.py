"""What is left out in training: a function of item, layer and place, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from media.spec import InputSpec
from models.dropping import Dropout, DropPath, branch_keys, mixed
from models.encodings import parse_encoding
from models.spec import ModelSpec
from models.vit import Encoded, VisionTransformer

#: One of every kind: nothing turned, planes, planes in a learned basis, blocks, blocks of three.
KINDS = ("absolute", "axial_rope", "masa", "comrope_ld_8", "liere_8", "spherical_rope")


def make_keys(count: int) -> Tensor:
    """int64 [count]"""
    bits = torch.Generator().manual_seed(0)
    return torch.randint(-(2**63), 2**63 - 1, (count,), generator=bits)


def make_model(encoding: str = "liere_8", **changes: Any) -> VisionTransformer:
    """In training mode; a grid of 3x5 patches."""
    values: dict[str, Any] = {
        "patch": (4, 2), "grid": (3, 5), "classes": 5, "width": 48, "depth": 3, "heads": 3,
        "mlp_dim": 40, "pool": "class", "encoding": parse_encoding(encoding), "dropout": 0.2,
        "drop_path": 0.3,
    }  # fmt: skip
    torch.manual_seed(0)
    return VisionTransformer(ModelSpec(**(values | changes)), InputSpec()).train()


def make_pixels(batch: int = 6) -> Tensor:
    """uint8 [batch, 12, 10, 3]"""
    return torch.randint(
        256, (batch, 12, 10, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def gradients(model: VisionTransformer, recompute: bool = False) -> list[Tensor]:
    """The logits, and the gradient of a loss in the rotations and in every layer's parameters."""
    model.zero_grad()
    torch.manual_seed(2)  # some encodings move their positions
    given = [
        tensor if tensor is None else tensor.detach().requires_grad_()
        for tensor in model.encode(model.spec.training_grid)
    ]
    logits = model(make_pixels(), Encoded(*given), make_keys(6), recompute=recompute)
    logits.square().sum().backward()
    leaves = [tensor for tensor in (*given, *model.parameters()) if tensor is not None]
    return [logits.detach(), *(one.grad.clone() for one in leaves if one.grad is not None)]


def plain_splitmix(key: int) -> int:
    """As published, in whole numbers without bound."""
    mask = 2**64 - 1
    key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & mask
    key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & mask
    return key ^ (key >> 31)


def test_bits_are_those_of_splitmix() -> None:
    """Signed numbers that wrap around give the bits of unsigned ones."""
    keys = torch.cat([make_keys(200), torch.tensor([0, -1, 2**63 - 1, -(2**63)])])
    found = [value % 2**64 for value in mixed(keys).tolist()]
    assert found == [plain_splitmix(key % 2**64) for key in keys.tolist()]


def test_every_branch_of_every_layer_has_keys_of_its_own() -> None:
    """No two of many are equal, and none depends on the other items."""
    keys = make_keys(50)
    own = branch_keys(keys, 12)
    assert own.shape == (12, 2, 50)
    assert len(own.unique()) == 12 * 2 * 50
    assert torch.equal(branch_keys(keys[7:9], 12), own[..., 7:9])


def test_drop_path_leaves_out_whole_items_and_keeps_the_mean() -> None:
    """In training an item's branch is either gone or scaled up; in evaluation nothing happens."""
    drop = DropPath(0.25)
    branch, keys = torch.ones(4000, 3, 5), make_keys(4000)
    result = drop(branch, keys)
    kept = result[:, 0, 0] > 0
    assert torch.equal(result, kept[:, None, None] * torch.full_like(branch, 1 / 0.75))
    assert abs(kept.float().mean().item() - 0.75) < 0.03
    assert torch.equal(drop.eval()(branch, keys), branch)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 2**-16, 1 - 2**-20])
def test_dropout_leaves_out_its_share_everywhere(rate: float) -> None:
    """Of every item, place and channel alike; what is kept is scaled up by as much."""
    drop = Dropout(rate)
    result = drop(torch.ones(300, 15, 21), make_keys(300))
    kept = (result > 0).double()
    share = min(round(rate * 2**16), 2**16 - 1) / 2**16
    assert result.max() == pytest.approx(1 / (1 - share)) or not kept.any()
    assert abs(kept.mean().item() - (1 - rate)) < 0.005
    for axes in ((1, 2), (0, 2), (0, 1)):
        assert (kept.mean(axes) - (1 - rate)).abs().max() < 0.1
    pairs = torch.corrcoef(kept.flatten(1)[:40])  # of 40 items
    assert rate < 0.1 or rate > 0.9 or (pairs - torch.eye(40)).abs().max() < 0.3
    assert torch.equal(drop.eval()(result, None), result)


def test_what_is_dropped_does_not_depend_on_the_batch() -> None:
    """An item loses the same alone, in any part and in any order."""
    drop, branch, keys = Dropout(0.3), torch.rand(12, 7, 5), make_keys(12)
    whole = drop(branch, keys)
    for parts in (2, 4, 12):
        pairs = zip(branch.chunk(parts), keys.chunk(parts), strict=True)
        assert torch.equal(torch.cat([drop(*pair) for pair in pairs]), whole)
    assert torch.equal(drop(branch.flip(0), keys.flip(0)), whole.flip(0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_leaves_out_the_same() -> None:
    """Of whole items and of single numbers, to the bit."""
    branch, keys = torch.ones(50, 7, 5), make_keys(50)
    for drop in (Dropout(0.3), DropPath(0.3)):
        kept = drop(branch, keys) > 0
        assert torch.equal((drop(branch.cuda(), keys.cuda()) > 0).cpu(), kept)


def test_whole_model_drops_by_its_keys_in_training_only() -> None:
    """The same keys, the same logits; others, others; none where something must be drawn."""
    model, pixels, keys = make_model(), make_pixels(), make_keys(6)
    logits = model(pixels, keys=keys)
    torch.rand(10)
    assert torch.equal(model(pixels, keys=keys), logits)
    assert not torch.isclose(model(pixels, keys=keys.flip(0)), logits).all(1).any()
    with pytest.raises(ValueError, match="need a key of every item, got none"):
        model(pixels)
    model.eval()
    assert torch.equal(model(pixels), model(pixels, keys=keys))


@pytest.mark.parametrize(
    ("kind", "precision"), [*((kind, "fp32") for kind in KINDS), ("axial_rope", "bf16")]
)
def test_recomputing_gives_the_same_gradients(kind: str, precision: str) -> None:
    """Bit for bit, with dropout and drop path."""
    model = make_model(kind)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        kept, again = gradients(model), gradients(model, recompute=True)
    assert len(kept) > 20
    assert all(map(torch.equal, kept, again))


def kept_bytes(model: VisionTransformer, recompute: bool) -> int:
    """What a forward pass keeps for the backward one beside parameters and rotations, once each."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    encoded = model.encode(model.spec.training_grid)
    own |= {one.untyped_storage().data_ptr() for one in encoded if one is not None}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(make_pixels(16), encoded, make_keys(16), recompute=recompute)
    assert logits.requires_grad
    return sum(kept.values())


def test_recomputing_keeps_what_enters_the_layers_alone() -> None:
    """A fifth of the bytes at most; more layers cost one tensor [B, S, W] each."""
    model = make_model(depth=6)
    few, many = kept_bytes(model, recompute=True), kept_bytes(model, recompute=False)
    assert 5 * few < many
    deeper = kept_bytes(make_model(depth=7), recompute=True)
    assert deeper - few < 1.5 * 4 * 16 * 16 * 48


@pytest.mark.parametrize(
    ("kind", "recompute"), [*((kind, False) for kind in KINDS[1:]), ("axial_rope", True)]
)
def test_a_compiler_sees_one_graph_of_real_numbers(kind: str, recompute: bool) -> None:
    """As a run compiles it: with rotations and keys given, dropout and drop path on."""
    seen: list[torch.dtype] = []

    def watching(graph: Any, inputs: list[Tensor]) -> Any:
        graphs = [part.graph for part in graph.modules() if hasattr(part, "graph")]
        nodes = [node.meta.get("example_value") for one in graphs for node in one.nodes]
        seen.extend(value.dtype for value in nodes if isinstance(value, Tensor))
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    model = make_model(kind, depth=1)
    plain = gradients(model)
    torch.compiler.reset()
    model.compile(dynamic=False, fullgraph=True, backend=watching)
    traced = gradients(model, recompute)
    assert seen
    assert not any(dtype.is_complex for dtype in seen)
    torch.testing.assert_close(traced, plain, rtol=1e-4, atol=1e-4)
