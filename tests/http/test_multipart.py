"""Forms as RFC 2046 allows them: every legal spelling is the same form, wherever a read ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.multipart import (
    MAX_BOUNDARY_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_PREAMBLE_BYTES,
    MultipartReader,
    parse_parameters,
)
from service.http.problems import BrokenForm, EmptyBody

#: (headers, data) of a part.
Part = tuple[dict[bytes, bytes], bytes]
HEAD = b'Content-Disposition: form-data; name="file"; filename="a"\r\n'
DISPOSITION = {b"content-disposition": b'form-data; name="file"; filename="a"'}


def read_parts(pieces: Iterable[bytes], boundary: bytes = b"b") -> list[Part]:
    """All parts of a body that comes in these pieces."""

    async def come() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def read() -> list[Part]:
        form, parts = MultipartReader(come(), boundary), []
        while (headers := await form.next_part()) is not None:
            data = bytearray()
            while piece := await form.read():
                data += piece
            parts.append((headers, bytes(data)))
        return parts

    return asyncio.run(read())


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


#: What a sender may write around one part of the data "x", after RFC 2046, 822 and 7578.
SPELLINGS = {
    "plain": b"--b\r\n" + HEAD + b"\r\nx\r\n--b--\r\n",
    "preamble": b"This is a multi-part message.\r\n--b\r\n" + HEAD + b"\r\nx\r\n--b--\r\n",
    "preamble of several lines": b"a\r\n\r\nb: c\r\n\r\n--b\r\n" + HEAD + b"\r\nx\r\n--b--\r\n",
    "preamble with the boundary inside": b"a --b\r\n--b\r\n" + HEAD + b"\r\nx\r\n--b--\r\n",
    "preamble that looks like a boundary": b"--bb\r\n--b\r\n" + HEAD + b"\r\nx\r\n--b--\r\n",
    "empty line first": b"\r\n--b\r\n" + HEAD + b"\r\nx\r\n--b--\r\n",
    "padding": b"--b \t \r\n" + HEAD + b"\r\nx\r\n--b-- \t\r\n",
    "long padding": b"--b" + b" " * 5000 + b"\r\n" + HEAD + b"\r\nx\r\n--b--\r\n",
    "no last line break": b"--b\r\n" + HEAD + b"\r\nx\r\n--b--",
    "padding and no last line break": b"--b\r\n" + HEAD + b"\r\nx\r\n--b--  ",
    "epilogue": b"--b\r\n" + HEAD + b"\r\nx\r\n--b--\r\nThat was all.\r\n--b\r\n\r\ny",
    "last line break of Unix": b"--b\r\n" + HEAD + b"\r\nx\r\n--b--\n",
    "folded": b"--b\r\n" + HEAD.replace(b"; ", b";\r\n\t ") + b"\r\nx\r\n--b--\r\n",
    "folded twice": b"--b\r\n" + HEAD.replace(b"; ", b";\r\n \r\n ") + b"\r\nx\r\n--b--\r\n",
    "name in capitals": b"--b\r\n" + HEAD.upper()[:19] + HEAD[19:] + b"\r\nx\r\n--b--\r\n",
    "no space after the colon": b"--b\r\n" + HEAD.replace(b": ", b":") + b"\r\nx\r\n--b--\r\n",
    "spaces around the colon": b"--b\r\n" + HEAD.replace(b": ", b" : \t") + b"\r\nx\r\n--b--\r\n",
}  # fmt: skip


@pytest.mark.parametrize("body", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_every_spelling_is_the_plain_form_at_every_cut(body: bytes) -> None:
    """What stands around the data changes nothing, in one piece, in two at any place, in bytes."""
    cuts = [[body], cut(body, 1), *([body[:at], body[at:]] for at in range(min(len(body), 400)))]
    for pieces in cuts:
        ((headers, data),) = read_parts(pieces)
        words = {name: b" ".join(value.split()) for name, value in headers.items()}
        assert (words, data) == (DISPOSITION, b"x")


#: Data that is easily taken for a delimiter, or loses its ends to one.
AWKWARD = (
    b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"-", b"--a", b"x--b\r\n", b"\n--b\n",
    b"\n--b\r\n", b"\r--b\r\n",
    b"\r\n--", b"\r\n--c\r\n", b"\r\n--bb\r\n", b"\r\n--b-x", b"\r\n--b\rx", b"\r\n--b\n", b"x\r",
    b"x\r\n", b"\r\n-", b"\r\r\n--", b"\r\n\r\n--a", bytes(range(256)),
)  # fmt: skip


@pytest.mark.parametrize("data", AWKWARD, ids=repr)
def test_data_that_looks_like_a_boundary_is_data_at_every_cut(data: bytes) -> None:
    """Only CRLF, two hyphens and the boundary end a part; what is a little less is its data."""
    body = b"--b\r\n" + HEAD + b"\r\n" + data + b"\r\n--b\r\n" + HEAD + b"\r\ny\r\n--b--\r\n"
    for at in range(len(body)):
        parts = read_parts([body[:at], body[at:]])
        assert parts == [(DISPOSITION, data), (DISPOSITION, b"y")]
    assert read_parts(cut(body, 1)) == [(DISPOSITION, data), (DISPOSITION, b"y")]


def test_part_without_data_may_lack_the_line_break_too() -> None:
    """The empty line after the headers may be the one before the next boundary."""
    body = b"--b\r\n" + HEAD + b"\r\n--b\r\n\r\n--b--"
    for size in (1, 2, 3, len(body)):
        assert read_parts(cut(body, size)) == [(DISPOSITION, b""), ({}, b"")]


boundaries = st.text(
    "abAB09'()+_,-./:=?", min_size=1, max_size=12
).map(str.encode)  # fmt: skip
awkward = st.lists(st.sampled_from([*AWKWARD[:20], b"x", b" "]), max_size=6).map(b"".join)
padding = st.text(" \t", max_size=5).map(str.encode)
lines = st.sampled_from([b"", b"\r\n", b"hello\r\n", b"a: b\r\n\r\n", b"--\r\n", b"-\r\n\r\n"])
fold = st.sampled_from([b" ", b"\r\n ", b"\r\n\t", b"\r\n \t "])


@given(st.data(), boundaries, st.lists(awkward, min_size=1, max_size=4), st.integers(1, 40))
def test_any_legal_form_gives_its_parts_for_any_pieces(
    drawn: st.DataObject, boundary: bytes, contents: list[bytes], size: int
) -> None:
    """Preamble, padding, folds and epilogue in any combination leave the parts as they are."""
    contents = [one.replace(b"--" + boundary, b"==") for one in contents]
    body = drawn.draw(lines).replace(b"--" + boundary, b"==")
    for number, content in enumerate(contents):
        name = b'"%d"' % number
        gap = drawn.draw(fold)
        body += b"--" + boundary + drawn.draw(padding) + b"\r\n"
        body += b"Content-Disposition: form-data;" + gap + b"name=" + name + b"\r\n\r\n"
        body += content + b"\r\n"
    body += (
        b"--"
        + boundary
        + b"--"
        + drawn.draw(padding)
        + drawn.draw(st.sampled_from([b"", b"\r\nx"]))
    )
    parts = read_parts(cut(body, size), boundary)
    names = [parse_parameters(head[b"content-disposition"])[1][b"name"] for head, _ in parts]
    assert names == [b"%d" % number for number in range(len(contents))]
    assert [data for _, data in parts] == contents


BROKEN = {
    "no boundary": b"hello" * 20,
    "words after a boundary": b"--b x\r\n" + HEAD + b"\r\nx\r\n--b--",
    "end in the data": b"--b\r\n" + HEAD + b"\r\nx",
    "end in the headers": b"--b\r\n" + HEAD,
    "end in the padding": b"--b  ",
    "end before the last hyphen": b"--b\r\n" + HEAD + b"\r\nx\r\n--b-",
    "header without a colon": b"--b\r\nhello\r\n\r\nx\r\n--b--",
    "header without a name": b"--b\r\n: x\r\n\r\nx\r\n--b--",
    "header with a strange name": b"--b\r\na b: x\r\n\r\nx\r\n--b--",
    "fold of nothing": b"--b\r\n a: x\r\n\r\nx\r\n--b--",
    "many headers": b"--b\r\n" + b"a: b\r\n" * (MAX_HEADERS + 1) + b"\r\nx\r\n--b--",
    "long header": b"--b\r\na: " + b"x" * MAX_HEADER_BYTES + b"\r\n\r\nx\r\n--b--",
    "folds without end": b"--b\r\na: b" + b"\r\n c" * MAX_HEAD_BYTES + b"\r\n\r\nx\r\n--b--",
    "headers without end": b"--b\r\n" + b"a: b\r\n" * MAX_HEAD_BYTES,
    "preamble without end": b"x" * MAX_PREAMBLE_BYTES + b"x\r\n--b\r\n" + HEAD + b"\r\nx\r\n--b--",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_form_is_refused_in_any_pieces(body: bytes) -> None:
    """What breaks the rules or a limit is BrokenForm, never something else."""
    for size in (max(1, len(body) // 1000), 7 * len(body)):
        with pytest.raises(BrokenForm):
            read_parts(cut(body, size))


def test_nothing_is_an_empty_body() -> None:
    """No byte at all is said to be that."""
    for pieces in ([], [b""], [b"", b""]):
        with pytest.raises(EmptyBody):
            read_parts(pieces)


@pytest.mark.parametrize("boundary", [b"", b"b" * (MAX_BOUNDARY_BYTES + 1)], ids=["none", "long"])
def test_unfit_boundary_is_refused(boundary: bytes) -> None:
    """A boundary has at least one byte, and not so many that looking for it costs much."""
    with pytest.raises(BrokenForm):
        read_parts([b"--b"], boundary)


@pytest.mark.parametrize(
    ("value", "parameters"),
    [
        (b'form-data; name="file"; filename="a.jpg"', {b"filename": b"a.jpg"}),
        (b'form-data; filename="a.jpg"; name="file"', {b"filename": b"a.jpg"}),
        (b"form-data; name=file", {}),
        (b'FORM-DATA;NAME="file";Filename=a', {b"filename": b"a"}),
        (b'form-data ; name = "file" ; filename = a.jpg ', {b"filename": b"a.jpg"}),
        (b'form-data;; name="file";', {}),
        (b'form-data; filename="a;b=\\"c\\\\d"; name="file"', {b"filename": b'a;b="c\\d'}),
        (b'form-data; filename="C:\\dir\\"; name="file"', {b"filename": b"C:dir\\"}),
        (b'form-data; filename="a; name=x"; name="file"', {b"filename": b"a; name=x"}),
        (
            b'form-data; name="file"; filename*=UTF-8\'\'%e2%82%ac.jpg; filename="EUR.jpg"',
            {b"filename*": b"UTF-8''%e2%82%ac.jpg", b"filename": b"EUR.jpg"},
        ),
        (b"form-data; filename=my photo.jpg; name=file", {b"filename": b"my photo.jpg"}),
        (b'form-data; filename=""; name="file"', {b"filename": b""}),
    ],
)
def test_parameters_are_read_in_every_spelling(
    value: bytes, parameters: dict[bytes, bytes]
) -> None:
    """Quoted or not, in any order, with any spaces, whatever stands in the name of the file."""
    word, found = parse_parameters(value)
    assert word == b"form-data"
    assert found == {b"name": b"file", **parameters}


@pytest.mark.parametrize(
    ("value", "boundary"),
    [
        (b"multipart/form-data; boundary=b", b"b"),
        (b'multipart/form-data; boundary="b"', b"b"),
        (
            b'Multipart/Form-Data; charset=utf-8; BOUNDARY="a b:c\'d()+_,-./=?"',
            b"a b:c'd()+_,-./=?",
        ),
        (b"multipart/form-data; boundary=----=_Part_1_23.456; charset=x", b"----=_Part_1_23.456"),
        (b"multipart/form-data ; boundary = b ", b"b"),
        (b"multipart/form-data; boundary=", b""),
        (b"multipart/form-data; boundary", None),
        (b"multipart/form-data", None),
    ],
)
def test_boundary_is_read_in_every_spelling(value: bytes, boundary: bytes | None) -> None:
    """It may be quoted, with spaces and marks, among other parameters."""
    word, found = parse_parameters(value)
    assert word == b"multipart/form-data"
    assert found.get(b"boundary") == boundary


TOKENS = (
    b"--b", b"--", b"-", b"\r\n", b"\r", b"\n", b" ", b"\t", b"x", b":", b";", b"\x00", HEAD,
    b"\r\n--b\r\n", b"\r\n--b--", b"\r\n\r\n", b"--b\r\n" + HEAD + b"\r\nx\r\n--b--",
)  # fmt: skip


@given(st.lists(st.sampled_from(TOKENS), max_size=12).map(b"".join), st.integers(1, 9))
def test_pieces_never_change_what_a_body_is(body: bytes, size: int) -> None:
    """Form or not, in one piece or in many: the same parts, or the same refusal."""

    def outcome(pieces: list[bytes]) -> list[Part] | str:
        try:
            return read_parts(pieces)
        except (BrokenForm, EmptyBody) as failure:
            return repr(failure)

    assert outcome([body]) == outcome(cut(body, size))


FLOODS = {
    "look-alikes": b"--b\r\n" + HEAD + b"\r\n" + b"\r\n--bx" * 30_000 + b"\r\n--b--",
    "line breaks": b"--b\r\n" + HEAD + b"\r\n" + b"\r\n" * 100_000 + b"\r\n--b--",
    "hyphens": b"--b\r\n" + HEAD + b"\r\n" + b"-" * 200_000 + b"\r\n--b--",
    "padding": b"--b" + b" " * 200_000 + b"\r\n" + HEAD + b"\r\nx\r\n--b--",
    "preamble": b"\r\n--" * 10_000 + b"\r\n--b\r\n" + HEAD + b"\r\nx\r\n--b--",
    "epilogue": b"--b\r\n" + HEAD + b"\r\nx\r\n--b--" + b"\r\n--b\r\n" * 30_000,
}


@pytest.mark.parametrize("body", FLOODS.values(), ids=FLOODS.keys())
def test_hardly_more_than_the_last_piece_is_held(body: bytes) -> None:
    """What waits for a delimiter is no longer than one, so the work for a piece is bounded too."""
    held, size = [], 16

    async def come() -> AsyncIterator[bytes]:
        for piece in cut(body, size):
            held.append(len(form._buffer))
            yield piece

    async def read() -> None:
        assert await form.next_part() == DISPOSITION
        while await form.read():
            pass
        assert await form.next_part() is None

    form = MultipartReader(come(), b"b")
    asyncio.run(read())
    assert len(held) * size >= len(body)
    assert max(held) <= len(HEAD) + 2 * size


@pytest.mark.parametrize("text", [b";a=", b';a="', b';a="b";', b'"\\', b'\\"', b";", b"; ", b" "])
def test_hostile_parameters_are_read_once(text: bytes) -> None:
    """A text hundreds of times as long as a header may be is read at once, not for minutes."""
    for start in (b"x", b'x; a="', b"x; a="):
        parse_parameters(start + text * 300_000)
