"""The client against the real service: right answers, and every failure as its own error."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from client import (
    AsyncClient,
    BadAnswer,
    Bundles,
    Client,
    NoAnswer,
    Problem,
    Result,
    UnknownModality,
)
from client.answers import Answer
from client.calls import ENDINGS, retry_after
from client.reading import read_json
from media.formats import FORMATS
from service.http.examples import ANSWERS, BUNDLES_EXAMPLE
from tests.client.relay import relaying
from tests.helpers.effort import effort
from tests.helpers.service_fixtures import (
    MEDIA,
    TINY,
    RunningServer,
    TinySession,
    clip,
    picture,
    serving,
    tiny_logits,
    wait_until,
)

KEY = "an-example-key-of-43-characters-0123456789a"
SLOW_KEY = "an-example-key-of-43-characters-0123456789b"


def connect(server: RunningServer | str, **settings: Any) -> Client:
    """A client that loads no certificates: nothing is encrypted here."""
    url = server if isinstance(server, str) else server.url
    return Client(url, verify=False, **settings)


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Client]:
    with connect(server) as one:
        yield one


# --- answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", TINY)
def test_answers_are_those_of_the_server(
    client: Client, server: RunningServer, modality: Any
) -> None:
    """Every member, with what was seen, and the JSON itself beside them."""
    media = MEDIA[modality](4)
    grid = TINY[modality].grids[1]
    result = client.classify(media, modality=modality, grid=grid, top_k=2)
    answer = server.classify(f"/v1/classify/{modality}?grid={grid}&top_k=2", content=media).json()
    (expected,) = answer["results"]
    assert (result.bundle, result.version, result.grid) == (modality, "1", grid)
    told = [(one.label, one.index, one.probability) for one in result.predictions]
    assert told == [tuple(one.values()) for one in expected["predictions"]]
    assert result.document.keys() == expected.keys()
    assert result.timing_ms.decode > 0
    seen = expected.get("seen")
    assert (result.seen is None) == (seen is None)
    for name, value in (seen or {}).items():
        assert json.loads(json.dumps(getattr(result.seen, name))) == value


@pytest.mark.parametrize(("name", "modality"), [("a.PNG", "image"), ("b.npy", "volume")])
def test_paths_are_known_by_their_endings(
    client: Client, tmp_path: Path, name: str, modality: str
) -> None:
    """Capitals or not; the bundle of that modality answers."""
    path = tmp_path / name
    path.write_bytes(MEDIA[modality](2))
    assert client.classify(path).bundle == modality
    assert client.classify(str(path)).bundle == modality


def test_views_and_other_parameters_reach_the_server(client: Client) -> None:
    """A clip of three views; and a name that nobody knows is told by the server."""
    result = client.classify(clip(3), modality="video", views=3)
    assert result.seen is not None and result.seen.seconds is not None
    assert len(result.seen.seconds) == 3
    with pytest.raises(Problem, match="unknown parameter 'bundel'") as caught:
        client.classify(picture(), modality="image", bundel="x")  # type: ignore[call-arg]
    assert (caught.value.status, caught.value.type) == (422, "/problems/unknown-parameter")


def test_large_file_is_sent_from_the_disk(client: Client, tmp_path: Path) -> None:
    """A file of many pieces arrives whole, with its length told beforehand."""
    path = tmp_path / "large.bmp"
    path.write_bytes(picture(9, (700, 500), "BMP"))  # 1 MB
    result = client.classify(path)
    logits = tiny_logits(path.read_bytes(), "2x3")
    assert result.predictions[0].index == logits.argmax()


def test_every_ending_that_is_read_is_known() -> None:
    """The client's table has no more and no fewer than the readers', and a GIF is an image."""
    known = {end: modality for modality, endings in ENDINGS.items() for end in endings}
    read: dict[str, str] = {}
    for one in FORMATS:
        for ending in (*one.endings, *one.added):
            read.setdefault(ending, one.modality)
    assert known == read


def test_bundles_are_listed(client: Client) -> None:
    """States, labels, grids and who is asked by default."""
    found = client.bundles()
    assert found.ready
    assert found.default == {modality: modality for modality in TINY}
    image = next(one for one in found.bundles if one.name == "image")
    assert (image.state, image.version, image.modality) == ("ready", "1", "image")
    assert [one.grid for one in image.grids] == list(TINY["image"].grids)
    assert image.grids[0].pixels == (8, 12)
    assert len(image.labels) == 5


# --- strict, and open to what is new ---------------------------------------------------------


@pytest.mark.parametrize("modality", ANSWERS)
def test_new_members_are_kept_and_do_not_disturb(modality: str) -> None:
    """An answer of a newer server is read, and what is new is in the document."""
    answer = json.loads(json.dumps(ANSWERS[modality]))
    answer["new"] = answer["results"][0]["new"] = {"deep": [1]}
    answer["results"][0]["predictions"][0]["new"] = None
    result = read_json(Answer, json.dumps(answer).encode()).results[0]
    assert isinstance(result, Result)
    assert result.document["new"] == {"deep": [1]}
    assert result == read_json(Answer, json.dumps(ANSWERS[modality]).encode()).results[0]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"grid": None}, r"answer\.results\[0\]\.grid: expected text, got None"),
        ({"version": 1}, r"version: expected text, got 1"),
        ({"predictions": {}}, r"predictions: expected a list, got \{\}"),
        ({"predictions": [{"label": "a"}]}, r"predictions\[0\]: expected a member index"),
        ({"predictions": [{"label": "a", "index": True, "probability": 1}]}, "a whole number"),
        ({"timing_ms": {"decode": "1", "queue": 0, "inference": 0}}, "decode: expected a number"),
        ({"timing_ms": {"decode": float("nan")}}, "expected JSON"),
        ({"seen": 3}, "seen: expected an object, got 3"),
    ],
)
def test_wrong_members_are_named(wrong: dict[str, Any], told: str) -> None:
    """Where it is, what was expected and what came."""
    answer = json.loads(json.dumps(ANSWERS["image"]))
    answer["results"][0] |= wrong
    with pytest.raises(BadAnswer, match=told):
        read_json(Answer, json.dumps(answer).encode())


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 100_000, b"\xff", b"null"])
def test_what_is_no_answer_is_a_bad_answer(body: bytes) -> None:
    """Also nested beyond reason."""
    with pytest.raises(BadAnswer, match="expected"):
        read_json(Bundles, body)


def test_documented_bundles_are_read() -> None:
    """The example of the interface's own page."""
    (bundle,) = read_json(Bundles, json.dumps(BUNDLES_EXAMPLE).encode()).bundles
    figures = bundle.grids[0].figures
    assert figures is not None and figures.top1.value == bundle.grids[0].top1 == 0.778
    (expected,) = BUNDLES_EXAMPLE["bundles"]
    for grid, told in zip(bundle.grids, expected["grids"], strict=True):
        assert json.dumps(dataclasses.asdict(grid), sort_keys=True) == json.dumps(
            told, sort_keys=True
        )


# --- errors ----------------------------------------------------------------------------------


def test_problem_has_every_member(client: Client) -> None:
    """Status, type, title, detail and id of the server; no time to come back."""
    with pytest.raises(Problem) as caught:
        client.classify(b"GIF, but no", modality="image")
    problem = caught.value
    assert (problem.status, problem.type) == (415, "/problems/unsupported-media")
    assert problem.title == "The type of the file is not read."
    assert "JPEG" in problem.detail and len(problem.id) == 16
    assert problem.retry_after is None
    assert str(problem) == f"415 /problems/unsupported-media: {problem.detail}"


def test_files_that_are_not_there_are_os_errors(client: Client, tmp_path: Path) -> None:
    """As for ``open``; and what has no known name wants a modality."""
    with pytest.raises(FileNotFoundError):
        client.classify(tmp_path / "none.png")
    with pytest.raises(IsADirectoryError):
        client.classify(tmp_path, modality="image")
    for file in (tmp_path / "photo", b"bytes"):
        with pytest.raises(UnknownModality, match="image, video or volume"):
            client.classify(file)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://host", "http://", "http://host/?a=b", "http://host:port"]
)
def test_wrong_addresses_are_refused(url: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match="expected an address like http://"):
        AsyncClient(url)


@pytest.mark.parametrize("key", ["", "two words", "line\n", "clé"])
def test_wrong_keys_are_refused_and_not_shown(key: str) -> None:
    """A key that no header can hold."""
    with pytest.raises(ValueError, match="expected a key") as caught:
        AsyncClient(key=key)
    assert not key or key not in str(caught.value)


@pytest.fixture(scope="module")
def locked(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a key that may ask once a second, and one that may ask at will."""
    lines = tmp_path_factory.mktemp("keys") / "lines"
    limits = {SLOW_KEY: "slow rate=1/s", KEY: "me"}
    digests = {hashlib.sha256(key.encode()).hexdigest(): told for key, told in limits.items()}
    lines.write_text("".join(f"{digest} {told}\n" for digest, told in digests.items()))
    with serving(bundles, keys_file=lines) as running:
        yield running


@pytest.mark.parametrize("key", [None, "another"])
def test_keys_open_the_server_and_wrong_ones_are_told(
    locked: RunningServer, key: str | None
) -> None:
    """With the key an answer, without or with another 401."""
    with connect(locked, key=KEY) as client:
        assert client.classify(picture(), modality="image").bundle == "image"
    with connect(locked, key=key) as client, pytest.raises(Problem) as caught:
        client.classify(picture(), modality="image")
    assert (caught.value.status, caught.value.type) == (401, "/problems/unauthorized")


# --- tries and deadlines ---------------------------------------------------------------------


def test_client_waits_as_long_as_it_is_told(locked: RunningServer) -> None:
    """A key of one request a second: the second call gets 429, waits that second, is answered."""
    refused = {"modality": "image", "code": "429"}
    with connect(locked, key=SLOW_KEY) as client:
        client.classify(picture(), modality="image")
        begun = time.monotonic()
        client.classify(picture(), modality="image")
        assert time.monotonic() - begun >= 1
    assert locked.metric("liere_requests_total", **refused) == 1
    with connect(locked, key=SLOW_KEY, retries=0) as hasty, pytest.raises(Problem) as caught:
        hasty.classify(picture(), modality="image")
    assert (caught.value.status, caught.value.type) == (429, "/problems/key-limited")
    assert caught.value.retry_after == 1


def test_client_does_not_wait_beyond_its_deadline() -> None:
    """Told to come back in a minute with two seconds left it ends at once, with that problem."""
    with connect("http://server", deadline=2, transport=Scripted((429, "60"))) as client:
        begun = time.monotonic()
        with pytest.raises(Problem) as caught:
            client.bundles()
    assert time.monotonic() - begun < 2
    assert (caught.value.status, caught.value.retry_after) == (429, 60)


def test_deadline_passes_while_the_server_computes(bundles: Path) -> None:
    """The client gives up in time, and the server lets go of the work."""
    session = TinySession()
    with serving(bundles, lambda *_: session, ready=True) as server:
        session.gate.clear()
        try:
            with connect(server, deadline=0.3) as client:
                begun = time.monotonic()
                with pytest.raises(NoAnswer, match=r"no answer within 0\.3 s"):
                    client.classify(picture(), modality="image")
                assert 0.3 <= time.monotonic() - begun < 5
            left = {"modality": "image", "code": "499"}
            wait_until(lambda: server.metric("liere_requests_total", **left), "it to see that")
        finally:
            session.gate.set()


def test_time_for_the_server_is_never_longer_than_the_call() -> None:
    """``timeout_ms`` goes out as given, or shorter where less is left."""
    script = Scripted((200, ""), (200, ""))
    with connect("http://server", deadline=5, transport=script) as client:
        for timeout_ms in (300, 60_000):
            client.classify(b"x", modality="image", timeout_ms=timeout_ms)
    first, second = (int(one.url.params["timeout_ms"]) for one in script.requests)
    assert first == 300
    assert 4000 < second <= 5000


def test_dropped_connections_are_tried_again(server: RunningServer) -> None:
    """Dropped in silence, in the middle of a head, of a body: then the real answer."""
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"
    with relaying(server.port, None, b"HTTP/1.1 2", half) as relay, connect(relay.url) as client:
        assert client.classify(picture(), modality="image").bundle == "image"
    assert relay.connections == 4


def test_client_gives_up_after_its_tries(server: RunningServer) -> None:
    """Two tries that fail, of a server that only drops."""
    with (
        relaying(server.port, *[None] * 9) as relay,
        connect(relay.url, retries=1) as client,
        pytest.raises(NoAnswer, match="no answer: "),
    ):
        client.bundles()
    assert relay.connections == 2


def test_nobody_listening_is_no_answer() -> None:
    """A port that is closed."""
    with connect("http://127.0.0.1:1", retries=0) as client, pytest.raises(NoAnswer):
        client.bundles()


@pytest.mark.parametrize(
    ("status", "tries"), [(500, 2), (502, 2), (503, 2), (404, 1), (504, 1), (302, 1)]
)
def test_answers_of_a_proxy_are_problems_without_a_type(status: int, tries: int) -> None:
    """A page instead of a problem; asked again where that may help, and no redirect is followed."""
    script = Scripted(*[(status, "")] * tries)
    with (
        connect("http://server", retries=1, transport=script) as client,
        pytest.raises(Problem, match="without a problem document") as caught,
    ):
        client.bundles()
    assert (caught.value.status, caught.value.type) == (status, "about:blank")
    assert len(script.requests) == tries


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3", 3),
        ("Thu, 01 Jan 1970 00:01:00 GMT", 50),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0),
        ("", None),
        ("-1", None),
        ("soon", None),
        ("٣", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float | None) -> None:
    """Of RFC 9110; anything else says nothing. Now is ten seconds after 1970 began."""
    assert retry_after(text, now=10) == seconds


class Scripted(httpx.AsyncBaseTransport):
    """Answers in the order given, each a status and what Retry-After says."""

    def __init__(self, *answers: tuple[int, str]) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        status, told = self.answers.pop(0)
        headers = {"Retry-After": told} if told else {}
        if status == 200:
            return httpx.Response(200, json=ANSWERS["image"])
        return httpx.Response(status, headers=headers, text="<html>no</html>")


# --- many files ------------------------------------------------------------------------------


def test_every_file_of_many_has_its_own_outcome(client: Client, tmp_path: Path) -> None:
    """Good ones are answered; broken, missing and nameless ones are errors of their own."""
    good = {tmp_path / f"{n}.png": picture(n) for n in range(9)}
    for path, media in good.items():
        path.write_bytes(media)
    (tmp_path / "broken.png").write_bytes(picture()[:50])
    files = [*good, tmp_path / "broken.png", tmp_path / "missing.png", tmp_path / "nameless"]
    outcomes = dict(client.classify_many(files, concurrency=3))
    assert outcomes.keys() == set(files)
    for path, media in good.items():
        result = outcomes[path]
        assert isinstance(result, Result)
        assert result.predictions[0].index == tiny_logits(media, "2x3").argmax()
    kinds = [type(outcomes[file]) for file in files[-3:]]
    assert kinds == [Problem, FileNotFoundError, UnknownModality]


def test_thousands_of_files_are_taken_as_there_is_room() -> None:
    """From an endless supply no more are open than may be under way, whoever reads slowly."""
    taken = answered = 0

    def supply() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x"

    class Echo(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, json=ANSWERS["image"])

    async def ask() -> None:
        nonlocal answered
        async with AsyncClient("http://server", transport=Echo()) as client:
            many = client.classify_many(supply(), concurrency=7, modality="image")
            async for _, outcome in many:
                assert isinstance(outcome, Result)
                answered += 1
                assert taken - answered < 7
                if answered == effort(2_000, 20_000):
                    break
            await many.aclose()
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(ask())


def test_concurrency_is_bounded_at_the_server(bundles: Path) -> None:
    """With the device held, three files are inside and the fourth is not yet taken."""
    session = TinySession()
    with serving(bundles, lambda *_: session, ready=True) as server, connect(server) as client:
        session.gate.clear()
        left = iter(range(10))
        files = (picture(n) for n in left)
        done: list[Any] = []

        def ask() -> None:
            done.extend(client.classify_many(files, concurrency=3, modality="image"))

        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: server.metric("liere_in_flight") == 3, "three files to be inside")
        assert next(left) == 3
        session.gate.set()
        thread.join(20)
        assert len(done) == 9  # but for the one that this test took
        assert all(isinstance(outcome, Result) for _, outcome in done)


def test_leaving_early_ends_what_is_under_way(client: Client) -> None:
    """The generator closes, and the client goes on to answer."""
    many = client.classify_many((picture(n) for n in range(99)), concurrency=4, modality="image")
    next(many)
    many.close()
    assert client.classify(picture(), modality="image").bundle == "image"


def test_blocking_client_works_inside_a_running_loop(client: Client) -> None:
    """As in a notebook."""

    async def ask() -> str:
        return client.classify(picture(), modality="image").bundle

    assert asyncio.run(ask()) == "image"


def test_closed_client_stays_closed(server: RunningServer) -> None:
    """Closing twice is nothing, and its thread is gone."""
    before = threading.active_count()
    client = connect(server)
    assert client.bundles().ready
    client.close()
    client.close()
    assert threading.active_count() == before
