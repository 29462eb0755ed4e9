"""The client asks where the model looked and what it sees, and reads all that is said of it."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from client import BadAnswer, Client, JobOptions, Options, PrepareOptions, Problem
from client.answers import Answer
from client.reading import read_json
from media import read
from media.spec import Grid
from service.engine.vocabulary import OF_JOBS, PARAMETERS
from service.http.examples import examples
from service.http.prepare_documents import KNOWN
from tests.helpers.service_fixtures import LABELS, MEDIA, TINY, RunningServer

MODALITIES = tuple(TINY)


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.url, verify=False) as one:
        yield one


def as_sent(found: Any) -> Any:
    """A dataclass as JSON has it."""
    told = {name: one for name, one in dataclasses.asdict(found).items() if one is not None}
    return json.loads(json.dumps(told, default=lambda png: base64.b64encode(png).decode()))


def test_every_parameter_of_the_server_is_known() -> None:
    """None of classifying, of jobs or of preparing is left out, and no other is there."""
    every = {name for known in PARAMETERS.values() for name in known}
    assert Options.__annotations__.keys() == every | {"modality"}
    assert JobOptions.__annotations__.keys() == OF_JOBS.keys()
    prepared = {name for known in KNOWN.values() for name in known}
    assert PrepareOptions.__annotations__.keys() == prepared | {"modality"}


@pytest.mark.parametrize("modality", MODALITIES)
def test_explanation_is_the_servers(client: Client, server: RunningServer, modality: Any) -> None:
    """Every member of it, whatever the axes; the overlay is a PNG."""
    media, label = MEDIA[modality](4), LABELS[2]
    found = client.classify(media, modality=modality, explain="occlusion", explain_label=label)
    assert found.explanation is not None
    told = server.classify(
        f"/v1/classify/{modality}",
        content=media,
        params={"explain": "occlusion", "explain_label": label},
    ).json()["results"][0]["explanation"]
    assert found.explanation.label == told["label"] == label
    assert as_sent(found.explanation) == told == found.document["explanation"]
    assert found.explanation.overlay.startswith(b"\x89PNG")
    assert client.classify(media, modality=modality).explanation is None


@pytest.mark.parametrize("modality", MODALITIES)
def test_prepared_pixels_are_those_of_the_readers(client: Client, modality: Any) -> None:
    """As numpy reads them; with what was seen, as beside an answer."""
    tiny, media = TINY[modality], MEDIA[modality](4)
    found = client.prepare(media, modality=modality, grid=tiny.grids[1])
    assert (found.bundle, found.version, found.grid) == (modality, "1", tiny.grids[1])
    pixels = np.frombuffer(found.pixels.data, found.pixels.dtype).reshape(found.pixels.shape)
    expected = read(media, tiny.input, Grid.parse(tiny.grids[1]), tiny.patch).pixels
    np.testing.assert_array_equal(pixels, expected)
    assert found.pixels.axes == ("view", *found.pixels.axes[1:-1], "channel")
    assert len(found.pixels.axes) == pixels.ndim
    assert found.seen == client.classify(media, modality=modality, grid=tiny.grids[1]).seen
    assert found.timing_ms.decode > 0


def test_what_cannot_be_prepared_is_told(client: Client) -> None:
    """As of an answer."""
    with pytest.raises(Problem, match="/problems/broken-media"):
        client.prepare(MEDIA["image"](1)[:50], modality="image")
    with pytest.raises(Problem, match="unknown parameter 'top_k'"):
        client.prepare(MEDIA["image"](1), modality="image", top_k=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("member", "value", "told"),
    [
        ("values", [[1.0, "2"]], r"values\[0\]\[1\]: expected a number, got '2'"),
        ("values", 3, "values: expected a list, got 3"),
        ("overlay", "a", "overlay: expected base64, got 'a'"),
        ("overlay", [1], r"overlay: expected text, got \[1\]"),
        ("peak", {"value": 1.0, "index": [0]}, "peak: expected a member where"),
    ],
)
def test_wrong_members_are_named(member: str, value: Any, told: str) -> None:
    """As all others."""
    document = json.loads(json.dumps(examples("image")["with explain=occlusion"]))
    document["results"][0]["explanation"][member] = value
    with pytest.raises(BadAnswer, match=told):
        read_json(Answer, json.dumps(document).encode())
