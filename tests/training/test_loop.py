"""One training step: parts, weights, clipping, and what balances the classes."""

from __future__ import annotations

import dataclasses
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch

from media.dataset import Prepared
from media.spec import InputSpec, SpecError
from models.spec import EncodingSpec, ModelSpec
from models.vit import VisionTransformer
from training.checks import check_compiler, check_precision
from training.config import Augment, TrainConfig
from training.data import class_weights
from training.loop import is_better
from training.optim import learning_rate, make_average, make_optimiser
from training.order import WINDOW, order_of
from training.run import State
from training.settings import override
from training.step import Setup, make_batch, train_step

SPEC = ModelSpec(
    patch=(2, 3), grid=(4, 3), classes=3, width=24, depth=2, heads=2, mlp_dim=20,
    encoding=EncodingSpec("liere", block=4),
)  # fmt: skip
PLAIN = Augment(crop_padding=1, flip=True)
SAMPLES = np.arange(12)
#: Of torch's generator, in step 7 of the seed 0.
SEED_OF_STEP_7 = 236966933211079598


def make_setup(model: ModelSpec = SPEC, **changes: Any) -> Setup:
    """Twenty random items, three times as many of class 0 as of the others."""
    values: dict[str, Any] = {"augment": PLAIN, "batch": 12, "learning_rate": 0.01}
    config = TrainConfig("data", model, InputSpec(), **(values | changes))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 8, 9, 3), dtype=np.uint8)
    labels = np.array([0] * 12 + [1] * 4 + [2] * 4)
    items = Prepared(pixels, labels, tuple(f"item-{i}" for i in range(20)), "")
    torch.manual_seed(0)
    network = VisionTransformer(config.model, config.input)
    state = State(network, make_optimiser(network, config), make_average(network, config.ema))
    weights = None
    if config.class_weights == "balanced":
        weights = torch.from_numpy(class_weights(labels, 3))
    return Setup(config, state, items, items, ("a", "b", "c"), weights)


def gradients_of(setup: Setup) -> dict[str, torch.Tensor]:
    """Of the first step, as they reach the optimiser."""
    train_step(setup, SAMPLES, 0, 0.01)
    named = setup.model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.parametrize("encoding", [EncodingSpec("liere", block=4), EncodingSpec("absolute")])
@pytest.mark.parametrize(
    "changes",
    [{}, {"class_weights": "balanced"}, {"augment": Augment(mixup=0.5, cutmix=1.0, colour=0.2)}],
    ids=["plain", "weights", "mixed"],
)
def test_parts_of_a_batch_add_up_to_the_batch(
    encoding: EncodingSpec, changes: dict[str, Any]
) -> None:
    """Computed in two or four parts it has the gradients of the batch in one, masks and all."""
    model = dataclasses.replace(SPEC, encoding=encoding, dropout=0.3, drop_path=0.5)
    whole = gradients_of(make_setup(model, **changes))
    assert any(name.startswith("encoding.") for name in whole)
    for count in (2, 4):
        parts = gradients_of(make_setup(model, accumulate=count, **changes))
        assert set(whole) == set(parts)
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("samples", [SAMPLES, np.zeros(12, dtype=np.int64)], ids=["each", "one"])
def test_equal_items_drop_out_differently(samples: np.ndarray, parts: int) -> None:
    """No two rows of equal pixels share their masks, also where they are one item."""
    setup = make_setup(
        dataclasses.replace(SPEC, dropout=0.5), accumulate=parts, augment=Augment(0, False)
    )
    assert isinstance(setup.training, Prepared)
    setup.training.pixels[:] = setup.training.pixels[:1]
    seen: list[torch.Tensor] = []
    setup.model.head.register_forward_hook(lambda *call: seen.append(call[2].detach()))
    train_step(setup, samples, 0, 0.01)
    assert len(seen) == parts
    assert len(torch.cat(seen).unique(dim=0)) == 12


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputed_step_is_the_same_step(precision: str) -> None:
    """Bit for bit, with everything that is drawn; layers are computed twice."""
    model, steps = dataclasses.replace(SPEC, dropout=0.2, drop_path=0.3), []
    for recompute in (False, True):
        setup = make_setup(model, precision=precision, accumulate=2, recompute=recompute)
        calls: list[int] = []
        mlp = setup.model.get_submodule("layers.0.mlp")
        mlp.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        steps.append(gradients_of(setup))
        assert len(calls) == 2 + 2 * recompute
    assert steps[0].keys() == steps[1].keys()
    assert all(torch.equal(steps[1][name], gradient) for name, gradient in steps[0].items())


def test_encodings_move_as_they_always_did() -> None:
    """Once a step, however it is computed: runs from before go on with the draws they had."""
    encoding = EncodingSpec("comrope_ld", block=4)
    for parts in (1, 2):
        setup = make_setup(dataclasses.replace(SPEC, encoding=encoding), accumulate=parts)
        train_step(setup, SAMPLES, 7, 0.01)
        assert torch.initial_seed() == SEED_OF_STEP_7


def test_gradient_is_clipped_to_its_length() -> None:
    """The step reports the length before; what reaches the optimiser is not longer than asked."""
    free, clipped = make_setup(), make_setup(clip_norm=0.01)
    length = train_step(free, SAMPLES, 0, 0.01).gradient_norm
    assert train_step(clipped, SAMPLES, 0, 0.01).gradient_norm == pytest.approx(length)
    gradients = [p.grad for p in clipped.model.parameters() if p.grad is not None]
    assert length > 0.01
    assert torch.nn.utils.get_total_norm(gradients).item() == pytest.approx(0.01, rel=1e-3)


def test_step_depends_on_its_number_and_not_on_what_came_before() -> None:
    """The draws of a step are its own: dropout, drop_path, crops and mixing alike."""
    model = dataclasses.replace(SPEC, dropout=0.2, drop_path=0.3)
    augment = Augment(crop_scale=(0.5, 1.0), operations=1, erase=0.5, mixup=0.3)
    setups = [make_setup(model, augment=augment) for _ in range(2)]
    torch.rand(1000)  # whoever else draws
    losses = [train_step(setup, SAMPLES, 5, 0.0).loss for setup in setups]
    assert losses[0] == losses[1]
    assert train_step(setups[1], SAMPLES, 6, 0.0).loss != losses[0]


def test_class_weights_make_every_class_count_alike() -> None:
    """Summed over the items of a split, the weights of each class are equal, and 1 on average."""
    labels = np.array([0] * 12 + [1] * 4 + [2] * 8)
    weights = class_weights(labels, 3)
    np.testing.assert_allclose(np.bincount(labels, weights[labels]), 8, rtol=1e-6)
    assert weights[labels].mean() == pytest.approx(1)


def test_balanced_class_weights_change_the_loss_as_stated() -> None:
    """The loss is the mean of an item's weight times its cross-entropy, smoothed for all alike."""
    setup = make_setup(class_weights="balanced", label_smoothing=0.1)
    inputs, targets = make_batch(setup, SAMPLES, 0)
    with torch.no_grad():
        logits = setup.model.eval()(inputs)
    each = torch.nn.functional.cross_entropy(
        logits, targets, reduction="none", label_smoothing=0.1
    )
    assert setup.weights is not None
    expected = (each * setup.weights[targets]).mean().item()
    assert train_step(setup, SAMPLES, 0, 0.01).loss == pytest.approx(expected, rel=1e-5)


def test_ids_are_never_copied_to_leave_few_out() -> None:
    """An order takes no more memory for long ids."""
    setup = make_setup(skip=("7",))
    assert isinstance(setup.training, Prepared)
    labels, ids = np.zeros(2000, np.int64), tuple(map(str, range(2000)))
    peaks = []
    for long in ("", "x" * 9999):
        training = dataclasses.replace(setup.training, labels=labels, ids=(*ids[:-1], long))
        tracemalloc.start()
        order = order_of(dataclasses.replace(setup, training=training), 1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(order) == 2000
        assert 7 not in order
    assert peaks[1] < peaks[0] + 10_000


def test_items_of_shards_are_taken_from_few_of_them_at_a_time() -> None:
    """The order of an epoch permutes shards, and items within a window of them."""
    setup = make_setup()
    shards = np.repeat(np.arange(2 * WINDOW), 3)
    labels = np.zeros(len(shards), np.int64)
    assert isinstance(setup.training, Prepared)
    training = dataclasses.replace(setup.training, labels=labels, shards=shards)
    order = order_of(dataclasses.replace(setup, training=training), 1)
    assert sorted(order) == list(range(len(shards)))
    assert not {*shards[order[: 3 * WINDOW]]} & {*shards[order[3 * WINDOW :]]}


def test_balanced_sampling_shows_every_class_equally_often() -> None:
    """One epoch of balanced sampling has as many items of each class, give or take one."""
    setup = make_setup(sampling="balanced")
    labels = setup.training.labels
    assert sorted(np.bincount(labels[order_of(setup, 0)])) == [6, 7, 7]
    assert sorted(order_of(make_setup(), 0)) == list(range(20))


def test_oversized_items_are_cropped_to_the_networks_input() -> None:
    """Items decoded larger than the input reach the network at its size."""
    setup = make_setup(augment=Augment(crop_scale=(0.4, 0.9), oversize=1.5))
    assert isinstance(setup.training, Prepared)
    large = dataclasses.replace(setup.training, pixels=np.zeros((20, 12, 14, 3), np.uint8))
    inputs, _ = make_batch(dataclasses.replace(setup, training=large), SAMPLES, 0)
    assert inputs.shape == (12, 8, 9, 3)


def test_average_is_what_is_measured_and_saved() -> None:
    """With an average there are two sets of weights, and the state gives the average."""
    setup = make_setup(ema=0.9)
    for step in range(3):
        train_step(setup, SAMPLES, step, 0.01)
    measured = setup.state.measured().state_dict()
    assert not torch.equal(measured["head.weight"], setup.model.head.weight)
    stored = setup.state.tensors()
    assert torch.equal(stored["model.head.weight"], setup.model.head.weight)


def test_best_is_chosen_as_asked() -> None:
    """Higher is better, but for the loss; the first epoch is always the best so far."""
    old = {"val_top1": 0.5, "val_balanced_accuracy": 0.5, "val_loss": 1.0}
    new = {"val_top1": 0.6, "val_balanced_accuracy": 0.4, "val_loss": 0.9}
    assert is_better(new, old, "top1")
    assert not is_better(new, old, "balanced_accuracy")
    assert is_better(new, old, "loss")
    assert not is_better(old, old, "top1")
    assert is_better(old, None, "top1")
    assert is_better(new, old, "last")


def test_rate_warms_up_and_falls_to_nothing() -> None:
    """Linear to the peak, then half a cosine."""
    config = make_setup(warmup_steps=10, learning_rate=2.0).config
    rates = [learning_rate(config, step, 110) for step in range(110)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[9] == rates[10] == 2.0
    assert rates[60] == pytest.approx(1.0)
    assert 0 < rates[-1] < 0.001


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("augment.crop_scale=[0.5]", "crop_scale must be two numbers, smallest first"),
        ("augment.crop_scale=[0.9,0.5]", "crop_scale must be two numbers, smallest first"),
        ("augment.oversize=1.5", "oversize 1.5 needs crops: expected augment.crop_scale below 1"),
        ("augment.magnitude=2", "augment.magnitude must be from 0 to 1, got 2"),
        ("augment.mixup=-1", "augment.mixup must be from 0 to 100, got -1"),
        ("augment.operations=-1", "operations must be 0 or more, got -1"),
        ("augment.mix=1", "unknown key 'augment.mix'.*augment.cutmix, .*augment.oversize"),
        ("accumulate=5", "batch 12 is not divisible by accumulate 5"),
        ("layer_decay=0", r"layer_decay must be in \(0, 1\], got 0"),
        ("ema=1", r"ema must be in \[0, 1\), got 1"),
        ("cooldown=0", r"cooldown must be in \(0, 1\], got 0"),
        ("betas=[0.9,1]", r"betas must be two numbers in \[0, 1\), got \[0.9, 1"),
        ("betas=[0.9]", r"betas must be two numbers in \[0, 1\), got \[0.9\]"),
        ("schedule=step", "expected one of cosine, linear, constant, wsd, got 'step'"),
        ("precision=fp8", "expected one of fp32, tf32, bf16, fp16, got 'fp8'"),
        ("patience=-1", "patience must be 0 or more, got -1"),
        ("head_first=-1", "head_first must be 0 or more, got -1"),
        ("freeze=1", "and head are for fine-tuning: expected --init-from, got none"),
        ("head=keep", "and head are for fine-tuning: expected --init-from, got none"),
        ("head_first=1", "and head are for fine-tuning: expected --init-from, got none"),
        ("augment.oversize=3", "augment.oversize must be from 1 to 2, got 3"),
        ("sampling=fair", "expected one of shuffle, balanced, got 'fair'"),
        ("model.drop_path=1", r"drop_path must be in \[0, 1\), got 1"),
    ],
)
def test_setting_that_makes_no_sense_is_refused(setting: str, message: str) -> None:
    """The message says what was expected and what came."""
    with pytest.raises(SpecError, match=message):
        override(make_setup().config, [setting])


def test_patience_without_a_figure_is_refused() -> None:
    """The last epoch is always the best of a run that chooses it."""
    with pytest.raises(SpecError, match="expected patience to be 0 or another choose"):
        make_setup(choose="last", patience=2)


def test_precision_of_another_device_is_refused() -> None:
    """A CPU would compute in float32 without a word."""
    with pytest.raises(SpecError, match="tf32 is of GPUs: expected fp32 or bf16 on a cpu"):
        check_precision(make_setup(precision="tf32").config, torch.device("cpu"))


def test_balancing_twice_is_refused() -> None:
    """Weights and draws that both favour the rare class would turn the imbalance round."""
    with pytest.raises(SpecError, match="expected one of them balanced, got both"):
        make_setup(class_weights="balanced", sampling="balanced")


def test_grids_are_written_with_an_x() -> None:
    """As everywhere; a list of numbers does too, and nothing else."""
    config = make_setup().config
    assert override(config, ["model.grid=6x5", "model.patch=[2,4]"]).model.grid == (6, 5)
    with pytest.raises(SpecError, match="model.grid: expected a list, got str"):
        override(config, ["model.grid=6by5"])


def test_frozen_layers_do_not_drop() -> None:
    """They stay as they are: with all of them frozen, two steps see the same features."""
    spec = dataclasses.replace(SPEC, dropout=0.5, drop_path=0.5)
    setup = make_setup(spec, init_from="somewhere", freeze=2, augment=Augment(0, False))
    seen: list[torch.Tensor] = []
    setup.model.head.register_forward_hook(lambda *call: seen.append(call[1][0].detach()))
    for step in range(2):
        train_step(setup, SAMPLES, step, 0.0)
    assert torch.equal(seen[0], seen[1])


def test_warm_up_takes_no_more_than_a_fifth_of_the_run() -> None:
    """Few items make a short run: it still reaches its peak and comes down."""
    config = make_setup(warmup_steps=500, learning_rate=2.0).config
    rates = [learning_rate(config, step, 50) for step in range(50)]
    assert max(rates) == rates[9] == 2.0
    assert rates[-1] < 0.01


def test_freezing_more_layers_than_there_are_is_refused() -> None:
    """A model of two layers has no third to freeze."""
    with pytest.raises(SpecError, match="freeze must be at most depth 2, got 3"):
        make_setup(init_from="somewhere", freeze=3)


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said before the first step and not by the first step."""
    monkeypatch.setenv("PATH", "")
    cpu = torch.device("cpu")
    with pytest.raises(SpecError, match=r"expected g\+\+, found none"):
        check_compiler(make_setup(compile=True).config, cpu)
    check_compiler(make_setup().config, cpu)
