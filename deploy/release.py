"""What a release is: ``python -m deploy.release`` makes DIST/liere-VERSION/ from the last commit.

    liere-VERSION.tar.gz      the code, with everything that is tracked but the bundles
    NAME-VERSION.tar.gz       one for each bundle: unpack it in ``bundles/``
    liere-VERSION.cdx.json    CycloneDX: what the images hold that others wrote, and the bundles
    SHA256SUMS                of all of these, as ``sha256sum --check`` reads it

A commit gives the same bytes wherever, whenever and by whomever it is made a release, with the same
version of zlib: members are sorted, carry the time of the commit, and belong to nobody.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import tomllib
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from media.files import atomic_directory

ROOT = Path(__file__).parent.parent
SBOM = "deploy/sbom.json"


class File(NamedTuple):
    """One file of a commit, or a link."""

    data: bytes
    executable: bool
    link: str = ""  # where it leads


class Commit(NamedTuple):
    """What is released."""

    name: str  # its hash
    time: int  # seconds since 1970, of the committer
    files: dict[str, File]  # by path


def git(root: Path, *arguments: str) -> bytes:
    """What it prints."""
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def last_commit(root: Path) -> Commit:
    """The commit that is checked out; SystemExit where tracked files are not as it has them."""
    if changed := git(root, "status", "--porcelain", "--untracked-files=no").decode().strip():
        raise SystemExit(f"a release is made of a commit, and these are not committed:\n{changed}")
    files = {}
    with tarfile.open(fileobj=io.BytesIO(git(root, "archive", "--format=tar", "HEAD"))) as tar:
        for member in tar:
            if member.issym():
                files[member.name] = File(b"", executable=False, link=member.linkname)
            elif stream := tar.extractfile(member):  # None for a folder
                files[member.name] = File(stream.read(), bool(member.mode & 0o100))
    name, time = git(root, "log", "-1", "--format=%H %ct").decode().split()
    return Commit(name, int(time), files)


def pack(commit: Commit, folder: str, files: Mapping[str, File]) -> bytes:
    """A .tar.gz of files below a folder, which ``git get-tar-commit-id`` knows the commit of."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=packed, mode="wb", mtime=commit.time) as stream,
        tarfile.open(fileobj=stream, mode="w", pax_headers={"comment": commit.name}) as tar,
    ):
        for path, file in sorted(files.items()):
            member = tarfile.TarInfo(f"{folder}/{path}")
            member.size, member.mtime = len(file.data), commit.time
            member.mode = 0o755 if file.executable else 0o644
            if file.link:
                member.type, member.linkname = tarfile.SYMTYPE, file.link
            tar.addfile(member, io.BytesIO(file.data))
    return packed.getvalue()


def bundles(files: Mapping[str, File]) -> dict[str, dict[str, File]]:
    """Folder below ``bundles/`` -> its files: NAME, or NAME/VERSION where it holds several."""
    below = {
        path.removeprefix("bundles/"): file
        for path, file in files.items()
        if path.startswith("bundles/")
    }
    manifests = [path for path in below if path.endswith("/manifest.json")]
    return {
        folder: {
            path.removeprefix(f"{folder}/"): file
            for path, file in below.items()
            if path.startswith(f"{folder}/")
        }
        for folder in sorted(path.removesuffix("/manifest.json") for path in manifests)
    }


def bill(commit: Commit, version: str, models: list[dict[str, Any]]) -> bytes:
    """deploy/sbom.json with the bundles in it, and whose it is."""
    sbom = json.loads(commit.files[SBOM].data)
    sbom["components"] += models
    sbom["metadata"]["component"]["version"] = version
    sbom["metadata"]["timestamp"] = datetime.fromtimestamp(commit.time, UTC).isoformat()
    sbom["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_OID, commit.name).urn
    return (json.dumps(sbom, indent=1, sort_keys=True) + "\n").encode()


def release(root: Path, out: Path) -> Path:
    """Make the folder of a release in ``out``.

    Raises:
        SystemExit: it is there already, something is not committed, or two archives would have one
            name.
    """
    commit = last_commit(root)
    project = tomllib.loads(commit.files["pyproject.toml"].data.decode())["project"]
    name = f"{project['name']}-{project['version']}"
    code = {path: file for path, file in commit.files.items() if not path.startswith("bundles/")}
    made = {f"{name}.tar.gz": pack(commit, name, code)}
    models, held = [], {f"{name}.tar.gz": "the code"}
    for folder, files in bundles(commit.files).items():
        manifest = json.loads(files["manifest.json"].data)
        archive, where = f"{manifest['name']}-{manifest['version']}.tar.gz", f"bundles/{folder}"
        if archive in held:
            raise SystemExit(
                f"{where} would be {archive}, and so is {held[archive]}: expected another name or "
                "version in its manifest"
            )
        held[archive] = where
        made[archive] = pack(commit, folder, files)
        models.append({
            "type": "machine-learning-model",
            "bom-ref": archive,
            "name": manifest["name"],
            "version": manifest["version"],
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(made[archive]).hexdigest()}],
        })  # fmt: skip
    made[f"{name}.cdx.json"] = bill(commit, project["version"], models)
    sums = [f"{hashlib.sha256(data).hexdigest()}  {file}\n" for file, data in sorted(made.items())]
    made["SHA256SUMS"] = "".join(sums).encode()
    try:
        with atomic_directory(out / name) as temporary:
            for file, data in made.items():
                (temporary / file).write_bytes(data)
    except FileExistsError as error:
        raise SystemExit(str(error)) from error
    return out / name


def main() -> None:
    """Make it, and say where."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.release", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="DIST")
    print(release(ROOT, parser.parse_args().out))


if __name__ == "__main__":
    main()
