"""A bundle without labels: it gives features on every front, and says so where more is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from client import Client
from client.errors import Problem
from service.http.openapi import KINDS
from tests.helpers.service_fixtures import (
    ENDINGS,
    GRIDS,
    MEDIA,
    TINY,
    RunningServer,
    picture,
    run,
    serving,
    tiny_logits,
    write_tiny_bundle,
)

FEATURES = 5


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of every modality; of images one with labels too, which is not the default."""
    root = tmp_path_factory.mktemp("bundles")
    for modality in TINY:
        write_tiny_bundle(root, f"a-{modality}", modality, headless=True)
    write_tiny_bundle(root, "b-labelled")
    return root


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[RunningServer]:
    with serving(bundles) as running:
        yield running


def detail(answer: httpx.Response, name: str = "no-labels") -> str:
    """Of a problem of this name."""
    told = answer.json()
    assert (answer.status_code, told["type"]) == (422, f"/problems/{name}"), told
    return told["detail"]


@pytest.mark.parametrize("modality", TINY)
def test_features_are_what_it_gives(server: RunningServer, modality: str) -> None:
    """At every grid, of a clip the mean over its views; nothing is calibrated or ranked."""
    media = MEDIA[modality](4)
    for grid in TINY[modality].grids:
        said = {"want": "embedding", "grid": grid}
        answer = server.classify(f"/v1/classify/{modality}", content=media, params=said)
        KINDS[modality].answer.model_validate(answer.json())
        (result,) = answer.json()["results"]
        assert not {"predictions", "calibrated"} & set(result)
        np.testing.assert_allclose(
            result["embedding"], tiny_logits(media, grid, modality), atol=1e-4
        )


@pytest.mark.parametrize(
    "said",
    [{}, {"want": "labels", "top_k": "3"}, {"want": "probabilities"}, {"want": "logits"},
     {"explain": "occlusion"}, {"raw": "true"}],
)  # fmt: skip
def test_anything_else_is_one_problem(server: RunningServer, said: dict[str, str]) -> None:
    """With the bundle's name, what it gives and what was asked; also of several files."""
    expected = (
        "want: bundle a-image has no labels and gives features alone: expected want=embedding, "
        f"got want={said.get('want', 'labels')}"
    )
    assert detail(server.classify(content=picture(1), params=said)) == expected
    files = [("file", ("a", picture(1))), ("file", ("b", b"text"))]
    assert detail(server.classify(files=files, params=said)) == expected


def test_label_to_explain_is_none_of_its_own(server: RunningServer) -> None:
    """A label that it cannot have is a bad parameter, as of every bundle."""
    said = {"explain": "occlusion", "explain_label": "ant"}
    told = detail(server.classify(content=picture(1), params=said), "bad-parameter")
    assert told.startswith("explain_label: bundle a-image has no label 'ant'")


def test_list_of_bundles_says_that_there_are_none(server: RunningServer) -> None:
    """No labels, and null where others have accuracy; the other bundle is as ever."""
    served = {one["name"]: one for one in server.get("/v1/bundles").json()["bundles"]}
    assert (served["a-image"]["state"], served["a-image"]["labels"]) == ("ready", [])
    for grid in served["a-image"]["grids"]:
        assert (grid["top1"], grid["split"], grid["items"], grid["figures"]) == (None,) * 4
    assert len(served["b-labelled"]["labels"]) == 5
    assert served["b-labelled"]["grids"][0]["top1"] == 0.5


def test_prepared_pixels_are_shown_as_of_any_bundle(server: RunningServer) -> None:
    """What the network would see needs no head."""
    answer = server.request("POST", "/v1/prepare/image", content=picture(1))
    assert answer.status_code == 200
    assert answer.json()["bundle"] == "a-image"


def test_metrics_know_no_label_of_it(server: RunningServer) -> None:
    """Answers are counted and nothing is a first label."""
    server.classify(content=picture(1), params={"want": "embedding"})
    lines = server.get("/metrics").text.splitlines()
    assert not [one for one in lines if "liere_first_label" in one and 'bundle="a-image"' in one]


# --- the other fronts --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a-image", "a-image_tensor"])
def test_protocol_describes_one_output(server: RunningServer, name: str) -> None:
    """``embedding``, with as many numbers as there are features."""
    told = server.get(f"/v2/models/{name}").json()
    assert told["outputs"] == [
        {"name": "embedding", "datatype": "FP32", "shape": [-1, FEATURES]}
    ]


def infer(server: RunningServer, rows: np.ndarray, *outputs: Any) -> httpx.Response:
    pixels = {
        "name": "pixels", "datatype": "UINT8", "shape": list(rows.shape),
        "data": rows.ravel().tolist(),
    }  # fmt: skip
    body = {"inputs": [pixels], **({"outputs": list(outputs)} if outputs else {})}
    return server.request("POST", "/v2/models/a-image_tensor/infer", json=body)


def test_protocol_gives_features_where_no_output_is_named(server: RunningServer) -> None:
    """A row of each; logits and classification are refused with what there is."""
    sides = [4 * int(side) for side in GRIDS[0].split("x")]
    rows = np.random.default_rng(0).integers(0, 256, (3, *sides, 3), dtype=np.uint8)
    (output,) = infer(server, rows).json()["outputs"]
    assert (output["name"], output["shape"]) == ("embedding", [3, FEATURES])
    (named,) = infer(server, rows, {"name": "embedding"}).json()["outputs"]
    assert named == output
    assert "expected embedding, each once, got 'logits'" in infer(
        server, rows, {"name": "logits"}
    ).json()["error"]
    ranked = {"name": "embedding", "parameters": {"classification": 2}}
    assert "a-image_tensor has no labels that could be ranked" in infer(
        server, rows, ranked
    ).json()["error"]


def test_command_needs_the_want_that_there_is(bundles: Path, tmp_path: Path) -> None:
    """Refused with the same words before any file is read; with it a line a file."""
    path = tmp_path / f"1{ENDINGS['image']}"
    path.write_bytes(picture(4))
    refused = run("classify", path, "--bundle", "a-image", "--bundles", bundles)
    assert refused.returncode == 2
    assert "bundle a-image has no labels and gives features alone" in refused.stderr
    done = run(
        "classify", "--json", path, "--want", "embedding", "--bundle", "a-image",
        "--bundles", bundles,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    line = json.loads(done.stdout)
    np.testing.assert_allclose(line["embedding"], tiny_logits(picture(4), GRIDS[0]), atol=1e-4)


def test_client_reads_features_and_bundles_without_labels(
    server: RunningServer, tmp_path: Path
) -> None:
    """Its classes hold what there is, and its error the name of the problem."""
    path = tmp_path / f"1{ENDINGS['image']}"
    path.write_bytes(picture(4))
    with Client(server.url) as client:
        result = client.classify(path, want="embedding")
        assert result.predictions == ()
        np.testing.assert_allclose(
            result.embedding or (), tiny_logits(picture(4), GRIDS[0]), atol=1e-4
        )
        (bundle,) = (one for one in client.bundles().bundles if one.name == "a-image")
        assert (bundle.labels, bundle.grids[0].top1) == ((), None)
        with pytest.raises(Problem, match="has no labels"):
            client.classify(path)


def test_jobs_are_refused_or_give_features(bundles: Path, tmp_path: Path) -> None:
    """Before a file is taken where the bundle is named; a default tells its own files."""
    with serving(bundles, jobs=tmp_path / "jobs") as server:
        files = {"file": ("a.png", picture(1))}
        refused = server.request("POST", "/v1/jobs?bundle=a-image", files=files)
        assert "gives features alone" in detail(refused)
        said = "/v1/jobs?bundle=a-image&want=embedding"
        assert server.request("POST", said, files=files).status_code == 202
