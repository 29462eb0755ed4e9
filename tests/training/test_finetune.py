"""Fine-tuning: what a checkpoint gives, what may differ, and what may move."""

from __future__ import annotations

import dataclasses
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from media.spec import Grid, InputSpec, SpecError
from models.checkpoint import load_checkpoint, read_description, save_checkpoint
from models.dropping import DropPath
from models.encodings import complete
from models.inflate import main as inflate
from models.spec import EncodingSpec, ModelSpec
from models.vit import VisionTransformer
from tests.helpers import training_runs
from tests.helpers.effort import effort
from tests.helpers.training_runs import COLOURS, Chatter, check_refused, command, make_data
from tests.helpers.training_runs import before as before_call
from training.__main__ import main
from training.config import TrainConfig
from training.data import class_weights
from training.finetune import adopt, at_size, recipe_for
from training.loop import Fit, set_up
from training.optim import freeze, make_average, make_optimiser, set_rate, stage
from training.presets import FROM_CHECKPOINT, PRESETS
from training.progress import Progress
from training.run import Run
from training.settings import override

pictures, finished = training_runs.pictures, training_runs.finished

LABELS = ("cat", "dog", "eel")
INPUT = InputSpec(mean=(0.4, 0.5, 0.6), fit="stretch")
SPEC = ModelSpec(
    patch=(2, 3), grid=(4, 3), classes=3, width=24, depth=3, heads=2, mlp_dim=20,
    pool="class", encoding=EncodingSpec("liere", block=4),
)  # fmt: skip
#: What a public pretrained model has besides, and a table that follows the grid.
FAMILY = dataclasses.replace(
    SPEC, query_bias=True, key_bias=True, value_bias=True, layer_scale=0.5, registers=2,
    mlp="gated-norm", pool="both", norm_before_pool=True, position_table="bicubic-antialias",
)  # fmt: skip
ENCODINGS = [
    EncodingSpec("liere", block=4),
    EncodingSpec("liere", block=6, per_layer=False, position_rule="published"),
    EncodingSpec("absolute"),
]


def make_config(model: ModelSpec = SPEC, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {"model": model, "input": INPUT, "init_from": "somewhere"}
    return TrainConfig("data", **(values | changes))


def make_model(spec: ModelSpec = SPEC, seed: int = 0) -> VisionTransformer:
    """Random weights in all parameters."""
    torch.manual_seed(seed)
    model = VisionTransformer(spec, INPUT)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of three classes at grid 4x3."""
    return make_checkpoint(tmp_path / "trained", SPEC)


def make_checkpoint(folder: Path, spec: ModelSpec) -> Path:
    folder.mkdir()
    save_checkpoint(folder, make_model(spec), INPUT, LABELS, {"step": 7, "data": {"name": "pets"}})
    return folder


def pixels_at(grid: Grid) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (4, *grid.pixels(SPEC.patch), 3)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("grid", [(4, 3), (7, 5), (3, 6), (5, 1)])
@pytest.mark.parametrize("encoding", ENCODINGS, ids=["liere", "liere-published", "absolute"])
def test_fine_tuning_at_another_size_begins_with_the_checkpoints_answers(
    tmp_path: Path, encoding: EncodingSpec, grid: tuple[int, ...]
) -> None:
    """Positions follow the grid: before the first step the logits are the checkpoint's there."""
    spec = dataclasses.replace(SPEC, encoding=encoding)
    folder = make_checkpoint(tmp_path / "trained", spec)
    config = make_config(dataclasses.replace(spec, grid=grid), init_from=str(folder))
    model = make_model(config.model, seed=5)
    told = adopt(model, config, LABELS)
    assert (told["head"], told["step"], told["data"]) == ("kept", 7, "pets")
    pixels = pixels_at(Grid(grid))
    expected = make_model(spec)(pixels)
    torch.testing.assert_close(model.eval()(pixels), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("spec", [SPEC, FAMILY], ids=["plain", "family"])
def test_fine_tuning_on_clips_begins_with_the_answers_to_pictures(
    tmp_path: Path, spec: ModelSpec
) -> None:
    """Of an inflated checkpoint, at another grid of all three axes; its prefix stays balanced."""
    folder, out = make_checkpoint(tmp_path / "trained", spec), tmp_path / "inflated"
    words = [str(folder), "--onto", "clips", "--grid", "2x4x3", "--depth", "2", "--out", str(out)]
    assert inflate(words) == 0
    config = recipe_for(PRESETS["clips"]("data"), out)
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, grid=(5, 7, 5), classes=3)
    )
    model = VisionTransformer(config.model, config.input)
    assert adopt(model, config, LABELS)["head"] == "kept"
    assert model.spec.balance_prefix
    pixels = pixels_at(Grid((7, 5)))
    clips = pixels[:, None].expand(-1, 10, -1, -1, -1)
    expected = make_model(spec)(pixels)
    torch.testing.assert_close(model.eval()(clips), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("grid", [(4, 3), (7, 5), (3, 6)])
def test_table_beside_rotations_follows_the_grid(tmp_path: Path, grid: tuple[int, ...]) -> None:
    """It is resized once by its own rule, and every other tensor of a family taken over."""
    folder = make_checkpoint(tmp_path / "trained", FAMILY)
    config = make_config(dataclasses.replace(FAMILY, grid=grid), init_from=str(folder))
    model = make_model(config.model, seed=5)
    adopt(model, config, LABELS)
    expected = make_model(FAMILY)(pixels_at(Grid(grid)))
    torch.testing.assert_close(model.eval()(pixels_at(Grid(grid))), expected, atol=2e-4, rtol=1e-4)


def test_checkpoint_without_a_head_gives_its_features_and_gets_one(tmp_path: Path) -> None:
    """Whoever fine-tunes it gets a new head on them; there is none to keep."""
    folder = tmp_path / "trained"
    folder.mkdir()
    headless = dataclasses.replace(SPEC, classes=0)
    save_checkpoint(folder, make_model(headless), INPUT, (), {})
    config = make_config(init_from=str(folder))
    model = make_model(seed=5).eval()
    assert adopt(model, config, LABELS)["head"] == "new"
    pixels = pixels_at(Grid((4, 3)))
    torch.testing.assert_close(model.features(pixels), make_model(headless)(pixels))
    with pytest.raises(SpecError, match="head=keep needs the labels of the checkpoint"):
        adopt(model, dataclasses.replace(config, head="keep"), LABELS)


def test_other_labels_get_a_new_head_on_the_same_features(checkpoint: Path) -> None:
    """Everything but the head is the checkpoint's."""
    config = make_config(dataclasses.replace(SPEC, classes=2), init_from=str(checkpoint))
    model = make_model(config.model, seed=5)
    fresh = model.head.weight.detach().clone()
    assert adopt(model, config, ("cat", "yak"))["head"] == "new"
    assert torch.equal(model.head.weight, fresh)
    old = make_model().state_dict()
    new = model.state_dict()
    same = [name for name in new if not name.startswith("head.")]
    assert all(torch.equal(new[name], old[name]) for name in same)


@pytest.mark.parametrize(
    ("head", "labels", "kept"),
    [("auto", LABELS, "kept"), ("new", LABELS, "new"), ("keep", LABELS, "kept"),
     ("auto", ("cat", "dog", "yak"), "new")],
)  # fmt: skip
def test_head_is_kept_where_the_labels_are_the_same(
    checkpoint: Path, head: str, labels: tuple[str, ...], kept: str
) -> None:
    """``auto`` compares labels, ``new`` never keeps, ``keep`` insists."""
    config = make_config(init_from=str(checkpoint), head=head)
    assert adopt(make_model(seed=5), config, labels)["head"] == kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 48}, "model.width: expected 24, got 48"),
        ({"depth": 2}, "model.depth: expected 3, got 2"),
        ({"patch": (3, 3)}, r"model.patch: expected \(2, 3\), got \(3, 3\)"),
        ({"encoding": EncodingSpec("absolute")}, "model.encoding: expected liere_4, got absolute$"),
        (
            {"encoding": EncodingSpec("liere", block=12)},
            "expected liere_4, got liere_12; python -m models.grow makes LieRE of other rotations$",
        ),
        ({"pool": "mean"}, "model.pool: expected class, got mean"),
    ],
)
def test_another_model_is_refused(
    checkpoint: Path, changes: dict[str, Any], message: str
) -> None:
    """What cannot match is named with what was expected and what came."""
    config = make_config(dataclasses.replace(SPEC, **changes), init_from=str(checkpoint))
    with pytest.raises(SpecError, match=message):
        adopt(make_model(config.model), config, LABELS)


def test_head_that_shall_be_kept_needs_its_labels(checkpoint: Path) -> None:
    """The message names both lists."""
    config = make_config(init_from=str(checkpoint), head="keep")
    with pytest.raises(SpecError, match=r"expected \['cat', 'dog', 'eel'\], got \['cat', 'yak'\]"):
        adopt(make_model(), config, ("cat", "yak"))


def test_checkpoint_gives_the_model_and_the_preset_the_recipe(checkpoint: Path) -> None:
    """Architecture and input are the checkpoint's; drop_path, epochs and the rest the preset's."""
    preset = make_config(
        ModelSpec(drop_path=0.3, dropout=0.1), input=InputSpec(), init_from=None, epochs=3
    )
    config = recipe_for(preset, checkpoint)
    assert config.input == INPUT
    whole = dataclasses.replace(SPEC, encoding=complete(SPEC.encoding))
    assert config.model == dataclasses.replace(whole, classes=0, drop_path=0.3, dropout=0.1)
    assert (config.epochs, config.init_from) == (3, str(checkpoint))
    assert override(config, ["model.grid=[6,7]"]).model.grid == (6, 7)


# --- what may move -----------------------------------------------------------------------------


def test_stages_run_from_the_pixels_to_the_head() -> None:
    """Embedding, tokens and encoding 0, layers from 1, norm and head last."""
    stages = {name: stage(name, 3) for name, _ in make_model().named_parameters()}
    assert {stages[n] for n in ("patch_embedding.weight", "class_token", "encoding.entries")} == {0}
    assert stages["layers.0.mlp.0.weight"] == 1
    assert stages["layers.2.attention.out.bias"] == 3
    assert {stages["norm.weight"], stages["head.bias"]} == {4}
    stages = {name: stage(name, 3) for name, _ in make_model(FAMILY).named_parameters()}
    assert {stages["registers"], stages["position_table"]} == {0}
    assert {stages["layers.1.attention_scale"], stages["layers.1.attention.key_bias"]} == {2}


@pytest.mark.parametrize("spec", [SPEC, FAMILY], ids=["plain", "family"])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_frozen_layers_do_not_move(layers: int, spec: ModelSpec) -> None:
    """A step changes every parameter after them and none before; 0 freezes nothing."""
    model = make_model(spec)
    freeze(model, layers)
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    optimiser = make_optimiser(model, make_config(freeze=layers, learning_rate=0.01))
    model.train()(pixels_at(Grid((4, 3)))).square().sum().backward()
    optimiser.step()
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == (not layers or stage(name, 3) > layers), name


def test_rates_fall_with_the_distance_from_the_head() -> None:
    """Each layer has layer_decay times the rate of the next one; all parameters are in a group."""
    model = make_model()
    optimiser = make_optimiser(model, make_config(layer_decay=0.5))
    set_rate(optimiser, 0.8)
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    named = {name: rates[id(p)] for name, p in model.named_parameters()}
    assert named["head.weight"] == 0.8
    assert named["layers.2.mlp.0.bias"] == 0.4
    assert named["layers.0.mlp.0.weight"] == pytest.approx(0.1)
    assert named["encoding.entries"] == pytest.approx(0.05)


@pytest.mark.parametrize("spec", [SPEC, FAMILY], ids=["plain", "family"])
def test_weight_decay_is_for_matrices(spec: ModelSpec) -> None:
    """Norms, biases, gains, tokens, tables and generators have none."""
    model = make_model(spec)
    optimiser = make_optimiser(model, make_config(layer_decay=0.9, weight_decay=0.1))
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            name = next(n for n, p in model.named_parameters() if p is parameter)
            tokens = ("class_token", "registers", "position_table")
            matrix = parameter.dim() == 2 and name not in tokens
            assert group["weight_decay"] == (0.1 if matrix else 0.0), name


def test_average_follows_the_weights() -> None:
    """After n updates: old + (new - old) times one minus the decay, which begins small."""
    model = make_model()
    average = make_average(model, 0.9)
    assert average is not None
    expected = model.head.bias.detach().clone()
    for updates in range(200):
        with torch.no_grad():
            model.head.bias.add_(1.0)
        average.update_parameters(model)
        decay = min(0.9, (1 + updates) / (10 + updates)) if updates else 0.0
        expected = decay * expected + (1 - decay) * model.head.bias.detach()
    assert isinstance(average.module, VisionTransformer)
    followed = average.module.head.bias
    torch.testing.assert_close(followed, expected, atol=1e-3, rtol=1e-5)
    assert make_average(model, 0.0) is None


# --- from the command line --------------------------------------------------------------------


def test_weights_of_no_known_run_are_told_without_a_step(capsys: Chatter) -> None:
    """Public ones were imported: nobody knows their steps."""
    origin = {"step": None, "data": "what vits learned from", "labels": 5, "head": "new"}
    Progress().begins(origin)
    told = capsys.readouterr().err
    assert told == "begins from weights: what vits learned from (5 labels); head: new\n"


def test_fine_tuning_road(pictures: Path, finished: Path, tmp_path: Path, capsys: Chatter) -> None:
    """Frozen layers are the origin's to the bit, the head has moved, and the run says whence."""
    out = tmp_path / "tuned"
    arguments = command(
        pictures, out, "freeze=1", "epochs=1", "model.grid=[3,4]", "ema=0.5", init_from=finished
    )
    assert main(arguments) == 0
    told = capsys.readouterr().err
    assert re.search(r"begins from step \d+ of a run on .*3 labels.; head: kept", told)
    old, _ = load_checkpoint(finished / "best")
    new, description = load_checkpoint(out / "last")
    assert description.notes["init"]["head"] == "kept"
    before = old.state_dict()
    for name, tensor in new.state_dict().items():
        assert torch.equal(tensor, before[name]) == (stage(name, old.spec.depth) <= 1), name


def test_head_learns_alone_first(pictures: Path, finished: Path, tmp_path: Path) -> None:
    """For whole epochs nothing before it moves; then all do, also where the run goes on there."""
    settings = ("head_first=1", "epochs=2", "model.grid=[3,4]", "ema=0.5", "head=new")
    out, again = tmp_path / "tuned", tmp_path / "again"
    first = command(pictures, out, *settings, init_from=finished)
    old, _ = load_checkpoint(finished / "best")
    before, moved = old.state_dict(), {}

    def look(fit: Fit) -> None:
        state = fit.setup.state.model.state_dict()
        moved[fit.notes["step"]] = {n for n, t in state.items() if not torch.equal(t, before[n])}

    with pytest.MonkeyPatch.context() as patched:
        for call in (1, 2):
            patched.setattr(*before_call("training.loop.Fit._end_epoch", call, look))
        assert main(first) == 0
    head = {name for name in before if stage(name, old.spec.depth) > old.spec.depth}
    assert moved == {5: head, 10: {name for name in before if before[name].numel()}}
    stopping = before_call("training.loop.train_step", 5, lambda *_: signal.raise_signal(15))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(*stopping)
        assert main(command(pictures, again, *settings, init_from=finished)) == 143
    assert main(command(pictures, again, *settings, init_from=finished, resume=True)) == 0
    states = [load_checkpoint(run / "last")[0].state_dict() for run in (out, again)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_preset_for_photos_takes_any_patch_that_divides_their_size(tmp_path: Path) -> None:
    """At 224 pixels, whatever the checkpoint was trained at; another patch is told what to do."""
    data = make_data(tmp_path / "data", COLOURS, train=3)
    for patch in ((56, 112), (2, 3)):
        spec = dataclasses.replace(SPEC, patch=patch)
        make_checkpoint(tmp_path / f"patch-{patch[0]}", spec)
    arguments = ["finetune-images", "--data", str(data), "--out", str(tmp_path / "run")]
    small = ("epochs=2", "batch=4", "workers=0", "precision=fp32")
    arguments += [word for one in small for word in ("--set", one)]
    with pytest.raises(SpecError, match=r"divides them, got \[2, 3\]; the preset finetune keeps"):
        at_size(make_config(), 224)
    assert main([*arguments, "--init-from", str(tmp_path / "patch-2")]) == 2
    assert main([*arguments, "--init-from", str(tmp_path / "patch-56")]) == 0
    _, description = load_checkpoint(tmp_path / "run" / "last")
    assert description.model.grid == (4, 2)
    assert description.notes["config"]["head_first"] == 1


def test_photos_of_another_size_go_on_at_it(tmp_path: Path) -> None:
    """A run that was told its grid is resumed without a word of it, as with every other preset."""
    data = make_data(tmp_path / "data", COLOURS, train=3)
    make_checkpoint(tmp_path / "old", dataclasses.replace(SPEC, patch=(56, 112)))
    arguments = ["finetune-images", "--data", str(data), "--out", str(tmp_path / "run")]
    arguments += ["--init-from", str(tmp_path / "old"), "--no-report"]
    small = ("epochs=2", "batch=4", "workers=0", "precision=fp32")
    arguments += [word for one in small for word in ("--set", one)]
    stopping = before_call("training.loop.Fit._end_epoch", 2, lambda *_: signal.raise_signal(15))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(*stopping)
        assert main([*arguments, "--set", "model.grid=2x1"]) == 143
    assert main([*arguments, "--resume"]) == 0
    _, description = load_checkpoint(tmp_path / "run" / "last")
    assert description.model.grid == (2, 1)


def test_fine_tuning_is_resumed_without_its_origin(
    pictures: Path, finished: Path, tmp_path: Path
) -> None:
    """The checkpoint that it began from may be gone: everything needed is in the run."""
    origin = shutil.copytree(finished, tmp_path / "origin", symlinks=True)
    out = tmp_path / "tuned"
    settings = ("epochs=1", "model.grid=4x5")
    assert main(command(pictures, out, *settings, init_from=origin)) == 0
    shutil.rmtree(origin)
    assert main(command(pictures, out, *settings, init_from=origin, resume=True)) == 0
    assert load_checkpoint(out / "last")[0].spec.grid == (4, 5)


def test_fine_tuning_is_not_resumed_as_something_else(
    pictures: Path, finished: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """Neither a run from scratch with an origin, nor a fine-tuning without one."""
    out = tmp_path / "tuned"
    assert main(command(pictures, out, "epochs=1", init_from=finished)) == 0
    check_refused(
        command(pictures, out, "epochs=1", resume=True), capsys, "expected --init-from, got none"
    )
    check_refused(
        command(pictures, finished, resume=True, init_from=out), capsys, "none, got --init-from"
    )


def test_preset_for_fine_tuning_needs_a_checkpoint(
    pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """Without one it would train from scratch by a recipe made for something else."""
    for preset in FROM_CHECKPOINT:
        arguments = [preset, "--data", str(pictures), "--out", str(tmp_path / "run")]
        told = f"error: {preset} starts from a checkpoint: expected --init-from RUN"
        check_refused(arguments, capsys, told)


def test_class_weights_reach_the_steps(pictures: Path, tmp_path: Path) -> None:
    """What the config asks for is what the loss gets."""
    config = override(PRESETS["smoke"](str(pictures)), ["class_weights=balanced", "batch=8"])
    with Progress() as progress:
        setup, _ = set_up(config, Run(tmp_path / "run"), False, progress)
    assert setup.weights is not None
    np.testing.assert_allclose(setup.weights, class_weights(setup.training.labels, 3))


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_compiled_run_ends_like_any_other(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.compile changes the arithmetic a little and nothing else.

    The large profile has every kernel written and compiled as C++; else the compiled network calls
    the kernels that there are, which saves twenty calls of the compiler.
    """
    if not shutil.which("g++"):
        pytest.skip("there is no C++ compiler here")
    monkeypatch.setattr("torch._inductor.config.fallback_by_default", effort(True, False))
    settings = ("epochs=1", "model.depth=1")
    losses = []
    for compiled in ("false", "true"):
        out = tmp_path / compiled
        assert main(command(pictures, out, *settings, f"compile={compiled}")) == 0
        losses.append(read_description(out / "last").notes["best"]["val_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


# --- drop path -----------------------------------------------------------------------------------


def test_drop_path_grows_with_the_depth() -> None:
    """The first layer never drops, the last at the spec's rate."""
    model = make_model(dataclasses.replace(SPEC, drop_path=0.4))
    rates = [module.rate for module in model.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.0, 0.2, 0.4])
    single = make_model(dataclasses.replace(SPEC, drop_path=0.4, depth=1))
    assert [m.rate for m in single.modules() if isinstance(m, DropPath)] == [0.4]
