"""Zip and tar as sources: the same as the folder that was packed; hostile ones refused by name."""

from __future__ import annotations

import concurrent.futures
import gc
import gzip
import io
import stat
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from media.contents import split_sha256
from media.dataset import prepare_split
from media.limits import SourceLimits
from media.sources import Source, SourceError, open_source
from media.sources.archive import TooManyMembers
from media.sources.packed import open_archive
from media.spec import Grid, InputSpec

KINDS = (".zip", ".tar", ".tar.gz", ".tgz")
CLASSES = {"a/1.png": b"a1", "a/2.png": b"a2", "b/1.png": b"b1", "b/2.png": b"b2"}
SPLITS = {"train/a/1.png": b"1", "valid/b/deep/2.png": b"2", "test/b/3.PNG": b"3"}
TABLE = {
    "labels.csv": b"path,label,split,group\nx/1.png,a,train,p1\nx/2.png,b,val,p2\n3.png,b,test,\n",
    "x/1.png": b"1",
    "x/2.png": b"2",
    "3.png": b"3",
    "x/unlisted.png": b"4",
}


def pack(path: Path, files: dict[str, bytes], top: str = "") -> Path:
    """Files with their contents as an archive of the kind that the path ends in."""
    named = {top + name: data for name, data in files.items()}
    path.write_bytes(zipped(named) if path.suffix == ".zip" else tarred(named))
    if path.name.endswith("gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as target:
        for name, data in files.items():
            target.writestr(name, data)
    return stream.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as target:
        for name, data in files.items():
            target.addfile(tar_entry(name, len(data)), io.BytesIO(data))
    return stream.getvalue()


def tar_entry(
    name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.linkname = size, kind, link
    return entry


def unpack(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def noise(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


def contents(source: Source) -> dict[str, bytes | np.ndarray]:
    return {item.id: source.read(item.id) for item in source.items}


# --- the same as a folder --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top", ["", "./", "digits/", "./my digits/"])
@pytest.mark.parametrize("files", [CLASSES, SPLITS, TABLE], ids=["classes", "splits", "table"])
def test_archive_gives_what_its_folder_gives(
    tmp_path: Path, kind: str, top: str, files: dict[str, bytes]
) -> None:
    """Ids, labels, splits, groups, contents and hashes are those of the folder that was packed."""
    folder = open_source(unpack(tmp_path / "set", files))
    packed = open_source(pack(tmp_path / f"set{kind}", files, top))
    assert (packed.name, packed.labels, packed.items) == (folder.name, folder.labels, folder.items)
    assert contents(packed) == contents(folder)
    assert split_sha256(packed, "train") == split_sha256(folder, "train")


def test_archives_of_other_programs_are_read(tmp_path: Path) -> None:
    """Entries for folders, stored members and members written to a pipe change nothing."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        target.writestr("set/", b"")
        target.writestr("set/a/", b"")
        target.writestr("set/a/1.png", b"1" * 100)
        with target.open("set/b/2.png", "w", force_zip64=True) as member:
            member.write(b"2" * 100)
    (tmp_path / "set.zip").write_bytes(stream.getvalue())
    found = contents(open_source(tmp_path / "set.zip"))
    assert found == {"a/1.png": b"1" * 100, "b/2.png": b"2" * 100}


@pytest.mark.parametrize("kind", KINDS)
def test_scan_in_an_archive_is_an_item(tmp_path: Path, kind: str) -> None:
    """A zip, npz or packed scan inside of an archive is handed over as it is, never opened."""
    series = io.BytesIO()
    with zipfile.ZipFile(series, "w") as target:
        target.writestr("train/a/1.png", b"a slice")
    files = {"a/series.zip": series.getvalue(), "b/scan.nii.gz": noise(90), "b/2.npz": noise(80)}
    source = open_source(pack(tmp_path / f"scans{kind}", files, "scans/"))
    assert contents(source) == files
    assert contents(open_source(unpack(tmp_path / "scans", files))) == files


class Pipe(io.RawIOBase):
    """A target that cannot seek: sizes then follow the members."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.data += bytes(data)
        return len(data)


def test_zip_from_a_pipe_is_read(tmp_path: Path) -> None:
    """Where the header before a member holds no sizes, the directory's count."""
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in CLASSES.items():
            target.writestr(name, data)
    (tmp_path / "set.zip").write_bytes(pipe.data)
    assert contents(open_source(tmp_path / "set.zip")) == CLASSES


@pytest.mark.parametrize("kind", KINDS)
def test_archive_leaves_out_junk(tmp_path: Path, kind: str) -> None:
    """What a system packs on its own is no item, no class and no folder around everything."""
    junk = ("__MACOSX/set/a/._1.png", ".DS_Store", "set/.git/x.png", "set/a/._1.png")
    files = {f"set/{name}": data for name, data in CLASSES.items()} | dict.fromkeys(junk, b"")
    assert contents(open_source(pack(tmp_path / f"set{kind}", files))) == CLASSES


BESIDE = ("README", "README.md", "metadata.csv", "license.txt", ".DS_Store", "1.png", "3.png")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beside", [*((name,) for name in BESIDE), BESIDE])
@pytest.mark.parametrize("files", [CLASSES, SPLITS, TABLE], ids=["classes", "splits", "table"])
def test_file_beside_the_one_folder_makes_it_no_class(
    tmp_path: Path, kind: str, beside: tuple[str, ...], files: dict[str, bytes]
) -> None:
    """A README, a licence or a table of other things may lie beside the folder around all items."""
    plain = open_source(pack(tmp_path / f"plain{kind}", files, "set/"))
    named = {f"set/{name}": data for name, data in files.items()} | dict.fromkeys(beside, b"")
    source = open_source(pack(tmp_path / f"set{kind}", named))
    assert (source.labels, source.items) == (plain.labels, plain.items)
    assert contents(source) == contents(plain)
    told = sum(source.left_out.values()) - sum(plain.left_out.values())
    assert told == len(beside)


def test_table_beside_the_one_folder_decides(tmp_path: Path) -> None:
    """A labels.csv at the root is the root's own, and names what lies in the folder."""
    files = {"labels.csv": b"path,label\nset/1.png,a\nset/2.png,b\n"}
    files |= {"set/1.png": b"1", "set/2.png": b"2"}
    assert open_source(pack(tmp_path / "set.zip", files)).labels == ("a", "b")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_out_is_counted_by_kind(tmp_path: Path, kind: str) -> None:
    """The same counts for a folder and its archive; of a hidden folder one, however full."""
    files = CLASSES | dict.fromkeys(
        ("a/notes.TXT", "b/x.txt", "b/LICENSE", "a/.DS_Store", "b/._1.png", "root.jpg",
         "a/scan.001", ".git/1.png", ".git/2.png", "b/.cache/3.png"), b"",
    )  # fmt: skip
    expected = {
        ".txt": 2, "without an ending": 2, ".DS_Store": 1, "._*": 1, "hidden": 2,
        ".jpg outside a class": 1,
    }  # fmt: skip
    for source in (
        open_source(unpack(tmp_path / "set", files)),
        open_source(pack(tmp_path / f"set{kind}", files)),
    ):
        assert source.left_out == expected
        assert len(source.items) == 4


def test_what_a_table_does_not_name_is_counted(tmp_path: Path) -> None:
    """Media beside the listed ones are told apart from notes."""
    files = TABLE | {"x/notes.txt": b""}
    for source in (
        open_source(unpack(tmp_path / "set", files)),
        open_source(pack(tmp_path / "set.zip", files)),
    ):
        assert source.left_out == {".png not in the table": 1, ".txt": 1}


def test_kinds_that_are_told_are_bounded(tmp_path: Path) -> None:
    """A thousand endings are no thousand lines: the most frequent twelve, and how many others."""
    names = [f"a/{number}.x{number % 40}" for number in range(100)]
    source = open_source(unpack(tmp_path / "set", CLASSES | dict.fromkeys(names, b"")))
    assert sum(source.left_out.values()) == 100
    assert (len(source.left_out), source.left_out["others"]) == (13, 64)


NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize("form", [NFC, NFD], ids=["NFC", "NFD"])
@pytest.mark.parametrize("kind", ["", *KINDS])
def test_names_are_told_in_one_form(tmp_path: Path, kind: str, form: str) -> None:
    """An archive from macOS, one from Linux and a folder give the same classes, ids and hash."""
    files = {f"{form}/{form[3:]}.png": b"1", f"{form}/f.png": b"2", "b/3.png": b"3"}
    path = tmp_path / f"set{kind}"
    source = open_source(pack(path, files) if kind else unpack(path, files))
    assert source.labels == ("b", NFC)
    assert contents(source) == {f"{NFC}/{NFC[3:]}.png": b"1", f"{NFC}/f.png": b"2", "b/3.png": b"3"}
    assert [item.id for item in source.items] == ["b/3.png", f"{NFC}/f.png", f"{NFC}/{NFC[3:]}.png"]


@pytest.mark.parametrize("kind", ["", *KINDS])
def test_one_class_in_two_forms_is_one(tmp_path: Path, kind: str) -> None:
    """train from one system and val from another: no class is there twice."""
    files = {f"train/{NFC}/1.png": b"1", f"val/{NFD}/2.png": b"2", "train/b/3.png": b"3"}
    path = tmp_path / f"set{kind}"
    source = open_source(pack(path, files) if kind else unpack(path, files))
    assert source.labels == ("b", NFC)
    assert contents(source)[f"val/{NFC}/2.png"] == b"2"


@pytest.mark.parametrize("kind", ["", *KINDS])
def test_two_files_of_one_name_in_two_forms_are_refused(tmp_path: Path, kind: str) -> None:
    """Which of them is meant cannot be known."""
    files = {f"a/{NFC}.png": b"1", f"a/{NFD}.png": b"2", "b/3.png": b"3"}
    path = tmp_path / f"set{kind}"
    path = pack(path, files) if kind else unpack(path, files)
    with pytest.raises(SourceError, match="are the same name in Unicode"):
        open_source(path)


@pytest.mark.parametrize("listed", [NFC, NFD], ids=["listed-NFC", "listed-NFD"])
@pytest.mark.parametrize("stored", [NFC, NFD], ids=["stored-NFC", "stored-NFD"])
@pytest.mark.parametrize("kind", ["", "csv", *KINDS])
def test_rows_find_their_files_in_either_form(
    tmp_path: Path, kind: str, stored: str, listed: str
) -> None:
    """A table written on one system names the files of another, folders and labels included."""
    table = f"path,label\n{listed}/{listed}.png,{listed}\n{NFC}/2.png,{NFC}\n3.png,b\n".encode()
    files = {"labels.csv": table, f"{stored}/{stored}.png": b"1", f"{stored}/2.png": b"2"}
    files["3.png"] = b"3"
    path = tmp_path / f"set{kind}"
    path = pack(path, files) if kind in KINDS else unpack(path, files)
    source = open_source(path / "labels.csv" if kind == "csv" else path)
    assert source.labels == ("b", NFC)
    assert contents(source) == {f"{NFC}/{NFC}.png": b"1", f"{NFC}/2.png": b"2", "3.png": b"3"}
    assert source.left_out == {}


@pytest.mark.parametrize("kind", ["", "csv", *KINDS])
def test_rows_find_their_files_in_folders_of_both_forms(tmp_path: Path, kind: str) -> None:
    """A folder that is there twice, in two forms, hides nothing that lies in either."""
    rows = [f"{NFC}/{NFC}/{n}.png" for n in range(4)] + ["b/4.png"]
    table = "path,label\n" + "".join(f"{row},{row[0]}\n" for row in rows)
    forms = [(one, two) for one in (NFC, NFD) for two in (NFC, NFD)]
    files = {f"{one}/{two}/{n}.png": b"%d" % n for n, (one, two) in enumerate(forms)}
    files |= {"labels.csv": table.encode(), "b/4.png": b"4"}
    path = tmp_path / f"set{kind}"
    path = pack(path, files) if kind in KINDS else unpack(path, files)
    source = open_source(path / "labels.csv" if kind == "csv" else path)
    assert contents(source) == {row: b"%d" % n for n, row in enumerate(rows)}


@pytest.mark.parametrize("kind", ["", "csv", *KINDS])
@pytest.mark.parametrize("place", ["{0}/1.png", "a/{0}.png"])
def test_rows_that_mean_two_files_are_refused(tmp_path: Path, kind: str, place: str) -> None:
    """Two files of one name in two forms: both are named, whichever the table spells."""
    table = f"path,label\n{place.format(NFC)},a\nb/2.png,b\n".encode()
    files = {place.format(form): form.encode() for form in (NFC, NFD)}
    files |= {"labels.csv": table, "b/2.png": b"2"}
    path = tmp_path / f"set{kind}"
    path = pack(path, files) if kind in KINDS else unpack(path, files)
    with pytest.raises(SourceError, match=r"cafe\\u0301.* and .*caf\\xe9.* are the same name"):
        open_source(path / "labels.csv" if kind == "csv" else path)


@pytest.mark.parametrize("kind", KINDS)
def test_archive_keeps_a_lone_split(tmp_path: Path, kind: str) -> None:
    """One folder around everything that is called train is a split, as it would be in a folder."""
    files = {f"train/{name}": data for name, data in CLASSES.items()}
    source = open_source(pack(tmp_path / f"set{kind}", files))
    assert {item.id for item in source.items} == set(files)
    assert {item.split for item in source.items} <= {"train", "val"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "expected media of at least two classes, got none"),
        ({"notes.txt": b""}, "expected media of at least two classes, got none"),
        ({"1.png": b"", "2.png": b""}, "expected media of at least two classes, got none"),
        ({"a/1.png": b""}, "expected at least two classes, got \\['a'\\]"),
        ({"a/1.png": b"", "b/notes.txt": b""}, "class 'b' is empty"),
        ({"train/a/1.png": b"", "extra/b/2.png": b""}, "expected either classes or the splits"),
        ({"labels.csv": b"file,label\n"}, "set/labels.csv: expected columns path,label"),
        ({"labels.csv": b"path,label\n1.png,a\n", "2.png": b""}, "1 of 1 files are missing"),
        ({"labels.csv": b"path,label\n../1.png,a\n", "1.png": b""}, "first '../1.png'"),
        (
            {"labels.csv": b"path,label\n1.png,a\n./1.png,b\n", "1.png": b""},
            "'1.png' and './1.png' are the same file",
        ),
        (
            {"labels.csv": b"path,label,split,group\n1.png,a,train,g\n2.png,b,test,g\n"}
            | {"1.png": b"", "2.png": b""},
            "group 'g' lies in train and in test",
        ),
    ],
)
def test_archive_is_refused_as_its_folder_is(
    tmp_path: Path, kind: str, files: dict[str, bytes], message: str
) -> None:
    """Each mistake in the layout or the table is named, whatever the files are packed in."""
    with pytest.raises(SourceError, match=message):
        open_source(pack(tmp_path / f"set{kind}", files))


@pytest.mark.parametrize("name", ["ä", "äöü ß"])
def test_zip_names_are_read_with_or_without_a_mark(tmp_path: Path, name: str) -> None:
    """UTF-8 names give the folder's ids even where the zip does not say that they are UTF-8."""
    files = {f"{name}/1.png": b"1", "b/2.png": b"2"}
    data = zipped(files)
    unmarked = bytearray(data)
    for magic, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        unmarked[data.index(magic) + place + 1] &= ~0x08
    for number, archived in enumerate((data, bytes(unmarked))):
        (tmp_path / f"{number}.zip").write_bytes(archived)
        assert contents(open_source(tmp_path / f"{number}.zip")) == files


def test_zip_with_names_of_an_old_system_is_read(tmp_path: Path) -> None:
    """Names that are not UTF-8 are taken as cp437, as the format has it."""
    data = zipped({"?/1.png": b"1", "b/2.png": b"2"}).replace(b"?/1.png", b"\x84/1.png")
    (tmp_path / "set.zip").write_bytes(data)
    assert open_source(tmp_path / "set.zip").labels == ("b", "ä")


def test_tar_with_names_that_are_no_text_is_refused(tmp_path: Path) -> None:
    """The same refusal as for a folder."""
    (tmp_path / "set.tar").write_bytes(tarred({"caf\udce9/1.png": b"", "b/2.png": b""}))
    with pytest.raises(SourceError, match="expected names in UTF-8"):
        open_source(tmp_path / "set.tar")


# --- reading ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_archive_is_read_from_any_thread_and_stays_open_nowhere(tmp_path: Path, kind: str) -> None:
    """Many threads read at once and get their own bytes; no file stays open behind them."""
    files = {f"{'ab'[i % 2]}/{i}.png": noise(1000 + i) for i in range(200)}
    source = open_source(pack(tmp_path / f"set{kind}", files))
    before = open_files()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert dict(zip(files, pool.map(source.read, files), strict=True)) == files
    del source
    gc.collect()  # an unclosed file would warn here, and warnings are errors
    assert open_files() == before


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_archive_of_real_photographs_is_prepared(data_dir: Path, tmp_path: Path) -> None:
    """A zip of 2,059 photographs in ten classes opens, and prepares to what its folder gives."""
    path = data_dir / "images" / "sign_digits.zip"
    source = open_source(path)
    assert source.labels == tuple("0123456789")
    assert len(source.items) == 2059
    with zipfile.ZipFile(path) as whole:
        whole.extractall(tmp_path / "set")
    folder = open_source(tmp_path / "set")
    assert source.items == folder.items
    results = [
        prepare_split(one, "val", InputSpec(), Grid((3, 5)), (4, 2), workers=2, limit=40)
        for one in (source, folder)
    ]
    assert results[0].sha256 == results[1].sha256
    assert np.array_equal(results[0].pixels, results[1].pixels)


def zip_with(**changes: int) -> bytes:
    """Two members, the sizes or the checksum of ``a/1.png`` falsified in both of its headers."""
    data = bytearray(zipped({"a/1.png": b"1" * 5000, "b/2.png": b"2"}))
    local, central = data.index(b"PK\3\4"), data.index(b"PK\1\2")
    for field, value in changes.items():
        place = {"crc": (14, 16), "stored": (18, 20), "size": (22, 24)}[field]
        for start, offset in zip((local, central), place, strict=True):
            struct.pack_into("<I", data, start + offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"size": 4999}, "expected 4999 bytes once inflated"),
        ({"size": 5001}, "expected 5001 bytes with their checksum"),
        ({"size": 0}, "expected 0 bytes once inflated"),
        ({"crc": 1}, "expected 5000 bytes with their checksum"),
        ({"stored": 5}, "expected 5000 bytes once inflated"),
    ],
)
def test_zip_member_that_is_not_what_it_declares_is_unreadable(
    tmp_path: Path, changes: dict[str, int], reason: str
) -> None:
    """A size or checksum that lies makes one item unreadable, by name, and no other."""
    (tmp_path / "set.zip").write_bytes(zip_with(**changes))
    source = open_source(tmp_path / "set.zip")
    with pytest.raises(OSError, match=reason):
        source.read("a/1.png")
    assert source.read("b/2.png") == b"2"
    splits = {item.id: item.split for item in source.items}
    with pytest.raises(SourceError, match=f"a/1.png: {reason}"):
        prepare_split(source, splits["a/1.png"], InputSpec(), Grid((3, 5)), (4, 2))


def test_zip_member_inflates_no_further_than_it_declares(tmp_path: Path) -> None:
    """A bomb that declares 600,000 bytes and holds 256 MiB costs next to nothing to refuse."""
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(engine.compress(bytes(2**20)) for _ in range(256)) + engine.flush()
    data = bytearray(zipped({"a/1.png": bomb, "b/2.png": b"2"}, zipfile.ZIP_STORED))
    for magic, offset in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        place = data.index(magic) + offset
        struct.pack_into("<H", data, place, zipfile.ZIP_DEFLATED)
        struct.pack_into("<I", data, place + 14, 600_000)
    (tmp_path / "set.zip").write_bytes(data)
    source = open_source(tmp_path / "set.zip")
    with at_most(8 * 2**20), pytest.raises(OSError, match="expected 600000 bytes once inflated"):
        source.read("a/1.png")


@contextmanager
def at_most(limit: int) -> Iterator[None]:
    """Fails where more bytes than this were held at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [".zip", ".tar"])
def test_archive_that_is_cut_after_opening_is_unreadable(tmp_path: Path, kind: str) -> None:
    """Bytes that are gone by the time they are read are told, not made up."""
    path = pack(tmp_path / f"set{kind}", CLASSES)
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(OSError, match="expected 2 bytes"):
        source.read("a/1.png")


# --- hostile archives ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        *("../1.png", "a/../../1.png", "a/..", "/etc/1.png", "//1.png", "C:/1.png", "c:1"),
        *("..\\1.png", "a\\..\\..\\1.png", "\\1.png", "\\\\host\\share\\1.png", "C:\\1.png"),
    ],
)
def test_archive_with_a_name_that_leads_outside_is_refused(
    tmp_path: Path, kind: str, name: str
) -> None:
    """Absolute names, drives and parents are named, though nothing is ever unpacked."""
    path = pack(tmp_path / f"set{kind}", CLASSES | {name: b""})
    with pytest.raises(SourceError, match="expected names below the archive's root"):
        open_source(path)


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".tgz"])
def test_tar_with_a_backslash_in_a_name_is_refused(tmp_path: Path, kind: str) -> None:
    """Nothing on Windows writes tars so: what such a name means cannot be known."""
    path = pack(tmp_path / f"set{kind}", CLASSES | {"a\\7.png": b""})
    with pytest.raises(SourceError, match="parts joined with '/'"):
        open_source(path)


def test_zip_with_a_name_cut_by_a_zero_is_refused(tmp_path: Path) -> None:
    """A name that other readers would end at its zero byte is refused."""
    data = zipped(CLASSES | {"a/x?.png": b""}).replace(b"a/x?.png", b"a/x\0.png")
    (tmp_path / "set.zip").write_bytes(data)
    with pytest.raises(SourceError, match=r"got 'a/x\\x00\.png'"):
        open_source(tmp_path / "set.zip")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("again", ["a/1.png", "./a//1.png"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archive_with_a_duplicate_name_is_refused(tmp_path: Path, kind: str, again: str) -> None:
    """Two members of one name: which of them is meant cannot be known."""
    path = tmp_path / f"set{kind}"
    if kind == ".zip":
        with zipfile.ZipFile(path, "w") as target:
            for name in (*CLASSES, again):
                target.writestr(name, b"")
    else:
        with tarfile.open(path, "w:gz" if "gz" in kind else "w") as tar:
            for name in (*CLASSES, again):
                tar.addfile(tar_entry(name))
    with pytest.raises(SourceError, match="set: 'a/1.png' is there more than once"):
        open_source(path)


@pytest.mark.parametrize("kind", KINDS)
def test_archive_with_too_many_members_is_refused(tmp_path: Path, kind: str) -> None:
    """The limit itself is allowed, one more is not."""
    path = pack(tmp_path / f"set{kind}", CLASSES)
    assert len(open_source(path, limits=SourceLimits(members=4)).items) == 4
    with pytest.raises(SourceError, match="expected at most 3 members"):
        open_source(path, limits=SourceLimits(members=3))


def many_folders(kind: str, declared: int | None = None) -> bytes:
    """20,000 folders and no file; a zip may declare another number of entries."""
    names = [f"{number:05}/" for number in range(20_000)]
    if kind == ".tar":
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as target:
            for name in names:
                target.addfile(tar_entry(name, 0, tarfile.DIRTYPE))
        return stream.getvalue()
    data = bytearray(zipped(dict.fromkeys(names, b"")))
    if declared is not None:
        struct.pack_into("<2H", data, len(data) - 14, declared, declared)
    return bytes(data)


@pytest.mark.parametrize(("kind", "declared"), [(".zip", None), (".zip", 1), (".tar", None)])
def test_archive_is_refused_before_its_members_are_held(
    tmp_path: Path, kind: str, declared: int | None
) -> None:
    """Whatever number it declares, no object is made for members that are too many."""
    path = tmp_path / f"many{kind}"
    path.write_bytes(many_folders(kind, declared))
    with at_most(4 * 2**20), pytest.raises(TooManyMembers, match="at most 1000 members"):
        open_archive(path, 1000)
    assert open_archive(path, 20_000) == {}


@pytest.mark.parametrize("kind", [".zip", ".tar"])
def test_names_are_bounded_with_the_number_of_members(tmp_path: Path, kind: str) -> None:
    """A few names as long as those of many, and as deep, make no folders in memory."""
    path = pack(tmp_path / f"deep{kind}", {"a/" * 30_000 + "b.png": b"b"})
    with at_most(4 * 2**20):
        assert len(open_archive(path, 1000)) == 1
        if kind == ".tar":
            with pytest.raises(TooManyMembers):
                open_archive(path, 100)


@pytest.mark.parametrize("kind", KINDS)
def test_archive_with_a_member_over_the_limit_is_refused(tmp_path: Path, kind: str) -> None:
    """A member that declares more than one file may have is refused by name."""
    path, limits = tmp_path / f"set{kind}", SourceLimits(member_bytes=99)
    pack(path, CLASSES | {"b/3.png": bytes(99)})
    assert len(open_source(path, limits=limits).items) == 5
    pack(path, CLASSES | {"b/3.png": bytes(100)})
    with pytest.raises(SourceError, match="'b/3.png' has 100 bytes; expected at most 99"):
        open_source(path, limits=limits)


def zip_of_mode(mode: int) -> bytes:
    """A zip whose member b/2.png is of another kind than a file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        target.writestr("a/1.png", b"1")
        entry = zipfile.ZipInfo("b/2.png")
        entry.external_attr = mode << 16
        target.writestr(entry, b"2" * 50)
    return stream.getvalue()


def zip_flagged(flag: int) -> bytes:
    data = bytearray(zipped(CLASSES))
    for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = data.index(magic) + offset
        struct.pack_into("<H", data, place, flag)
    return bytes(data)


def zip_overlapping() -> bytes:
    """A member whose bytes are another whole member, header and all: a quoted overlap."""
    data = bytearray(zipped({"a/1.png": b"1" * 10, "b/2.png": b"2" * 10}, zipfile.ZIP_STORED))
    second = data.index(b"PK\3\4", 4)
    size = 10 + data.index(b"PK\1\2") - second
    for start, offset in ((0, 18), (data.index(b"PK\1\2"), 20)):
        struct.pack_into("<II", data, start + offset, size, size)
    return bytes(data)


def zip_of_two_tales() -> bytes:
    """A member whose own header tells another size than the directory."""
    data = bytearray(zipped(CLASSES, zipfile.ZIP_STORED))
    struct.pack_into("<I", data, 22, 1)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (zip_flagged(0x1), "set: 'a/1.png' is encrypted"),
        (zip_flagged(0x41), "set: 'a/1.png' is encrypted"),
        (zip_of_mode(stat.S_IFLNK | 0o777), "'b/2.png' is a link or a device"),
        (zip_of_mode(stat.S_IFBLK | 0o600), "'b/2.png' is a link or a device"),
        (zip_of_mode(stat.S_IFIFO | 0o600), "'b/2.png' is a link or a device"),
        (zipped(CLASSES, zipfile.ZIP_BZIP2), "expected it stored or deflated, got 12"),
        (zipped(CLASSES, zipfile.ZIP_LZMA), "expected it stored or deflated, got 14"),
        (zip_overlapping(), "set: 'a/1.png' overlaps what follows it"),
        (zip_of_two_tales(), "'a/1.png': its header is not what the directory says"),
        (zip_with(stored=10**9), "'a/1.png': 1000000000 bytes cannot be 5000 bytes packed"),
        (zip_with(size=10**9), "'a/1.png' has 1000000000 bytes; expected at most 536870912"),
        (b"", "set.zip: expected a whole zip"),
        (b"PK\3\4 no zip at all", "set.zip: expected a whole zip"),
        (tarred(CLASSES), "set.zip: expected a whole zip"),
    ],
)
def test_hostile_zip_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    """Each trick is named with the member that tries it, before anything is inflated."""
    (tmp_path / "set.zip").write_bytes(data)
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / "set.zip")


def test_zip_whose_members_share_one_body_is_refused(tmp_path: Path) -> None:
    """Many entries of the directory that point to the same bytes are no way to a huge data set."""
    data = zipped({"a/1.png": bytes(1000), "b/2.png": b"2"})
    start, end = data.index(b"PK\1\2"), data.index(b"PK\1\2", data.index(b"PK\1\2") + 4)
    twin = data[start:end].replace(b"a/1.png", b"a/3.png")
    tail = bytearray(data[data.index(b"PK\5\6") :])
    counts = struct.unpack_from("<HHI", tail, 8)
    struct.pack_into("<HHI", tail, 8, counts[0] + 1, counts[1] + 1, counts[2] + len(twin))
    (tmp_path / "set.zip").write_bytes(data[:end] + twin + data[end : data.index(b"PK\5\6")] + tail)
    with pytest.raises(SourceError, match="'a/1.png' overlaps what follows it"):
        open_source(tmp_path / "set.zip")


def tar_with(*entries: tarfile.TarInfo, data: bytes = b"") -> bytes:
    """Good members, then the given headers with some bytes behind the last."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as target:
        for name, content in CLASSES.items():
            target.addfile(tar_entry(name, len(content)), io.BytesIO(content))
        for entry in entries:
            stream.write(entry.tobuf(tarfile.GNU_FORMAT))
            target.offset += tarfile.BLOCKSIZE
        stream.write(data)
        target.offset += len(data)
    return stream.getvalue()


def tar_sparse() -> bytes:
    """A file with a hole, in the old GNU form: 1 stored byte at offset 0 of a huge file."""
    header = bytearray(tar_entry("b/3.png", 512, tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\0" + b"00000001000\0"
    header[483:495] = b"77777777777\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return tarred(CLASSES)[: 2 * 512 * len(CLASSES)] + bytes(header) + bytes(512) + bytes(1024)


LINKS = {
    "symbolic": tar_entry("b/3.png", kind=tarfile.SYMTYPE, link="/etc/passwd"),
    "hard": tar_entry("b/3.png", kind=tarfile.LNKTYPE, link="a/1.png"),
    "pipe": tar_entry("b/3.png", kind=tarfile.FIFOTYPE),
    "device": tar_entry("b/3.png", kind=tarfile.CHRTYPE),
    "disk": tar_entry("b/3.png", kind=tarfile.BLKTYPE),
}
NEGATIVE = tar_entry("b/3.png", -512)
LONG_HEADER = tar_entry("././@PaxHeader", 8 * 2**30, tarfile.XHDTYPE)
NEGATIVE_HEADER = tar_entry("././@PaxHeader", -512, tarfile.XHDTYPE)
LONG_NAME = tar_entry("././@LongLink", 2**40, tarfile.GNUTYPE_LONGNAME)
NESTED = [tar_entry("././@LongLink", 0, tarfile.GNUTYPE_LONGNAME)] * 3000
DAMAGED = tarred(CLASSES).replace(b"b/1.png", b"b/9.png", 1)


@pytest.mark.parametrize("packed", [False, True], ids=["tar", "tar.gz"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        *((tar_with(entry), "'b/3.png' is a link or a device") for entry in LINKS.values()),
        (tar_sparse(), "'b/3.png' is a sparse file"),
        (tar_with(NEGATIVE), "'b/3.png' is truncated: -512 bytes do not lie"),
        (tar_with(LONG_HEADER), "expected a whole tar: a header of 8589934592 bytes"),
        (tar_with(NEGATIVE_HEADER), "expected a whole tar: a header of -512 bytes"),
        (tar_with(LONG_NAME), "expected a whole tar: a header of 1099511627776 bytes"),
        (tar_with(*NESTED), "expected a whole tar"),
        (DAMAGED, "damaged or truncated at byte 2048: expected a header"),
        (b"", "expected a whole tar"),
        (b"no tar" * 1000, "expected a whole tar"),
        (zipped(CLASSES), "expected a whole tar"),
    ],
    ids=[*LINKS, "sparse", "negative", "long-header", "negative-header", "long-name", "nested"]
    + ["damaged", "empty", "text", "zip"],
)
def test_hostile_tar_is_refused(tmp_path: Path, data: bytes, message: str, packed: bool) -> None:
    """Each trick is named; none costs memory, an endless loop or a step into a link."""
    path = tmp_path / ("set.tar.gz" if packed else "set.tar")
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(SourceError, match=message):
        open_source(path)


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_archive_is_refused(tmp_path: Path, kind: str) -> None:
    """Cut anywhere before its end, an archive never passes for a smaller one."""
    path = pack(tmp_path / f"set{kind}", CLASSES | {"b/noise.png": noise(3000)})
    data = path.read_bytes()
    end = len(data)
    if kind == ".tar":  # of the zeros at its end, one block must be there
        end = (len(data.rstrip(b"\0")) // tarfile.BLOCKSIZE + 2) * tarfile.BLOCKSIZE
    for length in (*range(0, end, 97), end - 1):
        path.write_bytes(data[:length])
        with pytest.raises(SourceError):
            open_source(path)


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bytes_end_as_a_source_error(tmp_path: Path, kind: str) -> None:
    """A few wrong bytes give a source or a SourceError, and items that are read or an OSError."""
    draw = np.random.default_rng(3)
    path = pack(tmp_path / f"set{kind}", CLASSES)
    data = path.read_bytes()
    for _ in range(300):
        broken = bytearray(data)
        for place in draw.integers(0, len(data), 2):
            broken[place] = draw.integers(0, 256)
        path.write_bytes(broken)
        try:
            source = open_source(path)
        except SourceError:
            continue
        for item in source.items:
            try:
                source.read(item.id)
            except OSError as error:
                assert "expected" in str(error) or "cannot be inflated" in str(error)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(tarred(CLASSES))[:-9], "expected a whole tar.gz"),
        (gzip.compress(tarred(CLASSES))[:-4] + b"\0\0\0\0", "expected a whole tar.gz"),
        (gzip.compress(tarred(CLASSES)) + b"more", "expected a whole tar.gz"),
        (tarred(CLASSES), "expected a whole tar.gz"),
    ],
    ids=["cut", "length", "trailing", "plain"],
)
def test_damaged_gzip_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    """A gzip whose end, length or beginning is wrong is refused whole."""
    (tmp_path / "set.tgz").write_bytes(data)
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / "set.tgz")


def test_gzip_bomb_ends_at_the_limit(tmp_path: Path) -> None:
    """A tar.gz that inflates without end costs the limit and no more."""
    (tmp_path / "set.tar.gz").write_bytes(gzip.compress(tarred({"a/1.png": bytes(2**27)})))
    refused = pytest.raises(SourceError, match="at most 1048576 bytes once inflated; a plain")
    with at_most(8 * 2**20), refused:
        open_source(tmp_path / "set.tar.gz", limits=SourceLimits(inflated_bytes=2**20))
