"""Files that cannot be imported: each says what was expected and what came; nothing is written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.checkpoint import load_checkpoint
from models.pretrained.__main__ import main
from tests.helpers.pretrained_cases import HERE

Chatter = pytest.CaptureFixture[str]
Weights = dict[str, Tensor]


def refused(source: Path, capsys: Chatter, *words: str) -> str:
    """The one line of the refusal."""
    out = source.parent / "run"
    assert main([str(source), "--out", str(out), *words]) == 2
    assert not out.exists()
    assert not list(out.parent.glob(".run*"))  # nor what it would have become
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def unchanged(weights: Weights) -> None:
    """As the case has them."""


def changed(
    folder: Path,
    name: str,
    weights: Callable[[Weights], Any] = unchanged,
    **config: Any,
) -> Path:
    """A case whose weights and config.json were changed."""
    target = folder / name
    shutil.copytree(HERE / name, target)
    held = load_file(target / "model.safetensors")
    weights(held)
    save_file(held, target / "model.safetensors")
    told = json.loads((target / "config.json").read_text())
    for key, value in config.items():
        within = isinstance(value, dict) and isinstance(told.get(key), dict)
        told[key] = told[key] | value if within else value
    (target / "config.json").write_text(json.dumps(told))
    return target


def alone(folder: Path, name: str, weights: Callable[[Weights], Any] = unchanged) -> Path:
    """A case's weights without its words, under another name."""
    held = load_file(HERE / name / "model.safetensors")
    weights(held)
    save_file(held, folder / "alone.safetensors")
    return folder / "alone.safetensors"


class Code:
    """A pickle of this would make a folder."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.made),)


@pytest.mark.parametrize("ending", ["pth", "bin"])
def test_a_pickle_with_code_in_it(tmp_path: Path, capsys: Chatter, ending: str) -> None:
    """It is not run, and named."""
    torch.save({"model": {"cls_token": Code(tmp_path / "made")}}, tmp_path / f"a.{ending}")
    assert "a pickle that names posix.mkdir" in refused(tmp_path / f"a.{ending}", capsys)
    (tmp_path / f"b.{ending}").write_bytes(pickle.dumps(Code(tmp_path / "made")))
    assert "expected" in refused(tmp_path / f"b.{ending}", capsys)
    assert not (tmp_path / "made").exists()


def test_a_truncated_file(tmp_path: Path, capsys: Chatter) -> None:
    """Half of safetensors, half of what torch.save wrote."""
    whole = (HERE / "hf_dinov3" / "model.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "not a whole safetensors file" in refused(tmp_path / "half.safetensors", capsys)
    torch.save({"model": {"cls_token": torch.zeros(1, 1, 64)}}, tmp_path / "half.pth")
    written = (tmp_path / "half.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(written[: len(written) // 2])
    assert "expected a file written by torch.save" in refused(tmp_path / "half.pth", capsys)


def test_a_shard_that_is_missing_or_elsewhere(tmp_path: Path, capsys: Chatter) -> None:
    """The index names it; a path that leads out of the folder is none; tensors are counted."""
    folder = changed(tmp_path, "hf_dinov3")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    held = load_file(folder / "a.safetensors")
    index = folder / "model.safetensors.index.json"

    def list_as(names: dict[str, str]) -> str:
        index.write_text(json.dumps({"weight_map": names}))
        return refused(folder, capsys)

    files = dict.fromkeys(held, "a.safetensors")
    assert "its 2 shards beside it, b.safetensors is not" in list_as(files | {"x": "b.safetensors"})
    outside = dict.fromkeys(held, "../a.safetensors")
    assert "shards beside it, got '../a.safetensors'" in list_as(outside)
    assert "another set: norm.weight" in list_as(
        {name: file for name, file in files.items() if name != "norm.weight"}
    )


def test_a_folder_without_weights(tmp_path: Path, capsys: Chatter) -> None:
    """Or with two files of which none is the usual one, or that is not there."""
    folder = tmp_path / "empty"
    folder.mkdir()
    assert "or one other file of weights, got none" in refused(folder, capsys)
    for name in ("a.pth", "b.pth"):
        (folder / name).touch()
    assert "got a.pth, b.pth" in refused(folder, capsys)
    assert "or a folder with one, got" in refused(tmp_path / "nowhere", capsys)
    (tmp_path / "notes.txt").touch()
    assert "got notes.txt" in refused(tmp_path / "notes.txt", capsys)


def test_a_family_that_does_not_fit_the_keys(tmp_path: Path, capsys: Chatter) -> None:
    """By --family, by config.json, or neither: what is missing is named."""
    folder = changed(tmp_path, "timm_eva02")
    assert "config.json is of eva02, got dinov3" in refused(folder, capsys, "--family", "dinov3")
    line = refused(alone(tmp_path, "hf_dinov3"), capsys, "--family", "dinov2", "--heads", "2")
    assert "expected the tensors of dinov2 as" in line
    assert "a file that lacks" in line
    other = changed(tmp_path, "hf_dinov3", model_type="dinov2")
    assert "expected the tensors of dinov2 as transformers" in refused(other, capsys)
    unknown = changed(tmp_path, "hf_dinov2", model_type="swin")
    assert "expected one of dinov3_vit, dinov2" in refused(unknown, capsys)
    assert "expected one of dinov3, dinov2" in refused(folder, capsys, "--family", "resnet50")


def test_keys_too_many_and_too_few(tmp_path: Path, capsys: Chatter) -> None:
    """Named, whether in one layer, in all, or the last layer itself."""
    folder = changed(tmp_path, "hf_dinov3", lambda held: held.pop("layer.1.norm2.bias"))
    assert "lacks layer.1.norm2.bias" in refused(folder, capsys)
    shutil.rmtree(folder)
    folder = changed(tmp_path, "hf_dinov3", lambda held: held.pop("layer.1.attention.q_proj.bias"))
    assert "lacks layer.1.attention.q_proj.bias" in refused(folder, capsys)
    shutil.rmtree(folder)
    folder = changed(tmp_path, "hf_dinov3", lambda held: held.update(extra=torch.ones(2)))
    assert "has besides extra" in refused(folder, capsys)
    shutil.rmtree(folder)

    def without_layer(held: Weights) -> None:
        for name in [name for name in held if name.startswith("layer.1.")]:
            del held[name]

    folder = changed(tmp_path, "hf_dinov3", without_layer)
    assert "num_hidden_layers 2, but the tensors have 1" in refused(folder, capsys)


def test_shapes_and_values(tmp_path: Path, capsys: Chatter) -> None:
    """A shape that is another, values that are none, and integers."""
    folder = changed(tmp_path, "meta_dinov3", lambda held: held.update({
        "blocks.1.mlp.fc1.bias": torch.ones(47)
    }))  # fmt: skip
    assert "blocks.1.mlp.fc1.bias: expected shape [48], got [47]" in refused(folder, capsys)
    shutil.rmtree(folder)
    folder = changed(tmp_path, "meta_dinov3", lambda held: held["norm.bias"][3:4].fill_(torch.nan))
    assert "norm.bias: expected finite values" in refused(folder, capsys)
    shutil.rmtree(folder)
    folder = changed(tmp_path, "meta_dinov3", lambda held: held.update({
        "norm.bias": torch.ones(64, dtype=torch.int64)
    }))  # fmt: skip
    assert "norm.bias: expected a dense tensor of floating point" in refused(folder, capsys)


def test_buffers_that_their_formula_does_not_give(tmp_path: Path, capsys: Chatter) -> None:
    """Periods that are not the base's, and a mask that masks something else."""
    periods = "rope_embed.periods"
    folder = changed(tmp_path, "meta_dinov3", lambda held: held[periods][2:3].mul_(1.1))
    assert "rope_embed.periods: expected 100^(k / 8)" in refused(folder, capsys)
    shutil.rmtree(folder)
    mask = "blocks.1.attn.qkv.bias_mask"
    folder = changed(tmp_path, "meta_dinov3", lambda held: held[mask].fill_(1))
    assert f"{mask}: expected 1 for queries and values and 0 for keys" in refused(folder, capsys)


def naver(folder: Path, columns: Tensor) -> Path:
    """A mixed RoPE-ViT in its authors' names, of a grid of 3x5; the buffer of its columns."""
    target = folder / "naver"
    target.mkdir(exist_ok=True)
    held = load_file(HERE / "timm_rope_mixed_ape" / "model.safetensors")
    del held["pos_embed"]
    tokens = torch.arange(15.0)
    held |= {
        "freqs": held.pop("rope.freqs").flatten(2).contiguous(),  # [2, L, H P]
        "freqs_t_x": columns,
        "freqs_t_y": tokens.div(5, rounding_mode="floor"),
    }
    save_file(held, target / "model.safetensors")
    return target


def test_token_indices_that_are_of_no_grid(tmp_path: Path, capsys: Chatter) -> None:
    """Rows first, every token once; those that are right are left out, and told."""
    for wrong in (torch.arange(15.0), torch.arange(15.0) % 5 + 1):
        line = refused(naver(tmp_path, wrong), capsys, "--heads", "2")
        assert "of every token of one grid" in line
    folder = naver(tmp_path, torch.arange(15.0) % 5)
    assert main([str(folder), "--out", str(tmp_path / "run"), "--heads", "2"]) == 0
    assert "left out   freqs_t_x" in capsys.readouterr().out


def test_sizes_that_the_patch_does_not_divide(tmp_path: Path, capsys: Chatter) -> None:
    """And words that are no size."""
    folder = changed(tmp_path, "hf_dinov3")
    line = refused(folder, capsys, "--size", "12x22")
    assert "--size: expected multiples of the patch's 4 pixels, got 12x22" in line
    assert "--size: expected height and width, like 224x224, got 224" in refused(
        folder, capsys, "--size", "224"
    )


def test_labels_that_do_not_match_the_head(tmp_path: Path, capsys: Chatter) -> None:
    """None, too few, one twice, or any for a model without a head; config.json's own too."""
    names = tmp_path / "names.txt"
    names.write_text("ant\nbee\n")
    folder = changed(tmp_path, "hf_dinov2")
    words = ("--labels", str(names))
    assert "the head has 6 classes; expected as many different names" in refused(
        folder, capsys, *words
    )
    names.write_text("ant\nbee\ncow\ndog\neel\nant\n")
    assert "got 6 lines with 5" in refused(folder, capsys, *words)
    names.write_text("\n")
    assert "got 0 lines with 0" in refused(folder, capsys, *words)
    path = folder / "config.json"
    own = {"id2label": {"0": "ant", "1": "bee"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    line = refused(folder, capsys)
    assert "the head has 6 classes; expected a name for each, got 2 (or pass --labels)" in line
    names.write_text("ant\n")
    assert "the head has 0 classes" in refused(changed(tmp_path, "hf_dinov3"), capsys, *words)


def test_heads_that_cannot_be_told(tmp_path: Path, capsys: Chatter) -> None:
    """Nobody says them, two say otherwise, or they do not divide the width."""
    line = refused(alone(tmp_path, "hf_dinov3"), capsys)
    assert "not published with width 64" in line
    assert "384: 6" in line
    assert "pass --heads" in line
    assert "heads: expected a divisor of width 64, got 3" in refused(
        tmp_path / "alone.safetensors", capsys, "--heads", "3"
    )
    folder = changed(tmp_path, "hf_dinov3")
    assert "expected one number, got 4 (--heads), 2 (config.json: num_attention_heads)" in refused(
        folder, capsys, "--heads", "4"
    )


def test_a_distilled_deit(tmp_path: Path, capsys: Chatter) -> None:
    """Two class tokens and two heads are not covered: said, whatever the family is told to be."""
    file = alone(tmp_path, "timm_eva02", lambda held: held.update(dist_token=torch.ones(1, 1, 64)))
    for words in ((), ("--family", "vit")):
        assert "got a distilled DeiT: dist_token" in refused(file, capsys, *words)


def test_what_the_tensors_alone_do_not_tell(tmp_path: Path, capsys: Chatter) -> None:
    """An axial RoPE-ViT with a table has the names and shapes of DeiT III's own files."""
    file = alone(tmp_path, "timm_rope_mixed_ape", lambda held: held.pop("rope.freqs"))
    line = refused(file, capsys, "--heads", "2", "--size", "12x20")
    assert "they fit rope_axial_ape and deit3; pass --family" in line


def test_a_table_whose_grid_nobody_tells(tmp_path: Path, capsys: Chatter) -> None:
    """15 rows are no square, so the size that they were made for must be told."""
    line = refused(alone(tmp_path, "timm_rope_mixed_ape"), capsys)
    assert "pos_embed has 15 rows of patches, which are no square" in line
    assert "--size" in line


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("hf_dinov3", {"hidden_act": "gelu_pytorch_tanh"}, "expected hidden_act 'gelu'"),
        (
            "timm_eva02",
            {"model_args": {"global_pool": "map"}},
            "expected global_pool token or avg, got 'map'",
        ),
        ("timm_eva02", {"architecture": "vit_base_patch16_siglip_224"}, "expected one of dinov3"),
        ("hf_dinov2", {"image_size": 20}, "expected 25 rows of patches, of grid 5x5, got 16"),
        (
            "timm_eva02",
            {"model_args": {"num_classes": 6}},
            "num_classes 6, but the tensors have 5",
        ),
        (
            "timm_eva02",
            {"model_args": {"global_pool": ["avg"]}},
            "expected global_pool token or avg, got ['avg']",
        ),
        ("timm_eva02", {"model_args": {"ref_feat_shape": [4]}}, "a square ref_feat_shape, got [4]"),
        (
            "timm_eva02",
            {"model_args": {"act_layer": "quick_gelu"}},
            "config.json: model_args: act_layer changes what is computed, and no tensor shows it: "
            "expected 'gelu', got 'quick_gelu'",
        ),
        ("timm_eva02", {"model_args": {"use_post_norm": True}}, "expected False, got True"),
        ("timm_eva02", {"model_args": {"rope_rotate_half": True}}, "expected False, got True"),
        ("timm_rope_mixed_ape", {"model_args": {"rope_grid_offset": 1}}, "expected 0.0, got 1"),
        (
            "timm_rope_mixed_ape",
            {"model_args": {"ref_feat_shape": [4, 4]}},
            "expected it to be absent, got [4, 4]",
        ),
        (
            "timm_rope_mixed_ape",
            {"model_args": {"rope_grid_indexing": "ij"}},
            "expected 'xy', got 'ij'",
        ),
        ("hf_dinov3", {"rope_scaling": {"factor": 2}}, "rope_scaling changes what is computed"),
        (
            "meta_dinov3",
            {"kwargs": {"norm_layer": "rmsnorm"}},
            "expected norm_layer layernorm or layernormbf16, got 'rmsnorm'",
        ),
        ("timm_eva02", {"pretrained_cfg": {"mean": 0.5}}, "mean: expected a number for each of 3"),
        ("timm_eva02", {"pretrained_cfg": {"crop_pct": "x"}}, "crop_pct: expected a number, got"),
        ("timm_eva02", {"pretrained_cfg": {"interpolation": [3]}}, "bicubic or bilinear, got"),
        ("hf_dinov3", {"rope_theta": "x"}, "rope_theta: expected a number, got 'x'"),
        ("hf_dinov3", {"layer_norm_eps": []}, "layer_norm_eps: expected a number, got []"),
    ],
)
def test_words_that_ask_for_another_model(
    tmp_path: Path, capsys: Chatter, name: str, config: dict[str, Any], expected: str
) -> None:
    """What config.json says and no tensor shows is refused where it is not what is built here."""
    assert expected in refused(changed(tmp_path, name, **config), capsys)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"resample": 1}, "expected resample 2 (bilinear) or 3 (bicubic), got 1"),
        ({"rescale_factor": 1.0}, "expected values divided by 255, got rescale_factor 1.0"),
        ({"rescale_factor": None}, "expected values divided by 255, got rescale_factor None"),
        ({"resample": [3]}, "expected resample 2 (bilinear) or 3 (bicubic), got [3]"),
        ({"image_std": None}, "std: expected a number for each of 3 colours, got None"),
        ({"size": {"longest_edge": 18}}, "got size {'longest_edge': 18}"),
        ({"do_flip_channel_order": True}, "preprocessor_config.json: do_flip_channel_order"),
        ({"crop_size": {"height": 32, "width": 32}}, "crop_size of the same shape within it"),
    ],
)
def test_preparations_that_cannot_be_said(
    tmp_path: Path, capsys: Chatter, said: dict[str, Any], expected: str
) -> None:
    """Of preprocessor_config.json."""
    folder = changed(tmp_path, "hf_dinov2")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    assert expected in refused(folder, capsys)


@pytest.mark.parametrize(
    ("name", "held", "expected"),
    [
        ("a.onnx", b"\x08\x08", "got a.onnx: a graph, from which no model can be trained"),
        ("a.gguf", b"GGUF", "got a.gguf: a file of llama.cpp"),
        ("a.h5", b"\x89HDF", "got a.h5: weights of Keras"),
        ("a.npz", b"PK", "got a.npz: arrays of JAX; take the same weights of transformers"),
        ("config.json", b"{}", "got config.json: words about weights; name the folder"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    ],
)
def test_what_somebody_takes_for_weights(
    tmp_path: Path, capsys: Chatter, name: str, held: bytes, expected: str
) -> None:
    """Other libraries' files, words, and what a clone has in place of files: what to do instead."""
    (tmp_path / name).write_bytes(held)
    assert expected in refused(tmp_path / name, capsys)


def test_folders_that_somebody_names(tmp_path: Path, capsys: Chatter) -> None:
    """Of two models, of a graph, and a checkpoint of this project: what lies in them is told."""
    folder = tmp_path / "models"
    shutil.copytree(HERE / "hf_dinov2", folder / "two")
    shutil.copytree(HERE / "hf_dinov3", folder / "three")
    assert "got none among three/, two/" in refused(folder, capsys)
    (folder / "model.onnx").touch()
    assert "got none among model.onnx, three/, two/" in refused(folder, capsys)
    assert main([str(folder / "two"), "--out", str(tmp_path / "done")]) == 0
    assert "done, which is a checkpoint of this project already" in refused(
        tmp_path / "done", capsys
    )


def test_names_of_the_hub_without_its_scheme(
    tmp_path: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OWNER/NAME that is no folder: how it is fetched."""
    monkeypatch.chdir(tmp_path)
    line = refused(Path("facebook/dinov2-small"), capsys)
    assert "which is not there; hf://facebook/dinov2-small fetches what the hub has" in line


def test_tensors_of_no_family(tmp_path: Path, capsys: Chatter) -> None:
    """No family is said to be meant where not one name is known: what there is is named."""
    save_file({f"conv{n}.weight": torch.ones(2) for n in range(5)}, tmp_path / "a.safetensors")
    line = refused(tmp_path / "a.safetensors", capsys)
    assert "got none of theirs but conv0.weight, conv1.weight, conv2.weight and 2 more" in line


def test_labels_that_are_no_text(tmp_path: Path, capsys: Chatter) -> None:
    """Bytes, a folder, nothing; a mark of byte order and empty lines at the end are no names."""
    folder, names = changed(tmp_path, "hf_dinov2"), tmp_path / "names.txt"
    words = ("--labels", str(names))
    assert "names.txt: No such file" in refused(folder, capsys, *words)
    names.write_bytes(b"\xff\xfe\0a")
    assert "--labels: expected a text file of names, got" in refused(folder, capsys, *words)
    assert "Is a directory" in refused(folder, capsys, "--labels", str(tmp_path))
    names.write_bytes(b"\xef\xbb\xbfant\r\nbee\r\ncow\r\ndog\r\neel\r\nfox\r\n\r\n")
    assert main([str(folder), "--out", str(tmp_path / "run"), *words]) == 0
    assert load_checkpoint(tmp_path / "run")[1].labels[::5] == ("ant", "fox")


def test_numbers_that_cannot_be(tmp_path: Path, capsys: Chatter) -> None:
    """More patches than any attention takes, before a table of them is made; heads below 1."""
    folder = changed(tmp_path, "hf_dinov2")
    line = refused(folder, capsys, "--size", "99996x99996")
    assert "--size: expected at most 65536 patches, got 99996x99996 pixels" in line
    for heads in ("0", "-2"):
        line = refused(folder, capsys, "--heads", heads)
        assert f"--heads: expected at least 1, got {heads}" in line


def test_an_out_below_a_file(tmp_path: Path, capsys: Chatter) -> None:
    """Before anything is read."""
    (tmp_path / "file").touch()
    assert main([str(HERE / "hf_dinov3"), "--out", str(tmp_path / "file" / "run")]) == 2
    assert "file is a file; nothing was written" in capsys.readouterr().err


def test_an_out_that_is_there(tmp_path: Path, capsys: Chatter) -> None:
    """A finished folder is never written into."""
    (tmp_path / "run").mkdir()
    assert main([str(HERE / "hf_dinov3"), "--out", str(tmp_path / "run")]) == 2
    assert "expected a new folder" in capsys.readouterr().err


def test_what_the_hub_does_not_have(
    tmp_path: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline, and not in the cache: the library's own reason, in a line."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="the extra hub is absent")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["hf://somebody/nothing", "--out", str(tmp_path / "run")]) == 2
    assert "hf://somebody/nothing: cannot be fetched: " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("address", ["hf://", "hf://one", "hf://a/b/c", "hf://a/b@"])
def test_addresses_that_are_none(tmp_path: Path, capsys: Chatter, address: str) -> None:
    """hf://OWNER/NAME, perhaps with a revision."""
    assert main([address, "--out", str(tmp_path / "run")]) == 2
    assert "expected hf://OWNER/NAME" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["hf://a--b/c", "hf://a/b..c", "hf://a/b.git", "hf://-a/b"])
def test_addresses_that_the_hub_cannot_have(
    tmp_path: Path, capsys: Chatter, address: str
) -> None:
    """What huggingface_hub itself refuses before it asks: its reason, in a line."""
    pytest.importorskip("huggingface_hub", reason="the extra hub is absent")
    assert main([address, "--out", str(tmp_path / "run")]) == 2
    line = capsys.readouterr().err
    assert f"{address}: cannot be fetched: " in line
    assert line.count("\n") == 1
