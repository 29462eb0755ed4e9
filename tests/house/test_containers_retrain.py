"""The retraining of docs/containers.md, command by command: from a folder of photos to an answer.

``make test-containers`` runs this; see ``container_fixtures.py``.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.helpers.containers import Compose, Engine, guide_commands, new_project
from tests.helpers.service_fixtures import wait_until

pytest_plugins = ("tests.helpers.container_fixtures",)
pytestmark = pytest.mark.timeout(1500)

#: Whose files the ordinary user of the guide has, where the tests run as root.
ORDINARY = "1234:1234"
CLASSES = "0123"
PHOTOS_PER_CLASS = 80  # an export wants 256 of them


def substitutions(compose: Compose) -> dict[str, str]:
    """The only differences between what the guide says and what runs here."""
    return {
        "docker-compose ": " ".join(compose.words) + " ",  # its newer name, where that is there
        "127.0.0.1:8000": f"127.0.0.1:{compose.port}",  # a free port
        "$(id -u):$(id -g)": owner(),  # an ordinary user, whoever runs the tests
        "training images ": "training images --set epochs=8 --set warmup_steps=20 ",  # shorter
    }


@pytest.fixture
def checkout(
    engine: Engine, host: dict[str, str], prometheus: str, tmp_path: Path
) -> Iterator[Compose]:
    """A checkout of its own: retraining writes into it."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    with new_project(folder, engine, host) as project:
        yield project


@pytest.fixture
def photos(request: pytest.FixtureRequest, checkout: Compose) -> None:
    """What the user brings: sign_digits.zip, real where it is there."""
    path = checkout.folder / "sign_digits.zip"
    try:
        shutil.copy(request.getfixturevalue("data_dir") / "images" / path.name, path)
    except pytest.skip.Exception:
        path.write_bytes(generated_photos())


def generated_photos() -> bytes:
    """A zip of CLASS/IMG_number.JPG: noise with one shape, that of the class."""
    packed = io.BytesIO()
    draw = np.random.default_rng(0)
    with zipfile.ZipFile(packed, "w") as archive:
        for label in CLASSES:
            for number in range(1118, 1118 + PHOTOS_PER_CLASS):
                archive.writestr(f"{label}/IMG_{number}.JPG", shape(int(label), draw))
    return packed.getvalue()


def shape(label: int, draw: np.random.Generator) -> bytes:
    """An 80x72 JPEG: a disc, a frame, a bar that stands, or one that lies, somewhere in noise."""
    image = Image.fromarray(draw.integers(0, 90, (72, 80, 3), dtype=np.uint8))
    x, y = (int(number) for number in draw.integers(10, 30, 2))
    brush, colour = ImageDraw.Draw(image), tuple(draw.integers(150, 256, 3).tolist())
    if label == 0:
        brush.ellipse((x, y, x + 35, y + 35), fill=colour)
    elif label == 1:
        brush.rectangle((x, y, x + 35, y + 35), outline=colour, width=5)
    elif label == 2:
        brush.rectangle((x + 14, y, x + 21, y + 40), fill=colour)
    else:
        brush.rectangle((x, y + 14, x + 40, y + 21), fill=colour)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


def owner() -> str:
    return ORDINARY if os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}"


def perform(commands: list[str], compose: Compose) -> str:
    """Run commands as the guide has them, but for the substitutions; what the last one printed."""
    unused, printed = set(table := substitutions(compose)), ""
    for command in commands:
        for written, here in table.items():
            if written in command:
                unused.discard(written)
                command = command.replace(written, here)  # noqa: PLW2901
        print(f"$ {command}", flush=True)
        hand_over(compose.folder)
        printed = compose.shell(command).stdout
    assert not unused, f"the guide no longer says {unused}"
    return printed


def hand_over(folder: Path) -> None:
    """What root made becomes the ordinary user's, as if that one had typed the commands."""
    if os.geteuid() == 0:
        theirs = [path for name in ("data", "runs", "bundles") if (path := folder / name).exists()]
        subprocess.run(["chown", "--recursive", owner(), *map(str, theirs)], check=True)


def unseen_photos(folder: Path) -> list[tuple[Path, str]]:
    """File and label of what the split kept for the test."""
    with (folder / "labels.csv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    return [(folder / row["path"], row["label"]) for row in rows]


def answer(url: str, photo: Path) -> str:
    """The label that the served bundle gives a photo."""
    where = f"{url}/v1/classify/image?bundle=digits"
    found = httpx.post(where, content=photo.read_bytes(), timeout=30).raise_for_status().json()
    label: str = found["results"][0]["predictions"][0]["label"]
    return label


@pytest.mark.usefixtures("photos")
def test_guide_takes_photos_to_an_answer(checkout: Compose, repo_root: Path) -> None:
    """A folder of photos becomes a bundle that answers, by the guide's commands and no others."""
    commands = guide_commands(repo_root, "Containers")[:2]
    assert commands == ["make images", "docker-compose up -d"]
    # `make test-containers` has just done the first, from the same files
    printed = perform(commands[1:] + guide_commands(repo_root, "Train in them"), checkout)
    (result,) = json.loads(printed)["results"]
    assert result["bundle"] == "digits"
    assert len(result["predictions"]) == 3
    manifest = checkout.folder / "bundles" / "digits" / "manifest.json"
    promised = json.loads(manifest.read_text(encoding="utf-8"))["grids"][0]["accuracy"]
    unseen = unseen_photos(checkout.folder / "data" / "digits")
    right = sum(answer(checkout.url, photo) == label for photo, label in unseen)
    print(f"{right} of {len(unseen)} photos that it never saw are named right")
    assert right == round(promised["top1"] * promised["items"])
    assert right > 0.3 * len(unseen)  # a short training, and far from chance, a tenth
    assert f"{manifest.stat().st_uid}:{manifest.stat().st_gid}" == owner()


def test_guides_say_the_same_with_and_without_containers(repo_root: Path) -> None:
    """Both forms of the retraining are the same commands, but for where Python runs."""
    bare, train = ".venv/train/bin/python ", "docker-compose run --rm train python "
    outside = guide_commands(repo_root, "Train, export and serve your own data", "train")
    inside = guide_commands(repo_root, "Train in them")
    expected = [line.replace(bare, train) for line in outside if line.startswith(bare)]
    assert len(expected) == 3
    assert [line for line in inside if line.startswith(train)] == expected


def test_train_image_teaches(checkout: Compose) -> None:
    """Without a command it says what it can do."""
    done = checkout("run", "--rm", "train")
    assert "presets:" in done.stdout


def test_stopped_training_goes_on(checkout: Compose, engine: Engine) -> None:
    """`stop` ends a training with a checkpoint and status 143; --resume takes it to its end."""
    data = checkout.folder / "data" / "shapes"
    with zipfile.ZipFile(io.BytesIO(generated_photos())) as archive:
        archive.extractall(data)
    (checkout.folder / "runs").mkdir()
    (checkout.folder / ".env").write_text(f"OWNER={owner()}\n")
    hand_over(checkout.folder)
    paths = ("--data", "data/shapes", "--out", "runs/shapes")
    words = ("python", "-m", "training", "smoke", *paths, "--set", "epochs=400")
    container = checkout("run", "--detach", "train", *words).stdout.split()[-1]
    wait_until((checkout.folder / "runs/shapes/metrics.jsonl").exists, "an epoch", 120)
    engine("stop", "--time", "30", container)
    assert engine.inspect(container, "{{.State.ExitCode}}") == "143"
    assert (checkout.folder / "runs/shapes/last").exists()
    done = checkout("run", "--rm", "train", *words, "--resume")
    assert "best: val top-1" in done.stdout
