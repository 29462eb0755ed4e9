"""The OpenAPI document is a promise: what it shows is what the server answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.bundle import read_bundle
from models.inputs.image import FORMATS
from service.documents import ANSWER_EXAMPLE, BUNDLES_EXAMPLE, DETAILS, Answer, BundleList
from service.errors import (
    ClientGone,
    MethodNotAllowed,
    NotFound,
    Problem,
    Unauthorized,
    UnreadableFile,
    UnsupportedMedia,
)
from service.guard import WORK
from tests.service_fixtures import RunningServer, picture, serving, write_tiny_bundle


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with one tiny bundle."""
    root = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(root)
    with serving(root) as running:
        yield running


@pytest.fixture(scope="module")
def document(server: RunningServer) -> dict[str, Any]:
    """The OpenAPI document as the server gives it."""
    return server.get("/openapi.json").json()


def keys(value: Any) -> Any:
    """The names in a document, without its values."""
    if isinstance(value, dict):
        return {key: keys(inner) for key, inner in value.items()}
    return [keys(value[0])] if isinstance(value, list) and value else type(value).__name__


def test_examples_have_the_keys_of_real_answers(server: RunningServer) -> None:
    """A real answer has exactly the names and types of its example, and fits its model."""
    answer = server.classify(content=picture()).json()
    assert keys(answer) == keys(ANSWER_EXAMPLE)
    Answer.model_validate(answer)
    bundles = server.get("/v1/bundles").json()
    assert keys(bundles["bundles"]) == keys(BUNDLES_EXAMPLE["bundles"])
    assert set(bundles) == set(BUNDLES_EXAMPLE)
    BundleList.model_validate(bundles)


def test_examples_fit_their_own_models() -> None:
    """No example contradicts its schema."""
    Answer.model_validate(ANSWER_EXAMPLE)
    BundleList.model_validate(BUNDLES_EXAMPLE)


def test_every_route_is_documented_with_a_stable_name(document: dict[str, Any]) -> None:
    """Client generators rely on these names."""
    names = {
        path: {method: operation["operationId"] for method, operation in item.items()}
        for path, item in document["paths"].items()
    }
    assert names == {
        "/v1/classify/image": {"post": "classifyImage"},
        "/v1/bundles": {"get": "listBundles"},
        "/health/live": {"get": "isLive"},
        "/health/ready": {"get": "isReady"},
        "/metrics": {"get": "readMetrics"},
    }


def test_every_route_for_work_is_behind_the_guard(document: dict[str, Any]) -> None:
    """A route that runs models needs a permit; a new one cannot be forgotten."""
    assert {path for path, item in document["paths"].items() if "post" in item} == set(WORK)


def test_both_styles_of_body_and_all_parameters_are_documented(document: dict[str, Any]) -> None:
    """A reader sees the form, the raw body, and the three parameters in both places."""
    operation = document["paths"]["/v1/classify/image"]["post"]
    content = operation["requestBody"]["content"]
    assert set(content) >= {"multipart/form-data", *(f"image/{kind.lower()}" for kind in FORMATS)}
    assert [one["name"] for one in operation["parameters"]] == ["top_k", "bundle", "grid"]
    form = content["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"file", "top_k", "bundle", "grid"}
    assert form["required"] == ["file"]


def test_every_problem_has_an_example_that_it_would_give(document: dict[str, Any]) -> None:
    """All problems of the hot route are shown under their status, with every member."""
    responses = document["paths"]["/v1/classify/image"]["post"]["responses"]
    shown = {}
    for status, response in responses.items():
        if status == "200":
            continue
        for one in response["content"]["application/problem+json"]["examples"].values():
            example = one["value"]
            assert set(example) == {"type", "title", "status", "detail", "id"}
            assert str(example["status"]) == status
            shown[example["type"]] = example
    not_here = {kind.type for kind in (NotFound, MethodNotAllowed, Unauthorized, ClientGone)}
    not_here |= {UnreadableFile.type}  # of the command line
    assert set(shown) == {kind.type for kind in Problem.__subclasses__()} - not_here


def test_example_of_unsupported_media_is_what_is_said(server: RunningServer) -> None:
    """It lists the formats that are read today."""
    told = server.classify(content=b"text").json()["detail"]
    assert told == DETAILS[UnsupportedMedia]


def test_document_refers_to_nothing_that_it_lacks(document: dict[str, Any]) -> None:
    """Every $ref leads to a schema of the document."""
    schemas = document["components"]["schemas"]
    references = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert references <= set(schemas)
    assert "ProblemDocument" in references


def test_examples_are_those_of_the_bundle_that_is_shipped(repo_root: Path) -> None:
    """The bundle in the example exists, with these labels, grids and measured accuracies."""
    (example,) = BUNDLES_EXAMPLE["bundles"]
    manifest = read_bundle(repo_root / "bundles" / example["name"]).manifest
    assert tuple(example["labels"]) == manifest.labels
    assert [(shown["grid"], shown["top1"]) for shown in example["grids"]] == [
        (entry.grid, entry.accuracy.top1) for entry in manifest.grids
    ]
    (result,) = ANSWER_EXAMPLE["results"]
    for shown in result["predictions"]:
        assert manifest.labels[shown["index"]] == shown["label"]
