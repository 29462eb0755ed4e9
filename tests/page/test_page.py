"""The page in a real browser: it shows what the server answers, and asks nobody else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media import read
from media.formats import FORMATS
from media.spec import Grid
from service.engine.job import softmax
from tests.helpers.service_fixtures import (
    CLEAN,
    LABELS,
    MEDIA,
    ROOT,
    TINY,
    RunningServer,
    picture,
    serving,
    tiny_logits,
    wait_until,
)
from tests.page.conftest import KINDS, MODALITIES, Open
from tests.page.visit import Visit

pytestmark = pytest.mark.xdist_group("page")
NAMES = {"image": "ant hill.png", "video": "bee's clip.gif", "volume": "cow.npy"}


def expected(media: bytes, modality: str, grid: str = "", views: int | None = None) -> list[str]:
    """The label on top and its probability, as the page writes them."""
    logits = tiny_logits(media, grid or TINY[modality].grids[0], modality, views)
    best = int(logits.argmax())
    return [LABELS[best], f"{100 * softmax(logits)[best]:.1f}\u202f%"]


def show(visit: Visit, modality: str, media: bytes) -> None:
    """Choose a file and say what it is, where its name means another kind."""
    visit.give((NAMES[modality], media))
    if modality == "video":  # a GIF is taken for an image
        visit.page.locator(".seen canvas").first.wait_for()
        visit.page.get_by_label(KINDS[modality], exact=True).check()
        visit.page.locator(".strip canvas").first.wait_for()
    visit.page.locator(".seen canvas").first.wait_for()


def seen(visit: Visit, selector: str) -> np.ndarray:
    """A canvas, uint8 ``[height, width, 3]``."""
    (height, width), flat = visit.pixels(selector)
    return np.array(flat, np.uint8).reshape(height, width, 4)[..., :3]


def as_shown(pixels: np.ndarray) -> np.ndarray:
    """What a canvas makes of values of the network's input: bytes, grey as three channels."""
    bytes_ = np.rint(pixels.astype(np.float64)).astype(np.uint8)
    return np.repeat(bytes_, 3 // bytes_.shape[-1], axis=-1)


@pytest.mark.parametrize("modality", MODALITIES)
def test_file_is_answered_and_shown_as_the_model_saw_it(
    server: RunningServer, visit: Open, modality: str
) -> None:
    """Label and probability are the network's, and every pixel on the page is one of its input."""
    media, tiny = MEDIA[modality](5), TINY[modality]
    tab = visit(server)
    show(tab, modality, media)
    assert list(tab.answer()) == expected(media, modality)
    prepared = read(media, tiny.input, Grid.parse(tiny.grids[0]), tiny.patch).pixels
    if modality == "image":
        assert (seen(tab, ".seen canvas") == prepared[0]).all()
    elif modality == "video":
        tab.page.get_by_label("View 2").check()
        tab.page.get_by_role("slider", name="Frame").fill("2")
        assert (seen(tab, ".frame canvas") == prepared[1, 2]).all()
        shown = tab.page.locator(".seen output").inner_text()
        seconds = read(media, tiny.input, Grid.parse(tiny.grids[0]), tiny.patch).evidence["seconds"]
        assert shown == f"3 of {prepared.shape[1]}, at {seconds[1][2]:.2f}\u202fs"
        assert tab.page.locator(".lanes > div").count() == len(prepared)
    else:
        at = (1, 4, 8)  # depth, height, width
        planes = ("Axial", "Coronal", "Sagittal")
        for name, slice_ in zip(planes, at, strict=True):
            tab.page.get_by_role("slider", name=f"{name} slice").fill(str(slice_))
        drawn = [prepared[0, at[0]], prepared[0, ::-1, at[1]], prepared[0, ::-1, :, at[2]]]
        for which, plane in enumerate(drawn):
            close = seen(tab, f".planes figure:nth-child({which + 1}) canvas").astype(int)
            assert np.abs(close - as_shown(plane)).max() <= 1  # of values that lie between two


def test_bundle_grid_and_views_can_be_switched(server: RunningServer, visit: Open) -> None:
    """Another choice is another answer, and holds for the next file of the kind."""
    tab, media = visit(server), [picture(seed) for seed in (1, 2)]
    show(tab, "image", media[0])
    first, second = TINY["image"].grids
    tab.page.get_by_label("Grid", exact=True).select_option(second)
    tab.page.get_by_text(f"{second}, ").wait_for()
    assert list(tab.answer()) == expected(media[0], "image", second)
    tab.page.get_by_label("Bundle", exact=True).select_option("b-image")
    tab.page.get_by_text("b-image, version 7").last.wait_for()
    show(tab, "image", media[1])
    tab.page.get_by_text("b-image, version 7").last.wait_for()
    assert list(tab.answer()) == expected(media[1], "image", second)
    tab.page.get_by_label("Grid", exact=True).select_option("auto")
    tab.page.locator(".facts").wait_for()
    clip = MEDIA["video"](3)
    show(tab, "video", clip)
    tab.page.get_by_label("Views", exact=True).select_option("1")
    tab.page.get_by_text("One view of").wait_for()
    assert list(tab.answer()) == expected(clip, "video", views=1)


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_several_files_come_by_drop_and_by_paste(
    server: RunningServer, visit: Open, way: str
) -> None:
    """Each has its own answer; one is shown, the others are a click away."""
    media = {f"{seed}.png": picture(seed) for seed in (1, 2, 3)}
    tab = visit(server)
    tab.page.evaluate(
        """([way, files]) => {
          const data = new DataTransfer(), options = {bubbles: true, cancelable: true};
          for (const [name, bytes] of files) {
            data.items.add(new File([new Uint8Array(bytes)], name));
          }
          document.body.dispatchEvent(way === "drop"
            ? new DragEvent("drop", {dataTransfer: data, ...options})
            : new ClipboardEvent("paste", {clipboardData: data, ...options}));
        }""",
        [way, [[name, list(data)] for name, data in media.items()]],
    )
    for name, data in media.items():
        button = tab.page.locator("#files").get_by_role("button", name=name)
        button.get_by_text(", ".join(expected(data, "image"))).wait_for()
        button.click()
        assert list(tab.answer()) == expected(data, "image")
    assert tab.page.locator("#files button[aria-current=true]").inner_text().startswith("3.png")


def test_problem_is_told_in_words_and_the_others_are_answered(
    server: RunningServer, visit: Open
) -> None:
    """Title and detail of the server, for people and for screen readers."""
    tab = visit(server, expected="status of 415")
    tab.give(("good.png", picture(1)), ("notes.png", b"no picture at all"))
    tab.page.locator("#files").get_by_role("button", name="notes.png").click()
    problem = tab.page.get_by_role("alert")
    problem.get_by_text("The type of the file is not read.").wait_for()
    told = problem.inner_text()
    assert "Expected JPEG, PNG, WEBP, TIFF, BMP, GIF bytes; these are none of them." in told
    assert "Status 415" in told
    assert tab.page.locator(".bars, .seen canvas").count() == 0
    tab.page.locator("#files").get_by_role("button", name="good.png").click()
    assert list(tab.answer()) == expected(picture(1), "image")


def test_file_of_unknown_kind_is_asked_about(server: RunningServer, visit: Open) -> None:
    """DICOM files often have no ending; what neither name nor bytes tell, the person does."""
    tab, media = visit(server), picture(4)
    tab.give(("IM000001", media))
    tab.page.get_by_role("heading", name="What is it?").wait_for()
    tab.page.locator(".status").get_by_role("button", name="Image").click()
    assert list(tab.answer()) == expected(media, "image")


def test_every_ending_that_is_read_is_known(server: RunningServer, visit: Open) -> None:
    """The page's table of endings is that of the readers; of a GIF it says image, as ours does."""
    endings = {end: one.modality for one in reversed(FORMATS) for end in (*one.endings, *one.added)}
    tab = visit(server)
    script = tab.page.locator("script").get_attribute("src").replace("start.js", "media.js")
    found = tab.page.evaluate(
        "async ([script, ends]) => { const {kindOfName} = await import(script);"
        " return ends.map(end => kindOfName('SOME.file' + end)); }",
        [f"/{script}", list(endings)],
    )
    assert dict(zip(endings, found, strict=True)) == endings


@pytest.mark.parametrize("asked", ["Answer", "What it saw"])
@pytest.mark.parametrize("modality", ["image", "video"])
def test_shown_code_runs_and_gets_the_same(
    server: RunningServer, visit: Open, tmp_path: Path, modality: str, asked: str
) -> None:
    """curl and Python, run as they stand, beside a file whose name needs quoting."""
    tab, media = visit(server), MEDIA[modality](2)
    (tmp_path / NAMES[modality]).write_bytes(media)
    show(tab, modality, media)
    tab.page.get_by_label(asked, exact=True).check()
    told = {}
    for how in ("curl", "Python"):
        tab.page.get_by_label(how, exact=True).check()
        told[how] = tab.page.locator(".code code").inner_text()
    commands = ["bash", "-c", told["curl"]], [sys.executable, "-c", told["Python"]]
    curl, python = (
        subprocess.run(
            command, cwd=tmp_path, env=CLEAN | {"PYTHONPATH": str(ROOT)}, capture_output=True,
            text=True, check=True,
        ).stdout
        for command in commands
    )  # fmt: skip
    label, _ = tab.answer()
    if asked == "Answer":
        assert f'"label":"{label}"' in curl
        assert python.startswith(f"{label}: ")
    else:
        assert '"dtype":"uint8"' in curl
        tiny = TINY[modality]
        shape = read(media, tiny.input, Grid.parse(tiny.grids[0]), tiny.patch).pixels.shape
        assert python == f"{shape} uint8\n"


def test_code_is_copied(server: RunningServer, visit: Open) -> None:
    """One press, and it is in the clipboard."""
    tab = visit(server, permissions=["clipboard-read", "clipboard-write"])
    show(tab, "image", picture(1))
    tab.page.get_by_role("button", name="Copy").click()
    tab.page.get_by_role("button", name="Copied").wait_for()
    copied = tab.page.evaluate("navigator.clipboard.readText()")
    assert copied == tab.page.locator(".code code").inner_text()


def test_bundles_are_listed_with_their_cards_and_refusals(
    server: RunningServer, visit: Open
) -> None:
    """State, version, grids, labels; the card once it is opened; why one is not served."""
    tab = visit(server)
    tab.page.get_by_text("4 of 5 bundles ready").wait_for()
    card = tab.page.locator(".card", has_text="b-image")
    told = card.inner_text()
    assert "version 7" in told
    assert ", ".join(LABELS) in told
    assert all(grid in told for grid in TINY["image"].grids)
    card.get_by_text("Card: data").click()
    card.get_by_text("A tiny network with random weights.").wait_for()
    spoilt = tab.page.locator(".card.refused").inner_text()
    assert "It is not served: graphs/weights.bin" in spoilt


def slow_upload(tab: Visit, bytes_a_second: int) -> Any:
    """Let the tab's network be slow; the session that can undo it."""
    session = tab.page.context.new_cdp_session(tab.page)
    session.send("Network.enable")
    speed = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": bytes_a_second}
    session.send("Network.emulateNetworkConditions", {"offline": False, **speed})
    return session


def test_long_upload_shows_its_progress_and_can_be_cancelled(
    server: RunningServer, visit: Open
) -> None:
    """Percent while it is sent; after Cancel the server holds nothing of it."""
    tab = visit(server)
    slow_upload(tab, 60_000)
    tab.give(("large.npy", bytes(600_000)))
    tab.page.locator(".progress").get_by_text(re.compile("Sending, [1-9]")).wait_for()
    tab.page.get_by_role("button", name="Cancel").click()
    tab.page.get_by_role("heading", name="Cancelled.").wait_for()
    wait_until(lambda: server.engine.admission.requests == 0, "the server to let go of it")


def test_server_that_went_away_is_told(bundles: Path, visit: Open) -> None:
    """A connection that fails is a problem in words, with a way to try again."""
    with serving(bundles) as server:
        tab = visit(server, expected="ERR_CONNECTION|ERR_EMPTY")
        tab.page.locator(".state.good").wait_for()
    tab.give(("a.png", picture(1)))
    tab.page.get_by_role("heading", name="The server does not answer.").wait_for()
    assert tab.page.get_by_role("button", name="Try again").is_visible()
