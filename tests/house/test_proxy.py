"""deploy/nginx: Debian's nginx speaks TLS, and agrees with the server about its bounds."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from media.spec import AXES
from service.http.problems import PROBLEMS
from service.http.protocol import MAX_HEAD_BYTES
from service.settings import MIB, make_settings
from tests.helpers.effort import alone
from tests.helpers.programs import tool
from tests.helpers.service_fixtures import (
    RunningServer,
    TinySession,
    picture,
    read_answer,
    serving,
    wait_until,
    write_tiny_bundle,
)
from tests.helpers.watching import DEPLOY, Proxy, proxy

pytestmark = alone

TEXT = (DEPLOY / "nginx" / "nginx.conf").read_text(encoding="utf-8")
IMAGE = "/v1/classify/image"
#: What is said of the bodies of jobs alone.
OF_JOBS = TEXT[TEXT.index("location = /v1/jobs {") :].partition("}")[0]
GOOD = picture()


class Front(NamedTuple):
    """A server, its only session, and the proxy before it."""

    server: RunningServer
    session: TinySession
    proxy: Proxy


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    tool("nginx")
    root, session = tmp_path_factory.mktemp("bundles"), TinySession()
    write_tiny_bundle(root)
    with ExitStack() as stack:
        jobs = tmp_path_factory.mktemp("jobs")
        server = stack.enter_context(serving(root, lambda *_: session, max_body_mib=1.0, jobs=jobs))
        stack.callback(session.gate.set)
        folder = tmp_path_factory.mktemp("nginx")
        yield Front(server, session, stack.enter_context(proxy(folder, server.url)))


def bound(name: str, text: str = TEXT.replace(OF_JOBS, "")) -> float:
    """A directive's number, in seconds, minutes or MiB."""
    (found,) = re.findall(rf"^ +{name} (\d+)[sm]?;", text, flags=re.M)
    return float(found)


def head(length: int, path: str = IMAGE) -> bytes:
    """Of a request with so many bytes of a body."""
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def body_of_problem(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    return found


def test_bounds_are_a_little_wider_than_those_of_the_server() -> None:
    """So that the server decides, and says why; but not so wide that nothing is bounded."""
    limits = [make_settings().limits(modality) for modality in AXES]
    assert bound("client_max_body_size") == max(one.body_bytes for one in limits) / MIB
    for directive in ("client_body_timeout", "proxy_send_timeout"):
        assert 0 < bound(directive) - max(one.upload_seconds for one in limits) <= 10
    assert 0 < bound("proxy_read_timeout") - max(one.deadline_seconds for one in limits) <= 10
    assert bound("client_header_timeout") == make_settings().head_seconds
    ((count, size),) = re.findall(r"large_client_header_buffers (\d+) (\d+)k;", TEXT)
    assert int(count) * int(size) * 1024 == MAX_HEAD_BYTES


def test_nginx_accepts_the_configuration(front: Front) -> None:
    """``nginx -t`` finds no fault and gives no warning."""
    done = subprocess.run([*front.proxy.words, "-t"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if re.search(r"\[(warn|alert)\]", line)]
    assert [line for line in told if "open file resource limit" not in line] == []  # the host's own


def test_picture_is_answered_through_tls(front: Front) -> None:
    """The answer is the server's own, headers too, and a form passes as well."""
    picked = {"X-Request-ID": "mine"}
    answer = front.proxy.post(IMAGE, content=GOOD, headers=picked)
    plain = front.server.classify(content=GOOD)
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "mine"
    assert answer.json()["results"][0]["predictions"] == plain.json()["results"][0]["predictions"]
    assert front.proxy.post(IMAGE, files={"file": ("a.png", GOOD)}).status_code == 200


def test_only_newer_tls_and_http_2_are_spoken(front: Front) -> None:
    """TLS 1.1 is refused; a browser gets HTTP/2; plain HTTP gets no answer of the server's."""
    trust = front.proxy.trust
    trust.set_alpn_protocols(["h2", "http/1.1"])
    with front.proxy.connect(trust) as wrapped:
        assert wrapped.selected_alpn_protocol() == "h2"
        assert wrapped.version() == "TLSv1.3"
    assert re.search(r"^ +ssl_protocols TLSv1\.2 TLSv1\.3;$", TEXT, flags=re.M)
    answer = httpx.get(front.proxy.url.replace("https", "http") + "/health/ready", verify=False)
    assert answer.status_code == 400


def test_problems_of_the_server_pass(front: Front) -> None:
    """Too large for the server and not for the proxy: the server's words, before the body came."""
    answer = front.proxy.post(IMAGE, content=bytes(2 * MIB))
    assert answer.status_code == 413
    assert "257 MiB" not in body_of_problem(answer)["detail"]
    assert front.proxy.post(IMAGE, content=b"no picture").status_code == 415


def test_body_that_no_bound_allows_is_a_problem_too(front: Front) -> None:
    """Refused by the proxy, by the head alone, in the form of the server's own problems."""
    with front.proxy.connect() as wrapped:
        wrapped.sendall(head(300 * MIB))
        status, headers, body = read_answer(wrapped.makefile("rb"))
    assert (status, headers["content-type"]) == (413, "application/problem+json")
    told = json.loads(body)
    assert told["type"] == "/problems/body-too-large"
    assert told["error"] == told["detail"]  # which clients of /v2 read


def test_body_of_a_job_may_be_as_large_as_the_server_allows(front: Front) -> None:
    """Above the bound of all else the server begins to read it, for as long as it comes."""
    with front.proxy.connect() as wrapped:
        wrapped.sendall(head(300 * MIB, "/v1/jobs") + bytes(2 * MIB))
        spool = front.server.engine.settings.jobs / "incoming"
        wait_until(lambda: list(spool.rglob("file-1")), "the server to take it")
    assert bound("client_max_body_size", OF_JOBS) == 0
    for name in ("client_body_timeout", "proxy_send_timeout", "proxy_read_timeout"):
        assert 60 * bound(name, OF_JOBS) > bound(name)


def test_metrics_stay_inside(front: Front) -> None:
    """They may be open on the network of compose: nobody outside reads them."""
    assert front.server.get("/metrics").status_code in {200, 401}
    answer = front.proxy.get("/metrics")
    assert answer.status_code == 404
    assert "liere_" not in answer.text


def test_problems_of_the_proxy_are_those_of_the_server() -> None:
    """Type, status and title are ones that the server gives too."""
    known = {(one.type, one.status, one.title) for one in PROBLEMS.values()}
    told = re.findall(r'"type": "([^"]+)", "title": "([^"]+)", "status": (\d+)', TEXT)
    assert len(told) == 3
    assert {(kind, int(status), title) for kind, title, status in told} <= known


def test_client_that_leaves_ends_its_work(front: Front) -> None:
    """Leaving the proxy is leaving the server."""
    left = {"modality": "image", "code": "499"}
    before = front.server.metric("liere_requests_total", **left)
    front.session.batches.clear()
    front.session.gate.clear()
    try:
        with front.proxy.connect() as wrapped:
            wrapped.sendall(head(len(GOOD)) + GOOD)
            wait_until(lambda: front.session.batches, "the batch to run")
        wait_until(
            lambda: front.server.metric("liere_requests_total", **left) > before, "the departure"
        )
    finally:
        front.session.gate.set()


def test_bodies_go_on_as_they_come(front: Front) -> None:
    """Half a body is at the server while the other half is still to come."""
    with front.proxy.connect() as wrapped:
        wrapped.sendall(head(len(GOOD)) + GOOD[:20])
        wait_until(lambda: front.server.engine.admission.requests == 1, "the server to see it")
        wrapped.sendall(GOOD[20:])
        assert read_answer(wrapped.makefile("rb"))[0] == 200


def test_server_that_is_not_there_is_not_ready(tmp_path: Path) -> None:
    """503 with a time to come back, as where it is there and not ready."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with proxy(tmp_path, f"http://127.0.0.1:{port}") as one:
        answer = one.get("/health/ready")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    told = body_of_problem(answer)
    assert told["type"] == "/problems/not-ready"
    assert told["error"] == told["detail"]  # which clients of /v2 read


def test_stranger_to_the_certificate_is_told(front: Front) -> None:
    """A client that trusts others alone does not go on."""
    with pytest.raises(httpx.ConnectError):
        httpx.get(front.proxy.url, verify=ssl.create_default_context())
