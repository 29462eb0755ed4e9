"""Ways to spoil a bundle, and what the command that proves it says then."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from export.__main__ import main
from media.files import sha256_file

Spoil = Callable[[Path], Any]


def edit(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = root / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def seal(root: Path) -> None:
    """Write the hashes that fit: what is wrong now can be seen by its numbers only."""
    edit(root, lambda m: m["files"].update({name: sha256_file(root / name) for name in m["files"]}))


def change_graph(root: Path, change: Callable[[onnx.GraphProto], Any], name: str) -> None:
    model = onnx.load(root / name, load_external_data=False)
    change(model.graph)
    (root / name).write_bytes(model.SerializeToString())


def stating(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    return lambda root: edit(root, change)


def verify(words: list[str | Path], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = main(["verify", *map(str, words)])
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    return status, told.out, told.err
