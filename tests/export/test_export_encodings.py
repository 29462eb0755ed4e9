"""Every encoding of the table, exported: torch's answers, the form it should have, no position
computed at a request.

A new row of ``ENCODINGS`` is tested without a line here: by its defaults, on two and three axes.
"""

from __future__ import annotations

import collections
import json
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ModelProto

from export.__main__ import main
from export.check import OPERATORS, GraphError, check_graph
from export.constants import plane_tables
from export.freeze import FrozenTransformer
from export.graph import to_onnx
from export.layout import halves, joined, joined_blocks, turn_blocks
from export.parity import FP32, Bound, compare, fp16_bound, graph_logits
from export.plan import plan_of
from export.reference import rounded_logits, torch_logits
from media.spec import Grid, InputSpec
from models.bundle import read_bundle
from models.encodings import ENCODINGS, parse_encoding
from models.manifest import Precision
from models.spec import ModelSpec
from models.vit import VisionTransformer
from tests.helpers.graph_forms import check_form
from tests.helpers.training_runs import COLOURS, command, make_data
from training.__main__ import main as train

PATCHES = {2: (4, 6), 3: (1, 2, 3)}
GRIDS = {2: (Grid((3, 2)), Grid((4, 5))), 3: (Grid((2, 3, 4)), Grid((3, 2, 5)))}
#: Rows with their defaults, and options that change what a graph holds.
NAMES = [
    *ENCODINGS,
    "comrope_ld:per_layer=false",
    "liere_2",
    "liere_4:per_head=false",
    "liere_48:per_layer=false",
    "masa:basis=householder,per_head=false",
    "rope_mixed:per_layer=false,per_head=false",
    "spherical_rope:learned=true",
]
#: What each row becomes; one that is not listed is folded.
FORMS: dict[str, tuple[str, bool]] = {
    "absolute": ("none", False),
    "axial_rope": ("planes", False),
    "dinov3_rope": ("planes", False),
    "liere": ("blocks", False),
    "liere_2": ("planes", False),
    "liere_4": ("blocks", False),
    "liere_48": ("blocks", False),
    "published_axial": ("planes", False),
    "rope_1d": ("planes", False),
    "rope_mixed": ("planes", False),
    "sinusoidal": ("none", False),
    "spherical_rope": ("blocks", False),
}
Pool = Literal["class", "mean"]
#: One of each form, and one whose basis a norm between projection and rotation keeps outside.
ONE_OF_EACH = ("absolute", "axial_rope", "liere", "masa", "spherical_rope")
Case = tuple[int, Pool, Precision, bool]
#: Axes, pooling, precision, query_key_norm: what every row is exported for. Two axes and a class
#: token in fp32 are what ``test_encodings_served.py`` exports of every encoding.
SPACE: Case = (3, "mean", "fp32", False)
#: What one row of each form is exported for besides.
MORE: list[Case] = [(2, "mean", "fp32", True), (3, "class", "fp16", False)]
ALL_AT_ONCE: Case = (2, "mean", "fp16", True)


def make_model(
    name: str,
    axes: int = 2,
    pool: Pool = "class",
    head_dim: int = 48,  # three axes and blocks of 3 and 8 divide it
    query_key_norm: bool = False,
) -> VisionTransformer:
    torch.manual_seed(1)
    spec = ModelSpec(
        patch=PATCHES[axes], grid=GRIDS[axes][0].size, classes=3, width=2 * head_dim, depth=2,
        heads=2, mlp_dim=64, pool=pool, encoding=parse_encoding(name),
        query_key_norm=query_key_norm,
    )  # fmt: skip
    model = VisionTransformer(spec, InputSpec())
    torch.nn.init.normal_(model.head.weight, std=0.3)  # logits as far apart as a trained model's
    with torch.no_grad():
        for parameter in model.encoding.parameters():  # some layers begin alike and share tables
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def pixels_for(model: VisionTransformer, grid: Grid, count: int = 5) -> np.ndarray:
    shape = (count, *grid.pixels(model.spec.patch), 3)
    return np.random.default_rng(count).integers(0, 256, shape, dtype=np.uint8)


def graph_of(model: VisionTransformer, grid: Grid, precision: Precision = "fp32") -> ModelProto:
    example = torch.from_numpy(pixels_for(model, grid, 3))
    return to_onnx(FrozenTransformer(model, grid, precision), example)


def check_answers(model: VisionTransformer, graph: ModelProto, grid: Grid, bound: Bound) -> None:
    """At several rows together and at one alone."""
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    for count in (5, 1):
        pixels = pixels_for(model, grid, count)
        compare(graph_logits(session, pixels), torch_logits(model, pixels, grid), bound)


# --- every row ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "axes", "pool", "precision", "norm"),
    [
        *((name, *SPACE) for name in NAMES),
        *((name, *case) for name in ONE_OF_EACH for case in MORE),
        ("masa", *ALL_AT_ONCE),
    ],
)
def test_graph_answers_as_torch_and_holds_its_form(
    name: str, axes: int, pool: Pool, precision: Precision, norm: bool
) -> None:
    """At a grid that was not trained: torch's logits, allowed operators, tables of one form."""
    model, grid = make_model(name, axes, pool, query_key_norm=norm), GRIDS[axes][1]
    graph, plan = graph_of(model, grid, precision), plan_of(model)
    check_graph(graph, precision)
    expected = torch_logits(model, pixels_for(model, grid), grid)
    bound = FP32 if precision == "fp32" else fp16_bound(expected)
    check_answers(model, graph, grid, bound)
    if precision == "fp16":
        rounded = rounded_logits(FrozenTransformer(model, grid, "fp16"), pixels_for(model, grid))
        compare(rounded, expected, bound)
    check_form(graph, plan.form, model, grid)


@pytest.mark.parametrize("axes", PATCHES)
@pytest.mark.parametrize("name", NAMES)
def test_form_is_the_cheapest_that_the_encoding_allows(name: str, axes: int) -> None:
    """Commuting rows become planes, folded where they have a basis; others say why they do not."""
    form = plan_of(make_model(name, axes)).form
    short = name.partition(":")[0]
    assert (form.form, form.folded) == FORMS.get(short, ("planes", True))
    assert len(form.reason) > 20


def test_no_operator_computes_positions() -> None:
    """What graphs may hold has no exponential, inverse, transform, sine or loop in it."""
    assert not OPERATORS & {
        "Cos", "Det", "DFT", "Einsum", "Exp", "Gemv", "If", "Inverse", "Loop", "Range", "Scan",
        "Sin", "STFT",
    }  # fmt: skip


@pytest.mark.parametrize("learned", ["false", "true"])
def test_channels_beyond_the_blocks_pass(learned: str) -> None:
    """32 channels hold ten blocks of three: two are not turned, with one table or one a head."""
    model = make_model(f"spherical_rope:learned={learned}", head_dim=32)
    grid = GRIDS[2][1]
    check_answers(model, graph_of(model, grid), grid, FP32)


# --- layouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("blocks", "block", "head_dim"), [(4, 8, 32), (7, 3, 22), (1, 12, 12)])
@pytest.mark.parametrize("heads", [1, 3])
def test_joined_blocks_turn_as_single_ones(
    blocks: int, block: int, head_dim: int, heads: int
) -> None:
    """Blocks side by side in one matrix give each its own product, shared by heads or not."""
    x = torch.randn(2, 5, 3, head_dim)
    table = torch.randn(5, heads, blocks, block, block)
    actual = turn_blocks(x, joined(table.mT), blocks * block)  # [B, H, S, D]
    covered, rest = x.split([blocks * block, head_dim - blocks * block], dim=-1)
    parts = covered.unflatten(-1, (blocks, block))  # [B, S, H, N, K]
    each = torch.einsum("shnij,bshnj->bhsni", table.expand(-1, 3, -1, -1, -1), parts)
    expected = torch.cat([each.flatten(3), rest.transpose(1, 2)], dim=-1)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_joined_side_is_near_32() -> None:
    """The largest number of blocks that divides a head's and keeps the side small."""
    assert [joined_blocks(*pair) for pair in ((8, 8), (21, 3), (32, 2), (1, 64), (6, 8))] == [
        4, 7, 16, 1, 3,
    ]  # fmt: skip


def test_order_of_channels_is_in_the_projections_alone() -> None:
    """Queries and keys come out by halves, values as they were: the rows are the same rows."""
    model = make_model("axial_rope")
    frozen = FrozenTransformer(model, GRIDS[2][1])
    before, after = (projections(made).reshape(3, 2, 48, 96) for made in (model, frozen.model))
    assert torch.equal(after[:2], before[:2, :, halves(48)])
    assert torch.equal(after[2], before[2])
    assert not torch.equal(after[:2], before[:2])


def projections(model: VisionTransformer) -> torch.Tensor:
    """Rows of queries, keys and values of the second layer."""
    weight = model.layers[1].attention.query_key_value.weight  # type: ignore[union-attr]
    return weight.detach()  # type: ignore[operator]


def test_table_that_only_one_half_is_turned_by_is_found() -> None:
    """Sums and differences of products by other tables are no rotation."""
    graph = graph_of(make_model("rope_mixed"), GRIDS[2][1])
    makers = {node.output[0]: node for node in graph.graph.node}
    difference = next(node for node in graph.graph.node if node.op_type == "Sub")
    cosine, sine = (makers[part] for part in difference.input)
    cosine.input[1] = sine.input[1]
    with pytest.raises(GraphError, match="turned by one table each"):
        plane_tables(graph)


# --- from the first step to the proof -----------------------------------------------------------


def test_masa_is_trained_exported_folded_and_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One command each; the manifest, the card and the screen say that the basis was folded."""
    data, run = make_data(tmp_path / "data", COLOURS), tmp_path / "run"
    settings = ("epochs=1", "model.encoding.name=masa", "model.encoding.block=null")
    assert train(command(data, run, *settings)) == 0
    words = [str(run), "--grid", "3x4", "--grid", "5x2", "--out", str(tmp_path / "bundles")]
    assert main([*words, "--split", "val", "--parity-items", "12"]) == 0
    told = capsys.readouterr().err
    bundle = read_bundle(tmp_path / "bundles" / "run")
    form = bundle.manifest.rotations
    assert form is not None and (form.form, form.folded, form.block) == ("planes", True, None)
    assert f"rotations: {form}" in told
    assert str(form) in bundle.path("README.md").read_text()
    assert main(["verify", str(bundle.root), "--data", str(data), "--json"]) == 0
    proofs = {row["what"]: row for row in json.loads(capsys.readouterr().out)["proofs"]}
    assert proofs["rotations 5x2"]["told"].startswith("1 of 10x1x8 for 2 layers, |cos^2 + sin^2")
    names = collections.Counter(path.name for path in (bundle.root / "graphs").iterdir())
    assert names == {"3x4.onnx": 1, "5x2.onnx": 1, "weights.bin": 1}
