"""The model card: what a bundle is, how good it is, where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from export.card_figures import measured_figures, sureness, table, where_it_looked
from media.sources import summary
from media.spec import AXES, Grid, InputSpec, VideoSpec, VolumeSpec
from models.checkpoint import Description
from models.encodings import short_name
from models.manifest import GridEntry, RotationForm
from models.spec import ModelSpec

#: Settings of a training that are told elsewhere, or are paths of its machine.
UNTOLD = {"cache", "data", "init_from", "input", "model"}
UNSAID = "The maker of this bundle said nothing about its data, licence and limits."
POOLS = {"class": "class", "mean": "mean", "both": "class and mean"}
FP32 = "Precision: fp32."
FP16_FEATURES = """Precision: fp16, meant for GPUs. Every feature lies as near to the fp32
checkpoint's as manifest.json states; this was measured on a CPU, with every result rounded as on a
GPU as well, and was not run on a GPU."""
FP16 = """Precision: fp16, meant for GPUs. Every logit of every item lies as near to the fp32
checkpoint's as manifest.json states, so the first class differs only where the two first logits of
the checkpoint lie within twice that bound of each other. This was measured on a CPU, for the
parity items with every result rounded as on a GPU as well; it was not run on a GPU."""


def model_card(
    name: str,
    description: Description,
    form: RotationForm,
    entries: list[GridEntry],
    source: Mapping[str, Any],
    about: str,
) -> str:
    """README.md of a bundle; ``about`` is what only its maker knows: data, licence, limits."""
    about = about.strip() or UNSAID
    if licence := description.licence:
        about += f"\n\n**Licence of the weights**: {licence['name']}. {licence['terms']}".rstrip()
    if not description.labels:
        return _card_of_features(name, description, form, entries, source, about)
    axes = " x ".join(AXES[description.input.modality])
    rows = [_row(entry, description.model.patch) for entry in entries]
    data = source["data"]
    fp16, measured = any(entry.rounded for entry in entries), entries[0].accuracy
    assert measured is not None
    return f"""# {name}

{about}

## What it is

{_architecture(description, form)}

Classes: {", ".join(description.labels)}.

## What it sees

{_seen(description)}

## How good it is

Measured with the exported graphs, through the decode path that serves. Grids (tokens) and pixels
are {axes}.{_counted(description.input.views)}

| grid | pixels | top-1 | items | split | first class as torch | largest difference from torch |
| --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}{measured_figures(entries)}

{FP16 if fp16 else FP32}

Split `{measured.split}` of {source["measured_on"]}; the hash of its items stands in
manifest.json. The golden inputs are {source["goldens"]}.{_in_common(source)}
{sureness(entries, description.labels)}{where_it_looked(entries)}
## How it was made

{_trained(description, data)}
({source["checkpoint_sha256"][:16]}..., step {source["step"]}).{_began(description)}
{_data(description.labels, data)}{_recipe(description)}{_changes(description)}"""


def _card_of_features(
    name: str,
    description: Description,
    form: RotationForm,
    entries: list[GridEntry],
    source: Mapping[str, Any],
    about: str,
) -> str:
    """Of a bundle without labels: nothing can be right or wrong, only near the checkpoint."""
    axes = " x ".join(AXES[description.input.modality])
    rows = [
        (entry.grid, _pixels(entry, description.model.patch), entry.parity.items,
         f"{entry.parity.max_abs:.2g}", f"{entry.parity.worst_ratio:.2f}")
        for entry in entries
    ]  # fmt: skip
    head = ("grid", "pixels", "inputs", "largest difference from torch", "of its bound")
    fp16 = any(entry.rounded for entry in entries)
    return f"""# {name}

{about}

## What it is

{_architecture(description, form)}

It has **no labels**: its answer is {description.model.features} features of an item, as a head
would read them (`want=embedding`). It ranks nothing.

## What it sees

{_seen(description)}

## How near the checkpoint it is

Features of the exported graphs, through the decode path that serves. Grids (tokens) and pixels
are {axes}.

{table(head, *rows)}

{FP16_FEATURES if fp16 else FP32}

Inputs are of {source["measured_on"]}. The golden inputs are {source["goldens"]}.

## How it was made

{_trained(description, source["data"])}
({source["checkpoint_sha256"][:16]}...).{_began(description)}
{_recipe(description)}{_changes(description)}"""


def _architecture(description: Description, form: RotationForm) -> str:
    """A transformer in two sentences."""
    spec = description.model
    head = f"{spec.classes} classes" if spec.classes else "no head"
    more = _besides(spec)
    return f"""A vision transformer: width {spec.width}, depth {spec.depth}, {spec.heads} heads,
MLP {spec.mlp_dim}, patch {"x".join(map(str, spec.patch))}, {POOLS[spec.pool]} pooling,
{head}. Trained at grid {spec.training_grid}.{more and f" Besides: {more}."}
Positions: `{short_name(spec.encoding)}`. Rotations in the graphs: {form}."""


def _besides(spec: ModelSpec) -> str:
    """What the plain transformer has not."""
    biased = [name for name in ("query", "key", "value") if getattr(spec, f"{name}_bias")]
    told = {
        f"biases of {', '.join(biased)}": biased,
        "layer scale": spec.layer_scale,
        "a class token": spec.class_token and spec.pool == "mean",
        f"{spec.registers} registers": spec.registers,
        "gated MLPs": spec.mlp != "gelu",
        "a table of positions": spec.position_table,
        "prefix tokens balanced in attention": spec.balance_prefix and spec.prefix_tokens,
    }
    return ", ".join(text for text, there in told.items() if there)


def _in_common(source: Mapping[str, Any]) -> str:
    """What makes the figures above too good."""
    across = source.get("duplicates", {}).get("across")
    if not across:
        return ""
    return (
        "\n\n**Splits have items in common**, which makes figures too good: same bytes in two of "
        f"train, val and test: {across}."
    )


def _data(labels: Sequence[str], data: Mapping[str, Any]) -> str:
    """Items of each class and split, and what was not used; nothing where nobody counted."""
    counts, told = data.get("classes", {}), []
    if made := data.get("made"):
        told.append(f"Splits made by rule {data['rule']}, not given: {', '.join(made)}.")
    if left_out := data.get("left_out"):
        told.append(f"Files of the data that were passed over: {summary(left_out)}.")
    for split, repeats in data.get("duplicates", {}).get("within", {}).items():
        told.append(f"Same bytes more than once within {split}: {repeats}.")
    if counts:
        of_class = zip(labels, *counts.values(), strict=True)
        told += ["", table(["items of class", *counts], *of_class)]
    return "".join(f"{line}\n" for line in told)


def _recipe(description: Description) -> str:
    """A table of the training's settings; nothing where none are known."""
    rows = [f"| {key} | {value} |\n" for key, value in _settings(description)]
    return "\n| setting | value |\n| --- | --- |\n" + "".join(rows) if rows else ""


def _settings(description: Description) -> list[tuple[str, Any]]:
    """The training's settings by name, one in another as ``augment.flip``."""
    found: list[tuple[str, Any]] = []
    for key, value in sorted(description.notes.get("config", {}).items()):
        if key in UNTOLD:
            continue
        inner = value if isinstance(value, dict) else {"": _told(key, value)}
        found += [(f"{key}.{name}".rstrip("."), inner[name]) for name in sorted(inner)]
    return found


def _changes(description: Description) -> str:
    """A table of the settings that changed while it was trained; nothing where none did."""
    rows = [
        f"| {change['step']} | {key} | {_told(key, old)} | {_told(key, new)} |\n"
        for change in description.notes.get("history", [])
        for key, (old, new) in change["changed"].items()
    ]
    head = "\nSettings changed while it was trained; above are the last ones.\n\n"
    head += "| after step | setting | was | is |\n| --- | --- | --- | --- |\n"
    return head + "".join(rows) if rows else ""


def _told(key: str, value: Any) -> Any:
    """A setting's value; ids of items may name people and are counted."""
    return f"{len(value)} items" if key == "skip" else value


def _trained(description: Description, data: Mapping[str, Any]) -> str:
    """On what, and what chose the checkpoint; of an imported one nobody here knows."""
    if imported := description.notes.get("imported"):
        if "mode" not in imported:
            return (
                f"Public weights: {imported['source']}, imported from the names of "
                f"{imported['library']}. Which items they were trained on is not known here, nor "
                "whether some of those above are among them"
            )
        return (
            f"Trained with the published LieRE code; on what data: {data['name']}. Its items are "
            "not known here, nor whether some of those above are among them. "
            f"Imported in mode {imported['mode']}"
        )
    if "train" not in data:
        return f"Trained elsewhere, on {data.get('name', 'data that are not known here')}"
    chosen = _chosen(description, data["val"]["items"])
    return f"Trained on {data['train']['items']} items; {chosen}"


def _chosen(description: Description, items: int) -> str:
    if description.notes.get("config", {}).get("choose") == "last":
        return f"the checkpoint is the last one, and {items} held-out items chose nothing"
    return f"the best on {items} held-out ones is the checkpoint"


def _began(description: Description) -> str:
    began = description.notes.get("init")
    if not began:
        return ""
    return (
        f"\nIt began from a checkpoint that had learned {began['data']} "
        f"({began['weights_sha256'][:16]}...)."
    )


def _seen(description: Description) -> str:
    """How an item becomes the input, and what the library of public weights does otherwise."""
    differs = (description.notes.get("imported") or {}).get("differs", [])
    told = "".join(f"\n* {line}" for line in differs)
    return _input(description.input) + (told and f"\n\nOf the public weights:\n{told}")


def _input(spec: InputSpec) -> str:
    """How an item becomes the input, for who will send such items."""
    colours = "grey" if spec.channels == 1 else "RGB"
    if spec.volume:
        return _scan(spec.volume, spec)
    fit = "its centre is cut out" if spec.fit == "crop" else "it is stretched"
    if spec.crop_ratio < 1:
        fit += f", less its edges (crop ratio {spec.crop_ratio:.4g})"
    if spec.video:
        return f"{_clip(spec.video)} Of each frame, in {colours}, {fit} ({spec.interpolation})."
    return f"A picture in {colours}; {fit} to the pixels below ({spec.interpolation})."


def _clip(video: VideoSpec) -> str:
    """Moments, not frame numbers: that is what the sender may rely on."""
    how = f"{video.stride:g} seconds apart" if video.stride else "spread over the whole clip"
    often = "once" if video.views == 1 else f"{video.views} times, at other moments each"
    return f"A clip, looked at {often}: frames by their time, {how}."


def _scan(volume: VolumeSpec, spec: InputSpec) -> str:
    spacing = (
        f"every {' x '.join(f'{side:g}' for side in volume.spacing)} mm; what lies beyond is cut"
        if volume.spacing
        else "the whole scan, stretched"
    )
    ends = volume.window or volume.percentiles
    window = f"{ends[0]:g} to {ends[1]:g}" + ("" if volume.window else " percent of its voxels")
    return (
        "A scan, turned so that depth runs to the patient's head, height to the back, width to the "
        f"left. Voxels: {spacing} ({spec.interpolation}). Window: intensities of {window} become "
        f"0 to 255, as {spec.dtype}. An array without directions is taken as it lies."
    )


def _counted(views: int) -> str:
    if views == 1:
        return ""
    return (
        f" An item is judged by the mean of the logits of its {views} views; agreement with torch "
        "is counted view by view."
    )


def _row(entry: GridEntry, patch: tuple[int, ...]) -> str:
    measured = entry.accuracy
    assert measured is not None
    return (
        f"| {entry.grid} | {_pixels(entry, patch)} "
        f"| {measured.top1:.4f} | {measured.items} | {measured.split} "
        f"| {entry.parity.top1_equal} of {entry.parity.items} | {entry.parity.max_abs:.2g} |"
    )


def _pixels(entry: GridEntry, patch: tuple[int, ...]) -> str:
    return "x".join(map(str, Grid.parse(entry.grid).pixels(patch)))
