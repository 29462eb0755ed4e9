"""Keys over gRPC: those of HTTP, in the metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from service.grpc.inference_pb2 import (
    ModelReadyRequest,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerMetadataRequest,
    ServerReadyRequest,
    ServerReadyResponse,
)
from tests.helpers.grpc_serving import GrpcServer, of_files, serving_grpc
from tests.helpers.service_fixtures import picture

ASKED = of_files("tiny", picture(1))
LINES = {"alice": "", "metrics": " scopes=metrics", "slow": " rate=0.01/s"}


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


def write_keys(folder: Path) -> Path:
    """A file of keys that are their own names."""
    file = folder / "keys.txt"
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in LINES}
    file.write_text("".join(f"{digests[name]} {name}{told}\n" for name, told in LINES.items()))
    return file


@pytest.fixture(scope="module")
def guarded(
    bundles: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GrpcServer]:
    """A server with keys that are their own names."""
    keys = write_keys(tmp_path_factory.mktemp("keys"))
    with serving_grpc(bundles, keys_file=keys) as running:
        yield running


@pytest.mark.parametrize("metadata", [(), bearer("bob"), bearer("alice") * 2], ids=str)
@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("ModelInfer", ASKED),
        ("ModelReady", ModelReadyRequest(name="tiny")),
        ("ServerMetadata", ServerMetadataRequest()),
        ("RepositoryIndex", b""),
    ],
)
def test_stranger_is_not_let_in(
    guarded: GrpcServer, metadata: tuple[tuple[str, str], ...], method: str, message: object
) -> None:
    """Without a key, with an unknown one and with two: one sentence, and it is counted."""
    before = guarded.metric("liere_unauthorized_total")
    error = guarded.refusal(message, method, metadata=metadata)
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert error.details().startswith("expected Authorization: Bearer KEY")
    assert guarded.metric("liere_unauthorized_total") == before + 1


def test_whom_a_key_keeps_out_is_counted_with_the_requests(bundles: Path, tmp_path: Path) -> None:
    """As over HTTP: denied, under the status that it has there."""
    with serving_grpc(bundles, keys_file=write_keys(tmp_path)) as server:
        assert server.infer(ASKED, metadata=bearer("slow")).outputs
        for metadata in ((), bearer("metrics"), bearer("slow")):
            server.refusal(ASKED, metadata=metadata)
        assert server.counted() == {
            ("image", code, "denied"): 1 for code in ("401", "403", "429")
        }


def test_key_lets_in_and_is_named_in_the_log(
    guarded: GrpcServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The access line has its name, and never the key."""
    with caplog.at_level("INFO", "service.access"):
        assert guarded.infer(ASKED, metadata=bearer("alice")).outputs
    (line,) = [vars(one)["fields"] for one in caplog.records if one.name == "service.access"]
    assert line["key"] == "alice"


def test_key_without_the_scope_is_refused(guarded: GrpcServer) -> None:
    """The protocol wants the scope that it wants over HTTP."""
    error = guarded.refusal(ASKED, metadata=bearer("metrics"))
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED
    assert error.details().startswith("expected a key with the scope classify")


def test_rate_of_a_key_is_one_for_both_ways_in(guarded: GrpcServer) -> None:
    """What HTTP has taken of it is not there for gRPC."""
    told = {"Authorization": "Bearer slow"}
    assert guarded.classify(content=picture(1), headers=told).status_code == 200
    error = guarded.refusal(ASKED, metadata=bearer("slow"))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(error.trailing_metadata())["retry-after"]) > 50


def test_probes_need_no_key(guarded: GrpcServer) -> None:
    """Whether it is well is all that they tell."""
    assert guarded.call("ServerLive", ServerLiveRequest(), ServerLiveResponse).live
    assert guarded.call("ServerReady", ServerReadyRequest(), ServerReadyResponse).ready
