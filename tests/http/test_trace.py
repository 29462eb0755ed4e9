"""Trace context: what is valid is continued, given back and logged; what is not is as if absent."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.trace import Span
from tests.helpers.service_fixtures import (
    RawConnection,
    RunningServer,
    TinySession,
    access_lines,
    picture,
    poison,
    serving,
    write_tiny_bundle,
)

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{PARENT}-01"


def hexadecimal(length: int) -> st.SearchStrategy[str]:
    """Identifiers that are not all zero."""
    texts = st.text("0123456789abcdef", min_size=length, max_size=length)
    return texts.filter(lambda text: text.strip("0"))


VERSIONS = hexadecimal(2).filter(lambda version: version != "ff")
FLAGS = st.integers(0, 255)
PRINTABLE = st.characters(min_codepoint=32, max_codepoint=126)
REST = st.one_of(st.just(""), st.text(PRINTABLE).map("-{}".format))


@given(hexadecimal(32), hexadecimal(16), FLAGS, st.sampled_from(["", " ", "\t "]))
def test_trace_of_this_version_is_continued(
    trace: str, parent: str, flags: int, space: str
) -> None:
    """Same trace, a span of this server's own, of the flags only whether it is sampled."""
    span = Span.begin([f"{space}00-{trace}-{parent}-{flags:02x}{space}".encode()])
    assert span is not None
    assert span.trace_id == trace
    assert re.fullmatch("[0-9a-f]{16}", span.span_id)
    assert span.span_id not in (parent, "0" * 16)
    assert span.header().decode() == f"00-{trace}-{span.span_id}-{flags & 1:02x}"
    again = Span.begin([span.header()])
    assert again is not None
    assert (again.trace_id, again.flags) == (trace, flags & 1)


@given(VERSIONS, hexadecimal(32), hexadecimal(16), FLAGS, REST)
def test_trace_of_a_later_version_is_continued_by_its_first_four_parts(
    version: str, trace: str, parent: str, flags: int, rest: str
) -> None:
    """More may follow behind a dash, and is answered in the version that is known."""
    span = Span.begin([f"{version}-{trace}-{parent}-{flags:02x}{rest}".encode()])
    assert span is not None
    assert span.header().decode() == f"00-{trace}-{span.span_id}-{flags & 1:02x}"


@given(st.integers(0, len(VALID) - 1), PRINTABLE)
def test_one_other_character_is_valid_only_where_it_may_stand(place: int, other: str) -> None:
    """A dash for a dash, a hexadecimal digit in small letters for such a digit."""
    changed = VALID[:place] + other + VALID[place + 1 :]
    valid = other in ("-" if VALID[place] == "-" else "0123456789abcdef")
    assert (Span.begin([changed.encode()]) is not None) == valid


@given(st.binary(max_size=80))
def test_no_bytes_are_more_than_a_trace_or_none(value: bytes) -> None:
    """Whatever comes, what is given back is in order."""
    span = Span.begin([value])
    assert span is None or re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", span.header())


INVALID = {
    "nothing": b"",
    "version ff": f"ff-{TRACE}-{PARENT}-01".encode(),
    "more behind version 00": f"{VALID}-more".encode(),
    "a dash behind version 00": f"{VALID}-".encode(),
    "more without a dash": f"cc-{TRACE}-{PARENT}-01more".encode(),
    "no trace": f"00-{'0' * 32}-{PARENT}-01".encode(),
    "no parent": f"00-{TRACE}-{'0' * 16}-01".encode(),
    "capitals": VALID.upper().encode(),
    "too short": VALID[:-1].encode(),
    "no flags": VALID[:-3].encode(),
    "two in one": f"{VALID},{VALID}".encode(),
    "other digits": VALID.replace("4", "٤").encode(),
    "huge": VALID.encode() * 1000,
}


@pytest.mark.parametrize("value", INVALID.values(), ids=INVALID.keys())
def test_invalid_trace_is_ignored(value: bytes) -> None:
    """It is no error: the request is answered as one without a trace."""
    assert Span.begin([value]) is None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with one tiny bundle in numpy."""
    root = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(root)
    with serving(root, lambda *_: TinySession()) as running:
        yield running


def test_trace_is_given_back_and_logged(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    """With answers, problems and what fails: the id of the trace is in every line about them."""
    ids = []
    with caplog.at_level(logging.INFO, "service.access"):
        for media, status in ((picture(), 200), (b"text", 415), (poison(), 500)):
            answer = server.classify(content=media, headers={"traceparent": VALID})
            assert answer.status_code == status
            version, trace, span, flags = answer.headers["traceparent"].split("-")
            assert (version, trace, flags) == ("00", TRACE, "01")
            assert span != PARENT
            ids.append(answer.headers["x-request-id"])
        assert [line["trace_id"] for line in access_lines(caplog, *ids)] == [TRACE] * 3
    (failed,) = [vars(one) for one in caplog.records if f"request {ids[2]}" in one.getMessage()]
    assert failed["fields"]["trace_id"] == TRACE


@pytest.mark.parametrize("values", [(), ("00-x",), (VALID, VALID)], ids=["none", "bad", "two"])
def test_no_trace_is_made_up(
    server: RunningServer, caplog: pytest.LogCaptureFixture, values: tuple[str, ...]
) -> None:
    """Without exactly one that is valid there is none in the answer and none in the log."""
    with caplog.at_level(logging.INFO, "service.access"), RawConnection(server.port) as connection:
        lines = "".join(f"traceparent: {value}\r\n" for value in values)
        connection.send(f"GET /health/live HTTP/1.1\r\nHost: test\r\n{lines}\r\n")
        status, headers, _ = connection.answer()
        assert (status, "traceparent" in headers) == (200, False)
        (line,) = access_lines(caplog, headers["x-request-id"])
        assert line["trace_id"] is None
