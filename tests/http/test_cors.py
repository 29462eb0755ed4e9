"""Pages in a browser: those of listed origins may ask and read, others learn nothing."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from service.settings import SettingsError, make_settings, read_settings
from tests.helpers.service_fixtures import RunningServer, picture, serving

KEY = secrets.token_urlsafe(32)
DIGEST = sha256(KEY.encode()).hexdigest()
BEARER = {"Authorization": f"Bearer {KEY}"}
LISTED, OTHER = "https://app.example", "https://evil.example"
ORIGINS = (LISTED, "http://localhost:3000")
ASKED = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,traceparent,"
    "x-request-id",
}
PATH = "/v1/classify/image"


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[RunningServer]:
    """A server that wants a key and lists two origins."""
    with serving(bundles, key_sha256=(DIGEST,), cors_origins=ORIGINS) as running:
        yield running


def granted(response: httpx.Response) -> dict[str, str]:
    """What the answer says of other origins."""
    return {k: v for k, v in response.headers.items() if k.startswith("access-control-")}


def split(text: str) -> set[str]:
    return {one.strip().lower() for one in text.split(",")}


@pytest.mark.parametrize("origin", ORIGINS)
def test_browser_may_ask_for_a_listed_origin_without_a_key(
    server: RunningServer, origin: str
) -> None:
    """The question before the request names the origin, the methods and the headers."""
    response = server.request("OPTIONS", PATH, headers={"Origin": origin, **ASKED})
    assert response.status_code == 200
    told = granted(response)
    assert told["access-control-allow-origin"] == origin
    assert split(told["access-control-allow-methods"]) == {"get", "head", "post", "delete"}
    assert split(told["access-control-allow-headers"]) >= split(
        ASKED["Access-Control-Request-Headers"]
    )
    assert "access-control-allow-credentials" not in told
    assert "origin" in split(response.headers["vary"])


@pytest.mark.parametrize(
    ("changed", "allowed"),
    [
        ({}, True),
        ({"Access-Control-Request-Private-Network": "true"}, True),
        ({"Access-Control-Request-Method": "DELETE"}, True),
        ({"Access-Control-Request-Method": "PUT"}, False),
        ({"Access-Control-Request-Headers": "x-other"}, False),
    ],
)
def test_browser_is_told_what_a_listed_page_may_ask(
    server: RunningServer, changed: dict[str, str], allowed: bool
) -> None:
    """Also of a server in a private network; other methods and headers are not among it."""
    asked = server.request("OPTIONS", PATH, headers={"Origin": LISTED, **ASKED, **changed})
    assert asked.status_code == (200 if allowed else 400)
    private = "access-control-allow-private-network" in granted(asked)
    assert private == ("Access-Control-Request-Private-Network" in changed)


def test_page_of_a_listed_origin_reads_answers_and_refusals(server: RunningServer) -> None:
    """Also what the guard refuses, and what there is not; the id of the request can be read."""
    for headers, path, status in (
        (BEARER, PATH, 200),
        ({}, PATH, 401),
        (BEARER, "/nothing", 404),
        (BEARER | {"Content-Encoding": "gzip"}, PATH, 415),
    ):
        response = server.classify(path, content=picture(), headers={"Origin": LISTED, **headers})
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == LISTED
        exposed = split(response.headers["access-control-expose-headers"])
        assert exposed >= {"x-request-id", "retry-after", "server-timing", "location"}
        assert "origin" in split(response.headers["vary"])


@pytest.mark.parametrize(
    "origin", [OTHER, "null", "", f"{LISTED}.evil", f"{LISTED}:8443", LISTED.upper(), "*"]
)
def test_other_origins_are_told_nothing(server: RunningServer, origin: str) -> None:
    """No header grants anything; the question is a request without a key like every other."""
    asked = server.request("OPTIONS", PATH, headers={"Origin": origin, **ASKED})
    assert asked.status_code == 401
    answered = server.classify(PATH, content=picture(), headers={"Origin": origin, **BEARER})
    assert answered.status_code == 200
    for response in (asked, answered):
        assert granted(response) == {}
        assert "origin" in split(response.headers["vary"])


def test_request_without_an_origin_is_granted_nothing(server: RunningServer) -> None:
    """Programs are no pages: nothing is said to them, but caches are told."""
    response = server.get("/v1/bundles", headers=BEARER)
    assert granted(response) == {}
    assert "origin" in split(response.headers["vary"])


def test_nothing_is_granted_unless_it_is_asked_for(bundles: Path) -> None:
    """By default no origin is listed, and OPTIONS is a wrong method."""
    with serving(bundles) as server:
        asked = server.request("OPTIONS", PATH, headers={"Origin": LISTED, **ASKED})
        assert (asked.status_code, asked.headers["allow"]) == (405, "POST")
        answered = server.classify(PATH, content=picture(), headers={"Origin": LISTED})
        assert answered.status_code == 200
        for response in (asked, answered):
            assert granted(response) == {}
            assert "vary" not in response.headers


def test_star_is_every_page_and_still_wants_a_key(bundles: Path) -> None:
    """Any page may ask; where there are keys, one without a key reads a 401."""
    with serving(bundles, key_sha256=(DIGEST,), cors_origins=("*",)) as server:
        asked = server.request("OPTIONS", PATH, headers={"Origin": OTHER, **ASKED})
        assert asked.status_code == 200
        answered = server.classify(PATH, content=picture(), headers={"Origin": OTHER})
        assert answered.status_code == 401
        for response in (asked, answered):
            assert response.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize(
    "origin",
    ["app.example", "https://app.example/", "https://App.example", "https://a@b", "https://", "**"],
)
def test_what_no_browser_sends_is_no_origin(origin: str) -> None:
    """An entry that could never fit is refused at start, with how origins are written."""
    with pytest.raises(
        SettingsError, match="cors_origins: expected origins .* https://app.example"
    ):
        make_settings(cors_origins=(LISTED, origin))


def test_origins_are_given_by_flag_and_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several apart by commas or spaces; an empty variable lists none."""
    assert read_settings(["--cors-origins", ",".join(ORIGINS)]).cors_origins == ORIGINS
    monkeypatch.setenv("LIERE_CORS_ORIGINS", " ".join(ORIGINS))
    assert read_settings([]).cors_origins == ORIGINS
    monkeypatch.setenv("LIERE_CORS_ORIGINS", "")
    assert read_settings([]).cors_origins == ()
