"""The model card: what a bundle is, how good it is, where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.bundle import GridEntry
from models.checkpoint import Description
from models.spec import Grid

FP32 = "Precision: fp32."
FP16 = """Precision: fp16, meant for GPUs. Every logit of every item lies as near to the fp32
checkpoint's as manifest.json states, so the first class differs only where the two first logits of
the checkpoint lie within twice that bound of each other. This was measured on a CPU, for the
parity items with every result rounded as on a GPU as well; it was not run on a GPU."""


def model_card(
    name: str,
    description: Description,
    entries: list[GridEntry],
    source: Mapping[str, Any],
    about: str,
) -> str:
    """README.md of a bundle; ``about`` is what only its maker knows: data, licence, limits."""
    spec = description.model
    rows = [_row(entry, spec.patch) for entry in entries]
    config = description.notes.get("config", {})
    settings = sorted(set(config) - {"data", "input", "model"})
    recipe = [f"| {key} | {config[key]} |" for key in settings]
    data = source["data"]
    fp16 = any(entry.rounded for entry in entries)
    return f"""# {name}

{about.strip() or "The maker of this bundle said nothing about its data, licence and limits."}

## What it is

A vision transformer: width {spec.width}, depth {spec.depth}, {spec.heads} heads,
MLP {spec.mlp_dim}, patch {"x".join(map(str, spec.patch))}, {spec.pool} pooling,
{spec.classes} classes. Positions: {_encoding(description)}. Trained at grid {spec.training_grid}.

Classes: {", ".join(description.labels)}.

## How good it is

Measured with the exported graphs, through the decode path that serves.

| grid | pixels | top-1 | items | split | first class as torch | largest difference from torch |
| --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}

{FP16 if fp16 else FP32}

Split `{entries[0].accuracy.split}` of {source["measured_on"]}; the hash of its items stands in
manifest.json. The golden inputs are {source["goldens"]}.

## How it was made

Trained on {data["train"]["items"]} items; the best of {data["val"]["items"]} held-out ones chose
the checkpoint ({source["checkpoint_sha256"][:16]}..., step {source["step"]}).

| setting | value |
| --- | --- |
{chr(10).join(recipe)}
"""


def _row(entry: GridEntry, patch: tuple[int, ...]) -> str:
    pixels = "x".join(map(str, Grid.parse(entry.grid).pixels(patch)))
    measured = entry.accuracy
    return (
        f"| {entry.grid} | {pixels} | {measured.top1:.4f} | {measured.items} | {measured.split} "
        f"| {entry.parity.top1_equal} of {entry.parity.items} | {entry.parity.max_abs:.2g} |"
    )


def _encoding(description: Description) -> str:
    encoding = description.model.encoding
    if encoding.block is None:
        return f"{encoding.name}"
    per = [
        name
        for name, own in (("layer", encoding.per_layer), ("head", encoding.per_head))
        if own
    ]
    share = f"own generators per {' and '.join(per)}" if per else "one set of generators"
    return f"{encoding.name} with block {encoding.block}, {share}"
