"""The pages without a browser: what is sent, how long it is kept, and that nothing is elsewhere."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.http.page.files import ASK, VERSION, Files, read_files
from tests.helpers.service_fixtures import RunningServer, serving

MOST_BYTES = 60_000  # of the page in all, as it is sent
PAGES = {"/": "index.html", "/docs": "docs.html"}
STATIC = Path(__file__).parents[2] / "service" / "http" / "page" / "static"


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[RunningServer]:
    """A server that wants a key, which the pages do not."""
    with serving(bundles, key_sha256=("0" * 64,)) as running:
        yield running


def loaded(name: str) -> set[str]:
    """The files that a page or module of ours asks for, and what those do."""
    text = (STATIC / name).read_text(encoding="utf-8")
    named = set(re.findall(r'(?:src|href)="page/\{version\}/([^"]+)"', text))
    named |= set(re.findall(r'(?:from |import\()"\./([^"]+)"', text))
    ours = {one for one in named if (STATIC / one).exists()}
    return named.union(*(loaded(one) for one in ours))


@pytest.mark.parametrize("path", PAGES)
def test_page_and_its_files_need_no_key_and_are_kept(server: RunningServer, path: str) -> None:
    """The page is asked for again each time, its files never: their address names their version."""
    page = server.get(path)
    assert page.status_code == 200
    assert page.headers["cache-control"] == "no-cache"
    assert server.get(path, headers={"If-None-Match": page.headers["etag"]}).status_code == 304
    for name in loaded(PAGES[path]):
        file = server.get(f"/page/{read_files().version}/{name}")
        assert file.status_code == 200, name
        assert file.headers["cache-control"] == "public, max-age=31536000, immutable"
        again = server.get(
            f"/page/{read_files().version}/{name}",
            headers={"If-None-Match": f'"other", {file.headers["etag"]}'},
        )
        assert (again.status_code, again.content) == (304, b"")


def test_address_of_another_version_gets_todays_file_and_is_not_kept(
    server: RunningServer,
) -> None:
    """A page that was opened before the server changed goes on."""
    today = server.get(f"/page/{read_files().version}/page.css")
    other = server.get("/page/abc123/page.css")
    assert (other.status_code, other.content) == (200, today.content)
    assert other.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("name", ["nothing.js", "index.html", "docs.html", "routes.py"])
def test_what_is_no_file_of_the_page_is_not_there(server: RunningServer, name: str) -> None:
    """Pages have addresses of their own, without a version."""
    assert server.get(f"/page/{read_files().version}/{name}").json()["status"] == 404


def test_what_people_read_in_the_folder_is_not_served() -> None:
    """Only what the table of types names; the licences stay where they are."""
    kept = {one.name for one in (STATIC.parent / "swagger").iterdir()} - set(read_files().names())
    assert kept >= {"LICENSE", "NOTICE", "README.md", "swagger-ui-bundle.js.LICENSE.txt"}


def test_version_changes_with_any_file(tmp_path: Path) -> None:
    """Of one byte more in one file the address of all is another one."""
    for folder in ("static", "swagger"):
        (tmp_path / folder).mkdir()
    (tmp_path / "static" / "a.html").write_bytes(b"<p>" + VERSION + ASK)
    (tmp_path / "static" / "ask.html").write_bytes(b"<dialog>")
    (tmp_path / "static" / "page.css").write_bytes(b"p {}")
    (tmp_path / "static" / "b.js").write_bytes(b"1;")
    before = Files(tmp_path)
    assert before["a.html"].body == b"<p>" + before.version.encode() + b"<dialog>"
    (tmp_path / "static" / "b.js").write_bytes(b"2;")
    after = Files(tmp_path)
    assert before.version != after.version
    assert before["a.html"].etag != after["a.html"].etag


def test_files_are_sent_packed_to_whom_that_is_known(server: RunningServer) -> None:
    """gzip is the same bytes in fewer; caches are told that the answers differ."""
    address = f"/page/{read_files().version}/page.css"
    plain = server.get(address, headers={"Accept-Encoding": "identity"})
    packed = server.get(address, headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == plain.content  # which the client has unpacked
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 2
    assert plain.headers["vary"] == packed.headers["vary"] == "Accept-Encoding"


def test_page_is_small() -> None:
    """Everything that it loads, as it is sent."""
    files = [read_files()[name] for name in ("index.html", *loaded("index.html"))]
    assert sum(len(one.packed) for one in files) <= MOST_BYTES
    assert all(gzip.decompress(one.packed) == one.body for one in files)


def test_modules_are_asked_for_at_once() -> None:
    """None is found out about only after another has come, once the page has been painted."""
    text = (STATIC / "start.js").read_text(encoding="utf-8")
    (listed,) = re.findall(r"MODULES = \[(.*?)\]", text, re.DOTALL)
    first = {f"{name}.js" for name in re.findall(r'"(\w+)"', listed)}
    assert first | {"start.js"} == {one for one in loaded("index.html") if one.endswith(".js")}


def test_page_is_whole_when_its_modules_begin() -> None:
    """They look for its parts: a page that comes slowly may be painted in pieces."""
    text = (STATIC / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script ([^>]*)>", text) == ['defer src="page/{version}/start.js"']


@pytest.mark.parametrize("path", PAGES)
def test_policy_lets_in_this_server_alone(server: RunningServer, path: str) -> None:
    """No script or style from a string or from elsewhere, and no frame around it."""
    headers = server.get(path).headers
    policy = dict(
        one.strip().split(" ", 1) for one in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    style = f"'{read_files().style}'" if path == "/" else "'unsafe-inline'"
    assert policy["style-src"] == f"'self' {style}"
    assert not re.search("https?:", headers["content-security-policy"])
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("page", PAGES.values())
def test_pages_hold_nothing_inline_and_name_nobody_else(page: str) -> None:
    """What the policy would block is not even written; it lets one style in, by its hash."""
    text = (STATIC / page).read_text(encoding="utf-8").replace("<style>{style}</style>", "")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text)
    for name in (page, *(one for one in loaded(page) if (STATIC / one).exists())):
        found = (STATIC / name).read_text(encoding="utf-8")
        foreign = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", found))
        assert foreign <= {"http://www.w3.org"}, name  # the name of SVG, which nobody asks
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", found
        )
