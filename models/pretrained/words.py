"""The words beside the tensors: every key of them is read, without effect, or told by name.

A key of config.json, of the arguments of the model in it, of timm's pretrained_cfg or of
preprocessor_config.json is one of these; none is passed over in silence:

    READ       this package reads it
    SHOWN      names and shapes of the tensors show it, and all of them must fit
    HARMLESS   no answer depends on it; the reasons stand beside the lists
    DECIDING   changes what the model computes, and no tensor shows it: refused, unless it says
               what the family is built as here
    not used   any other: told, with its value

A key whose value is null asks for nothing, nor does a switch ``do_...`` that is off.
Sources: files that transformers 5.24 and timm 1.0 write, and the arguments of timm's Eva and of
facebookresearch/dinov3's DinoVisionTransformer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from models.checkpoint import CheckpointError
from models.pretrained.family import TIMM, TRANSFORMERS, Family
from models.pretrained.layout import LAYER
from models.pretrained.source import CONFIG, PREPROCESSOR, Source

#: By the place in which words stand; "config.json" of timm and of authors is what holds arguments.
READ = {
    TRANSFORMERS: {
        "model_type", "_name_or_path", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "patch_size", "num_register_tokens", "image_size", "id2label", "hidden_act",
        "layer_norm_eps", "rope_theta", "pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale",
    },
    CONFIG: {
        "architecture", "model_args", "pretrained_cfg", "num_classes", "global_pool",
        "label_names", "repository", "kwargs",
    },
    "model_args": {
        "img_size", "embed_dim", "depth", "num_heads", "patch_size", "num_classes", "global_pool",
        "norm_eps", "rope_temperature",
    },
    "kwargs": {
        "img_size", "embed_dim", "depth", "num_heads", "patch_size", "num_classes", "norm_eps",
        "num_register_tokens", "n_storage_tokens", "rope_theta", "pos_embed_rope_base",
        "pos_embed_rope_normalize_coords", "pos_embed_rope_shift_coords",
        "pos_embed_rope_jitter_coords", "pos_embed_rope_rescale_coords", "interpolate_antialias",
        "interpolate_offset",
    },
    "pretrained_cfg": {
        "mean", "std", "input_size", "crop_pct", "crop_mode", "interpolation", "license", "tag",
    },
    PREPROCESSOR: {
        "do_resize", "size", "default_to_square", "resample", "do_center_crop", "crop_size",
        "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std",
        "image_processor_type",
    },
}  # fmt: skip
SHOWN = {
    "intermediate_size", "mlp_ratio", "ffn_ratio", "num_channels", "in_chans", "num_labels",
    "num_classes",
    "num_features", "qkv_bias", "query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias",
    "ffn_bias", "mask_k_bias", "qkv_fused", "qk_norm", "scale_attn_inner", "scale_attn_norm",
    "scale_mlp", "scale_mlp_norm", "swiglu_mlp", "swiglu_align_to", "use_swiglu_ffn",
    "use_gated_mlp", "ffn_layer", "class_token", "reg_tokens", "num_reg_tokens", "pre_norm",
    "final_norm", "fc_norm", "use_fc_norm", "use_pre_transformer_norm",
    "use_post_transformer_norm", "use_abs_pos_emb", "use_ape", "rope_mixed", "rope_mixed_mode",
    "no_embed_class",  # by the rows of the table, where there is one
    "untie_cls_and_patch_norms", "untie_global_and_local_cls_norm", "use_mask_token",
    "attn_pool_num_heads", "attn_pool_mlp_ratio", "attn_type", "block_chunks",
    # where the file has periods, they are those; else published models have the base alone
    "pos_embed_rope_dtype", "pos_embed_rope_min_period", "pos_embed_rope_max_period",
}  # fmt: skip
HARMLESS = {
    # what happens in training alone
    "attention_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob", "drop_path_rate",
    "drop_path_uniform", "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate",
    "attn_drop_rate", "rope_shift_coords", "rope_jitter_coords", "rope_rescale_coords",
    "gradient_checkpointing",
    # what weights were before training
    "initializer_range", "layerscale_value", "layerscale_init", "init_values", "weight_init",
    "fix_init", "head_init_scale",
    # which layers other classes give, what they ask of a batch, and what is no part of an answer
    "out_features", "out_indices", "stage_names", "reshape_hidden_states", "apply_layernorm",
    "output_attentions", "output_hidden_states", "return_dict", "encoder_stride", "pooler_act",
    "pooler_output_size", "problem_type", "return_tensors", "device", "disable_grouping",
    "use_fast", "processor_class", "feature_extractor_type", "data_format", "input_data_format",
    "do_convert_rgb",
    # which sizes may come: here any that the patch divides
    "dynamic_img_size", "strict_img_size", "fixed_input_size", "min_input_size", "pool_size",
    # another size, at which the publisher measured as well
    "test_input_size", "test_crop_pct",
    # where the file is from, how it was written, and names of its parts
    "architectures", "class", "transformers_version", "dtype", "torch_dtype", "label2id",
    "label_descriptions", "custom_load", "first_conv", "classifier", "url", "file", "hf_hub_id",
    "hf_hub_filename", "source", "notes", "description", "origin_url", "paper_name", "paper_ids",
}  # fmt: skip
#: What all families here are built as, None where the file shall not say it; ``Family.built`` has
#: what one is built as instead.
DECIDING: Mapping[str, Any] = {
    "act_layer": "gelu", "norm_layer": "layernorm", "mlp_layer": None, "attn_layer": None,
    "block_fn": None, "embed_layer": None, "embed_norm_layer": None, "pos_embed": "learn",
    "pool_include_prefix": False, "dynamic_img_pad": False,
    "use_post_norm": False, "use_rot_pos_emb": False, "rope_type": None,
    "rope_rotate_half": False, "rope_grid_indexing": None, "rope_grid_offset": 0.0,
    "rope_scaling": None, "ref_feat_shape": None, "do_flip_channel_order": False, "do_pad": False,
}  # fmt: skip


#: What timm writes of a model beside ``model_args``, as it was when it was saved.
BESIDE = ("num_classes", "global_pool")


def arguments(source: Source, library: str) -> dict[str, Any]:
    """What a model of that library was made with.

    Of timm ``model_args`` have the last word, as when it builds the model, before what stands
    beside them and before what its architecture is by default. transformers' keys are not timm's.
    """
    if library == TRANSFORMERS:
        return source.config
    inner = source.config.get("model_args" if library == TIMM else "kwargs")
    told = inner if isinstance(inner, dict) else {}
    if library != TIMM:
        return told
    beside = {key: source.config.get(key) for key in BESIDE}
    return beside | {key: value for key, value in told.items() if value is not None}


#: Words that switch biases off -> those of a layer, by our names.
SWITCHES = {
    "qkv_bias": ("attention.query_key_value",),
    "proj_bias": ("attention.out",),
    **dict.fromkeys(("mlp_bias", "ffn_bias"), ("mlp.first", "mlp.last", "mlp.gate")),
}


def switched_off(config: Mapping[str, Any]) -> frozenset[str]:
    """Biases, with ``{n}``, that config.json says there are not: such a tensor does not lack."""
    places = [config, *(config.get(name) for name in ("model_args", "kwargs"))]
    return frozenset(
        f"layers.{LAYER}.{part}.bias"
        for words in places
        if isinstance(words, dict)
        for switch, parts in SWITCHES.items()
        if words.get(switch) is False
        for part in parts
    )


def not_used(family: Family, source: Source, library: str) -> list[str]:
    """The keys that are told, with their values, a line each.

    Raises:
        CheckpointError: a key that decides what is computed says something else than is built.
    """
    lines = []
    for kind, place, words in _places(source, library):
        for key, value in words.items():
            if value is not None and not (value is False and key.startswith("do_")):
                lines += _line(family, kind, place, key, value)
    for key, value in arguments(source, library).items() if library == TIMM else ():
        if key in BESIDE and source.config.get(key, value) not in (None, value):
            lines.append(f"{CONFIG}: {key} {source.config[key]!r:.60}, as model_args say {value!r}")
    return lines


def _places(source: Source, library: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Of every place where words stand its kind, its name for people, and the words."""
    yield TRANSFORMERS if library == TRANSFORMERS else CONFIG, CONFIG, source.config
    inner = {TRANSFORMERS: (), TIMM: ("model_args", "pretrained_cfg")}.get(library, ("kwargs",))
    for name in inner:
        if isinstance(words := source.config.get(name), dict):
            yield name, f"{CONFIG}: {name}", words
    yield PREPROCESSOR, PREPROCESSOR, source.preprocessor


def _line(family: Family, kind: str, place: str, key: str, value: Any) -> list[str]:
    """One line where a key is to be told, else none."""
    decides = kind != CONFIG and key in DECIDING
    if decides:
        built = family.built.get(key, DECIDING[key])
        if built is not ... and value != built:
            expected = "it to be absent" if built is None else f"{built!r}"
            raise CheckpointError(
                f"{place}: {key} changes what is computed, and no tensor shows it: expected "
                f"{expected}, got {value!r:.60}"
            )
    known = decides or key in READ[kind] or key in SHOWN or key in HARMLESS
    return [] if known else [f"{place}: {key} {value!r:.60}"]
