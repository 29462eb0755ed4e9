"""The service over real sockets: right answers, and for every bad input its problem."""

from __future__ import annotations

import contextlib
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.engine.failures import BadParameter
from service.engine.job import rank, softmax
from service.engine.parameters import parse_top_k
from tests.helpers.service_fixtures import (
    LABELS,
    RawConnection,
    RunningServer,
    huge_png,
    picture,
    serving,
    tiny_logits,
    wait_until,
    write_tiny_bundle,
)

LEAKS = re.compile(r"0x[0-9a-f]{6,}|Traceback|/work|/tmp|/usr|/root|\.py\b|PIL|onnx|numpy")
KIB = 1024
BODY_LIMIT, FILE_LIMIT = 64 * KIB, 48 * KIB


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with two tiny bundles and small limits."""
    root = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(root, "tiny")
    write_tiny_bundle(root, "wide", labels=LABELS)
    body_mib, file_mib = BODY_LIMIT / 2**20, FILE_LIMIT / 2**20
    with serving(root, max_files=3, max_body_mib=body_mib, max_file_mib=file_mib) as running:
        yield running


def form(*files: bytes) -> dict[str, Any]:
    return {"files": [("file", (f"{n}.bin", file)) for n, file in enumerate(files)]}


def check_problem(response: httpx.Response, status: int, name: str) -> dict[str, Any]:
    """A problem document with every member and nothing that is not the client's business."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert set(problem) == {"type", "title", "status", "detail", "id"}
    assert problem["type"] == f"/problems/{name}"
    assert problem["status"] == status
    assert problem["id"] == response.headers["x-request-id"]
    assert not LEAKS.search(response.text), response.text
    return problem


# --- good input ------------------------------------------------------------------------------


def expected_predictions(media: bytes, grid: str, top_k: int = 5) -> list[dict[str, Any]]:
    return rank(softmax(tiny_logits(media, grid)), LABELS, top_k)


def check_predictions(got: list[dict[str, Any]], media: bytes, grid: str, top_k: int = 5) -> None:
    expected = expected_predictions(media, grid, top_k)
    assert [one["label"] for one in got] == [one["label"] for one in expected]
    assert [one["index"] for one in got] == [one["index"] for one in expected]
    for one, other in zip(got, expected, strict=True):
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)


@pytest.mark.parametrize("content_type", ["image/png", "text/plain", "application/json", None])
def test_raw_body_is_classified_by_its_bytes(
    server: RunningServer, content_type: str | None
) -> None:
    """The raw body gets the network's answer, whatever its Content-Type claims."""
    media = picture(5)
    headers = {"Content-Type": content_type} if content_type else {}
    response = server.classify(content=media, headers=headers)
    assert response.status_code == 200
    (result,) = response.json()["results"]
    assert (result["bundle"], result["version"], result["grid"]) == ("tiny", "1", "2x3")
    check_predictions(result["predictions"], media, "2x3")
    assert set(result["timing_ms"]) == {"decode", "queue", "inference"}
    assert all(value >= 0 for value in result["timing_ms"].values())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_form_is_classified_like_the_raw_body(server: RunningServer, kind: str) -> None:
    """A part named file and the raw body give the same predictions."""
    media = picture(6, kind=kind)
    raw = server.classify(content=media).json()["results"]
    part = server.classify(**form(media)).json()["results"]
    assert part[0]["predictions"] == raw[0]["predictions"]


def test_several_files_are_answered_in_order(server: RunningServer) -> None:
    """One result per file, in the order sent."""
    media = [picture(seed) for seed in (11, 12, 13)]
    results = server.classify(**form(*media)).json()["results"]
    for result, one in zip(results, media, strict=True):
        check_predictions(result["predictions"], one, "2x3")


@pytest.mark.parametrize("where", ["query", "form"])
def test_parameters_are_taken_from_query_and_form(server: RunningServer, where: str) -> None:
    """top_k, bundle and grid mean the same in both places."""
    media, values = picture(3), {"top_k": "2", "bundle": "wide", "grid": "3x2"}
    options: dict[str, Any] = {"params" if where == "query" else "data": values}
    (result,) = server.classify(**form(media), **options).json()["results"]
    assert (result["bundle"], result["grid"]) == ("wide", "3x2")
    check_predictions(result["predictions"], media, "3x2", top_k=2)


def test_probabilities_are_ranked_and_sum_to_one(server: RunningServer) -> None:
    """All labels together: descending, each in [0, 1], the sum 1."""
    answer = server.classify("/v1/classify/image?top_k=5", content=picture(2)).json()
    values = [one["probability"] for one in answer["results"][0]["predictions"]]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1, abs=1e-5)


def test_rotated_photo_is_answered_like_the_upright_one(server: RunningServer) -> None:
    """All eight EXIF orientations of one photo give the same predictions through HTTP."""
    upright = Image.open(io.BytesIO(picture(8, (40, 24))))
    stored_by_tag = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    answers = []
    for tag, transposition in stored_by_tag.items():
        stored = upright if transposition is None else upright.transpose(transposition)
        exif = Image.Exif()
        exif[0x0112] = tag
        encoded = io.BytesIO()
        stored.save(encoded, "PNG", exif=exif)
        answer = server.classify(content=encoded.getvalue()).json()
        answers.append(answer["results"][0]["predictions"])
    assert all(answer == answers[0] for answer in answers)


def test_request_id_is_echoed_everywhere(server: RunningServer) -> None:
    """A fitting X-Request-ID comes back in header, answer and problem."""
    sent = {"X-Request-ID": "my-id_1.2"}
    good = server.classify(content=picture(), headers=sent)
    bad = server.classify(content=b"text", headers=sent)
    assert good.headers["x-request-id"] == good.json()["id"] == "my-id_1.2"
    assert bad.headers["x-request-id"] == bad.json()["id"] == "my-id_1.2"


@pytest.mark.parametrize("unfit", ["", "a b", "x" * 65, "a/b", "<script>"])
def test_unfit_request_id_is_replaced(server: RunningServer, unfit: str) -> None:
    """An id that could break a log or a page is not echoed; a new one is made."""
    response = server.classify(content=picture(), headers={"X-Request-ID": unfit})
    assert response.json()["id"] == response.headers["x-request-id"] != unfit
    assert re.fullmatch(r"[0-9a-f]{16}", response.json()["id"])


def test_server_timing_names_every_stage(server: RunningServer) -> None:
    """The header tells what the body tells."""
    response = server.classify(content=picture())
    timing = response.json()["results"][0]["timing_ms"]
    expected = ", ".join(f"{stage};dur={timing[stage]}" for stage in timing)
    assert response.headers["server-timing"] == expected


def test_body_may_come_in_pieces(server: RunningServer) -> None:
    """A chunked form, cut anywhere, is read like a whole one."""
    whole = httpx.Request("POST", "http://x/", **form(picture(4)), data={"top_k": "1"})
    body = whole.read()
    with RawConnection(server.port) as connection:
        connection.send_head(
            f"Content-Type: {whole.headers['content-type']}", "Transfer-Encoding: chunked"
        )
        for start in range(0, len(body), 97):
            piece = body[start : start + 97]
            connection.send(f"{len(piece):x}\r\n", piece, "\r\n")
        connection.send("0\r\n\r\n")
        status, _, answer = connection.answer()
    assert status == 200
    check_predictions(json.loads(answer)["results"][0]["predictions"], picture(4), "2x3", top_k=1)


# --- bad input -------------------------------------------------------------------------------

GOOD, TRUNCATED = picture(1), picture(1, (200, 200), "JPEG")[:700]
CORRUPT = GOOD[:60] + bytes(30) + GOOD[90:]
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
STRICT = {"strict": "true"}
MULTIPART = {"Content-Type": "multipart/form-data; boundary=b"}

BAD_INPUT: dict[str, tuple[dict[str, Any], int, str]] = {
    "empty body": ({"content": b""}, 400, "empty-body"),
    "no body": ({}, 400, "empty-body"),
    "empty form": ({"content": b"", "headers": MULTIPART}, 400, "empty-body"),
    "no file": ({"files": {"top_k": (None, "1")}}, 400, "no-file"),
    "no part": ({"content": b"--b--\r\n", "headers": MULTIPART}, 400, "no-file"),
    "0-byte part": (form(b""), 400, "empty-file"),
    "second part of 0 bytes": ({**form(GOOD, b""), "params": STRICT}, 400, "empty-file"),
    "form without boundary": (
        {"content": PART, "headers": {"Content-Type": "multipart/form-data"}},
        400,
        "broken-form",
    ),
    "boundary too long": (
        {"content": PART, "headers": {"Content-Type": MULTIPART["Content-Type"] * 50}},
        400,
        "broken-form",
    ),
    "form cut off": ({"content": PART + GOOD, "headers": MULTIPART}, 400, "broken-form"),
    "form that is none": ({"content": b"hello" * 9, "headers": MULTIPART}, 400, "broken-form"),
    "part without a name": (
        {"content": b"--b\r\nX: y\r\n\r\nz\r\n--b--\r\n", "headers": MULTIPART},
        400,
        "broken-form",
    ),
    "text as JPEG": (
        {"content": b"I am a JPEG", "headers": {"Content-Type": "image/jpeg"}},
        415,
        "unsupported-media",
    ),
    "text as JPEG in a form": (form(b"I am a JPEG"), 415, "unsupported-media"),
    "truncated JPEG": ({"content": TRUNCATED}, 422, "broken-media"),
    "corrupt PNG": ({"content": CORRUPT}, 422, "broken-media"),
    "bad second file": ({**form(GOOD, TRUNCATED), "params": STRICT}, 422, "broken-media"),
    "21000x21000 PNG": ({"content": huge_png(21_000, 21_000)}, 422, "media-too-large"),
    "compressed": (
        {"content": GOOD, "headers": {"Content-Encoding": "gzip"}},
        415,
        "content-encoding",
    ),
    "unknown bundle": (
        {"content": GOOD, "params": {"bundle": "nope"}},
        404,
        "unknown-bundle",
    ),
    "empty bundle": ({"content": GOOD, "params": {"bundle": ""}}, 404, "unknown-bundle"),
    "unknown grid": ({"content": GOOD, "params": {"grid": "9x9"}}, 422, "unknown-grid"),
    "grid that is none": ({"content": GOOD, "params": {"grid": "2*3"}}, 422, "unknown-grid"),
    "unknown parameter": ({"content": GOOD, "params": {"topk": "1"}}, 422, "unknown-parameter"),
    "unknown field": (
        {**form(GOOD), "data": {"treshold": "1"}},
        422,
        "unknown-parameter",
    ),
    "file under another name": ({"files": {"image": GOOD}}, 422, "unknown-parameter"),
    "small file under another name": ({"files": {"image": b"x"}}, 422, "unknown-parameter"),
    "parameter twice": (
        {"content": GOOD, "params": [("top_k", "1"), ("top_k", "2")]},
        422,
        "repeated-parameter",
    ),
    "parameter in query and form": (
        {**form(GOOD), "data": {"top_k": "1"}, "params": {"top_k": "1"}},
        422,
        "repeated-parameter",
    ),
    "endless query": ({"content": GOOD, "params": {"grid": "1" * 5000}}, 422, "bad-parameter"),
    "endless field": ({**form(GOOD), "data": {"grid": "1" * 5000}}, 422, "bad-parameter"),
    "file over its limit": ({"content": bytes(FILE_LIMIT + 1)}, 413, "file-too-large"),
    "file over its limit in a form": (form(bytes(FILE_LIMIT + 1)), 413, "file-too-large"),
    "too many files": (form(*[GOOD] * 4), 413, "too-many-files"),
    "body over its limit": ({"content": bytes(BODY_LIMIT + 1)}, 413, "body-too-large"),
}
for _value in ("0", "-1", "6", "", "1.5", "one", "1" * 30, "٣", " 1", "+1"):
    _options = {"content": GOOD, "params": {"top_k": _value}}
    BAD_INPUT[f"top_k={_value}"] = (_options, 422, "bad-parameter")


@pytest.mark.parametrize(("options", "status", "name"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_gets_its_problem_and_harms_nobody(
    server: RunningServer, options: dict[str, Any], status: int, name: str
) -> None:
    """Every bad input is a clear problem document, and the next request is answered."""
    check_problem(server.classify(**options), status, name)
    assert server.classify(content=GOOD).status_code == 200


def test_problems_name_what_was_expected(server: RunningServer) -> None:
    """Messages list the known bundles, grids, parameters and the range of top_k."""
    for params, words in (
        ({"bundle": "nope"}, ("'nope'", "tiny, wide")),
        ({"grid": "9x9"}, ("'9x9'", "2x3, 3x2")),
        ({"topk": "1"}, ("'topk'", "top_k, bundle, grid")),
        ({"top_k": "0"}, ("'0'", "1 to 5")),
    ):
        detail = server.classify(content=GOOD, params=params).json()["detail"]
        assert all(word in detail for word in words), detail
    told = server.classify(**form(GOOD, b"text"), params=STRICT).json()["detail"]
    assert told.startswith("file 2 of 2: ")


def test_framework_refusals_are_problems_too(server: RunningServer) -> None:
    """404 and 405 have the same form as every other problem, and 405 says what is allowed."""
    check_problem(server.get("/nothing/here"), 404, "not-found")
    check_problem(server.get("/v1/classify/image/"), 404, "not-found")
    for path, allowed in (("/v1/classify/image", "POST"), ("/v1/bundles", "GET, HEAD")):
        response = server.request("DELETE", path)
        check_problem(response, 405, "method-not-allowed")
        assert response.headers["allow"] == allowed


def test_line_break_after_the_address_does_not_pass_the_guard(server: RunningServer) -> None:
    """Only the exact address runs a model, so nothing runs without a permit and its limits."""
    for body in (GOOD, bytes(BODY_LIMIT + 1)):
        response = server.classify("/v1/classify/image%0A", content=body)
        check_problem(response, 404, "not-found")


# --- limits of the body ----------------------------------------------------------------------


def test_body_over_the_limit_is_refused_before_it_is_sent(server: RunningServer) -> None:
    """The Content-Length alone is enough: the answer comes while nothing of the body has."""
    with RawConnection(server.port) as connection:
        connection.send_head(f"Content-Length: {10**12}")
        status, headers, body = connection.answer()
        assert (status, json.loads(body)["type"]) == (413, "/problems/body-too-large")
        assert headers["connection"] == "close"
        assert connection.closed()


def test_body_over_the_limit_is_cut_without_content_length(server: RunningServer) -> None:
    """A chunked body is counted while it comes, and its sender sees the answer."""
    with RawConnection(server.port) as connection:
        kind = f"Content-Type: {MULTIPART['Content-Type']}"
        connection.send_head("Transfer-Encoding: chunked", kind)
        piece = PART + bytes(40 * KIB) + b"\r\n"  # less than a file may have
        for _ in range(3):
            connection.send(f"{len(piece):x}\r\n", piece, "\r\n")
        status, headers, body = connection.answer()
        assert (status, json.loads(body)["type"]) == (413, "/problems/body-too-large")
        assert headers["connection"] == "close"
        assert connection.closed()
    assert server.classify(content=GOOD).status_code == 200
    assert server.engine.admission.bytes == server.engine.admission.requests == 0


def test_sender_that_waits_for_100_is_refused_without_a_body(server: RunningServer) -> None:
    """``Expect: 100-continue`` with too large a body gets the refusal, never the go-ahead."""
    with RawConnection(server.port) as connection:
        connection.send_head("Content-Length: 999999", "Expect: 100-continue")
        assert connection.answer()[0] == 413


def test_connection_stays_usable_after_a_small_refused_body(server: RunningServer) -> None:
    """A refused request with a short body does not cost the connection."""
    with RawConnection(server.port) as connection:
        for _ in range(2):
            connection.send_head("Content-Encoding: gzip", f"Content-Length: {len(GOOD)}")
            connection.send(GOOD)
            assert connection.answer()[0] == 415
        connection.send_head(f"Content-Length: {len(GOOD)}")
        connection.send(GOOD)
        assert connection.answer()[0] == 200


LYING = (
    "Content-Length: -1",
    "Content-Length: +5",
    "Content-Length: 0x5",
    "Content-Length: 5, 5",
    "Content-Length: 99999999999999999999999",
    "Content-Length: 5\r\nContent-Length: 6",
    "Content-Length: 5\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked, identity",
)


@pytest.mark.parametrize("head", LYING)
def test_lying_lengths_are_refused(server: RunningServer, head: str) -> None:
    """A length that is no length ends as 400 and never reaches the application."""
    with RawConnection(server.port) as connection:
        connection.send_head(head)
        connection.send("hello")
        assert connection.socket.recv(12) == b"HTTP/1.1 400"


def test_body_of_exactly_the_limit_is_read(server: RunningServer) -> None:
    """The cap counts bytes and not chunks: the last allowed one passes, one more is 413."""
    end = b"\r\n--b--\r\n"
    for size, expected in (
        (BODY_LIMIT, (415, "/problems/unsupported-media")),
        (BODY_LIMIT + 1, (413, "/problems/body-too-large")),
    ):
        first = PART + bytes(FILE_LIMIT) + b"\r\n" + PART
        form = first + bytes(size - len(first) - len(end)) + end
        for piece in (777, 16 * KIB):
            with RawConnection(server.port) as connection:
                connection.send_head(
                    "Transfer-Encoding: chunked", f"Content-Type: {MULTIPART['Content-Type']}"
                )
                for start in range(0, size, piece):
                    part = form[start : start + piece]
                    connection.send(f"{len(part):x}\r\n", part, "\r\n")
                connection.send("0\r\n\r\n")
                status, _, body = connection.answer()
            assert (status, json.loads(body)["type"]) == expected


def test_file_over_its_limit_is_refused_while_it_comes(server: RunningServer) -> None:
    """What is too large is not read to its end, alone or where nothing after it may be answered."""
    for head, form in ((PART, True), (b"", False)):
        with RawConnection(server.port) as connection:
            kind = MULTIPART["Content-Type"] if form else "video/mp4"
            path = "/v1/classify/image" + "?strict=true" * form
            told = f"Content-Length: {BODY_LIMIT}", f"Content-Type: {kind}"
            connection.send_head(*told, path=path)
            connection.send(head, bytes(FILE_LIMIT + 1))  # and no more
            status, _, body = connection.answer()
            assert (status, json.loads(body)["type"]) == (413, "/problems/file-too-large")


def test_bytes_after_the_stated_length_are_another_request(server: RunningServer) -> None:
    """A Content-Length that is too small cuts the body there; what follows is no request."""
    with RawConnection(server.port) as connection:
        connection.send_head("Content-Length: 20")
        connection.send(GOOD[:20])
        assert connection.answer()[0] == 422
        connection.send(GOOD[20:])
        assert connection.socket.recv(12) == b"HTTP/1.1 400"
    wait_until(lambda: server.engine.admission.requests == 0, "the permits to come back")


# --- what is neither head nor body -----------------------------------------------------------


def test_head_without_end_is_cut(server: RunningServer) -> None:
    """A head may have 64 KiB and a little; the parser never keeps more."""
    with RawConnection(server.port) as connection:
        connection.send("GET /health/live HTTP/1.1\r\nX-Endless: ")
        assert pour(connection, b"x" * 2**14) < 2**24
    with RawConnection(server.port) as connection:
        connection.send("GET /health/live HTTP/1.1\r\n")
        assert pour(connection, b"X-Endless: again\r\n" * 1000) < 2**24


@pytest.mark.parametrize("trailer", [b"x" * 2**14, b"a:b\r\n" * 2000], ids=["one", "many"])
def test_trailers_without_end_are_cut(server: RunningServer, trailer: bytes) -> None:
    """What comes after the last chunk is neither kept nor endless, and its permit comes back."""
    with RawConnection(server.port) as connection:
        connection.send_head("Transfer-Encoding: chunked")
        connection.send("3\r\nabc\r\n0\r\nX-Endless: ")
        assert pour(connection, trailer) < 2**24
    wait_until(lambda: server.engine.admission.requests == 0, "the permit to come back")


def test_trailers_change_nothing(server: RunningServer) -> None:
    """Fields after the body are not headers, whatever they are called."""
    with RawConnection(server.port) as connection:
        connection.send_head("Transfer-Encoding: chunked")
        connection.send(f"{len(GOOD):x}\r\n", GOOD, "\r\n0\r\nContent-Encoding: gzip\r\n\r\n")
        assert connection.answer()[0] == 200
        connection.send_head(f"Content-Length: {len(GOOD)}")
        connection.send(GOOD)
        assert connection.answer()[0] == 200


def test_head_of_a_long_answerable_request_is_read(server: RunningServer) -> None:
    """Less than the limit is served, however slowly it was cut into pieces."""
    with RawConnection(server.port) as connection:
        connection.send("GET /health/live HTTP/1.1\r\nHost: x\r\n")
        for _ in range(20):
            connection.send("X-Long: ", "x" * 2**11, "\r\n")
            time.sleep(0.005)
        connection.send("\r\n")
        assert connection.answer()[0] == 200


def pour(connection: RawConnection, piece: bytes, total: int = 2**26) -> int:
    """Send the same piece until the connection is closed; how many bytes went out."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < total:
            connection.send(piece)
            sent += len(piece)
    return sent


def test_request_of_nobody_is_counted_and_harms_nobody(server: RunningServer) -> None:
    """A client that leaves half way through its body is counted as 499."""
    before = server.metric("liere_requests_total", modality="image", code="499")
    with RawConnection(server.port) as connection:
        connection.send_head("Content-Length: 1000")
        connection.send(b"half")
    for _ in range(100):
        if server.metric("liere_requests_total", modality="image", code="499") > before:
            break
        assert server.classify(content=GOOD).status_code == 200
    assert server.metric("liere_requests_total", modality="image", code="499") == before + 1


def test_small_answer_is_one_piece_on_the_wire(server: RunningServer) -> None:
    """Head and body leave in one write, so a client wakes up once for an answer."""
    with RawConnection(server.port) as connection:
        for _ in range(5):
            connection.send_head(f"Content-Length: {len(GOOD)}")
            connection.send(GOOD)
            piece = connection.socket.recv(65536)
            head, _, body = piece.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert json.loads(body)["results"]


# --- the arithmetic --------------------------------------------------------------------------


def test_softmax_does_not_overflow() -> None:
    """Logits of any size give finite probabilities that sum to one."""
    for logits in ([1000, 999, -1000], [-1e30, -1e30, -1e30], [3e38, 0, -3e38], [0, 0, 0]):
        values = softmax(np.array(logits, np.float32))
        assert np.isfinite(values).all()
        assert values.sum() == pytest.approx(1)


def test_rank_gives_ties_to_the_lower_index() -> None:
    """Equal logits are listed in the order of the labels."""
    assert [one["index"] for one in rank(np.zeros(5, np.float32), LABELS, 3)] == [0, 1, 2]


def test_top_k_defaults_to_five_or_all() -> None:
    """Without top_k there are five predictions, or as many as there are labels."""
    assert parse_top_k(None, 10) == 5
    assert parse_top_k(None, 3) == 3
    assert parse_top_k("10", 10) == 10
    with pytest.raises(BadParameter):
        parse_top_k("11", 10)


def test_real_photo_is_classified(server: RunningServer, data_dir: Path) -> None:
    """A photo of a camera, larger than a page of memory, gets ranked labels."""
    media = (data_dir / "decode" / "images" / "flower.jpg").read_bytes()
    (result,) = server.classify(**form(media)).json()["results"]
    check_predictions(result["predictions"], media, "2x3")
