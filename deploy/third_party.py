"""What the images hold that others wrote: ``python -m deploy.third_party`` writes both lists of it.

pip says which packages the Dockerfile installs, at which versions and under which licences, without
installing them. Both lists are committed: deploy/sbom.json (CycloneDX), which a release carries,
and the table at the end of THIRD_PARTY.md. Run it again, with Python 3.11 as in the images, when
pins or extras change.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from media.files import write_atomic

ROOT = Path(__file__).parent.parent
SBOM = Path("deploy") / "sbom.json"
TABLE = Path("THIRD_PARTY.md")
#: Image -> the extras of pyproject.toml that the Dockerfile installs into it.
IMAGES = {
    "liere-serve": ("serve", "otel", "grpc", "cpu"),
    "liere-serve-gpu": ("serve", "otel", "grpc", "gpu"),
    "liere-train": ("train", "export", "cpu"),
}
HEAD = "| package | version | licence | images |\n| --- | --- | --- | --- |\n"
#: A package's metadata as JSON: what pip reports, and ``importlib.metadata`` of what is installed.
Metadata = Mapping[str, Any]


class Package(NamedTuple):
    """One package of one image."""

    name: str  # as indexes compare it
    version: str  # without a build, such as ``+cpu``
    licence: str  # as its metadata say
    requires: frozenset[str]  # names of packages of the same image


def licence_of(metadata: Metadata) -> str:
    """An SPDX expression where the package has one, else its own short name for its licence."""
    if expression := metadata.get("license_expression"):
        return str(expression)
    named = str(metadata.get("license") or "")
    if named and "\n" not in named:
        return named
    classifiers = [
        line.split(" :: ")[-1]
        for line in metadata.get("classifier", [])
        if line.startswith("License :: ")
    ]
    return ", ".join(classifiers) or "not stated"


def packages_of(root: list[str], found: Mapping[str, Metadata]) -> dict[str, Package]:
    """What is installed for requirements, by name: they, and what these require in turn.

    Args:
        root: requirements, such as ``onnxruntime-gpu[cuda]>=1.31``.
        found: metadata by name, of all of these and maybe of others.
    """
    extras: dict[str, set[str]] = {}
    edges: dict[str, set[str]] = {}

    def follow(requirement: Requirement) -> None:
        name = canonicalize_name(requirement.name)
        asked = requirement.extras | {""}
        if name in edges and asked <= extras[name]:
            return
        extras.setdefault(name, set()).update(asked)
        edges.setdefault(name, set())
        for line in found[name].get("requires_dist", []):
            needed = Requirement(line)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": one}) for one in extras[name]):
                edges[name].add(canonicalize_name(needed.name))
                follow(needed)

    for line in root:
        follow(Requirement(line))
    return {
        name: Package(
            name,
            found[name]["version"].partition("+")[0],
            licence_of(found[name]),
            frozenset(edges[name]),
        )
        for name in edges
    }


def requirements(root: Path, extras: tuple[str, ...]) -> list[str]:
    """What extras of pyproject.toml ask for."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [line for extra in extras for line in project["optional-dependencies"][extra]]


def ask_pip(root: Path, pip: list[str], extras: tuple[str, ...]) -> dict[str, Metadata]:
    """Metadata by name of what pip would install, given the two files that the Dockerfile gives."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(root / name, folder)
        command = [
            *pip, "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-",
            "-c", "constraints.txt", f".[{','.join(extras)}]",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    report = json.loads(done.stdout)
    if int(report["pip_version"].split(".")[0]) < 25:
        raise SystemExit(
            f"pip 25 and newer read licences as packages state them today: "
            f"found {report['pip_version']}; name one with --pip"
        )
    return {
        canonicalize_name(item["metadata"]["name"]): item["metadata"] for item in report["install"]
    }


def bill(images: Mapping[str, Mapping[str, Package]]) -> str:
    """deploy/sbom.json: every package of every image, and what the page brings in the checkout."""
    make = LicenseFactory()
    components: dict[str, Component] = {}
    requires: dict[str, set[str]] = {}
    for image, packages in images.items():
        for name, package in packages.items():
            if name not in components:
                purl = PackageURL("pypi", None, name, package.version)
                components[name] = Component(
                    type=ComponentType.LIBRARY, name=name, version=package.version, purl=purl,
                    bom_ref=purl.to_string(), licenses=[make.make_from_string(package.licence)],
                )  # fmt: skip
            components[name].properties.add(Property(name="liere:image", value=image))
            requires.setdefault(name, set()).update(package.requires)
    bom = Bom(components=[*components.values(), swagger()])
    bom.metadata.component = Component(
        type=ComponentType.APPLICATION, name="liere", bom_ref="liere",
        licenses=[make.make_from_string("Apache-2.0")],
    )  # fmt: skip
    bom.register_dependency(bom.metadata.component, components.values())
    for name, needed in requires.items():
        bom.register_dependency(components[name], [components[one] for one in needed])
    said = json.loads(JsonV1Dot6(bom).output_as_string())
    del said["serialNumber"]  # of a document; a release has one of its own
    del said["metadata"]["timestamp"]
    return json.dumps(said, indent=1, sort_keys=True) + "\n"


def swagger() -> Component:
    """Which lies in service/http/page/swagger, unchanged."""
    readme = (ROOT / "service" / "http" / "page" / "swagger" / "README.md").read_text("utf-8")
    version = re.match(r"Swagger UI ([\d.]+), unchanged", readme)
    assert version is not None
    purl = PackageURL("npm", None, "swagger-ui-dist", version[1])
    serving = [image for image in IMAGES if image.startswith("liere-serve")]
    return Component(
        type=ComponentType.LIBRARY, name="swagger-ui-dist", version=version[1], purl=purl,
        bom_ref=purl.to_string(), licenses=[LicenseFactory().make_from_string("Apache-2.0")],
        properties=[Property(name="liere:image", value=image) for image in serving],
    )  # fmt: skip


def table(sbom: Mapping[str, Any]) -> str:
    """The rows of THIRD_PARTY.md, of what deploy/sbom.json says."""
    rows = []
    for component in sbom["components"]:
        (said,) = component["licenses"]
        licence = said.get("expression") or said["license"].get("id") or said["license"]["name"]
        images = [one["value"] for one in component["properties"] if one["name"] == "liere:image"]
        name, version = component["name"], component["version"]
        rows.append(f"| {name} | {version} | {licence} | {', '.join(images)} |\n")
    return HEAD + "".join(rows)


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser(prog="python -m deploy.third_party", description=__doc__)
    parser.add_argument("--pip", metavar="COMMAND", help="a newer pip than this environment's")
    pip = parser.parse_args().pip
    command = [pip] if pip else [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    images = {
        image: packages_of(requirements(ROOT, extras), ask_pip(ROOT, command, extras))
        for image, extras in IMAGES.items()
    }
    said = bill(images)
    page = (ROOT / TABLE).read_text(encoding="utf-8").partition(HEAD)[0]
    write_atomic(ROOT / SBOM, said.encode())
    write_atomic(ROOT / TABLE, (page + table(json.loads(said))).encode())


if __name__ == "__main__":
    main()
