"""What ``lint-imports`` cannot say of the rooms: every package from outside is on a room's list.

The contracts between the rooms, and who never sees torch, a runtime or the web, stand in
pyproject.toml. Here: a new dependency is a decision, relative imports are not used, and the service
does not ask for torch by another road than an import statement.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from media.cache import DECODERS
from tests.conftest import ROOT

MEDIA = {"pydantic", "pydantic_core", *DECODERS.values()}
WEB = {"fastapi", "starlette", "uvicorn", "uvloop", "httptools"}
#: Folder or module -> the only packages from outside that it may import; the longest name decides.
ALLOWED = {
    "media": MEDIA,
    "models": {"numpy", "torch", "safetensors"},
    "models/pretrained/hub.py": {"huggingface_hub"},
    "models/spec.py": {"pydantic", "pydantic_core"},
    "models/manifest.py": set(),
    "models/figures.py": set(),
    "models/bundle.py": set(),
    "models/measures.py": {"numpy"},
    "models/bootstrap.py": {"numpy"},
    "models/coverage.py": {"numpy"},
    "models/versions.py": set(),
    "models/promotion.py": set(),
    "training": {"numpy", "torch", "kornia", "jinja2", "matplotlib", "scipy", "rich", "PIL",
                 "safetensors", "tensorboard"},
    "training/probe.py": {"numpy", "torch", "rich", "sklearn", "threadpoolctl"},
    "export": {"numpy", "torch", "onnx", "onnxscript", "onnx_ir", "onnxruntime", "rich", "PIL",
               "av", "nibabel"},
    "service": {"pydantic", "pydantic_settings", "prometheus_client"},
    "service/spans.py": {"opentelemetry"},
    "service/engine": {"numpy", "onnxruntime"},
    "service/jobs": set(),
    "service/engine/decode/warm.py": {"numpy", "PIL"},
    "service/http": WEB | {"pydantic", "prometheus_client", "typing_extensions"},
    "service/http/v2": WEB | {"pydantic", "numpy", "typing_extensions"},
    "service/grpc": {"grpc", "grpc_health", "google", "numpy"},
    "service/cli": {"uvloop", "fastapi"},
    "client": {"httpx", "rich"},
}  # fmt: skip
ROOMS = ("media", "models", "training", "export", "service", "client")
FILES = sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a module imports anywhere in its text, by name at run time too.

    Relative ones start with a dot.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
        elif isinstance(node, ast.Call) and _is_import_call(node.func):
            yield from (
                argument.value
                for argument in node.args[:1]
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            )


def _is_import_call(function: ast.expr) -> bool:
    """``__import__(...)`` and ``importlib.import_module(...)``."""
    name = getattr(function, "id", getattr(function, "attr", ""))
    return name in ("__import__", "import_module")


def foreign_imports(path: Path, source: str) -> list[str]:
    """What a module imports that is not on its list."""
    names = [str(path), *map(str, path.parents)]
    allowed = next(ALLOWED[name] for name in names if name in ALLOWED)
    packages = {name.split(".")[0] for name in imported_names(ast.parse(source))}
    return sorted(packages - allowed - set(ROOMS) - set(sys.stdlib_module_names))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_modules_import_only_packages_of_their_list(path: Path) -> None:
    """A package from outside is on the list of its room, and no import is relative."""
    assert foreign_imports(path, (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source", "foreign"),
    [
        ("media/files.py", "import cv2", "cv2"),
        ("media/files.py", "from . import spec", ""),
        ("models/spec.py", "import numpy", "numpy"),
        ("models/encodings/liere.py", "def f():\n    import onnxruntime", "onnxruntime"),
        ("service/engine/engine.py", "from starlette.types import Send", "starlette"),
        ("service/http/app.py", "import importlib\nimportlib.import_module('torch')", "torch"),
        ("service/http/app.py", "__import__('torch')", "torch"),
    ],
)
def test_lists_catch_a_foreign_import(path: str, source: str, foreign: str) -> None:
    """Each of these is reported."""
    assert foreign_imports(Path(path), source) == [foreign]


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


def import_without_torch(module: str) -> subprocess.CompletedProcess[str]:
    """What importing it in a new process says, where looking for torch is refused."""
    command = [sys.executable, "-c", IMPORT_WITHOUT_TORCH, module]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["service.http.app", "service.engine.decode.worker"])
def test_service_runs_without_asking_for_torch(module: str) -> None:
    """Importing the server and its decode worker never looks for torch or onnx, at any depth."""
    outcome = import_without_torch(module)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.strip() == "", f"asked for {outcome.stdout}"


def test_import_hook_catches_torch() -> None:
    """The hook of the test above refuses torch, whether it is installed or not."""
    outcome = import_without_torch("torch")
    assert outcome.returncode != 0
    assert "torch is not for the service" in outcome.stderr
