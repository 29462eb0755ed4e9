"""Who may ask: keys are asked for before anything is read, and never told to anyone."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import re
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st

from service.cli import new_key
from service.engine.engine import Engine
from service.http.guard import PUBLIC, WORK, Guard
from service.http.key_lines import Key
from service.http.keys import MAX_FILE_BYTES, MAX_KEY_BYTES, Keys, read_keys
from service.http.problems import Unauthorized
from service.http.protocol import MAX_HEAD_BYTES, HttpProtocol
from service.http.server import check_reach, find_address
from service.settings import SettingsError, make_settings, read_settings
from tests.helpers.service_fixtures import (
    RawConnection,
    RunningServer,
    TinySession,
    access_lines,
    complaint,
    picture,
    run,
    running,
    serving,
    wait_until,
)

GOOD = picture(1)
KEY, OTHER_KEY = "an-example-key-of-43-characters-0123456789a", secrets.token_urlsafe(32)
LINE = f"{hashlib.sha256(KEY.encode()).hexdigest()} laptop"
BEARER = {"Authorization": f"Bearer {KEY}"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")


def sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def name_of(keys: Keys, key: str) -> str:
    return keys.find([f"Bearer {key}".encode()]).key.name


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keys file with one key that has a name."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"# who may ask\n\n{LINE}  # since today\n")
    return path


@pytest.fixture(scope="module")
def server(bundles: Path, keys_file: Path) -> Iterator[RunningServer]:
    """A server that wants one of two keys: a named one, and one without a name."""
    with serving(bundles, keys_file=keys_file, key_sha256=(sha256(OTHER_KEY),)) as running_server:
        yield running_server


def check_refusal(response: httpx.Response) -> None:
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["content-type"] == "application/problem+json"
    if response.request.method != "HEAD":
        problem = response.json()
        assert (problem["type"], problem["status"]) == ("/problems/unauthorized", 401)
        assert problem["id"] == response.headers["x-request-id"]


# --- what needs a key ------------------------------------------------------------------------


def all_paths(server: RunningServer) -> set[str]:
    """Every address of the application, the framework's own too, and one that there is not."""
    paths = {getattr(route, "path", "") for route in server.app.routes}
    assert paths >= {"/docs", "/openapi.json", "/metrics", "/v1/bundles", *WORK}
    files = {"/page/{version}/{name}"}  # of the page, open to read: test_page_files.py
    return paths - files | {"/nothing/here", "/v1/classify/image/", "/page", "/page{version}"}


@pytest.mark.parametrize("method", METHODS)
def test_everything_but_health_and_pages_needs_a_key(server: RunningServer, method: str) -> None:
    """Every route with every method, and what is no route, is 401 without a key and not with it."""
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for path in sorted(all_paths(server)):
            without = client.request(method, path)
            if (method, path) in PUBLIC:
                assert without.status_code == 200
            else:
                check_refusal(without)
            assert client.request(method, path, headers=BEARER).status_code != 401


def test_keys_open_the_work(server: RunningServer) -> None:
    """With either of the two keys a picture is classified; the scheme may be in any case."""
    for authorization in (f"Bearer {KEY}", f"bearer {KEY}", f"BEARER  {OTHER_KEY}"):
        headers = {"Authorization": authorization}
        assert server.classify(content=GOOD, headers=headers).status_code == 200


UNFIT: dict[str, list[bytes]] = {
    "none": [],
    "empty": [b""],
    "scheme alone": [b"Bearer"],
    "scheme and a space": [b"Bearer "],
    "key alone": [KEY.encode()],
    "another scheme": [b"Basic " + KEY.encode()],
    "a longer scheme": [b"BearerX " + KEY.encode()],
    "a tab for the space": [b"Bearer\t" + KEY.encode()],
    "another key": [b"Bearer " + secrets.token_urlsafe(32).encode()],
    "key in capitals": [b"Bearer " + KEY.upper().encode()],
    "key cut off": [b"Bearer " + KEY[:-1].encode()],
    "key with an end": [b"Bearer " + KEY.encode() + b"x"],
    "its digest": [b"Bearer " + sha256(KEY).encode()],
    "its name": [b"Bearer laptop"],
    "twice": [b"Bearer " + KEY.encode()] * 2,
    "right and wrong": [b"Bearer " + KEY.encode(), b"Bearer no"],
    "wrong and right": [b"Basic no", b"Bearer " + KEY.encode()],
    "two in one": [b"Bearer no, Bearer " + KEY.encode()],
    "not ASCII": [b"Bearer " + bytes(range(0x80, 0x100))],
    "not UTF-8": [b"\xff\xfe " + KEY.encode()],
    "huge": [b"Bearer " + b"x" * (MAX_HEAD_BYTES - 500)],
    "huge scheme": [b"x" * (MAX_HEAD_BYTES - 500)],
    "a little too long": [b"Bearer " + b"x" * (MAX_KEY_BYTES + 1)],
}


@pytest.mark.parametrize("values", UNFIT.values(), ids=UNFIT.keys())
def test_unfit_authorization_is_refused(server: RunningServer, values: list[bytes]) -> None:
    """Whatever is not exactly one right key is the same 401, never a 500, and harms nobody."""
    with RawConnection(server.port) as connection:
        lines = b"".join(b"Authorization: " + value + b"\r\n" for value in values)
        connection.send(b"GET /v1/bundles HTTP/1.1\r\nHost: test\r\n" + lines + b"\r\n")
        status, headers, body = connection.answer()
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert json.loads(body)["detail"].startswith("expected Authorization: Bearer KEY")
    assert server.get("/v1/bundles", headers=BEARER).status_code == 200


HOSTS = (
    "127.0.0.1", "localhost", "localhost:8000", "[::1]", "0.0.0.0", "example.com", "test",
    "health", "/health/live", "example.com/health/live", "a@b", "*", "..", "%2e", "'", '"',
    "metrics", "127.0.0.1:1", "xn--a", "x" * 300,
)  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_forged_host_opens_nothing(server: RunningServer, host: str) -> None:
    """The decision does not look at the Host header, nor at forwarded ones."""
    forged = {"Host": host, "X-Forwarded-For": "127.0.0.1", "X-Original-URL": "/health/live"}
    assert server.get("/v1/bundles", headers=forged).status_code == 401


TARGETS = (
    "//health/live", "/health//live", "/health/live/", "/health/live/.", "/./health/live",
    "/health/live/../../v1/bundles", "/health/%2e%2e/v1/bundles", "/health/..%2fv1/bundles",
    "/health/live%0a", "/health/live%00", "/health/live%20", "/health/live;/v1/bundles",
    "/HEALTH/LIVE", "/v1%2fbundles", "/v1/bundles?/health/live", "/v1/bundles?path=/health/live",
    "/v1/bundles%0a", "/metrics?x", "/docs/", "/%6detrics", "//v1/bundles",
    "http://test/v1/bundles", "http://health/live", "http://a@b/metrics",
    "https://test/openapi.json", "/page", "/page/../v1/bundles?", "/pages/1/page.css",
    "/page/1/page.css/", "/page/1/%2e%2e", "/page/1/..%2fdocs", "/docs/oauth2-redirect",
    "/%68ealth/live/%2e%2e/%2e%2e/metrics", "/health/live%2f..%2f..%2fmetrics",
)  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_strange_paths_open_nothing(server: RunningServer, method: str, target: str) -> None:
    """No way of writing an address leads past the guard: 401, or 400 from the parser."""
    with RawConnection(server.port) as connection:
        connection.send(f"{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")
        status, _, _ = connection.answer()
        assert status in (400, 401)


def test_health_in_disguise_is_only_health(server: RunningServer) -> None:
    """Other ways to write the public addresses that are let in tell nothing but health."""
    for target in ("http://test/health/live", "/%68ealth/live", "/health/live?x=/metrics"):
        with RawConnection(server.port) as connection:
            connection.send(f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")
            assert connection.answer()[::2] == (200, b'{"status":"live"}')


@pytest.mark.parametrize("line", ["CONNECT test:80", "OPTIONS *", "CONNECT /v1/bundles", "GET ../"])
def test_requests_without_a_path_open_nothing(server: RunningServer, line: str) -> None:
    """What names no address of ours is refused by the parser or by the guard."""
    with RawConnection(server.port) as connection:
        connection.send(f"{line} HTTP/1.1\r\nHost: test\r\n\r\n")
        assert connection.answer()[0] in (400, 401)


def test_what_is_no_http_never_passes_the_guard(bundles: Path) -> None:
    """A connection of another kind, should a server ever offer one, fails closed."""
    passed = []

    async def app(*arguments: object) -> None:
        passed.append(arguments)

    async def channel(*_: object) -> Any:
        raise AssertionError("nothing is read or written")

    settings = make_settings(bundles=bundles, key_sha256=(sha256(KEY),))
    guard = Guard(app, Engine(settings), read_keys(settings))
    scope = {"type": "websocket", "path": "/health/live", "headers": []}
    with pytest.raises(KeyError):
        asyncio.run(guard(scope, channel, channel))
    assert passed == []


def test_open_metrics_opens_metrics_alone(bundles: Path) -> None:
    """With the setting a scraper without a key may GET /metrics, and nothing else."""
    with serving(bundles, key_sha256=(sha256(KEY),), open_metrics=True) as server:
        assert server.get("/metrics").status_code == 200
        assert server.request("POST", "/metrics").status_code == 401
        assert server.get("/metrics/").status_code == 401
        assert server.get("/v1/bundles").status_code == 401


def test_without_keys_nobody_is_asked_for_one(bundles: Path) -> None:
    """On loopback without keys everything answers, whatever Authorization says."""
    with serving(bundles) as server:
        assert server.get("/v1/bundles", headers={"Authorization": "Basic x"}).status_code == 200
        assert "security" not in server.get("/openapi.json").json()


# --- before anything is read -----------------------------------------------------------------


def test_key_is_asked_for_before_everything_else(bundles: Path) -> None:
    """With all permits taken, a compressed body and a server that ends: still 401."""
    session = TinySession()
    digests = (sha256(KEY),)
    with serving(bundles, lambda *_: session, max_in_flight=1, key_sha256=digests) as server:
        session.gate.clear()
        with RawConnection(server.port) as inside:
            inside.send_head(f"Content-Length: {len(GOOD)}", f"Authorization: Bearer {KEY}")
            inside.send(GOOD)
            wait_until(lambda: server.engine.admission.requests == 1, "the request to enter")
            check_refusal(server.classify(content=GOOD))
            check_refusal(server.classify(content=GOOD, headers={"Content-Encoding": "gzip"}))
            assert server.classify(content=GOOD, headers=BEARER).status_code == 429
            server.engine.draining = True
            check_refusal(server.classify(content=GOOD))
            session.gate.set()
            assert inside.answer()[0] == 200


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what the server's sockets took, in order."""
    sizes: list[int] = []
    take = HttpProtocol.data_received

    def counting(self: HttpProtocol, data: bytes) -> None:
        sizes.append(len(data))
        take(self, data)

    monkeypatch.setattr(HttpProtocol, "data_received", counting)
    return sizes


def push(connection: RawConnection, total: int, frame: bool) -> int:
    """Send ``total`` bytes of a body for as long as the other side takes any; how many it was."""
    piece, sent = bytes(2**16), 0
    framed = f"{len(piece):x}\r\n".encode() + piece + b"\r\n" if frame else piece
    with contextlib.suppress(ConnectionError):
        while sent < total:
            connection.send(framed)
            sent += len(piece)
    return sent


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_upload_without_a_key_costs_nothing(
    server: RunningServer, seen: list[int], caplog: pytest.LogCaptureFixture, chunked: bool
) -> None:
    """Of 100 MB from a stranger the application reads nothing and the socket a buffer or two."""
    size = 100_000_000
    body = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    with (
        caplog.at_level(logging.INFO, "service.access"),
        RawConnection(server.port) as connection,
    ):
        connection.send_head(body)
        assert push(connection, size, chunked) < size / 4  # the rest is what kernels buffer
        status, headers, _ = connection.answer()
        assert (status, headers["connection"]) == (401, "close")
        (line,) = access_lines(caplog, headers["x-request-id"])
    assert (line["status"], line["bytes"]) == (401, 0)
    assert sum(seen) < 2**20
    assert server.engine.admission.bytes == server.engine.admission.requests == 0
    assert server.classify(content=GOOD, headers=BEARER).status_code == 200


def test_small_upload_without_a_key_keeps_its_connection(server: RunningServer) -> None:
    """A small refused body is read away, so the client can go on with its key."""
    with RawConnection(server.port) as connection:
        connection.send_head(f"Content-Length: {len(GOOD)}")
        connection.send(GOOD)
        assert connection.answer()[0] == 401
        connection.send_head(f"Content-Length: {len(GOOD)}", f"Authorization: Bearer {KEY}")
        connection.send(GOOD)
        assert connection.answer()[0] == 200


def test_stranger_that_waits_for_100_is_refused_without_a_body(server: RunningServer) -> None:
    """``Expect: 100-continue`` without a key gets the refusal, never the go-ahead."""
    for size in (1000, 10**8):
        with RawConnection(server.port) as connection:
            connection.send_head(f"Content-Length: {size}", "Expect: 100-continue")
            assert connection.answer()[0] == 401


def test_refused_requests_are_counted(server: RunningServer) -> None:
    """Strangers show in the metrics: at work by their code, everywhere in one counter."""
    work = {"modality": "image", "code": "401"}
    at_work = server.metric("liere_requests_total", **work)
    everywhere = server.metric("liere_unauthorized_total")
    server.classify(content=GOOD)
    server.get("/nothing/here")
    assert server.metric("liere_requests_total", **work) == at_work + 1
    assert server.metric("liere_unauthorized_total") == everywhere + 2


# --- nobody is told --------------------------------------------------------------------------


def test_keys_are_told_to_nobody(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    """Neither right nor wrong keys stand in logs, answers or metrics; the key's name is logged."""
    wrong = secrets.token_urlsafe(32)
    with caplog.at_level(logging.DEBUG):
        told, ids = [], []
        for key in (KEY, OTHER_KEY, wrong):
            for path in ("/v1/bundles", "/nothing", "/openapi.json", "/metrics"):
                answer = server.get(path, headers={"Authorization": f"Bearer {key}"})
                told += [answer.text, str(answer.headers)]
                ids.append(answer.headers["x-request-id"])
        names = [line["key"] for line in access_lines(caplog, *ids)]
    told += [record.getMessage() + str(vars(record)) for record in caplog.records]
    mentioned = [one for one in told for key in (KEY, OTHER_KEY, wrong) if key in one]
    assert mentioned == []
    assert names == ["laptop"] * 4 + [sha256(OTHER_KEY)[:8]] * 4 + [None] * 4


def test_settings_do_not_show_digests() -> None:
    """The repr of the settings, which may land in a log, holds no digest."""
    settings = make_settings(key_sha256=(sha256(KEY),))
    assert sha256(KEY) not in repr(settings) + str(settings)


def test_every_known_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right or wrong, first or last: the same comparisons, so time tells nothing."""
    count = 0
    compare = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        nonlocal count
        count += 1
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    known = [f"key-{number}" for number in range(5)]
    keys = Keys([Key.parse(f"{sha256(key)} {key}") for key in known])
    for key in (*known, "none"):
        count = 0
        with contextlib.suppress(Unauthorized):
            assert name_of(keys, key) == key
        assert count == len(known)


# --- the keys file ---------------------------------------------------------------------------


def read(path: Path, text: str | bytes) -> Keys:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_keys(make_settings(keys_file=path))


def test_keys_file_may_have_comments_names_and_any_line_ends(tmp_path: Path) -> None:
    """What an editor, ``sha256sum`` or a secret store writes is read."""
    digests = [sha256(str(number)) for number in range(4)]
    text = (
        f"\ufeff# keys of größter Wichtigkeit\r\n\r\n{digests[0]}\r\n  {digests[1]}  a.b@c-d_1 \n"
        f"{digests[2]}  -\n\t# {digests[3]}\n{digests[3]} # comment"
    )
    keys = read(tmp_path / "keys", text)
    names = [name_of(keys, str(number)) for number in range(4)]
    assert names == [digests[0][:8], "a.b@c-d_1", "-", digests[3][:8]]


MALFORMED = {
    "a key": (KEY, "line 1: expected a SHA-256"),
    "capitals": (f"# x\n{sha256(KEY).upper()}", "line 2: expected a SHA-256"),
    "too short": (f"{LINE}\n\n{sha256('2')[1:]} n", "line 3: expected a SHA-256"),
    "too long": (f"{sha256('2')}0 n", "line 1: expected a SHA-256"),
    "two names": (f"{LINE} computer", "line 1: expected at most one name"),
    "strange name": (f"{sha256('2')} a\x1b[2Jb", "line 1: expected at most one name"),
    "long name": (f"{sha256('2')} {'n' * 65}", "line 1: expected at most one name"),
    "name at the end": (f"{sha256('2')} rate=1/s n", "line 1: expected at most one name"),
    "unknown option": (f"{LINE} nnnn=1", "line 1: expected each of scopes=, rate=, concurrency="),
    "option twice": (f"{LINE} rate=1/s rate=1/s", "line 1: expected each of scopes="),
    "no scope": (f"{LINE} scopes=", "line 1: expected scopes= and some of classify,metrics,admin"),
    "unknown scope": (f"{LINE} scopes=classify,nnnn", "line 1: expected scopes= and some of"),
    "space between scopes": (f"{LINE} scopes=classify, admin", "line 1: expected at most one name"),
    "rate of none": (f"{LINE} rate=0.000/s", "line 1: expected rate=N/s with N requests a second"),
    "rate a minute": (f"{LINE} rate=60/m", "line 1: expected rate=N/s"),
    "rate that is none": (f"{LINE} rate=nan/s", "line 1: expected rate=N/s"),
    "rate in other digits": (f"{LINE} rate=٣/s", "line 1: expected rate=N/s"),
    "concurrency of none": (f"{LINE} concurrency=0", "line 1: expected concurrency=N with N"),
    "concurrency of a half": (f"{LINE} concurrency=0.5", "line 1: expected concurrency=N"),
    "twice": (f"{LINE}\n{sha256('2')}\n{LINE} ", "line 3: the same SHA-256 as in 1"),
    "binary": (bytes(range(256)), "expected a SHA-256"),
    "other digits": ("٠" * 64, "line 1: expected a SHA-256"),
    "nothing": ("", "expected a key, found none"),
    "comments alone": ("# one\n\n", "expected a key, found none"),
    "too much": ("#" * (MAX_FILE_BYTES + 1), "expected at most 65536 bytes"),
}


@pytest.mark.parametrize(("text", "words"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_keys_file_names_the_line_alone(
    tmp_path: Path, text: str | bytes, words: str
) -> None:
    """The mistake is told by its line, and nothing of what stands there."""
    with pytest.raises(SettingsError) as told:
        read(tmp_path / "keys", text)
    message = str(told.value)
    assert message.startswith(f"keys_file {tmp_path / 'keys'}: ")
    assert words in message
    assert not re.search(r"[0-9a-f]{16}|nnnn|laptop", message.replace(str(tmp_path), ""))


@given(st.text(max_size=200))
def test_no_text_is_more_than_keys_or_an_error(text: str) -> None:
    """Whatever stands in a line, it is a key or a ValueError."""
    try:
        key = Key.parse(text)
    except ValueError:
        return
    assert len(key.digest) == 32


@pytest.mark.parametrize(
    "given_digests", ["", ",", KEY, f"{sha256(KEY)},{KEY}", sha256(KEY).upper()]
)
def test_malformed_digest_is_named_by_its_place(
    monkeypatch: pytest.MonkeyPatch, given_digests: str
) -> None:
    """A key in place of its digest is an error that does not repeat it; so is an empty setting."""
    monkeypatch.setenv("LIERE_KEY_SHA256", given_digests)
    with pytest.raises(SettingsError, match="^key_sha256: entry [12]: expected a SHA-256") as told:
        read_keys(read_settings([]))
    assert KEY not in str(told.value)


def test_several_digests_may_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """By commas or spaces in the variable, by commas or repeated as a flag."""
    digests = (sha256("1"), sha256("2"))
    monkeypatch.setenv("LIERE_KEY_SHA256", " ".join(digests))
    assert read_settings([]).key_sha256 == digests
    assert read_settings(["--key-sha256", ",".join(digests)]).key_sha256 == digests
    repeated = [word for one in digests for word in ("--key-sha256", one)]
    assert read_settings(repeated).key_sha256 == digests


def test_new_key_is_fresh_and_its_line_opens_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs give two keys of 256 bits, and each line is the one of its key."""
    keys = []
    for arguments, name in ((["laptop"], "laptop"), ([], None)):
        assert new_key.main(arguments) == 0
        shown = capsys.readouterr().out
        match = re.fullmatch(r"key:  ([A-Za-z0-9_-]{43})\nline: (.*)\n", shown)
        assert match is not None
        key, line = match.groups()
        known = read(tmp_path / "keys", line)
        assert name_of(known, key) == (name or sha256(key)[:8])
        keys.append(key)
    assert keys[0] != keys[1]


# --- OpenAPI ---------------------------------------------------------------------------------


def test_openapi_says_what_wants_a_key(server: RunningServer) -> None:
    """The scheme is declared; every operation wants it and shows its 401, 403 and 429, but for
    health.
    """
    document = server.get("/openapi.json", headers=BEARER).json()
    schemes = document["components"]["securitySchemes"]
    assert schemes == {"bearer": {"type": "http", "scheme": "bearer"}}
    assert document["security"] == [{"bearer": []}]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if (method.upper(), path) in PUBLIC:
                assert operation["security"] == []
                assert "401" not in operation["responses"]
            else:
                assert "security" not in operation
                shown = operation["responses"]["401"]["content"]["application/problem+json"]
                real = server.request(method.upper(), path).json()
                example = shown["examples"]["unauthorized"]["value"]
                assert example | {"id": ""} == real | {"id": ""}
                for status, name in (("403", "forbidden"), ("429", "key-limited")):
                    known = operation["responses"][status]["content"]["application/problem+json"]
                    assert name in known["examples"]
    work = document["paths"]["/v1/classify/image"]["post"]["responses"]["429"]
    assert set(work["content"]["application/problem+json"]["examples"]) == {
        "overloaded",
        "key-limited",
    }


def test_every_documented_route_is_under_test(server: RunningServer) -> None:
    """The walk over the routes meets those that clients see."""
    documented = {route.path for route in server.app.routes if isinstance(route, APIRoute)}
    assert documented <= all_paths(server)


# --- where a server without keys may listen --------------------------------------------------


def reach(host: str, **settings: Any) -> None:
    chosen = make_settings(host=host, **settings)
    check_reach(chosen, find_address(chosen))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.8.7", "127.1", "::1", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    """Only this machine reaches these, so nobody has to be told."""
    reach(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0", "192.0.2.1", "2001:db8::1", "128.0.0.1"])
def test_other_addresses_need_keys_or_a_word(host: str) -> None:
    """Without keys they are refused with both ways out; keys or --open let them be bound."""
    with pytest.raises(SettingsError, match=r"--keys-file .*new-key.* --open"):
        reach(host)
    reach(host, open=True)
    reach(host, key_sha256=(sha256(KEY),))
    reach(host, keys_file=Path("keys"))


def test_server_for_everyone_ends_with_a_sentence(bundles: Path) -> None:
    """--host 0.0.0.0 alone is a wrong command: exit 2 before anything is bound."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line = complaint(run("--bundles", bundles, "--host", "0.0.0.0", "--port", str(port)), 2)
    assert "--keys-file" in line
    assert "--open" in line


@pytest.mark.parametrize("how", ["keys", "open"])
def test_server_for_everyone_runs_when_it_was_meant(
    bundles: Path, keys_file: Path, tmp_path: Path, how: str
) -> None:
    """With keys strangers get 401; with --open everyone is served, and the log says so."""
    log = tmp_path / "stderr"
    keys = {"LIERE_KEYS_FILE": str(keys_file)} if how == "keys" else {"LIERE_OPEN": "true"}
    with (
        log.open("w") as stderr,
        running(bundles, "--host", "0.0.0.0", stderr=stderr, **keys) as (_, port, lines),
    ):
        url = f"http://127.0.0.1:{port}/v1/classify/image"
        assert lines[1].endswith(f" -F file=@photo.jpg {url}\n")
        assert ('-H "Authorization: Bearer $KEY"' in lines[1]) == (how == "keys")
        assert httpx.post(url, content=GOOD).status_code == (401 if how == "keys" else 200)
        assert httpx.post(url, content=GOOD, headers=BEARER).status_code == 200
    assert ("whoever reaches 0.0.0.0 is served" in log.read_text()) == (how == "open")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"# one\n{KEY}\n", "line 2: expected a SHA-256"),
        ("", "expected a key, found none"),
        (None, "it cannot be read: No such file or directory"),
    ],
    ids=["malformed", "empty", "missing"],
)
def test_bad_keys_file_ends_the_command(
    bundles: Path, tmp_path: Path, content: str | None, words: str
) -> None:
    """A file that holds no keys never becomes a server without keys."""
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    line = complaint(run("--bundles", bundles, "--port", "0", "--keys-file", path), 2)
    assert words in line
    assert KEY not in line


def test_key_in_place_of_its_digest_ends_the_command(bundles: Path) -> None:
    """It is not repeated on the terminal either."""
    done = run("--bundles", bundles, "--port", "0", "--key-sha256", KEY)
    line = complaint(done, 2)
    assert "key_sha256: entry 1: expected a SHA-256" in line
    assert KEY not in line
