"""The models that the rows serve, exported with random weights: speed does not know the difference.

    python -m benchmarks.serving.bundles [--folder runs/serving] [--models tiny-absolute ...]

Each is a run of ``training smoke`` over one step on pictures of noise, and its export, both by
their commands. tiny is a transformer for 32x32 pixels (patch 4, width 192, depth 6), vit_s is
ViT-S/16 at 224 pixels; each with absolute positions and with LieRE in blocks of 8. What is there
already is not made again. The rows make what they miss; that takes the environment for training.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.serving.running import ROOT
from models.bundle import Bundle, read_bundle

FOLDER = ROOT / "runs" / "serving"
#: Name -> grid, patch, width, depth, heads.
SIZES = {"tiny": ("8x8", 4, 192, 6, 3), "vit_s": ("14x14", 16, 384, 12, 6)}
#: Name -> settings of the encoding.
ENCODINGS = {
    "absolute": ("model.encoding.name=absolute", "model.encoding.block=null"),
    "liere_8": ("model.encoding.name=liere", "model.encoding.block=8"),
}
MODELS = tuple(f"{size}-{encoding}" for size in SIZES for encoding in ENCODINGS)
CLASSES, PICTURES = 10, {"train": 4, "val": 2, "test": 2}


def main() -> None:
    """Make what is not there yet, then print one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where they are kept")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    options = parser.parse_args()
    made = {name: str(find_bundle(name, options.folder)) for name in options.models}
    print(json.dumps({"benchmark": "serving.bundles", "bundles": made}))


def find_bundle(name: str, folder: Path = FOLDER, explain: bool = False) -> Path:
    """The folder of a model's bundle, made if it is not there.

    Args:
        explain: the one that can also tell attention, which is another bundle.

    Raises:
        SystemExit: training or export failed.
    """
    bundle = folder.resolve() / (f"{name}-explained" if explain else name)
    if not bundle.exists():
        with tempfile.TemporaryDirectory() as scratch:
            make_bundle(name, bundle, Path(scratch), explain)
    return bundle


def add_bundle_options(parser: argparse.ArgumentParser, default: str) -> None:
    """Which one a row serves."""
    add = parser.add_argument
    add("--model", choices=MODELS, default=default, help=f"what is served (default: {default})")
    add("--folder", type=Path, default=FOLDER, help="where exported models are kept, or made")
    add("--bundle", type=Path, help="folder of another bundle of images to serve instead")


def chosen_bundle(options: argparse.Namespace) -> Bundle:
    """The bundle of ``add_bundle_options``."""
    return read_bundle(options.bundle or find_bundle(options.model, options.folder))


def make_bundle(name: str, bundle: Path, scratch: Path, explain: bool) -> None:
    """Train one step in ``scratch``, export to the folder of the bundle."""
    size, _, encoding = name.partition("-")
    grid, patch, width, depth, heads = SIZES[size]
    settings = (
        f"model.patch=[{patch},{patch}]", f"model.grid={grid}", f"model.width={width}",
        f"model.depth={depth}", f"model.heads={heads}", f"model.mlp_dim={4 * width}",
        "model.pool=class", *ENCODINGS[encoding], "input.fit=stretch", "epochs=1", "items=16",
        "batch=16",
    )  # fmt: skip
    data, run = write_pictures(scratch / "noise"), scratch / "run"
    words = [word for setting in settings for word in ("--set", setting)]
    execute("training", "smoke", "--data", str(data), "--out", str(run), "--no-report", *words)
    out = ["--out", str(bundle.parent), "--name", bundle.name, *["--explain"] * explain]
    execute("export", str(run), "--grid", grid, *out, "--parity-items", "16")


def write_pictures(root: Path) -> Path:
    """SPLIT/CLASS/file of noise."""
    generator = np.random.default_rng(0)
    for split, count in PICTURES.items():
        for label in range(CLASSES):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def execute(module: str, *arguments: str) -> None:
    """One of the project's commands; SystemExit with what it said, if it fails."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:]
        raise SystemExit(f"python -m {module} {' '.join(arguments)} failed:\n{said}")


if __name__ == "__main__":
    main()
