"""docs/pretrained.md is right: its imports run, on small models of the same form."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoint import read_description
from models.pretrained.__main__ import main
from models.pretrained.families import FAMILIES
from tests.helpers.containers import guide_commands
from tests.helpers.pretrained_cases import HERE, dinov2_own_names, plain_vit
from tests.helpers.service_fixtures import picture
from training.__main__ import main as training

HEADING = "Start from pretrained weights"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
#: What the small models do not have the published sizes for.
TOLD = {"rope": ["--heads", "2"], "dinov2": ["--heads", "2"]}
#: A run of one epoch on a few pictures.
SHORTER = ("epochs=1", "batch=4", "warmup_steps=1", "workers=0", "precision=fp32")


def write_models(folder: Path) -> None:
    """What the guide's commands name."""
    shutil.copytree(HERE / "hf_dinov3", folder / "dinov3-vits16-pretrain-lvd1689m")
    state = load_file(HERE / "timm_rope_mixed_ape" / "model.safetensors")
    for name in ("rope.freqs", "pos_embed"):
        del state[name]
    save_file(state, folder / "rope_axial.safetensors")
    torch.save(dinov2_own_names(), folder / "dinov2_vits14_pretrain.pth")
    (folder / "imagenet.txt").write_text("ant\nbee\ncow\ndog\neel\n")
    repository = folder / "hub" / "models--timm--vit_small_patch16_224.augreg_in21k_ft_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    weights, config = plain_vit()
    save_file(weights, snapshot / "model.safetensors")
    (snapshot / "config.json").write_text(json.dumps(config))


def test_commands_of_the_guide(
    repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each import writes a checkpoint of the family that the guide says, offline."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="the extra hub is absent")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    write_models(tmp_path)
    commands = [shlex.split(line) for line in guide_commands(repo_root, HEADING, "pretrained")]
    imports = [words[3:] for words in commands if words[2] == "models.pretrained"]
    families = {}
    for words in imports:
        run = Path(words[words.index("--out") + 1])
        assert main([*words, *TOLD.get(run.name, [])]) == 0
        families[run.name] = read_description(run).notes["imported"]["family"]
    expected = {"dinov3": "dinov3", "augreg": "vit", "rope": "rope_axial", "dinov2": "dinov2"}
    assert families == expected
    assert read_description(Path("runs/dinov2")).model.grid == (56, 56)
    assert read_description(Path("runs/augreg")).labels[0] == "ant"


def test_a_run_from_imported_weights_keeps_their_licence(
    repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guide's fine-tuning, an epoch of it: another head, the same licence."""
    monkeypatch.chdir(tmp_path)
    assert main([str(HERE / "hf_dinov3"), "--out", "runs/dinov3"]) == 0
    (words,) = (
        shlex.split(line)[3:]
        for line in guide_commands(repo_root, HEADING, "pretrained")
        if "-m training" in line
    )
    for split, items in (("train", 4), ("val", 2), ("test", 2)):
        for place in range(items):
            path = Path("data/mine", split, "AB"[place % 2], f"{place}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(place + len(split) * 10))
    sets = [word for setting in SHORTER for word in ("--set", setting)]
    assert training([*words, *sets]) == 0
    tuned = read_description(Path("runs/mine/best"))
    assert tuned.labels == ("A", "B")
    assert tuned.model.registers == 4
    assert tuned.licence == read_description(Path("runs/dinov3")).licence
    assert tuned.licence["name"].startswith("DINOv3 License")


def test_every_family_is_in_the_guide(repo_root: Path) -> None:
    """By the name that --family takes."""
    guide = (repo_root / "docs" / "pretrained.md").read_text(encoding="utf-8")
    assert [name for name in FAMILIES if f"`{name}`" not in guide] == []
