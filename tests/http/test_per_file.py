"""Every file of a request has a result or a problem of its own, unless the request is strict."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.http.body import MAX_FILENAME, shown_filename
from tests.helpers.service_fixtures import (
    ENDINGS,
    MEDIA,
    TINY,
    RawConnection,
    RunningServer,
    picture,
    poison,
    serving,
    wait_until,
    write_tiny_bundle,
)
from tests.http.conftest import Start

MODALITIES = tuple(TINY)
FILE_LIMIT = 48 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a tiny bundle of every modality and small files."""
    root = tmp_path_factory.mktemp("bundles")
    for modality in MODALITIES:
        write_tiny_bundle(root, modality, modality)
    mib = FILE_LIMIT / 2**20
    with serving(root, max_file_mib=mib, max_video_mib=mib, max_volume_mib=mib) as running:
        yield running


def form(*files: bytes, modality: str = "image") -> dict[str, Any]:
    ending = ENDINGS[modality]
    return {"files": [("file", (f"{number}{ending}", one)) for number, one in enumerate(files)]}


def post(server: RunningServer, modality: str, *files: bytes, **options: Any) -> httpx.Response:
    return server.classify(f"/v1/classify/{modality}", **form(*files, modality=modality), **options)


def broken(modality: str) -> list[bytes]:
    """Of no type, cut off, too large."""
    return [b"I am none", MEDIA[modality](3)[:-60], bytes(FILE_LIMIT + 1)]


def told_alone(server: RunningServer, modality: str, file: bytes) -> dict[str, Any]:
    """The problem of a request of this file alone, without its id."""
    answer = post(server, modality, file)
    assert answer.headers["content-type"] == "application/problem+json"
    return {key: value for key, value in answer.json().items() if key != "id"}


# --- results and problems side by side -------------------------------------------------------


@pytest.mark.parametrize("modality", MODALITIES)
def test_broken_files_have_their_problem_and_the_others_their_answer(
    server: RunningServer, modality: str
) -> None:
    """Wherever they stand: what each would have been told alone, at its place, with its name."""
    good = [MEDIA[modality](seed) for seed in (1, 2)]
    files = [*broken(modality)[:2], good[0], b"", good[1], broken(modality)[2]]
    answer = post(server, modality, *files)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    results = answer.json()["results"]
    ending = ENDINGS[modality]
    assert [one["filename"] for one in results] == [f"{n}{ending}" for n in range(len(files))]
    for file, result in zip(files, results, strict=True):
        if file in good:
            (alone,) = post(server, modality, file).json()["results"]
            assert result["predictions"] == alone["predictions"]
            assert set(result) == set(alone)
        else:
            assert set(result) == {"filename", "error"}
            if file:
                assert result["error"] == told_alone(server, modality, file)
    assert results[3]["error"]["detail"] == "file 4 has no bytes"
    assert results[3]["error"]["status"] == 400
    slowest = max(one["timing_ms"]["decode"] for one in results if "error" not in one)
    assert answer.headers["server-timing"].startswith(f"decode;dur={slowest}, ")
    assert server.engine.admission.bytes == server.engine.admission.requests == 0


@pytest.mark.parametrize("modality", MODALITIES)
def test_where_none_is_answered_the_first_problem_is_that_of_the_request(
    server: RunningServer, modality: str
) -> None:
    """Its status and members, and beside them the problem of each; the next request is answered."""
    for files in (broken(modality), broken(modality)[::-1]):
        answer = post(server, modality, *files)
        first, *_ = expected = [told_alone(server, modality, one) for one in files]
        assert answer.status_code == first["status"]
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem.pop("id") == answer.headers["x-request-id"]
        results = problem.pop("results")
        assert problem == first
        assert [one["error"] for one in results] == expected
    assert post(server, modality, MEDIA[modality](1)).status_code == 200


def test_problems_of_files_are_counted(server: RunningServer) -> None:
    """The status of their request does not tell of them."""

    def counted(name: str) -> float:
        labels = {"modality": "image", "problem": name}
        return server.metric("liere_file_problems_total", **labels)

    names = ("unsupported-media", "empty-file", "broken-media")
    before = [counted(name) for name in names]
    post(server, "image", picture(1), b"text", b"", b"more text")
    assert [counted(name) - was for name, was in zip(names, before, strict=True)] == [2, 1, 0]


def test_file_that_breaks_the_graph_fails_alone(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has it under the request's id, since its status is 200."""
    server, _ = start()
    headers = {"X-Request-ID": "one-of-two"}
    with caplog.at_level(logging.WARNING, "service.http.endpoint"):
        answer = post(server, "image", poison(), picture(1), headers=headers)
    assert answer.status_code == 200
    failed, good = answer.json()["results"]
    assert (failed["error"]["type"], failed["error"]["status"]) == (
        "/problems/inference-failed", 500,
    )  # fmt: skip
    assert good["predictions"]
    told = [one.getMessage() for one in caplog.records if one.name == "service.http.endpoint"]
    assert told == ["request one-of-two: a file: 500 " + failed["error"]["detail"]]


# --- strict ----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["query", "form"])
def test_strict_request_is_all_or_nothing(server: RunningServer, where: str) -> None:
    """The first failure is the answer, and names its file; good ones are answered as ever."""
    said: dict[str, Any] = {"params" if where == "query" else "data": {"strict": "true"}}
    good = picture(1)
    answer = post(server, "image", good, b"text", good, **said)
    assert answer.status_code == 415
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "id"}
    assert problem["detail"].startswith("file 2 of 3: expected JPEG")
    for bad, name in ((b"", "empty-file"), (bytes(FILE_LIMIT + 1), "file-too-large")):
        problem = post(server, "image", good, bad, **said).json()
        assert (problem["type"], "results" in problem) == (f"/problems/{name}", False)
    strict, usual = (post(server, "image", good, good, **one).json() for one in (said, {}))
    for one, other in zip(strict["results"], usual["results"], strict=True):
        assert one["predictions"] == other["predictions"]


@pytest.mark.parametrize("value", ["", "1", "True", "yes", "x" * 200, "\x00"])
def test_strict_is_true_or_false(server: RunningServer, value: str) -> None:
    """Any other word is a problem: a client that means it must not get half an answer."""
    answer = post(server, "image", picture(1), params={"strict": value})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/bad-parameter")
    assert answer.json()["detail"].startswith("strict: expected one of false, true; got ")


# --- time, and clients that leave ------------------------------------------------------------


def dropped(server: RunningServer, reason: str) -> float:
    stages = ("room", "decode", "device")
    labels = {"modality": "image", "reason": reason}
    return sum(server.metric("liere_dropped_total", stage=one, **labels) for one in stages)


def empty(server: RunningServer) -> bool:
    return not server.engine.backlog.inside.total()


def test_one_that_fails_leaves_the_others_running(start: Start) -> None:
    """Their answer comes when they are done; none of them is counted as ended by another."""
    server, session = start()
    session.gate.clear()
    answers: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(post(server, "image", b"text", picture(1)))
    )
    asking.start()
    wait_until(lambda: session.batches, "the good one to run")
    wait_until(lambda: server.engine.backlog.inside.total() == 1, "the other to fail")
    assert not answers
    session.gate.set()
    asking.join(20)
    failed, good = answers[0].json()["results"]
    assert (failed["error"]["status"], "predictions" in good) == (415, True)
    assert dropped(server, "sibling") == 0


def test_failure_of_a_strict_request_ends_its_other_files(start: Start) -> None:
    """They are counted as such, and nothing of them stays inside."""
    server, session = start()
    session.gate.clear()
    answer = post(server, "image", picture(1), b"text", params={"strict": "true"})
    assert answer.status_code == 415
    wait_until(lambda: empty(server), "the other to end")
    assert dropped(server, "sibling") == 1


def test_client_that_leaves_ends_all_of_its_files(start: Start) -> None:
    """Also where one has failed already."""
    server, session = start()
    session.gate.clear()
    request = httpx.Request("POST", "http://x/", **form(b"text", picture(1), picture(2)))
    body = request.read()
    with RawConnection(server.port) as connection:
        kind = request.headers["content-type"]
        connection.send_head(f"Content-Type: {kind}", f"Content-Length: {len(body)}")
        connection.send(body)
        wait_until(lambda: session.batches, "the first to run")
        wait_until(lambda: server.engine.backlog.inside.total() == 2, "the broken one to fail")
    wait_until(lambda: empty(server), "the others to end")
    assert (dropped(server, "left"), dropped(server, "sibling")) == (2, 0)


def test_deadline_is_that_of_all_files(start: Start) -> None:
    """What has a problem already does not make an answer of a request whose time is over."""
    server, session = start()
    session.gate.clear()
    answer = post(server, "image", b"text", picture(1), params={"timeout_ms": "400"})
    assert (answer.status_code, answer.json()["type"]) == (504, "/problems/deadline-passed")
    assert "results" not in answer.json()
    wait_until(lambda: empty(server), "the file to end")
    assert dropped(server, "expired") == 1


# --- names -----------------------------------------------------------------------------------

FILENAMES: dict[bytes, str | None] = {
    b"a.png": "a.png",
    "é ü 図.png".encode(): "é ü 図.png",
    b"../../etc/passwd": "passwd",
    b"/etc/": None,
    b"C:\\\\a b\\\\c.png": "c.png",
    b"..": None,
    b".": None,
    b"": None,
    b".hidden": ".hidden",
    b"a\x00b\x1b[2J\x7f.png": "a\ufffdb\ufffd[2J\ufffd.png",
    b"a\tb\x0bc": "a\ufffdb\ufffdc",
    "a\u202egnp.exe\u2028\x85".encode(): "a\ufffdgnp.exe\ufffd\ufffd",
    b"\xff\xfe.png": "\ufffd\ufffd.png",
    b"<script>&\\\"'": "<script>&\"'",
    b"x" * 4000: "x" * MAX_FILENAME,
}


@pytest.mark.parametrize(("given", "shown"), FILENAMES.items(), ids=range(len(FILENAMES)))
@pytest.mark.parametrize("media", [picture(1), b"text"], ids=["good", "broken"])
def test_name_of_a_file_comes_back_fit_to_be_shown(
    server: RunningServer, given: bytes, shown: str | None, media: bytes
) -> None:
    """No folders, controls or turned text, bounded; beside answers and beside problems."""
    body = b"".join((part(given, media), part(b"last", picture(2)), b"--b--\r\n"))
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = server.classify(content=body, headers=headers)
    assert answer.status_code == 200
    first, last = answer.json()["results"]
    assert first.get("filename") == shown
    assert ("filename" in first) == (shown is not None)
    assert last["filename"] == "last"


def part(filename: bytes, media: bytes) -> bytes:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="' + filename + b'"'
    return head + b"\r\n\r\n" + media + b"\r\n"


def test_name_beyond_the_head_of_a_part_is_no_form(server: RunningServer) -> None:
    """It is bounded before it is read at all."""
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    body = part(b"x" * 5000, picture(1)) + b"--b--\r\n"
    answer = server.classify(content=body, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/broken-form")


def test_file_that_is_the_body_has_no_name(server: RunningServer) -> None:
    """Nor is one made up for it."""
    (result,) = server.classify(content=picture(1)).json()["results"]
    assert "filename" not in result
    assert shown_filename("a" * 300 + "/b") == "b"


# --- what the request as a whole is held to --------------------------------------------------


def test_fields_are_bounded_and_come_once(server: RunningServer) -> None:
    """A broken file changes nothing of it."""
    for data, name in (
        ({"strict": "t" * 300}, "bad-parameter"),
        ({"want": "logits" * 100}, "bad-parameter"),
        ({"strict": ["true", "false"]}, "repeated-parameter"),
        ({"stricter": "true"}, "unknown-parameter"),
    ):
        problem = post(server, "image", b"text", picture(1), data=data).json()
        assert problem["type"] == f"/problems/{name}"
        assert "results" not in problem


@pytest.mark.parametrize("modality", MODALITIES)
def test_head_of_a_classifying_address_is_not_allowed(
    server: RunningServer, modality: str
) -> None:
    """It has no answer without a file, whatever is asked of it."""
    path = f"/v1/classify/{modality}?want=logits&strict=true"
    answer = server.request("HEAD", path)
    assert (answer.status_code, answer.headers["allow"], answer.content) == (405, "POST", b"")
