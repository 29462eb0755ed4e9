"""A release: the same bytes from the same commit; and the list of what others wrote is true."""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from packaging.utils import canonicalize_name

from deploy.release import release
from deploy.third_party import IMAGES, SBOM, TABLE, licence_of, packages_of, requirements, table
from models.bundle import read_bundle
from tests.helpers.service_fixtures import write_tiny_bundle, write_tiny_versions

AUTHOR = "Somebody Nobody Should Read Of"


@pytest.fixture(scope="module")
def sbom(repo_root: Path) -> dict[str, Any]:
    """deploy/sbom.json, parsed."""
    parsed: dict[str, Any] = json.loads((repo_root / SBOM).read_text(encoding="utf-8"))
    return parsed


# --- what others wrote -----------------------------------------------------------------------


def installed() -> dict[str, Mapping[str, Any]]:
    """Metadata of what is installed here, by name."""
    return {
        canonicalize_name(one.metadata["Name"]): one.metadata.json
        for one in importlib.metadata.distributions()
    }


def in_image(sbom: dict[str, Any], image: str) -> dict[str, dict[str, Any]]:
    """Python packages of an image, by name."""
    return {
        component["name"]: component
        for component in sbom["components"]
        if component["purl"].startswith("pkg:pypi/")
        and image in [one["value"] for one in component["properties"]]
    }


def pins(root: Path) -> dict[str, str]:
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if "==" in line)
    return {canonicalize_name(name): version for name, version in pairs}


def test_images_are_the_dockerfiles(repo_root: Path) -> None:
    """What is listed is what it has pip install."""
    text = (repo_root / "Dockerfile").read_text(encoding="utf-8")
    asked = re.findall(r"['\"]\.\[(.*?)\]['\"]", text)
    listed = [",".join(extras) for extras in IMAGES.values()]
    assert sorted(asked) == ["serve,otel,grpc,$EXTRA", "train,export,cpu"]
    assert listed == ["serve,otel,grpc,cpu", "serve,otel,grpc,gpu", "train,export,cpu"]


@pytest.mark.parametrize("image", IMAGES)
def test_list_has_what_is_pinned(repo_root: Path, sbom: dict[str, Any], image: str) -> None:
    """Each package that an image's extras name, and no version but that of constraints.txt."""
    found, expected = in_image(sbom, image), pins(repo_root)
    assert {name: one["version"] for name, one in found.items()} == {
        name: expected[name] for name in found
    }
    named = requirements(repo_root, IMAGES[image])
    assert {canonicalize_name(re.split(r"[\[>=]", line)[0]) for line in named} <= set(found)
    for name, one in found.items():
        assert one["purl"] == one["bom-ref"] == f"pkg:pypi/{name}@{one['version']}"


@pytest.mark.parametrize("image", IMAGES)
def test_list_is_what_is_installed(repo_root: Path, sbom: dict[str, Any], image: str) -> None:
    """Where an image's packages are here: the same ones, with the same licences and needs.

    If this fails after a change of pins or extras: ``python -m deploy.third_party``.
    """
    named, here = requirements(repo_root, IMAGES[image]), installed()
    if any(canonicalize_name(re.split(r"[\[>=]", line)[0]) not in here for line in named):
        pytest.skip(f"the packages of {image} are not all installed here")
    packages, found = packages_of(named, here), in_image(sbom, image)
    assert set(found) == set(packages)
    edges = {one["ref"]: set(one.get("dependsOn", ())) for one in sbom["dependencies"]}
    for name, package in packages.items():
        (said,) = found[name]["licenses"]
        licence = said.get("expression") or said["license"].get("id") or said["license"]["name"]
        assert (found[name]["version"], licence) == (package.version, package.licence)
        assert {found[one]["bom-ref"] for one in package.requires} <= edges[found[name]["bom-ref"]]


def test_page_says_what_the_list_says(repo_root: Path, sbom: dict[str, Any]) -> None:
    """THIRD_PARTY.md ends with it, and names the wheels that bring no text of their licence."""
    page = (repo_root / TABLE).read_text(encoding="utf-8")
    assert page.endswith("\n\n" + table(sbom))
    here = installed()
    silent = [
        component["name"]
        for component in sbom["components"]
        if component["name"] in here
        and not any(
            re.search(r"licen[cs]e|copying|notice", str(file), re.IGNORECASE)
            for file in importlib.metadata.files(component["name"]) or ()
        )
    ]
    told = re.search(r"bring no text: (.*?), both", page)
    assert told is not None
    assert set(silent) <= set(told[1].split(" and "))


def schema_of(name: str) -> Any:
    """One of CycloneDX's own."""
    folder = files("cyclonedx.schema") / "_res"
    return json.loads((folder / f"{name}.SNAPSHOT.schema.json").read_text("utf-8"))


def judge() -> jsonschema_rs.Validator:
    """Of CycloneDX 1.6."""

    def retrieve(address: str) -> Any:
        name = address.rpartition("/")[2]
        return schema_of(name.removesuffix(".schema.json").removesuffix(".SNAPSHOT"))

    return jsonschema_rs.validator_for(schema_of("bom-1.6"), retriever=retrieve)


def test_list_is_cyclonedx(sbom: dict[str, Any]) -> None:
    """By its schema, which finds a component of no kind."""
    judge().validate(sbom)
    assert not judge().is_valid(sbom | {"components": [{"name": "nameless", "type": "nothing"}]})


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ({"license_expression": "MIT AND 0BSD", "license": "see LICENSE"}, "MIT AND 0BSD"),
        ({"license": "Apache 2.0", "classifier": ["License :: X :: Y"]}, "Apache 2.0"),
        ({"license": "Copyright (c)\nall of it", "classifier": ["License :: X :: Y"]}, "Y"),
        ({"classifier": ["Topic :: Z", "License :: X :: Y", "License :: W"]}, "Y, W"),
        ({"license": ""}, "not stated"),
    ],
)
def test_licence_is_what_metadata_say(metadata: dict[str, Any], licence: str) -> None:
    """The expression, else the short name, else the classifiers; texts are no names."""
    assert licence_of(metadata) == licence


def test_packages_follow_extras_and_markers() -> None:
    """An extra that is asked for brings its packages, another does not, in circles too."""
    found: dict[str, dict[str, Any]] = {
        "a": {"name": "A", "version": "1+cpu",
              "requires_dist": ["B_b; extra == 'x'", "c; extra == 'y'", "d; python_version < '3'"]},
        "b-b": {"name": "b.b", "version": "2", "requires_dist": ["A[y]"]},
        "c": {"name": "c", "version": "3"},
        "e": {"name": "e", "version": "4"},
    }  # fmt: skip
    packages = packages_of(["A[x]>=0"], found)
    assert {name: set(one.requires) for name, one in packages.items()} == {
        "a": {"b-b", "c"}, "b-b": {"a"}, "c": set()
    }  # fmt: skip
    assert packages["a"].version == "1"


# --- archives --------------------------------------------------------------------------------


def git(root: Path, *arguments: str) -> str:
    settings = ["-c", f"user.name={AUTHOR}", "-c", "user.email=one@example.org"]
    command = ["git", "-C", str(root), *settings, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path: Path, repo_root: Path) -> Path:
    """A repository with two bundles, one of them of two versions, and what a release reads."""
    root = tmp_path / "checkout"
    (root / "deploy").mkdir(parents=True)
    for name in ("pyproject.toml", SBOM, ".gitattributes", ".ci/run"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(repo_root / name, root / name)
    (root / "link").symlink_to("deploy")
    write_tiny_bundle(root / "bundles")
    write_tiny_versions(root / "bundles", "several", "1", "2.0")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "All of it")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_releases_of_a_commit_are_the_same_bytes(checkout: Path, tmp_path: Path) -> None:
    """From another clone, at another time, in another zone, by a process with another umask."""
    first = release(checkout, tmp_path / "first")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(checkout), str(clone))
    for path in clone.rglob("*"):
        if ".git" not in path.parts:
            os.utime(path, (1, 1))
    code = (
        "import os, sys; from pathlib import Path; from deploy.release import release\n"
        "os.umask(0o077); release(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    elsewhere = {"TZ": "Asia/Kathmandu", "USER": "other", "LC_ALL": "C", "HOME": str(tmp_path)}
    subprocess.run(
        [sys.executable, "-c", code, clone, tmp_path / "second"],
        check=True, env=os.environ | elsewhere,
    )  # fmt: skip
    assert contents(tmp_path / "second" / first.name) == contents(first)
    (clone / "one.txt").write_text("one more")
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--message", "Another")
    another = contents(release(clone, tmp_path / "third"))
    assert set(another) == set(contents(first))
    assert all(another[name] != data for name, data in contents(first).items())


def test_archives_hold_the_commit_and_nobodys_name(checkout: Path, tmp_path: Path) -> None:
    """Sorted members of the commit's time; the code without bundles, and each bundle loads."""
    (checkout / "untracked.txt").write_text("not of it")
    made = release(checkout, tmp_path / "dist")
    version = re.search(r'^version = "(.*)"', (checkout / "pyproject.toml").read_text(), re.M)
    assert version is not None
    name = f"liere-{version[1]}"
    bundles = {"tiny-1": "tiny", "several-1": "several/1", "several-2.0": "several/2.0"}
    assert set(contents(made)) == {
        "SHA256SUMS", f"{name}.cdx.json", f"{name}.tar.gz",
        *(f"{bundle}.tar.gz" for bundle in bundles),
    }  # fmt: skip
    commit, time = git(checkout, "log", "-1", "--format=%H %ct").split()
    for path in made.glob("*.tar.gz"):
        assert AUTHOR.encode() not in gzip.decompress(path.read_bytes())
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            assert tar.pax_headers["comment"] == commit
            tar.extractall(tmp_path / "unpacked", filter="data")
        names = [member.name for member in members]
        assert names == sorted(names)
        for member in members:
            owner = (member.uid, member.gid, member.uname, member.gname)
            assert (owner, member.mtime) == ((0, 0, "", ""), int(time))
            assert member.mode == (0o755 if member.name == f"{name}/.ci/run" else 0o644)
    for folder in bundles.values():
        assert read_bundle(tmp_path / "unpacked" / folder).manifest.name in ("tiny", "several")
    code = tmp_path / "unpacked" / name
    tracked = {line for line in git(checkout, "ls-files").split() if line[:8] != "bundles/"}
    assert {
        str(one.relative_to(code)) for one in code.rglob("*") if one.is_symlink() or one.is_file()
    } == tracked
    assert (code / "link").readlink() == Path("deploy")


def test_the_house_can_be_released(repo_root: Path, tmp_path: Path) -> None:
    """Its last commit, with an archive that can be read for each bundle that it serves."""
    if not (repo_root / ".git").exists():
        pytest.skip("this is not a git checkout")
    git(tmp_path, "clone", "--quiet", "--shared", str(repo_root), str(tmp_path / "clone"))
    made = release(tmp_path / "clone", tmp_path / "dist")
    manifests = (tmp_path / "clone").glob("bundles/*/manifest.json")
    folders = sorted(path.parent.name for path in manifests)
    assert len(contents(made)) == 3 + len(folders)
    for folder in folders:
        (path,) = made.glob(f"{folder}-*.tar.gz")
        with tarfile.open(path) as tar:
            tar.extractall(tmp_path, filter="data")
        assert read_bundle(tmp_path / folder).manifest.name == folder


def test_checksums_and_list_are_of_what_lies_beside(checkout: Path, tmp_path: Path) -> None:
    """sha256sum agrees; the list is CycloneDX and knows version, time and bundles."""
    made = release(checkout, tmp_path / "dist")
    subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=made, check=True
    )
    summed = {line.split()[1] for line in (made / "SHA256SUMS").read_text().splitlines()}
    assert summed == set(contents(made)) - {"SHA256SUMS"}
    (path,) = made.glob("*.cdx.json")
    said = json.loads(path.read_bytes())
    judge().validate(said)
    assert f"liere-{said['metadata']['component']['version']}" == made.name
    models = {
        one["bom-ref"]: one["hashes"][0]["content"]
        for one in said["components"]
        if one["type"] == "machine-learning-model"
    }
    assert models == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in made.glob("*.tar.gz")
        if path.name != f"{made.name}.tar.gz"
    }


def test_what_is_not_committed_or_there_already_is_refused(checkout: Path, tmp_path: Path) -> None:
    """By name; nothing is overwritten."""
    made = release(checkout, tmp_path / "dist")
    before = contents(made)
    with pytest.raises(SystemExit, match="exists already"):
        release(checkout, tmp_path / "dist")
    (checkout / "pyproject.toml").write_text("[project]\n")
    with pytest.raises(SystemExit, match=r"not committed:\nM pyproject.toml"):
        release(checkout, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert contents(made) == before


@pytest.mark.parametrize(
    ("name", "version", "other"),
    [
        ("tiny", "1", "bundles/tiny"),  # a copy in another folder
        ("several-1", "0", "bundles/several/1-0"),  # the same text, parted elsewhere
        ("liere", "PROJECT", "the code"),
    ],
)
def test_two_archives_of_one_name_are_refused(
    name: str, version: str, other: str, checkout: Path, tmp_path: Path
) -> None:
    """By name, with both places: one would overwrite the other, and be called by its checksum."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    version = version.replace("PROJECT", project["version"])
    write_tiny_bundle(tmp_path / "made", name, version=version).rename(checkout / "bundles/zz")
    write_tiny_bundle(tmp_path / "made", "several", version="1-0").rename(
        checkout / "bundles/several/1-0"
    )
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "One more")
    told = f"^bundles/zz would be {name}-{version}.tar.gz, and so is {other}: expected another name"
    with pytest.raises(SystemExit, match=told):
        release(checkout, tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


# --- the pages about it ----------------------------------------------------------------------


def test_licence_is_stated_where_it_is_looked_for(repo_root: Path) -> None:
    """The whole text, and the same one in both projects' metadata."""
    text = (repo_root / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    for project in ("pyproject.toml", "client/pyproject.toml"):
        assert '\nlicense = "Apache-2.0"\n' in (repo_root / project).read_text(encoding="utf-8")


def test_commands_of_contributing_are_there(repo_root: Path) -> None:
    """Targets of the Makefile, and modules and tests that exist."""
    text = (repo_root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (repo_root / "Makefile").read_text(), re.MULTILINE))
    asked = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert {"lint", "test", "release", "images"} <= asked <= targets
    modules = re.findall(r"-m (deploy\.\w+)", text)
    assert modules
    for name in [module.replace(".", "/") + ".py" for module in modules]:
        assert (repo_root / name).is_file()
    for name in re.findall(r"pytest -q (\S+)", text):
        assert (repo_root / name).is_file()
