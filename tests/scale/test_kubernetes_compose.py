"""deploy/kubernetes beside docker-compose.yml: what stands in both is one value."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from service.settings import Settings
from tests.helpers.manifests import (
    KUBERNETES,
    OVERLAYS,
    Manifest,
    container,
    environment,
    pod,
)

#: What compose says of a server and a Deployment has no word for.
COMPOSE_ALONE = {
    "build": "a cluster pulls what make images built",
    "profiles": "an overlay is applied or not",
    "pids_limit": "podPidsLimit of the kubelet",
    "logging": "containerLogMaxSize and containerLogMaxFiles of the kubelet",
    "restart": "the only policy that a Deployment has",
    "memswap_limit": "swap is the kubelet's affair, and off",
}
#: A folder of jobs has one server: of the overlays all but one are without.
JOBS = ("LIERE_JOBS", "/jobs")


def merged(repo_root: Path, name: str, *files: str) -> dict[str, Any]:
    """A service of compose, with what later files add to its environment and volumes."""
    service: dict[str, Any] = {}
    for file in files:
        more = yaml.safe_load((repo_root / file).read_text(encoding="utf-8"))["services"][name]
        for key, value in more.items():
            old = service.get(key)
            service[key] = old + value if isinstance(old, list) else (
                old | value if isinstance(old, dict) else value
            )  # fmt: skip
    return service


def default(value: str) -> str:
    """``${VERSION:-latest}`` -> latest, wherever it stands."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))


def seconds(value: str) -> int:
    return int(value.removesuffix("s"))


def bytes_of(value: str) -> str:
    """``4g`` of docker is ``4Gi`` here: both are powers of two."""
    return value.upper().replace("M", "Mi").replace("G", "Gi")


def image_user(repo_root: Path) -> list[int]:
    """User and group of the image that compose runs as it is."""
    stage = (repo_root / "Dockerfile").read_text().partition(" AS serve\n")[2]
    found = re.search(r"^USER (\d+):(\d+)$", stage, re.MULTILINE)
    assert found is not None
    return [int(one) for one in found.groups()]


def image_settings(repo_root: Path) -> dict[str, str]:
    """What the image sets, by the names of settings."""
    stage = (repo_root / "Dockerfile").read_text().partition(" AS serve\n")[2].partition("FROM ")[0]
    return {name.lower(): value for name, value in re.findall(r"LIERE_(\w+)=(\S+)", stage)}


def of_compose(
    service: dict[str, Any], user: list[int], without: tuple[str, ...] = ()
) -> dict[str, Any]:
    """What both say, as compose says it, less some variables and mounts."""
    (port,) = (one.rsplit(":", 1)[1] for one in service["ports"])
    (scratch,) = service["tmpfs"]
    folder, size = re.findall(r"^([^:]+):size=(\w+),", scratch)[0]
    devices = service.get("deploy", {}).get("resources", {}).get("reservations", {})
    health = service["healthcheck"]
    mounts = [one.split(":") for one in service["volumes"]]
    given = service["environment"]
    return {
        "image": default(service["image"]),
        "user": user,
        "port": int(port),
        "environment": {
            name: value for name, value in given.items() if name not in without
        },
        "cpus": default(service["cpus"]),
        "memory": bytes_of(default(service["mem_limit"])),
        "gpus": [str(one["count"]) for one in devices.get("devices", [])],
        "scratch": (folder, bytes_of(size)),
        "mounts": {target: mode for _, target, *mode in mounts if target not in without},
        "read_only": service["read_only"],
        "capabilities": {"drop": service["cap_drop"]},
        "escalates": service["security_opt"] != ["no-new-privileges:true"],
        "probe": [seconds(health["interval"]), seconds(health["timeout"]), health["retries"]],
        "grace": seconds(service["stop_grace_period"]),
    }


def of_pod(template: Manifest) -> dict[str, Any]:
    """The same of a pod."""
    spec = template["spec"]
    (server,) = spec["containers"]
    limits, ready = server["resources"]["limits"], server["readinessProbe"]
    mounts = {one["mountPath"]: one for one in server["volumeMounts"]}
    volumes = {one["name"]: one for one in spec["volumes"]}
    scratch = volumes[mounts.pop("/tmp")["name"]]["emptyDir"]
    assert scratch["medium"] == "Memory"
    assert server["resources"]["requests"] == limits
    rights = server["securityContext"]
    return {
        "image": server["image"],
        "user": [spec["securityContext"][one] for one in ("runAsUser", "runAsGroup")],
        "port": server["ports"][0]["containerPort"],
        "environment": environment(server),
        "cpus": limits["cpu"],
        "memory": limits["memory"],
        "gpus": [limits[name] for name in ("nvidia.com/gpu",) if name in limits],
        "scratch": ("/tmp", scratch["sizeLimit"]),
        "mounts": {path: ["ro"] if one.get("readOnly") else [] for path, one in mounts.items()},
        "read_only": rights["readOnlyRootFilesystem"],
        "capabilities": rights["capabilities"],
        "escalates": rights["allowPrivilegeEscalation"],
        "probe": [ready["periodSeconds"], ready["timeoutSeconds"], ready["failureThreshold"]],
        # until the signal nothing has changed for the server
        "grace": spec["terminationGracePeriodSeconds"]
        - server["lifecycle"]["preStop"]["sleep"]["seconds"],
    }


@pytest.mark.parametrize(
    ("overlay", "components", "name", "files"),
    [
        ("cpu", ["bundles"], "serve", ["docker-compose.yml"]),
        ("keda", ["bundles"], "serve", ["docker-compose.yml"]),
        ("jobs", ["bundles"], "serve", ["docker-compose.yml"]),
        ("gpu", ["bundles"], "serve-gpu", ["docker-compose.yml"]),
        ("keys", ["bundles"], "serve", ["docker-compose.yml", "deploy/keys.yml"]),
        ("gpu", ["bundles", "keys"], "serve-gpu", ["docker-compose.yml", "deploy/keys.yml"]),
        ("jobs", ["bundles", "keys"], "serve", ["docker-compose.yml", "deploy/keys.yml"]),
    ],
)
def test_compose_and_kubernetes_agree(
    repo_root: Path, tmp_path: Path, overlay: str, components: list[str], name: str,
    files: list[str],
) -> None:  # fmt: skip
    """Every value that stands in both is one value: image, limits, user, settings, mounts."""
    service = merged(repo_root, name, *files)
    theirs = of_compose(service, image_user(repo_root), () if overlay == "jobs" else JOBS)
    assert of_pod(pod(site(tmp_path, overlay, components))) == theirs


def site(folder: Path, overlay: str, components: list[str]) -> Path:
    """A folder that adds components to an overlay; kustomize wants relative addresses."""
    here = os.path.relpath(KUBERNETES, folder.resolve())
    added = [f"{here}/components/{name}" for name in components]
    layout = {"resources": [f"{here}/overlays/{overlay}"], "components": added}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(layout))
    return folder


@pytest.mark.parametrize("name", ["serve", "serve-gpu"])
def test_nothing_of_compose_is_forgotten(repo_root: Path, name: str) -> None:
    """A new key of a server's stands in the manifests too, or here with the reason why not."""
    asked: set[str] = set()

    class Asked(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            asked.add(key)
            return super().__getitem__(key)

        def get(self, key: str, default: Any = None) -> Any:
            asked.add(key)
            return super().get(key, default)

    service = merged(repo_root, name, "docker-compose.yml")
    of_compose(Asked(service), image_user(repo_root))
    assert set(service) - asked <= set(COMPOSE_ALONE)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_server_leaves_in_the_time_that_it_is_given(repo_root: Path, overlay: str) -> None:
    """Waiting, telling and finishing end before the cluster kills it, with some seconds over."""
    settings = Settings(**image_settings(repo_root))  # type: ignore[arg-type]
    waiting = container(f"overlays/{overlay}")["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = waiting + settings.drain_delay + settings.grace_seconds
    assert settings.drain_delay > 0
    assert needed + 5 <= pod(f"overlays/{overlay}")["spec"]["terminationGracePeriodSeconds"]
