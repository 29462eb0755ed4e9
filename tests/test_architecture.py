"""The rooms and who may import whom, as ARCHITECTURE.md tells it.

The three working rooms hand over files, never objects; the service never sees torch.
"""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, imported_names

CONTRACT = ("spec", "bundle", "files", "sources", "prepared", "cache", "inputs", "zip_entries")
TORCH_HALF = (
    "rotations", "exponential", "rays", "turned_blocks", "planes", "encodings", "vit",
    "checkpoint", "import_published",
)  # fmt: skip

DECODERS = {"PIL", "av", "nibabel", "pydicom"}
TORCH = {"torch", "torchvision", "kornia"}
GRAPHS = {"onnx", "onnx_ir", "onnxscript"}
WEB = {"fastapi", "starlette", "uvicorn"}
SAFETENSORS = {"safetensors"}


@dataclasses.dataclass(frozen=True)
class Row:
    """What one room may import.

    Attributes:
        rooms: rooms of this project, besides itself.
        never: packages from outside that it may not import.
        only: the only packages from outside that it may import, where the room is that strict.
    """

    rooms: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()
    only: frozenset[str] | None = None


TABLE = {
    "models (contract)": Row(only=frozenset({"numpy"} | DECODERS)),
    "models (torch)": Row(
        rooms=frozenset({"models (contract)"}),
        only=frozenset({"numpy", "torch"} | SAFETENSORS),
    ),
    "training": Row(
        rooms=frozenset({"models (contract)", "models (torch)"}),
        never=frozenset(GRAPHS | WEB | {"onnxruntime"}),
    ),
    "export": Row(
        rooms=frozenset({"models (contract)", "models (torch)"}),
        never=frozenset(WEB),
    ),
    "service": Row(
        rooms=frozenset({"models (contract)"}),
        never=frozenset(TORCH | GRAPHS | SAFETENSORS),
    ),
}
WORKPLACES = ("tests", "benchmarks")  # may import every room; no room imports them
FILES = sorted(
    path.relative_to(ROOT)
    for room in ("models", "training", "export", "service")
    for path in (ROOT / room).rglob("*.py")
)


def room_of(name: str) -> str | None:
    """The room that a dotted name belongs to; None for a package from outside."""
    top, _, rest = name.partition(".")
    if top == "models":
        inner = rest.split(".")[0]
        halves = {"models (contract)": CONTRACT, "models (torch)": TORCH_HALF}
        return next((half for half, names in halves.items() if inner in names), "models (neither)")
    return top if top in TABLE or top in WORKPLACES else None


def forbidden_imports(path: Path, source: str) -> list[str]:
    """What a module of this project imports against the table, one sentence each."""
    room = room_of(".".join(path.with_suffix("").parts))
    if room not in TABLE:
        return [f"{path}: belongs to no room of the table"]
    row = TABLE[room]
    wrong = []
    for name in imported_names(ast.parse(source)):
        package, target = name.split(".")[0], room_of(name)
        if name.startswith("."):
            wrong.append(f"{path}: relative import {name}; imports are absolute")
        elif target is not None:
            if target not in row.rooms | {room}:
                wrong.append(f"{path}: {room} imports {name}, which is {target}")
        elif package in row.never or (
            row.only is not None
            and package not in row.only
            and package not in sys.stdlib_module_names
        ):
            wrong.append(f"{path}: {room} imports {name}")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=str)
def test_rooms_import_only_what_the_table_allows(path: Path) -> None:
    """No module of any room imports another room or a package that its row forbids."""
    source = (ROOT / path).read_text(encoding="utf-8")
    if path == Path("models/__init__.py"):  # belongs to both halves, and so to neither
        assert not list(imported_names(ast.parse(source))), "models/__init__.py imports nothing"
    else:
        assert forbidden_imports(path, source) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("models/spec.py", "import torch"),
        ("models/spec.py", "import onnx"),
        ("models/spec.py", "import fastapi"),
        ("models/bundle.py", "def read():\n    from onnxruntime import InferenceSession"),
        ("models/inputs/image.py", "from models.vit import VisionTransformer"),
        ("models/sources.py", "from models import rotations"),
        ("models/prepared.py", "import training.data"),
        ("models/files.py", "from . import spec"),
        ("models/files.py", "import cv2"),
        ("models/surprise.py", "import json"),
        ("models/spec.py", "import models.surprise"),
        ("models/vit.py", "import onnx"),
        ("models/encodings/liere.py", "import onnxruntime"),
        ("models/checkpoint.py", "from fastapi import FastAPI"),
        ("models/rotations.py", "from export.freeze import freeze"),
        ("training/loop.py", "import onnx"),
        ("training/loop.py", "from fastapi import FastAPI"),
        ("training/__main__.py", "if True:\n    import export"),
        ("training/data.py", "import service.decode"),
        ("training/data.py", "from tests.conftest import ROOT"),
        ("export/graph.py", "import fastapi"),
        ("export/graph.py", "from training import presets"),
        ("export/parity.py", "from service.session import Session"),
        ("export/parity.py", "from .graph import build"),
        ("service/app.py", "import torch"),
        ("service/app.py", "import torch.nn as nn"),
        ("service/app.py", "import onnx"),
        ("service/app.py", "from models.encodings import ENCODINGS"),
        ("service/app.py", "import importlib\nimportlib.import_module('torch')"),
        ("service/app.py", "__import__('torch')"),
        ("service/session.py", "from training.loop import train"),
        ("service/session.py", "import export.freeze"),
        ("service/session.py", "import benchmarks.server"),
    ],
)
def test_architecture_catches_a_forbidden_import(path: str, source: str) -> None:
    """Every row of the table refuses a module that breaks it."""
    assert len(forbidden_imports(Path(path), source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("models/bundle.py", "import json\nfrom models.spec import Grid"),
        ("models/inputs/image.py", "import numpy as np\nfrom PIL import Image"),
        ("models/vit.py", "import torch\nfrom models.spec import ModelSpec"),
        ("models/checkpoint.py", "from safetensors.torch import load_file"),
        ("training/loop.py", "import torch\nfrom models.vit import VisionTransformer"),
        ("export/graph.py", "import onnx, onnxruntime, torch\nimport models.rotations"),
        ("service/session.py", "import onnxruntime\nfrom models.bundle import read_bundle"),
        ("service/app.py", "from fastapi import FastAPI\nfrom service.routes import router"),
    ],
)
def test_architecture_lets_the_drawn_arrows_pass(path: str, source: str) -> None:
    """The arrows that the table draws are not reported."""
    assert forbidden_imports(Path(path), source) == []


IMPORT_WITHOUT_TORCH = """
import importlib, sys

class Refuse:
    asked = []
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "onnxscript", "safetensors"}:
            self.asked.append(name)
            raise ImportError(f"{name} is not for the service")

sys.meta_path.insert(0, Refuse())
for name in sys.argv[1:]:
    importlib.import_module(name)
print(",".join(Refuse.asked))
"""


@pytest.mark.skipif(not (ROOT / "service/app.py").exists(), reason="there is no service yet")
@pytest.mark.parametrize("module", ["service.app", "service.decode_worker"])
def test_service_runs_without_asking_for_torch(module: str) -> None:
    """Importing the server and its decode worker never looks for torch or onnx, at any depth."""
    outcome = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT_TORCH, module],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.strip() == "", f"asked for {outcome.stdout}"


def test_import_hook_catches_torch() -> None:
    """The hook of the test above refuses torch, whether it is installed or not."""
    outcome = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT_TORCH, "torch"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode != 0
    assert "torch is not for the service" in outcome.stderr
