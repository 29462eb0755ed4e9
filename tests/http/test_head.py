"""HEAD wherever GET is: the same rights and the same head, and never a body."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from service.http.guard import WORK
from tests.helpers.service_fixtures import (
    RawConnection,
    RunningServer,
    picture,
    serving,
    write_tiny_bundle,
)

KEY = secrets.token_urlsafe(32)
BEARER = {"Authorization": f"Bearer {KEY}"}
READ = (
    "/health/live", "/health/ready", "/health/startup", "/metrics", "/v1/bundles", "/openapi.json",
    "/", "/docs", "/v2", "/v2/health/live", "/v2/health/ready", "/v1/bundles/tiny/card",
)  # fmt: skip
#: What may differ between two answers to one question.
CHANGING = ("date", "x-request-id")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a tiny bundle that wants a key."""
    root = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(root)
    with serving(root, key_sha256=(sha256(KEY.encode()).hexdigest(),)) as running:
        yield running


def test_head_from_a_report_is_answered(server: RunningServer, field_dir: Path) -> None:
    """HEAD /health/ready without a key is 200 without a body, and the connection ends."""
    with RawConnection(server.port) as connection:
        connection.send((field_dir / "http_head_ready.http").read_bytes())
        head = connection.socket.makefile("rb").read()
    assert head.startswith(b"HTTP/1.1 200")
    assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("path", [*READ, "/page/1/page.css", "/page/1/nothing", "/nothing/here"])
@pytest.mark.parametrize("headers", [BEARER, {}], ids=["key", "no key"])
def test_head_is_get_without_its_body(
    server: RunningServer, path: str, headers: dict[str, str]
) -> None:
    """Status and headers are those of GET, the length of the body included."""
    get = server.get(path, headers=headers)
    head = server.request("HEAD", path, headers=headers)
    assert head.status_code == get.status_code
    assert head.content == b""
    told = [{k: v for k, v in one.headers.items() if k not in CHANGING} for one in (get, head)]
    if path == "/metrics" and headers:  # its body changes with every request
        assert all(int(one.pop("content-length")) > 1000 for one in told)
    assert told[0] == told[1]
    assert get.status_code == 404 or "content-length" in head.headers


def test_connection_stays_sound_after_head(server: RunningServer) -> None:
    """The next request on the connection gets its own answer, also after a refused HEAD."""
    with RawConnection(server.port) as connection:
        for path in ("/health/live", "/nothing", "/v1/classify/image"):
            connection.send(f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.send("GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            stream = connection.socket.makefile("rb")
            while stream.readline().strip():
                pass
            assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
            while stream.readline().strip():
                pass
            assert json.loads(stream.read(len(b'{"status":"live"}'))) == {"status": "live"}


@pytest.mark.parametrize("path", WORK)
def test_head_where_only_post_is_stays_405(server: RunningServer, path: str) -> None:
    """With the method that is wanted, without a body, and without a permit."""
    head = server.request("HEAD", path, headers=BEARER)
    assert (head.status_code, head.headers["allow"]) == (405, "POST")
    assert head.content == b""
    assert server.request("HEAD", path).status_code == 401


@pytest.mark.parametrize("path", READ)
def test_allow_names_head_where_get_is(server: RunningServer, path: str) -> None:
    """A wrong method is told both."""
    response = server.request("DELETE", path, headers=BEARER)
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
    assert response.json()["detail"] == "expected GET, HEAD"


def test_head_of_a_server_that_is_not_ready_is_503(tmp_path: Path) -> None:
    """A probe by HEAD sees what a probe by GET sees; /metrics is open to both or to neither."""
    write_tiny_bundle(tmp_path)
    digest = sha256(KEY.encode()).hexdigest()
    with serving(tmp_path, key_sha256=(digest,), open_metrics=True) as server:
        assert server.request("HEAD", "/metrics").status_code == 200
        server.engine.draining = True
        assert server.request("HEAD", "/health/ready").status_code == 503
        assert server.request("HEAD", "/health/live").status_code == 200
        assert server.classify(content=picture()).status_code == 401
