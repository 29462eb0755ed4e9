"""Cases of public families: tiny random weights in the libraries' own files, and their answers.

Five of them lie in ``tests/models/pretrained``, their answers without hidden states; all of them
beside the checkout (../shared), where README.md says how they were made.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from models.vit import VisionTransformer

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "models" / "pretrained"
SHARED = ROOT.parent / "shared" / "reference" / "pretrained" / "cases"
COPIED = ("hf_dinov3", "hf_dinov2", "meta_dinov3", "timm_rope_mixed_ape", "timm_eva02")
NAMES = (
    *COPIED,
    "hf_dinov3_gated",
    "hf_vit",
    "naver_rope_mixed",
    "timm_deit3",
    "timm_dinov2_registers",
    "timm_dinov3",
    "timm_rope_axial",
    "timm_rope_mixed",
    "timm_vit",
)
#: Above all libraries' own error in float32, below what any mistake changes.
TOLERANCE = 5e-5


def folder_of(name: str) -> Path | None:
    """Where a case lies; None where it lies nowhere."""
    return next((one / name for one in (SHARED, HERE) if (one / name).is_dir()), None)


def runs_of(folder: Path) -> dict[str, dict[str, Tensor]]:
    """``12x20`` -> what the library was given and answered."""
    files = sorted(folder.glob("[0-9]*x*.safetensors"))
    return {path.stem: load_file(path) for path in files}


def answers_of(model: VisionTransformer, run: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the run holds of the library, of our model: outputs, and the gradients of their sum."""
    pixels = run["pixels"].float().requires_grad_()
    pooled = model.features(pixels)
    outputs = model.head(pooled) if model.spec.classes else pooled
    weights = torch.arange(1.0, outputs.shape[1] + 1) / outputs.shape[1]
    (outputs * weights).sum().backward()
    assert pixels.grad is not None
    answers = {"pooled": pooled, "input_grad": (pixels.grad / model.scale).movedim(-1, 1)}
    if model.spec.classes:
        answers["logits"] = outputs
    for name, theirs in run.items():
        if name.endswith("freqs"):
            slope = model.get_parameter("encoding.table").grad
            assert slope is not None
            answers[name] = slope.flip(0).reshape(theirs.shape)
    return answers


def dinov2_own_names() -> dict[str, Tensor]:
    """``hf_dinov2`` without its classifier, as facebookresearch/dinov2 calls its tensors."""
    theirs = load_file(HERE / "hf_dinov2" / "model.safetensors")
    ends = {
        "cls_token": "embeddings.cls_token",
        "mask_token": "embeddings.mask_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    state = {ours: theirs[f"dinov2.{name}"] for ours, name in ends.items()}
    for layer in range(2):
        old, new = f"dinov2.encoder.layer.{layer}.", f"blocks.{layer}."
        for end in ("weight", "bias"):
            parts = (f"{old}attention.attention.{part}.{end}" for part in ("query", "key", "value"))
            state[f"{new}attn.qkv.{end}"] = torch.cat([theirs[part] for part in parts])
            state[f"{new}attn.proj.{end}"] = theirs[f"{old}attention.output.dense.{end}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                state[f"{new}{name}.{end}"] = theirs[f"{old}{name}.{end}"]
        for number in (1, 2):
            state[f"{new}ls{number}.gamma"] = theirs[f"{old}layer_scale{number}.lambda1"]
    return state


def plain_vit() -> tuple[dict[str, Tensor], dict[str, object]]:
    """A ViT with timm's names and words, of the parts of ``timm_rope_mixed_ape`` that are one's."""
    folder = HERE / "timm_rope_mixed_ape"
    state = load_file(folder / "model.safetensors")
    state = {name: one for name, one in state.items() if "gamma" not in name and "rope" not in name}
    state["pos_embed"] = torch.cat([torch.ones(1, 1, 64), state["pos_embed"]], dim=1)  # [1, 16, W]
    config: dict[str, object] = json.loads((folder / "config.json").read_text())
    return state, config | {"architecture": "vit_small_patch16_224"}
