"""What a key may: scopes, a rate and a number at once, for itself alone; and another key later."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cli import new_key
from service.http.accounts import MAX_RETRY_SECONDS, ROUNDING, Account
from service.http.key_lines import OPTIONS, SCOPES, Key
from service.http.keys import Keys, read_keys
from service.http.problems import KeyLimited, headers_of
from service.settings import make_settings
from tests.helpers.service_fixtures import (
    RawConnection,
    RunningServer,
    TinySession,
    picture,
    serving,
    wait_until,
)

GOOD = picture(1)
DIGEST = sha256(b"key").hexdigest()


@contextmanager
def knowing(
    bundles: Path, folder: Path, *rights: str
) -> Iterator[tuple[RunningServer, TinySession, list[dict[str, str]]]]:
    """A server that knows a key for each of these ends of lines, and their headers."""
    keys = [secrets.token_urlsafe(32) for _ in rights]
    lines = [f"{sha256(k.encode()).hexdigest()} {r}" for k, r in zip(keys, rights, strict=True)]
    (folder / "keys").write_text("\n".join(lines))
    session = TinySession()
    with serving(bundles, lambda *_: session, keys_file=folder / "keys") as server:
        try:
            yield server, session, [{"Authorization": f"Bearer {key}"} for key in keys]
        finally:
            session.gate.set()


def check_problem(response: httpx.Response, status: int, name: str, words: str) -> None:
    problem = response.json()
    assert (response.status_code, problem["type"]) == (status, f"/problems/{name}")
    assert response.headers["content-type"] == "application/problem+json"
    assert words in problem["detail"]


def test_one_of_several_clients_may_not_hold_all(bundles: Path, tmp_path: Path) -> None:
    """Idle uploads with its keys take three quarters of the permits, and another one is served."""
    rights = ("greedy", "greedy", "modest")
    with knowing(bundles, tmp_path, *rights) as (server, _, keys), ExitStack() as stack:
        server.engine.admission.max_requests = 4
        for headers in (keys[0], keys[1], keys[0]):
            upload = stack.enter_context(RawConnection(server.port))
            upload.send_head("Content-Length: 1000", f"Authorization: {headers['Authorization']}")
        wait_until(lambda: server.engine.admission.requests == 3, "the uploads to be inside")
        answer = server.classify(content=GOOD, headers=keys[1])
        check_problem(answer, 429, "overloaded", "3 requests with this key are inside")
        assert server.classify(content=GOOD, headers=keys[2]).status_code == 200


# --- scopes ----------------------------------------------------------------------------------

#: Address -> the scopes that open it; None is each of them.
NEEDED = {
    "/v1/bundles": "classify",
    "/v1/classify/image": "classify",
    "/v1/nothing": "classify",
    "/metrics": "metrics",
    "/metrics%0a": "metrics",
    "/%6detrics": "metrics",
    "/admin": "admin",
    "/admin/bundles": "admin",
    "/openapi.json": None,
    "/nothing": None,
}


def test_key_opens_what_its_scopes_say(bundles: Path, tmp_path: Path) -> None:
    """Each address with a key of each scope: 403 that names the one it needs, or no 401 and 403."""
    rights = {name: {name} for name in SCOPES.values()}
    rights["metrics,admin"] = {"metrics", "admin"}
    lines = [f"scopes={name}" for name in rights]
    with (
        knowing(bundles, tmp_path, *lines, "") as (server, _, keys),
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        known = zip(keys, [*rights.values(), {"classify", "metrics"}], strict=True)
        for headers, scopes in known:
            for path, scope in NEEDED.items():
                for method in ("GET", "POST"):
                    answer = client.request(method, path, headers=headers)
                    if scope is None or scope in scopes:
                        assert answer.status_code not in (401, 403)
                    else:
                        words = f"the scope {scope}; this one has {', '.join(sorted(scopes))}"
                        check_problem(answer, 403, "forbidden", words)
            assert client.get("/health/ready", headers=headers).status_code == 200
        assert server.metric("liere_unauthorized_total") == 0


def test_key_without_the_scope_is_refused_by_the_head_alone(bundles: Path, tmp_path: Path) -> None:
    """Nobody waits for a body that is not wanted."""
    with knowing(bundles, tmp_path, "scopes=metrics") as (server, _, (headers,)):
        with RawConnection(server.port) as connection:
            authorization = f"Authorization: {headers['Authorization']}"
            connection.send_head("Content-Length: 1000", authorization)
            status, _, body = connection.answer()
        assert (status, json.loads(body)["type"]) == (403, "/problems/forbidden")




# --- rate and number at once -----------------------------------------------------------------


def test_rate_of_a_key_is_its_own(bundles: Path, tmp_path: Path) -> None:
    """Beyond it 429 with whole seconds, by the head alone; nobody else is held."""
    with knowing(bundles, tmp_path, "slow rate=0.02/s", "", "rate=2/s") as (server, _, keys):
        slow, free, two = keys
        assert server.classify(content=GOOD, headers=slow).status_code == 200
        with RawConnection(server.port) as connection:  # and no body
            authorization = f"Authorization: {slow['Authorization']}"
            connection.send_head("Content-Length: 1000", authorization)
            status, told, body = connection.answer()
        assert (status, json.loads(body)["type"]) == (429, "/problems/key-limited")
        assert json.loads(body)["detail"] == "this key may send 0.02 requests a second"
        assert 40 <= int(told["retry-after"]) <= 50
        for _ in range(5):
            assert server.classify(content=GOOD, headers=free).status_code == 200
        codes = [server.get("/v1/bundles", headers=two).status_code for _ in range(2)]
        assert codes == [200, 200]
        check_problem(server.get("/openapi.json", headers=slow), 429, "key-limited", "0.02")
        assert server.get("/health/live", headers=slow).status_code == 200
        assert server.classify(content=GOOD).status_code == 401
        assert server.engine.admission.requests == 0


def test_number_at_once_of_a_key_is_its_own(bundles: Path, tmp_path: Path) -> None:
    """With all of them inside the next is 429 at once; others enter, and an answer makes room."""
    with knowing(bundles, tmp_path, "concurrency=2", "") as (server, session, (two, free)):
        session.gate.clear()
        with ExitStack() as stack:
            inside = [stack.enter_context(RawConnection(server.port)) for _ in range(3)]
            for connection, headers in zip(inside, (two, two, free), strict=True):
                authorization = f"Authorization: {headers['Authorization']}"
                connection.send_head(f"Content-Length: {len(GOOD)}", authorization)
                connection.send(GOOD)
            wait_until(lambda: server.engine.admission.requests == 3, "the requests to enter")
            refused = server.classify(content=GOOD, headers=two)
            check_problem(refused, 429, "key-limited", "this key has 2 requests inside")
            assert refused.headers["retry-after"] == "1"
            assert server.engine.admission.requests == 3
            inside[0].socket.close()  # who leaves makes room too
            wait_until(lambda: server.engine.admission.requests == 2, "the first one to leave")
            assert server.get("/v1/bundles", headers=two).status_code == 200
            session.gate.set()
            assert [connection.answer()[0] for connection in inside[1:]] == [200, 200]


def account(rate: float = math.inf, concurrency: float = math.inf) -> Account:
    return Account(Key(bytes(32), "name", rate=rate, concurrency=concurrency))


RATES = st.integers(1, 20_000).map(lambda thousandths: thousandths / 1000)
GAPS = st.lists(st.floats(0, 3), min_size=10, max_size=80)


@given(RATES, st.floats(0, 1e7), GAPS)
def test_no_stretch_of_time_has_more_than_the_rate_allows(
    rate: float, start: float, gaps: list[float]
) -> None:
    """In any window: at most a second's worth, at least one, and what the window itself adds."""
    one, now, let_in = account(rate), start, []
    for gap in gaps:
        now += gap
        try:
            one.enter(now)
        except KeyLimited:
            continue
        let_in.append(now)
    for first, begin in enumerate(let_in):
        for last, end in enumerate(let_in[first:], first):
            allowed = max(1, rate) + rate * (end - begin + 1e-5)
            assert last - first + 1 <= allowed + 1e-6


@given(RATES, st.floats(0, 1e7), GAPS)
def test_who_waits_as_told_is_let_in_and_refusals_cost_nothing(
    rate: float, start: float, gaps: list[float]
) -> None:
    """Retry-After is enough and, to the second, no more; asking too early moves nothing."""
    one, now = account(rate), start
    for gap in gaps:
        now += gap
        try:
            one.enter(now)
        except KeyLimited as refused:
            assert refused.retry_seconds >= 1
            assert headers_of(refused) == {"Retry-After": str(refused.retry_seconds)}
            if refused.retry_seconds > 1:
                with pytest.raises(KeyLimited):
                    one.enter(now + refused.retry_seconds - 1 - 10 * ROUNDING)
            now += refused.retry_seconds
            one.enter(now)


@pytest.mark.parametrize(("rate", "burst"), [(0.5, 1), (1, 1), (2.5, 2), (10, 10), (1000, 1000)])
def test_burst_is_what_a_second_brings(rate: float, burst: int) -> None:
    """After a rest so many enter at once, and no more."""
    one = account(rate)
    for start in (123456.789, 234567.891):
        for _ in range(burst):
            one.enter(start)
        with pytest.raises(KeyLimited):
            one.enter(start)


@pytest.mark.parametrize(("took", "told"), [(0, 1), (0.1, 1), (6.2, 4), (1e3, MAX_RETRY_SECONDS)])
def test_wait_for_room_is_what_the_requests_take(took: float, told: int) -> None:
    """With n inside that take s seconds each, one leaves every s / n: whole seconds, at most 30."""
    one = account(concurrency=2)
    one.enter(0)
    one.leave(took)
    one.enter(0)
    one.enter(0)
    with pytest.raises(KeyLimited) as refused:
        one.enter(0)
    assert (refused.value.retry_seconds, one.inside) == (told, 2)


# --- other keys at run time ------------------------------------------------------------------


def test_key_that_stays_keeps_count(tmp_path: Path) -> None:
    """What it takes at the moment counts after the file was read again, under its new line."""
    keys = Keys([Key.parse(f"{DIGEST} old concurrency=2"), Key.parse("0" * 64)])
    inside = keys.find([b"Bearer key"])
    inside.enter(0)
    keys.become(Keys([Key.parse("1" * 64), Key.parse(f"{DIGEST} new concurrency=1")]))
    assert len(keys) == 2
    found = keys.find([b"Bearer key"])
    assert (found.key.name, found.inside) == ("new", 1)
    with pytest.raises(KeyLimited):
        found.enter(0)
    inside.leave(1)
    found.enter(0)


def test_other_rate_begins_anew() -> None:
    """A key that waits for minutes at its old rate is let in at its new one."""
    one = account(rate=0.001)
    one.enter(0)
    one.renew(Key(bytes(32), "name", rate=5))
    one.enter(0)


def test_two_keys_may_have_one_name(tmp_path: Path) -> None:
    """While a client changes its key both are known, each with limits of its own."""
    (tmp_path / "keys").write_text(f"{DIGEST} phone rate=1/s\n{sha256(b'2').hexdigest()} phone")
    keys = read_keys(make_settings(keys_file=tmp_path / "keys"))
    found = [keys.find([f"Bearer {key}".encode()]) for key in ("key", "2")]
    assert [one.key.name for one in found] == ["phone", "phone"]
    assert [one.key.rate for one in found] == [1, math.inf]


# --- python -m service new-key ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--scopes", "metrics"], "scopes=metrics"),
        (["phone", "--rate", "0.5/s", "--concurrency=3"], "phone rate=0.5/s concurrency=3"),
        (["--rate", "7/s", "x", "--scopes", "admin,classify"], "x scopes=admin,classify rate=7/s"),
    ],
)
def test_new_key_writes_what_it_may(
    capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    """The line says it, and is read as it was meant."""
    assert new_key.main(words) == 0
    shown, line = capsys.readouterr().out.splitlines()
    digest, _, rest = line.removeprefix("line: ").partition(" ")
    assert digest == sha256(shown.removeprefix("key:  ").encode()).hexdigest()
    assert rest == told
    assert Key.parse(line.removeprefix("line: ")).digest.hex() == digest


UNFIT = {"scopes": ["", "all", "admin,"], "rate": ["5", "0/s"], "concurrency": ["-1", "0"]}


@pytest.mark.parametrize("name", OPTIONS)
def test_new_key_refuses_what_no_line_may_say(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """In the words of the keys file, before a key is made."""
    for value in UNFIT[name]:
        with pytest.raises(SystemExit) as ended:
            new_key.main([f"--{name}={value}"])
        assert ended.value.code == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert f"expected {name}=" in told.err
