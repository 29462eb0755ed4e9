"""Published models: as files, as the published code answered them, and written once more here."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from models.pretrained.lightning_liere.spec import Options

LABELS = tuple(f"class {index}" for index in range(10))
RAW = "position_encoder.generator_raw_params"
NAMES = (
    "absolute_2d", "absolute_larger_2d", "axial_2d", "liere2_2d", "liere8_2d", "liere8_shared_2d",
    "liere8_larger_2d", "liere8_3d",
)  # fmt: skip
#: What the models below are trained at: pixels and patch.
SIZES = {2: ((12, 20), (4, 4)), 3: ((4, 12, 8), (2, 4, 4))}
LARGER = {2: (20, 24), 3: (6, 8, 20)}

State = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Case:
    """A published model of two layers, width 128, two heads; perhaps with published answers."""

    state: State
    answers: State
    size: tuple[int, ...]
    patch: tuple[int, ...]
    axial_per_head: bool = False

    @property
    def grid(self) -> tuple[int, ...]:
        """The trained one."""
        return tuple(side // step for side, step in zip(self.size, self.patch, strict=True))

    def options(self, **changes: Any) -> Options:
        """The models see value / 255: the published answers are to noise as it is."""
        told = Options(
            LABELS,
            size=self.size,
            patch=self.patch,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            axial_per_head=self.axial_per_head,
        )
        return dataclasses.replace(told, **changes)


def open_case(folder: Path, name: str) -> Case:
    """One with the published code's answers."""
    told = {case["name"]: case for case in json.loads((folder / "cases.json").read_text())}[name]
    tensors = load_file(folder / f"{name}.safetensors")
    return Case(
        {key[6:]: tensor for key, tensor in tensors.items() if key.startswith("state.")},
        {key: tensor for key, tensor in tensors.items() if not key.startswith("state.")},
        tuple(told["trained_size"]),
        tuple(told["patch"]),
        told["encoding"] == "tiled" and told["per_head"],
    )


def make_case(axes: int, encoding: str) -> Case:
    """Random weights; ``encoding`` is liere (block 8, per layer and head), axial or absolute."""
    torch.manual_seed(3)
    size, patch = SIZES[axes]
    values, tokens = 3 * math.prod(patch), math.prod(size) // math.prod(patch)
    state = {
        "cls_token": torch.randn(1, 1, 128),
        "pos_embedding": torch.randn(1, 1 + tokens, 128) * (encoding == "absolute"),
    } | _linear("to_patch_embedding.1", 128, values)
    for layer in ("transformer.layers.0", "transformer.layers.1"):
        state |= _norm(f"{layer}.0.norm") | _norm(f"{layer}.1.norm")
        state[f"{layer}.0.fn.to_qkv.weight"] = torch.randn(384, 128) / 8
        state |= _linear(f"{layer}.0.fn.to_out.0", 128, 128)
        state |= _linear(f"{layer}.1.fn.net.0", 64, 128) | _linear(f"{layer}.1.fn.net.3", 128, 64)
    state |= _norm("mlp_head.0") | _linear("mlp_head.1", 10, 128)
    if encoding == "liere":
        state[RAW] = 6.28 * torch.rand(axes, 2, 2 * 8, 8, 8)
    return Case(state, {}, size, patch)


def _linear(name: str, outputs: int, inputs: int) -> State:
    weight = torch.randn(outputs, inputs) * inputs**-0.5
    return {f"{name}.weight": weight, f"{name}.bias": torch.randn(outputs)}


def _norm(name: str) -> State:
    return {f"{name}.weight": torch.rand(128) + 0.5, f"{name}.bias": torch.randn(128)}


def write_lightning(path: Path, state: Mapping[str, object], **changes: Any) -> Path:
    """A file as Lightning's trainer saves one, with Adam's state, schedules and callbacks."""
    adam = {"step": torch.tensor(39200.0), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.ones(3)}
    saved = {
        "epoch": 199,
        "global_step": 39200,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 200}}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(1.5), "dirpath": "."}},
        "optimizer_states": [{"state": {0: adam}, "param_groups": [{"lr": 1e-4, "params": [0]}]}],
        "lr_schedulers": [{"T_max": 200, "base_lrs": [1e-4], "_last_lr": [1e-6]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"initialization_factor": 6.283185307179586},
        "datamodule_hyper_parameters": {"data_dir": "./data", "num_workers": 6},
    }
    torch.save(saved | changes, path)
    return path


# --- the model once more, in float64, whole heads turned by dense matrices -----------------------


def independent(case: Case, inputs: Tensor, own_layers: bool = False) -> Tensor:
    """Logits of [B, C, *pixels]; ``own_layers`` turns every layer by its own generators."""
    state = {name: tensor.double() for name, tensor in case.state.items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (128,), state[f"{name}.weight"], state[f"{name}.bias"])

    grid = tuple(side // step for side, step in zip(inputs.shape[2:], case.patch, strict=True))
    tokens = linear(cut(inputs.double(), case.patch), "to_patch_embedding.1")  # [B, T, W]
    tokens = torch.cat([state["cls_token"].expand(len(tokens), -1, -1), tokens], 1)  # [B, S, W]
    tokens = tokens + resized(state["pos_embedding"], case.grid, grid)
    for layer in range(2):
        name = f"transformer.layers.{layer}"
        parts = linear(norm(tokens, f"{name}.0.norm"), f"{name}.0.fn.to_qkv").chunk(3, -1)
        query, key, value = (part.unflatten(-1, (2, 64)).transpose(1, 2) for part in parts)
        turns = dense_rotations(case, grid, layer if own_layers else 0)  # [H, S, D, D]
        query, key = ((turns @ part[..., None])[..., 0] for part in (query, key))
        mixed = (query @ key.mT / 8).softmax(-1) @ value  # [B, H, S, D]
        tokens = tokens + linear(mixed.transpose(1, 2).flatten(2), f"{name}.0.fn.to_out.0")
        hidden = functional.gelu(linear(norm(tokens, f"{name}.1.norm"), f"{name}.1.fn.net.0"))
        tokens = tokens + linear(hidden, f"{name}.1.fn.net.3")
    return linear(norm(tokens[:, 0], "mlp_head.0"), "mlp_head.1")


def cut(inputs: Tensor, patch: tuple[int, ...]) -> Tensor:
    """[B, C, *pixels] -> [B, T, values], channels fastest."""
    for axis, step in enumerate(patch):
        inputs = inputs.unfold(2 + axis, step, step)  # [B, C, *grid, *patch so far]
    return inputs.flatten(2, 1 + len(patch)).flatten(3).permute(0, 2, 3, 1).flatten(2)


def resized(table: Tensor, trained: tuple[int, ...], grid: tuple[int, ...]) -> Tensor:
    """The table [1, 1 + T, W] at another grid: bicubic for two axes, trilinear for three."""
    if not table.any():
        return table[:, :1]
    planes = table[0, 1:].T.reshape(1, -1, *trained)
    mode = "bicubic" if len(grid) == 2 else "trilinear"
    planes = functional.interpolate(planes, grid, mode=mode, align_corners=False)
    return torch.cat([table[:, :1], planes.flatten(2).mT], 1)


def dense_rotations(case: Case, grid: tuple[int, ...], layer: int) -> Tensor:
    """Of the class token and every patch, whole heads: [H, S, D, D]."""
    steps = [
        torch.linspace(0, side / trained, side, dtype=torch.float64)
        for side, trained in zip(grid, case.grid, strict=True)
    ]
    origin = torch.zeros(1, len(grid), dtype=torch.float64)
    positions = torch.cat([origin, torch.cartesian_prod(*steps)])  # [S, A]
    generators = torch.stack([dense_generators(case, axis, layer) for axis in range(len(grid))])
    exponents = torch.einsum("sa,ahij->hsij", positions, generators)
    return torch.matrix_exp(exponents.contiguous())


def dense_generators(case: Case, axis: int, layer: int) -> Tensor:
    """One axis' generators of both heads, [2, 64, 64]."""
    if RAW not in case.state:
        return axial_generators(case, axis)
    raw = case.state[RAW].double()
    upper = raw[axis, layer % raw.shape[1]].triu(1)  # [H N or N, K, K]
    blocks = list(upper - upper.mT)
    count = 64 // raw.shape[-1]
    heads = [blocks[:count], blocks[-count:]]  # the same ones where heads share
    return torch.stack([torch.block_diag(*head) for head in heads])


def axial_generators(case: Case, axis: int) -> Tensor:
    """Zero beside a learned table; else pairs of channels, dealt out to the heads or the same."""
    heads = torch.zeros(2, 64, 64, dtype=torch.float64)
    pairs = 32 // len(case.size)
    for pair in range(0 if case.state["pos_embedding"].any() else pairs):
        turn = axis * pairs + pair
        head, place = divmod(turn, 16) if case.axial_per_head else (slice(None), turn)
        angle = torch.exp(torch.tensor(-4.0 * pair / (pairs - 1), dtype=torch.float64))
        heads[head, 2 * place + 1, 2 * place] = angle
        heads[head, 2 * place, 2 * place + 1] = -angle
    return heads
