"""The OpenAPI document is a promise: what it shows is what the server answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from media.clips import clip_types
from media.images import image
from media.scans import volume
from media.spec import AXES
from media.strict_json import from_json
from models.bundle import read_bundle, read_manifest
from service.engine.failures import (
    CandidateRefused,
    FileTooLarge,
    FolderFixed,
    NoShadow,
    UnreadableFile,
    UnsupportedMedia,
    VersionInUse,
)
from service.http.documents import BundleList, GridDocument
from service.http.examples import ANSWERS, BUNDLES_EXAMPLE, details
from service.http.guard import WORK
from service.http.openapi import KEY_PROBLEMS, KINDS
from service.http.problems import (
    PROBLEMS,
    BadRequest,
    BrokenTensors,
    ClientGone,
    HeadTimeout,
    HeadTooLarge,
    MethodNotAllowed,
    NotFound,
    UnknownParameter,
    members,
)
from service.http.v2.documents import IndexEntry, InferResponse, ModelMetadata
from service.http.v2.models import INFER
from service.http.v2.openapi import INDEX_ENTRY, REQUEST, RESPONSE, TENSOR_METADATA
from service.http.v2.request import InferRequest
from service.http.v2.routes import INDEX, INFER_PATHS
from service.jobs.failures import UnknownJob
from tests.helpers.jobs import finish, form, make
from tests.helpers.service_fixtures import (
    MEDIA,
    RunningServer,
    picture,
    serving,
    write_tiny_bundle,
)
from tests.http.conftest import Start

MODALITIES = tuple(AXES)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a tiny bundle of every modality."""
    root = tmp_path_factory.mktemp("bundles")
    for modality in MODALITIES:
        write_tiny_bundle(root, modality, modality)
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


@pytest.mark.parametrize("modality", MODALITIES)
def test_example_has_the_keys_of_a_real_answer(server: RunningServer, modality: str) -> None:
    """A real answer has exactly the names and types of its example, in their order, and both fit
    its model.
    """
    path = f"/v1/classify/{modality}"
    media = MEDIA[modality]() if modality != "volume" else with_spacing()
    answer = server.classify(path, content=media).json()
    assert keys(answer) == keys(ANSWERS[modality])
    (result,), (shown,) = answer["results"], ANSWERS[modality]["results"]
    assert list(result) == list(shown)  # in this order too
    KINDS[modality].answer.model_validate(answer)
    KINDS[modality].answer.model_validate(ANSWERS[modality])


def with_spacing() -> bytes:
    """A MetaImage of 2x3x4 voxels: the file says how large they are."""
    head = "NDims = 3\nDimSize = 4 3 2\nElementSpacing = 1 2 3\nElementType = MET_UCHAR\n"
    return f"ObjectType = Image\n{head}ElementDataFile = LOCAL\n".encode() + bytes(range(24))


def test_example_of_the_bundles_has_the_keys_of_real_ones(server: RunningServer) -> None:
    """The same for the list of bundles, but for figures, which those of this server lack."""
    bundles, example = server.get("/v1/bundles").json(), deepcopy(BUNDLES_EXAMPLE)
    BundleList.model_validate_json(json.dumps(bundles))
    for grid in (grid for one in (bundles, example) for grid in one["bundles"][0]["grids"]):
        del grid["figures"], grid["calibration"]
    assert keys(bundles["bundles"]) == keys(example["bundles"])
    assert set(bundles) == set(example)


def test_example_of_the_bundles_fits_its_model() -> None:
    """The example does not contradict its schema."""
    BundleList.model_validate_json(json.dumps(BUNDLES_EXAMPLE))


def test_every_route_is_documented_with_a_stable_name(document: dict[str, Any]) -> None:
    """Client generators rely on these names."""
    names = {
        path: {method: operation["operationId"] for method, operation in item.items()}
        for path, item in document["paths"].items()
    }
    assert names == {
        "/v1/classify/image": {"post": "classifyImage"},
        "/v1/classify/video": {"post": "classifyVideo"},
        "/v1/classify/volume": {"post": "classifyVolume"},
        "/v1/prepare/image": {"post": "prepareImage"},
        "/v1/prepare/video": {"post": "prepareVideo"},
        "/v1/prepare/volume": {"post": "prepareVolume"},
        "/v1/bundles": {"get": "listBundles"},
        "/v1/bundles/{name}/versions": {"get": "listBundleVersions"},
        "/v1/bundles/{name}/card": {"get": "readCard"},
        "/health/live": {"get": "isLive"},
        "/health/startup": {"get": "hasStarted"},
        "/health/ready": {"get": "isReady"},
        "/metrics": {"get": "readMetrics"},
        "/v2": {"get": "describeServer"},
        "/v2/health/live": {"get": "isServerLive"},
        "/v2/health/ready": {"get": "isServerReady"},
        "/v2/models/{name}": {"get": "describeModel"},
        "/v2/models/{name}/ready": {"get": "isModelReady"},
        "/v2/models/{name}/infer": {"post": "infer"},
        "/v2/models/{name}/versions/{version}": {"get": "describeModelVersion"},
        "/v2/models/{name}/versions/{version}/ready": {"get": "isModelVersionReady"},
        "/v2/models/{name}/versions/{version}/infer": {"post": "inferVersion"},
        "/v2/repository/index": {"post": "listModels"},
    }


def test_every_route_for_work_is_behind_the_guard(document: dict[str, Any]) -> None:
    """A route that runs models needs a permit; a new one cannot be forgotten."""
    posts = {path for path, item in document["paths"].items() if "post" in item}
    assert posts == {*WORK, *INFER_PATHS, INDEX}
    for path in INFER_PATHS:
        assert INFER.fullmatch(path.format(name="x", version="1"))


#: Types of clips whose media type is not video/ and their name.
CALLED = {
    "Matroska": "video/x-matroska",
    "AVI": "video/x-msvideo",
    "GIF": "image/gif",
    "MPEG-TS": "video/mp2t",
}


def media_types(modality: str) -> set[str]:
    """Of the types that the readers list, those that have one; of scans only DICOM's are known."""
    if modality == "image":
        return {f"image/{name.lower()}" for name in image.FORMATS}
    if modality == "video":
        names = re.split(", | or ", clip_types.TYPES)
        return {CALLED.get(name, f"video/{name.lower()}") for name in names}
    names = [one.name.split()[0] for one in volume.TYPES if "DICOM" in one.name]
    names += ["gzip"] if any(one.packed for one in volume.TYPES) else []
    return {f"application/{name.lower()}" for name in names}


@pytest.mark.parametrize("modality", MODALITIES)
def test_both_styles_of_body_and_all_parameters_are_documented(
    document: dict[str, Any], modality: str
) -> None:
    """A reader sees the form, the raw body, and the parameters in both places."""
    operation = document["paths"][f"/v1/classify/{modality}"]["post"]
    content = operation["requestBody"]["content"]
    anything = {"multipart/form-data", "application/octet-stream"}
    assert set(content) == anything | media_types(modality)
    views = ["views"] if modality == "video" else []
    held = ["want", "encoding_format", "raw", "abstain"]
    parameters = ["top_k", "bundle", "grid", "timeout_ms", *held, "strict"]
    parameters += ["explain", "explain_label", *views]
    assert [one["name"] for one in operation["parameters"]] == parameters
    form = content["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"file", *parameters}
    assert form["required"] == ["file"]


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_problem_has_an_example_that_it_would_give(
    document: dict[str, Any], modality: str
) -> None:
    """All problems of the hot routes are shown under their status, with every member."""
    responses = document["paths"][f"/v1/classify/{modality}"]["post"]["responses"]
    shown = {}
    for status, response in responses.items():
        if status == "200":
            continue
        for one in response["content"]["application/problem+json"]["examples"].values():
            example = one["value"]
            assert set(example) == {"type", "title", "status", "detail", "id"}
            assert str(example["status"]) == status
            shown[example["type"]] = example
    not_here = {NotFound, MethodNotAllowed, ClientGone, *KEY_PROBLEMS}
    not_here |= {BadRequest, HeadTooLarge, HeadTimeout}  # of no operation: nobody knows which
    not_here |= {BrokenTensors}  # of the protocol of tensors
    not_here |= {UnreadableFile}  # of the command line
    not_here |= {CandidateRefused, VersionInUse, FolderFixed, NoShadow}  # under /admin
    not_here |= {kind for kind in PROBLEMS if kind.__module__ == UnknownJob.__module__}
    assert set(shown) == {PROBLEMS[kind].type for kind in PROBLEMS.keys() - not_here}


@pytest.mark.parametrize("modality", MODALITIES)
def test_examples_of_problems_are_what_is_said(server: RunningServer, modality: str) -> None:
    """They list the types, the parameters and the limits of today."""
    path = f"/v1/classify/{modality}"
    told = server.classify(path, content=b"text").json()["detail"]
    assert told == details(modality)[UnsupportedMedia]
    told = server.classify(path, content=b"text", params={"topk": "1"}).json()["detail"]
    assert told == details(modality)[UnknownParameter]
    if modality == "image":  # the files of the others would be as large as their limits
        told = server.classify(path, content=bytes(20 * 2**20 + 1)).json()["detail"]
        assert told == details(modality)[FileTooLarge]


def test_every_answer_is_shown_with_its_headers(document: dict[str, Any]) -> None:
    """The id of the request everywhere; when to come back, and how long each stage took."""
    for item in document["paths"].values():
        for operation in item.values():
            for response in operation["responses"].values():
                assert response["headers"].keys() >= {"X-Request-ID", "traceparent"}
    responses = document["paths"]["/v1/classify/image"]["post"]["responses"]
    assert "Server-Timing" in responses["200"]["headers"]
    assert "Retry-After" in responses["429"]["headers"]
    shown = {name for name in re.findall(r"#/components/headers/([\w-]+)", str(document))}
    assert shown <= document["components"]["headers"].keys()


@pytest.mark.parametrize("modality", MODALITIES)
def test_answers_are_the_json_of_their_members(modality: str) -> None:
    """What the schema encodes is what was given, no member more and none less."""
    answer = ANSWERS[modality]
    failed = {"filename": "a.png", "error": members(UnknownParameter("text"))}
    for told in (answer, answer | {"results": [failed, *answer["results"]]}):
        assert json.loads(KINDS[modality].answer.encode(told)) == told


@pytest.mark.parametrize(
    "change",
    [
        {"unheard_of": 1},
        {"version": 1},
        {"logits": [float("nan")]},
        {"predictions": [{"label": "a", "index": 0, "probability": 1.5}]},
        {"predictions": None},
    ],
    ids=["unknown", "type", "nan", "bound", "null"],
)
def test_what_the_schema_does_not_have_cannot_be_sent(change: dict[str, Any]) -> None:
    """It would be a promise broken, and is answered as a mistake of ours."""
    (result,) = ANSWERS["image"]["results"]
    with pytest.raises(ValueError, match="validation error"):
        KINDS["image"].answer.encode({"id": "a", "results": [result | change]})


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [
        ("/v1/jobs", "PUT", "GET, HEAD, POST"),
        ("/v1/jobs/a", "POST", "DELETE, GET, HEAD"),
        ("/v1/bundles", "POST", "GET, HEAD"),
        ("/v1/classify/image", "GET", "POST"),
    ],
)
def test_another_method_is_told_all_that_there_are(
    start: Start, tmp_path: Path, path: str, method: str, allow: str
) -> None:
    """Also where each of them is a route of its own."""
    server, _ = start(jobs=tmp_path / "jobs")
    refused = server.request(method, path)
    assert (refused.status_code, refused.headers["allow"]) == (405, allow)
    assert refused.json()["detail"] == f"expected {allow}"


def test_lines_of_a_job_are_results(start: Start, tmp_path: Path) -> None:
    """Beside the number and the name of the item, what a request would have had of the file."""
    server, _ = start(jobs=tmp_path / "jobs")
    job = make(server, files=form({"a.png": picture(), "b.png": b"text"}))
    finish(server, job)
    lines = server.get(job["results"]).text.splitlines()
    results = [json.loads(line) for line in lines]
    named = [(one.pop("item"), one["filename"]) for one in results]
    assert sorted(named) == [(1, "a.png"), (2, "b.png")]
    assert b'"error"' in KINDS["image"].answer.encode({"id": job["id"], "results": results})


def test_examples_of_the_protocol_fit_their_schemas(server: RunningServer) -> None:
    """And what the server really says does."""
    from_json(InferRequest, REQUEST, "example")
    InferResponse.model_validate(RESPONSE)
    ModelMetadata.model_validate(TENSOR_METADATA)
    IndexEntry.model_validate(INDEX_ENTRY)
    for one in server.request("POST", "/v2/repository/index").json():
        IndexEntry.model_validate(one)
        ModelMetadata.model_validate(server.get(f"/v2/models/{one['name']}").json())
    answer = server.request("POST", "/v2/models/image/infer", json=REQUEST).json()
    InferResponse.model_validate(answer)
    assert set(answer) == set(RESPONSE)


@pytest.mark.parametrize("path", INFER_PATHS)
def test_problems_of_the_protocol_have_its_member(document: dict[str, Any], path: str) -> None:
    """Every problem is shown with error and as its own schema, the broken request among them."""
    responses = document["paths"][path]["post"]["responses"]
    assert responses.keys() >= {"400", "404", "413", "422", "429", "500", "503", "504"}
    types = set()
    for status in responses.keys() - {"200"}:
        content = responses[status]["content"]["application/problem+json"]
        assert content["schema"] == {"$ref": "#/components/schemas/InferenceProblem"}
        for one in content["examples"].values():
            assert one["value"]["error"] == one["value"]["detail"]
            types.add(one["value"]["type"])
    assert "/problems/broken-tensors" in types


def test_document_refers_to_nothing_that_it_lacks(document: dict[str, Any]) -> None:
    """Every $ref leads to a schema of the document."""
    schemas = document["components"]["schemas"]
    references = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert references <= set(schemas)
    assert "ProblemDocument" in references


def test_examples_are_those_of_the_bundle_that_is_shipped(repo_root: Path) -> None:
    """The bundle in the example exists, with these labels, and its first grid has these figures."""
    (example,) = BUNDLES_EXAMPLE["bundles"]
    manifest = read_bundle(repo_root / "bundles" / example["name"]).manifest
    assert tuple(example["labels"]) == manifest.labels
    (grid,) = example["grids"]
    expected = GridDocument.of(manifest, manifest.grids[0]).model_dump()
    figures = grid.pop("figures"), expected.pop("figures")
    assert grid == expected
    assert json.dumps(figures[0]) == json.dumps(figures[1])


def test_examples_of_answers_are_of_bundles_that_are_shipped(repo_root: Path) -> None:
    """Of every modality: the bundle of the example, its grid, its labels and its views exist."""
    shipped = {folder.name: read_manifest(folder) for folder in (repo_root / "bundles").iterdir()}
    modalities = {manifest.modality for manifest in shipped.values()}
    assert modalities == set(MODALITIES)
    for modality in modalities:
        (result,) = ANSWERS[modality]["results"]
        manifest = shipped[result["bundle"]]
        assert manifest.modality == modality
        assert result["grid"] in [entry.grid for entry in manifest.grids]
        if modality == "video":
            assert len(result["seen"]["seconds"]) == manifest.input.views
        for shown in result["predictions"]:
            assert manifest.labels[shown["index"]] == shown["label"]
