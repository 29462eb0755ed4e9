"""A head is plain only where the parser would understand the same, and leave the same behind it."""

from __future__ import annotations

from typing import Any

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.http.plain_heads import MAX_PLAIN_BYTES, PlainHead, read_plain_head

BEHIND = b"GET /behind HTTP/1.1\r\n\r\n"
LINES = (
    b"Host: x", b"Content-Length: 3", b"content-length: 03", b"Connection: keep-alive",
    b"Connection: Keep-Alive", b"Accept: */*", b"X-Request-ID: mine", b"Authorization: Bearer a b",
    b"Content-Type: image/png; name=\"a: b\"", b"User-Agent: curl/8 (x)", b"Keep-Alive: 9",
)  # fmt: skip
#: Each says something about the end of the request, or of the connection, or how to read another.
DOUBTS = (
    b"Content-Length: 3", b"Content-Length: 4", b"Content-Length: +3", b"Content-Length: 3, 3",
    b"Content-Length: 0x3", b"Content-Length: 3_0", b"Content-Length : 3", b" Content-Length: 3",
    b"Content-Length:3", b"Content-Length: 3 ", b"Content-Length:\t3", b"CONTENT-LENGTH: 99",
    b"Content-Length: 99999999999999999999", b"Content-Length: \xb2", b"Content-Length: ",
    b"Content-Length: 3\nX: y", b"Content-Length: 3\rX: y", b"X: y\r\n Content-Length: 9",
    b"Transfer-Encoding: chunked", b"transfer-encoding: identity", b"Transfer-Encoding : chunked",
    b"Transfer-Encoding:\x0bchunked", b"X: y\x00z", b"X: \xff", b": y", b"X y: z", b"X", b"X:y",
    b"Connection: close", b"Connection: keep-alive, close", b"Connection: upgrade",
    b"Upgrade: h2c", b"Proxy-Connection: close", b"Expect: 100-continue", b"X_Y: z", b"X: y\tz",
)  # fmt: skip
REQUESTS = (
    b"POST /v1/classify/image HTTP/1.1", b"POST /v1/classify/image?top_k=1&bundle=a%40b HTTP/1.1",
    b"POST /v1/classify/image HTTP/1.0", b"POST /v1/classify/image HTTP/1.2",
    b"POST  /v1/classify/image HTTP/1.1", b"POST /v1/classify/image  HTTP/1.1",
    b"POST /v1/classify/image", b"POST /v1/classify/image#a HTTP/1.1",
    b"post /v1/classify/image HTTP/1.1", b"POST http://x/v1/classify/image HTTP/1.1",
    b"POST /v1/classify/image HTTP/1.1 ", b"POST /v1/classify/../image HTTP/1.1",
    b"POST /v1/classify/%69mage HTTP/1.1",
    b"HEAD /v1/classify/image HTTP/1.1", b"PUT /v1/classify/image HTTP/1.1",
    b"\r\nPOST /v1/classify/image HTTP/1.1", b"POST /v1/classify/image\tHTTP/1.1",
)  # fmt: skip


class Parsed:
    """What the parser makes of bytes: whole messages, as ``(method, url, headers, body)``."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes]] = []
        self.kept = False
        self.parser = httptools.HttpRequestParser(self)

    def on_message_begin(self) -> None:
        self.url, self.body, self.headers = b"", b"", list[tuple[bytes, bytes]]()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        method = self.parser.get_method()
        self.kept = self.parser.should_keep_alive() and self.parser.get_http_version() == "1.1"
        self.messages.append((method, self.url, self.headers, self.body))


def check(data: bytes) -> PlainHead | None:
    """Nothing is said of the head, or what the parser says, which then meets what is behind."""
    head = read_plain_head(data)
    if head is not None:
        parsed, end = Parsed(), head.size + head.length
        parsed.parser.feed_data(data[:end])
        parsed.parser.feed_data(bytes(max(0, end - len(data))))
        assert parsed.kept
        parsed.parser.feed_data(BEHIND)
        (method, url, headers, body), behind = parsed.messages
        assert (method, url.partition(b"?")[0]) == (b"POST", head.path)
        assert sorted(headers) == sorted(head.headers.items())
        assert (len(body), int(head.headers[b"content-length"])) == (head.length, head.length)
        assert behind == (b"GET", b"/behind", [], b"")
    return head


def whole(request: bytes, lines: Any, body: bytes = b"abc") -> bytes:
    return b"\r\n".join([request, *lines, b"", b""]) + body


@given(
    st.sampled_from(REQUESTS[:2]) | st.sampled_from(REQUESTS),
    st.lists(st.sampled_from(LINES) | st.sampled_from(DOUBTS), max_size=6),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 2), st.binary(max_size=2)), max_size=3),
)
@example(REQUESTS[0], LINES[:2], [])
@example(REQUESTS[1], (LINES[2], LINES[4], *LINES[5:]), [])
def test_plain_heads_are_what_the_parser_reads(request: Any, lines: Any, edits: Any) -> None:
    """Whatever is put together, left out and spoilt: the same request and the same end of it."""
    data = whole(request, lines)
    for at, gone, put in edits:
        data = data[:at] + put + data[at + gone :]
    check(data)


@pytest.mark.parametrize("line", LINES[4:], ids=repr)
def test_heads_of_clients_are_plain(line: bytes) -> None:
    """What common clients send needs no parser."""
    head = check(whole(REQUESTS[0], (*LINES[:2], line)))
    assert head is not None
    assert (head.path, head.length) == (b"/v1/classify/image", 3)


@pytest.mark.parametrize("line", DOUBTS, ids=repr)
def test_doubtful_lines_are_for_the_parser(line: bytes) -> None:
    """Beside a length that is right, behind it or before it."""
    assert check(whole(REQUESTS[0], (*LINES[:2], line))) is None
    assert check(whole(REQUESTS[0], (line, *LINES[:2]))) is None


@pytest.mark.parametrize("request_line", REQUESTS[2:], ids=repr)
def test_other_requests_are_for_the_parser(request_line: bytes) -> None:
    """Another method, version or address, or one that is written otherwise."""
    assert check(whole(request_line, LINES[:2])) is None


@pytest.mark.parametrize(
    "data",
    [
        whole(REQUESTS[0], LINES[:1]),
        whole(REQUESTS[0], LINES[:2]).replace(b"\r\n\r\n", b"\r\n"),
        whole(REQUESTS[0], LINES[:2]).replace(b"\r\n\r\n", b"\n\r\n"),
        whole(REQUESTS[0], LINES[:2]).replace(b"\r\n", b"\n"),
        whole(REQUESTS[0], (*LINES[:2], b"X: " + b"y" * MAX_PLAIN_BYTES)),
        b"",
    ],
    ids=["no length", "no end", "bare end", "bare lines", "long", "nothing"],
)
def test_heads_without_length_or_end_are_for_the_parser(data: bytes) -> None:
    """What is missing may still come."""
    assert check(data) is None


def test_every_cut_is_for_the_parser() -> None:
    """Half a head is none."""
    data = whole(REQUESTS[1], LINES[:2], b"")
    assert all(check(data[:cut]) is None for cut in range(len(data)))
    assert check(data) is not None
