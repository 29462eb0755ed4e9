"""Public weights imported: the libraries' answers from every form of file, and what is told."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from media.spec import Grid
from models.checkpoint import Description, load_checkpoint
from models.pretrained.__main__ import main
from models.pretrained.families import FAMILIES
from models.pretrained.make import Options, import_pretrained
from models.vit import VisionTransformer
from tests.helpers.pretrained_cases import (
    NAMES,
    TOLERANCE,
    answers_of,
    dinov2_own_names,
    folder_of,
    runs_of,
)

Chatter = pytest.CaptureFixture[str]


def case(name: str) -> Path:
    folder = folder_of(name)
    if folder is None:
        pytest.skip(f"{name} is not beside this checkout (../shared/reference/pretrained/cases)")
    return folder


def weights_of(name: str) -> dict[str, Tensor]:
    return load_file(case(name) / "model.safetensors")


def imported(
    source: Path | str, out: Path, options: Options | None = None
) -> tuple[VisionTransformer, Description]:
    import_pretrained(str(source), out, options or Options())
    return load_checkpoint(out)


def check(model: VisionTransformer, run: dict[str, Tensor], width: int | None = None) -> None:
    """Every answer of the run, its first ``width`` outputs alone where that is given."""
    for name, ours in answers_of(model, run).items():
        if width is None or name == "pooled":
            worst = (ours[:, :width] - run[name][:, :width]).abs().max().item()
            assert worst <= TOLERANCE, f"{name}: {worst:.1e}"


@pytest.mark.parametrize("name", NAMES)
def test_an_imported_model_answers_as_its_library(tmp_path: Path, name: str) -> None:
    """Outputs, input gradients and those of learned frequencies, at both sizes, to 5e-5."""
    model, description = imported(case(name), tmp_path / "run")
    runs = runs_of(case(name))
    for run in runs.values():
        model.zero_grad()
        check(model, run)
    config = json.loads((case(name) / "config.json").read_text())
    assert description.model.depth == 2
    assert description.notes["imported"]["model"] == config.get(
        "architecture", config.get("model_type")
    )


@pytest.mark.parametrize(
    ("name", "size"), [("hf_dinov2", (12, 20)), ("timm_rope_mixed_ape", (16, 24))]
)
def test_a_size_resizes_a_table_as_its_library_does(
    tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    """The checkpoint is of that grid, and gives the library's answers there."""
    model, description = imported(case(name), tmp_path / "run", Options(size=size))
    assert description.model.training_grid == Grid((size[0] // 4, size[1] // 4))
    run = runs_of(case(name))["x".join(map(str, size))]
    check(model, {key: value for key, value in run.items() if "grad." not in key})
    assert "resized" in str(description.notes["imported"]["converted"])


def prepared_for(folder: Path, **said: object) -> Path:
    """``hf_dinov2``, whose table is of 16x16 pixels, with another preparation."""
    shutil.copytree(case("hf_dinov2"), folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    return folder


def test_a_checkpoint_is_for_the_pictures_that_its_file_prepares(
    tmp_path: Path, capsys: Chatter
) -> None:
    """Not for its table's size: published DINOv2 has one of 518 pixels and prepares 224. The table
    is resized as the library does, and printed is what said so; --size has the last word.
    """
    oblong = {"size": {"height": 12, "width": 20}, "do_center_crop": False}
    folder = prepared_for(tmp_path / "oblong", **oblong)
    assert main([str(folder), "--out", str(tmp_path / "run")]) == 0
    assert "size       12x20 pixels, from preprocessor_config.json" in capsys.readouterr().out
    model, description = load_checkpoint(tmp_path / "run")
    assert description.model.training_grid == Grid((3, 5))
    run = runs_of(case("hf_dinov2"))["12x20"]
    check(model, {key: value for key, value in run.items() if "grad." not in key})
    assert main([str(folder), "--out", str(tmp_path / "built"), "--size", "16x16"]) == 0
    assert "size       16x16 pixels, as --size says" in capsys.readouterr().out
    model, description = load_checkpoint(tmp_path / "built")
    assert description.model.training_grid == Grid((4, 4))
    check(model, runs_of(case("hf_dinov2"))["16x16"])


def test_who_says_the_size(tmp_path: Path, capsys: Chatter) -> None:
    """As built before as prepared in timm's files; a table where no word is said."""
    assert main([str(case("timm_eva02")), "--out", str(tmp_path / "built")]) == 0
    assert "size       12x20 pixels, from config.json: img_size" in capsys.readouterr().out
    shutil.copytree(case("timm_eva02"), tmp_path / "eva")
    path = tmp_path / "eva" / "config.json"
    config = json.loads(path.read_text())
    del config["model_args"]["img_size"]
    path.write_text(json.dumps(config))
    assert main([str(tmp_path / "eva"), "--out", str(tmp_path / "prepared")]) == 0
    told = "size       12x20 pixels, from config.json: pretrained_cfg"
    assert told in capsys.readouterr().out
    torch.save(dinov2_own_names(), tmp_path / "two.pth")
    assert main([str(tmp_path / "two.pth"), "--out", str(tmp_path / "t"), "--heads", "2"]) == 0
    printed = capsys.readouterr().out
    assert "size       16x16 pixels, from the table of positions; published for" in printed


def test_what_is_said_of_an_import(tmp_path: Path, capsys: Chatter) -> None:
    """Found, converted, folded, left out, and under which licence: printed, and in the notes."""
    assert main([str(case("hf_dinov2")), "--out", str(tmp_path / "two")]) == 0
    printed = capsys.readouterr().out
    assert "found      DINOv2 (transformers), 45 tensors" in printed
    assert "folded     dinov2.embeddings.position_embeddings: its first row into" in printed
    assert "left out   dinov2.embeddings.mask_token" in printed
    assert "licence    Apache-2.0" in printed
    assert main([str(case("meta_dinov3")), "--out", str(tmp_path / "three")]) == 0
    printed = capsys.readouterr().out
    for name in ("local_cls_norm.weight", "mask_token", "the bias of keys"):
        assert f"left out   {name}" in printed
    assert "rope_embed.periods: kept as stored" in printed
    _, description = load_checkpoint(tmp_path / "three")
    told = description.notes["imported"]
    assert told["family"] == "dinov3"
    assert told["source"] == "meta_dinov3"
    assert "DINOv3 License" in told["licence"]["name"]
    assert "adds a copy" in told["licence"]["terms"]
    assert list(told["files"]) == ["model.safetensors"]


def test_pictures_are_prepared_as_the_file_says(tmp_path: Path) -> None:
    """Mean, deviation, filter, the cut and its ratio; what the library does otherwise is told."""
    _, two = imported(case("hf_dinov2"), tmp_path / "two")
    assert (two.input.fit, two.input.interpolation) == ("crop", "bicubic")
    assert two.input.crop_ratio == pytest.approx(16 / 18)
    assert two.input.mean == (0.485, 0.456, 0.406)
    _, three = imported(case("hf_dinov3"), tmp_path / "three")
    assert (three.input.fit, three.input.interpolation) == ("stretch", "bilinear")
    assert three.input.crop_ratio == 1
    assert three.model.training_grid == Grid((3, 5))
    assert "floating point" in str(three.notes["imported"]["differs"])
    _, eva = imported(case("timm_eva02"), tmp_path / "eva")
    assert eva.input.crop_ratio == 0.9
    assert eva.input.std == (0.26862954, 0.26130258, 0.27577711)


def test_shards_are_one_file(tmp_path: Path) -> None:
    """A folder in two shards gives the very weights of one that is whole."""
    weights, folder = weights_of("hf_dinov3"), tmp_path / "sharded"
    folder.mkdir()
    shutil.copyfile(case("hf_dinov3") / "config.json", folder / "config.json")
    shards: dict[str, dict[str, Tensor]] = {"a.safetensors": {}, "b.safetensors": {}}
    for place, (name, tensor) in enumerate(weights.items()):
        shards["ab"[place % 2] + ".safetensors"][name] = tensor
    for file, held in shards.items():
        save_file(held, folder / file)
    listed = {name: file for file, held in shards.items() for name in held}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    _, whole = imported(case("hf_dinov3"), tmp_path / "whole")
    _, sharded = imported(folder, tmp_path / "run")
    assert sharded.weights_sha256 == whole.weights_sha256
    assert sorted(sharded.notes["imported"]["files"]) == ["a.safetensors", "b.safetensors"]


def test_names_of_transformers_own_modules(tmp_path: Path) -> None:
    """``model.layer.n.`` of a state that was saved as it is, beside the published ``layer.n.``."""
    weights = {
        f"model.{name}" if name.startswith("layer.") else name: tensor
        for name, tensor in weights_of("hf_dinov3").items()
    }
    save_file(weights, tmp_path / "model.safetensors")
    model, _ = imported(tmp_path / "model.safetensors", tmp_path / "run", Options(heads=2))
    check(model, runs_of(case("hf_dinov3"))["24x16"])


@pytest.mark.parametrize(
    ("name", "registers"),
    [
        ("hf_dinov3", "embeddings.register_tokens"),
        ("timm_dinov3", "reg_token"),
        ("meta_dinov3", "storage_tokens"),
    ],
)
def test_a_model_without_registers(tmp_path: Path, name: str, registers: str) -> None:
    """transformers writes them with none in it, timm and the authors write no such tensor.

    The others' answers are those of a model whose registers were taken away.
    """
    model, _ = imported(case(name), tmp_path / "with")
    state = model.state_dict()
    del state["registers"]
    spec = dataclasses.replace(model.spec, registers=0)
    shutil.copytree(case(name), tmp_path / "without")
    weights = weights_of(name)
    del weights[registers]
    if name == "hf_dinov3":
        weights[registers] = torch.empty(1, 0, 64)
    save_file(weights, tmp_path / "without" / "model.safetensors")
    config = (tmp_path / "without" / "config.json").read_text()
    config = re.sub(r'("(?:num_register|n_storage)_tokens": )4', r"\g<1>0", config)
    (tmp_path / "without" / "config.json").write_text(config)
    without, description = imported(tmp_path / "without", tmp_path / "run")
    expected = VisionTransformer(spec, description.input).eval()
    expected.load_state_dict(state)
    pixels = runs_of(case(name))["12x20"]["pixels"]
    assert without.spec.registers == 0
    assert torch.equal(without.features(pixels), expected.features(pixels))


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_pickle_of_the_authors(tmp_path: Path, wrapped: bool) -> None:
    """DINOv2's own names, in a file of torch.save, tensors directly or under "model"."""
    state = dinov2_own_names()
    torch.save({"model": state, "epoch": 3} if wrapped else state, tmp_path / "dinov2.pth")
    model, description = imported(tmp_path / "dinov2.pth", tmp_path / "run", Options(heads=2))
    check(model, runs_of(case("hf_dinov2"))["16x16"], width=64)  # the class token; no head
    assert description.notes["imported"]["library"] == "facebookresearch/dinov2"
    assert description.model.encoding.options["resize"] == "scale-factor"


def test_half_precision_means_what_is_stored(tmp_path: Path) -> None:
    """bfloat16 tensors give what the same values in float32 give, bit for bit."""
    rounded = {name: tensor.bfloat16() for name, tensor in weights_of("timm_eva02").items()}
    for folder, state in (("half", rounded), ("full", {n: t.float() for n, t in rounded.items()})):
        (tmp_path / folder).mkdir()
        shutil.copyfile(case("timm_eva02") / "config.json", tmp_path / folder / "config.json")
        save_file(state, tmp_path / folder / "model.safetensors")
    _, half = imported(tmp_path / "half", tmp_path / "one")
    _, full = imported(tmp_path / "full", tmp_path / "other")
    assert half.weights_sha256 == full.weights_sha256
    assert "bfloat16" in str(half.notes["imported"]["converted"])


def test_a_name_of_timm_says_what_a_file_does_not(tmp_path: Path) -> None:
    """A file alone, its model's name told: the same weights as with config.json beside it."""
    shutil.copyfile(
        case("timm_rope_mixed_ape") / "model.safetensors", tmp_path / "alone.safetensors"
    )
    options = Options("vit_small_patch16_rope_mixed_ape_224.naver_in1k", size=(12, 20))
    _, alone = imported(tmp_path / "alone.safetensors", tmp_path / "run", options)
    _, whole = imported(case("timm_rope_mixed_ape"), tmp_path / "whole")
    assert alone.weights_sha256 == whole.weights_sha256  # heads are in the frequencies' shape
    assert alone.model == whole.model


@pytest.mark.parametrize(
    ("told", "mean", "ratio"),
    [
        ("vit_small_patch16_224.augreg_in21k", 0.5, 224 / 248),
        ("vit_base_patch16_384.augreg_in21k_ft_in1k", 0.5, 1.0),
        ("deit_small_patch16_224.fb_in1k", 0.485, 224 / 248),
        ("vit_small_patch16_224.dino", 0.485, 224 / 248),
        ("deit3_base_patch16_384.fb_in1k", 0.485, 1.0),
        ("vit_large_patch16_dinov3.sat493m", 0.430, 1.0),
        ("vit_large_patch16_dinov3.lvd1689m", 0.485, 1.0),
    ],
)
def test_a_name_says_how_pictures_are_prepared(told: str, mean: float, ratio: float) -> None:
    """Where no file does: DeiT's and DINO's colours are not AugReg's, nor a satellite's others'."""
    family = next(one for one in FAMILIES.values() if one.has_architecture(told))
    usual = family.as_named(told).preparation["timm"]
    assert (usual.mean[0], usual.size / usual.resized) == (mean, ratio)


def test_a_name_says_what_is_pooled_under_which_licence(tmp_path: Path) -> None:
    """LingBot's models are DINOv3's by their tensors alone: class token, Apache-2.0."""
    shutil.copyfile(case("timm_dinov3") / "model.safetensors", tmp_path / "alone.safetensors")
    for told, pool, licence in (
        ("vit_small_patch16_lingbot", "class", "Apache-2.0"),
        ("vit_small_patch16_dinov3.lvd1689m", "mean", "DINOv3 License (19 August 2025)"),
    ):
        options = Options(told, heads=2)
        _, description = imported(tmp_path / "alone.safetensors", tmp_path / told, options)
        assert (description.model.pool, description.licence["name"]) == (pool, licence)


@pytest.mark.parametrize("name", NAMES)
def test_every_word_of_the_libraries_own_files_is_known(tmp_path: Path, name: str) -> None:
    """Used, shown by the tensors, or without effect on an answer: none is told as not used."""
    done = import_pretrained(str(case(name)), tmp_path / "run", Options())
    assert done.not_used == []


def with_words(folder: Path, name: str, args: dict[str, object], **beside: object) -> Path:
    """A case of timm with other ``model_args``, and other words beside them."""
    shutil.copytree(case(name), folder)
    path = folder / "config.json"
    config = json.loads(path.read_text()) | beside
    config["model_args"] |= args
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("timm_vit", {"no_embed_class": False, "class_token": True}),
        ("timm_deit3", {"no_embed_class": True, "init_values": 1e-6}),
        ("timm_dinov2_registers", {"no_embed_class": True, "init_values": 1e-5}),
        ("timm_dinov3", {"no_embed_class": False, "use_rot_pos_emb": True, "rope_type": "dinov3",
                         "rope_rotate_half": True, "rope_temperature": 100}),
        ("timm_rope_axial", {"no_embed_class": False, "attn_type": "rope", "rope_type": "cat",
                             "use_rot_pos_emb": True, "rope_grid_indexing": "xy",
                             "rope_temperature": 100.0}),
        ("timm_rope_mixed", {"no_embed_class": False, "rope_mixed_mode": True,
                             "use_rot_pos_emb": True, "rope_grid_indexing": "xy"}),
        ("timm_rope_mixed_ape", {"no_embed_class": True, "use_abs_pos_emb": True}),
    ],
)  # fmt: skip
def test_words_may_say_again_what_the_model_is(
    tmp_path: Path, name: str, args: dict[str, object]
) -> None:
    """The arguments by which timm builds it, and their defaults: the answers are the same."""
    folder = with_words(tmp_path / "said", name, args)
    done = import_pretrained(str(folder), tmp_path / "run", Options())
    assert done.not_used == []
    model, _ = load_checkpoint(tmp_path / "run")
    run = next(iter(runs_of(case(name)).values()))
    check(model, {key: value for key, value in run.items() if "grad." not in key})


@pytest.mark.parametrize(
    ("name", "pattern", "words"),
    [
        ("hf_dinov3", r"\.o_proj\.bias", {"proj_bias": False}),
        ("hf_dinov3_gated", r"\.mlp\.\w+\.bias", {"mlp_bias": False}),
        ("meta_dinov3", r"attn\.proj\.bias|mlp\.\w+\.bias",
         {"kwargs": {"proj_bias": False, "ffn_bias": False}}),
        ("timm_deit3", r"attn\.qkv\.bias", {"model_args": {"qkv_bias": False}}),
        ("timm_dinov2_registers", r"attn\.qkv\.bias", {"model_args": {"qkv_bias": False}}),
    ],
)  # fmt: skip
def test_biases_that_the_file_says_there_are_not(
    tmp_path: Path, capsys: Chatter, name: str, pattern: str, words: dict[str, object]
) -> None:
    """The answers are those of zeros in their place; that biases are missing is not enough."""
    held = weights_of(name)
    gone = [one for one in held if re.search(pattern, one)]
    zeros = held | {one: torch.zeros_like(held[one]) for one in gone}
    fewer = {one: tensor for one, tensor in held.items() if one not in gone}
    assert gone
    for folder, tensors in ("zeros", zeros), ("fewer", fewer), ("said", fewer):
        shutil.copytree(case(name), tmp_path / folder)
        save_file(tensors, tmp_path / folder / "model.safetensors")
    config = json.loads((tmp_path / "said" / "config.json").read_text())
    for key, value in words.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    (tmp_path / "said" / "config.json").write_text(json.dumps(config))
    one, _ = imported(tmp_path / "zeros", tmp_path / "one")
    assert main([str(tmp_path / "said"), "--out", str(tmp_path / "other")]) == 0
    told = "zeros, as config.json says" in capsys.readouterr().out
    assert told == ("qkv" not in pattern)
    other, _ = load_checkpoint(tmp_path / "other")
    pixels = next(iter(runs_of(case(name)).values()))["pixels"]
    torch.testing.assert_close(other.features(pixels), one.features(pixels), atol=1e-6, rtol=0)
    assert main([str(tmp_path / "fewer"), "--out", str(tmp_path / "none")]) == 2
    assert "got a file that lacks" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_names_of_a_model_that_many_gpus_trained(tmp_path: Path) -> None:
    """DistributedDataParallel's word before every name is taken off."""
    held = load_file(case("timm_vit") / "model.safetensors")
    (tmp_path / "vit").mkdir()
    shutil.copyfile(case("timm_vit") / "config.json", tmp_path / "vit" / "config.json")
    wrapped = {f"module.{name}": tensor for name, tensor in held.items()}
    torch.save({"state_dict": wrapped}, tmp_path / "vit" / "pytorch_model.bin")
    model, _ = imported(tmp_path / "vit", tmp_path / "run")
    check(model, next(iter(runs_of(case("timm_vit")).values())))


def test_words_that_nothing_reads_are_told(tmp_path: Path, capsys: Chatter) -> None:
    """By place, name and value, when it is imported and in the checkpoint."""
    folder = with_words(tmp_path / "eva", "timm_eva02", {"rope_reg": 4}, patch_dropout=0.5)
    assert main([str(folder), "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "not used   config.json: patch_dropout 0.5\n" in printed
    assert "not used   config.json: model_args: rope_reg 4\n" in printed
    told = load_checkpoint(tmp_path / "run")[1].notes["imported"]["not_used"]
    assert told == ["config.json: patch_dropout 0.5", "config.json: model_args: rope_reg 4"]
    two = prepared_for(tmp_path / "two", do_sharpen=True, do_thumbnail=False)
    assert main([str(two), "--out", str(tmp_path / "sharp")]) == 0
    printed = capsys.readouterr().out
    assert "not used   preprocessor_config.json: do_sharpen True\n" in printed
    assert "do_thumbnail" not in printed  # off


def test_arguments_of_a_model_go_before_words_beside_them(tmp_path: Path) -> None:
    """timm builds with model_args; what describes the model, and transformers' keys, do not."""
    beside: dict[str, object] = {"global_pool": "token", "layer_norm_eps": 1e-2, "num_heads": 4}
    folder = with_words(tmp_path / "eva", "timm_eva02", {}, **beside)
    done = import_pretrained(str(folder), tmp_path / "run", Options())
    assert (done.spec.pool, done.spec.norm_epsilon, done.spec.heads) == ("mean", 1e-6, 2)
    assert done.not_used == [
        "config.json: layer_norm_eps 0.01",
        "config.json: num_heads 4",
        "config.json: global_pool 'token', as model_args say 'avg'",
    ]
    model, _ = load_checkpoint(tmp_path / "run")
    check(model, runs_of(case("timm_eva02"))["12x20"])


def test_arguments_go_before_what_an_architecture_is_by_default(tmp_path: Path) -> None:
    """Pooling, the base and the reference grid of RoPE, the norms' own name."""
    folder = with_words(
        tmp_path / "eva", "timm_eva02", {"global_pool": "token", "rope_temperature": 50.0}
    )
    spec = import_pretrained(str(folder), tmp_path / "run", Options()).spec
    assert (spec.pool, spec.encoding.options["base"]) == ("class", 50.0)
    assert spec.encoding.options["reference"] == 4
    shutil.copytree(case("meta_dinov3"), tmp_path / "three")
    path = tmp_path / "three" / "config.json"
    config = json.loads(path.read_text())
    config["kwargs"]["norm_layer"] = "layernorm"
    path.write_text(json.dumps(config))
    spec = import_pretrained(str(tmp_path / "three"), tmp_path / "other", Options()).spec
    assert spec.norm_epsilon == 1e-6


@pytest.mark.parametrize(
    ("told", "licence"),
    [
        ("vit_small_patch16_dinov3_qkvb.eupe_lvd1689m", "EUPE's own, non-commercial"),
        ("vit_small_patch16_dinov3_qkvb.lvd1689m", "DINOv3 License"),
        ("vit_small_patch16_dinov3_qkvb", "DINOv3 License"),
        ("vit_small_patch16_dinov3.somebodys", "not stated (DINOv3 itself: DINOv3 License"),
        ("vit_base_patch16_224.mae", "not stated (ViT (AugReg, DeiT, DINO) itself: Apache-2.0)"),
        ("vit_base_patch16_224.augreg2_in21k_ft_in1k", "Apache-2.0"),
        ("deit3_base_patch16_224.fb_in22k_ft_in1k", "Apache-2.0"),
        ("eva02_tiny_patch14_336.mim_in22k_ft_in1k", "MIT"),
        ("vit_base_patch14_reg4_dinov2.lvd142m", "Apache-2.0"),
        ("vit_base_patch16_rope_mixed_224.naver_in1k", "Apache-2.0"),
    ],
)
def test_a_name_says_under_which_licence(told: str, licence: str) -> None:
    """Others' weights of a published architecture are not under the family's licence."""
    family = next(one for one in FAMILIES.values() if one.has_architecture(told))
    assert family.as_named(told).licence.name.startswith(licence)


def test_what_a_file_says_of_its_licence_counts(tmp_path: Path) -> None:
    """Whatever its tag is; the family's own stands beside it."""
    for place, license in enumerate(("apache-2.0", "cc-by-nc-4.0")):
        words = {"pretrained_cfg": {"tag": "somebodys", "license": license}}
        folder = with_words(tmp_path / f"{place}", "timm_vit", {}, **words)
        done = import_pretrained(str(folder), tmp_path / f"run{place}", Options(size=(12, 20)))
        assert done.licence.name.startswith(f"{license} (as the file says; ViT")


def test_eupe_is_never_under_the_licence_of_dinov3(tmp_path: Path, capsys: Chatter) -> None:
    """By timm's tag in config.json, by --family, or by the file's own name alone."""
    words: dict[str, object] = {"tag": "eupe_lvd1689m", "license": None}
    config = json.loads((case("timm_dinov3") / "config.json").read_text())
    cfg = config["pretrained_cfg"] | words
    folder = with_words(tmp_path / "tagged", "timm_dinov3", {}, pretrained_cfg=cfg)
    file = tmp_path / "alone.safetensors"
    shutil.copyfile(case("timm_dinov3") / "model.safetensors", file)
    shutil.copyfile(file, tmp_path / "EUPE-ViT-S.safetensors")
    named = ["--family", "vit_small_patch16_dinov3_qkvb.eupe_lvd1689m", "--heads", "2"]
    for place, arguments in enumerate((
        [str(folder)],
        [str(file), *named],
        [str(tmp_path / "EUPE-ViT-S.safetensors"), "--family", "dinov3", "--heads", "2"],
    )):
        assert main([*arguments, "--out", str(tmp_path / f"{place}")]) == 0
        printed = capsys.readouterr().out
        assert "found      EUPE, built as DINOv3 (timm)" in printed
        assert "licence    EUPE's own, non-commercial" in printed
        assert "DINOv3 License" not in printed
        licence = load_checkpoint(tmp_path / f"{place}")[1].licence
        assert "non-commercial use alone" in licence["terms"]


def test_labels_are_given_read_or_numbered(tmp_path: Path) -> None:
    """A file of names, config.json's own, or numbers; a model without a head has none."""
    (tmp_path / "names.txt").write_text("ant\nbee\ncow\ndog\neel\nfox\n")
    words = [str(case("hf_dinov2")), "--labels", str(tmp_path / "names.txt")]
    assert main([*words, "--out", str(tmp_path / "given")]) == 0
    assert load_checkpoint(tmp_path / "given")[1].labels[-1] == "fox"
    assert imported(case("hf_dinov2"), tmp_path / "read")[1].labels[0] == "LABEL_0"
    assert imported(case("timm_eva02"), tmp_path / "none")[1].labels[4] == "class 4"
    assert imported(case("hf_dinov3"), tmp_path / "headless")[1].labels == ()
    names = ["ant", "bee", "cow", "dog", "eel"]
    folder = with_words(tmp_path / "eva", "timm_eva02", {}, label_names=names)
    assert imported(folder, tmp_path / "timm")[1].labels == tuple(names)


def test_names_that_come_twice_get_their_number(tmp_path: Path) -> None:
    """As ImageNet's two cranes: all other names stay."""
    shutil.copytree(case("hf_dinov2"), tmp_path / "cranes")
    path = tmp_path / "cranes" / "config.json"
    config = json.loads(path.read_text())
    config["id2label"] |= {"1": "crane", "3": "crane"}
    path.write_text(json.dumps(config))
    labels = imported(tmp_path / "cranes", tmp_path / "run")[1].labels
    assert labels[:4] == ("LABEL_0", "crane (1)", "LABEL_2", "crane (3)")


def test_the_hub_is_read_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """hf://OWNER/NAME is a snapshot that huggingface_hub has; nothing is asked of a network."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="the extra hub is absent")
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--somebody--tiny-dinov3"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in ("config.json", "model.safetensors", "preprocessor_config.json"):
        shutil.copyfile(case("hf_dinov3") / file, snapshot / file)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model, description = imported("hf://somebody/tiny-dinov3", tmp_path / "run")
    check(model, runs_of(case("hf_dinov3"))["12x20"])
    assert description.notes["imported"]["source"] == "hf://somebody/tiny-dinov3"
