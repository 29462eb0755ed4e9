"""Dockerfile, docker-compose.yml and deploy/: what they promise, read without running them.

``make test-containers`` builds and runs them (``test_containers.py``).
"""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from service.environment import PREFIX
from service.settings import Settings

OWN = ("serve", "serve-gpu", "train", "proxy")  # built here; the others are pulled
SERVING = ("serve", "serve-gpu", "prometheus", "grafana", "proxy")
ALL = (*SERVING, "train")


@pytest.fixture
def compose(repo_root: Path) -> dict[str, Any]:
    """docker-compose.yml, parsed, with its anchors merged."""
    return _read(repo_root / "docker-compose.yml")


@pytest.fixture
def dockerfile(repo_root: Path) -> list[list[str]]:
    """The Dockerfile as stages of instructions; continued lines are joined, comments are gone."""
    text = (repo_root / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    stages: list[list[str]] = []
    for line in joined.splitlines():
        if line.startswith("FROM "):
            stages.append([])
        if stages:  # before the first one stands what it is built on
            stages[-1].append(line)
    return stages


def _read(path: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return parsed


def _stage(dockerfile: list[list[str]], name: str) -> list[str]:
    return next(stage for stage in dockerfile if stage[0].endswith(f" AS {name}"))


def _argument(stage: list[str], instruction: str) -> str:
    """What the last ``instruction`` of a stage says."""
    return [line for line in stage if line.startswith(instruction)][-1].partition(" ")[2]


# --- docker-compose.yml ----------------------------------------------------------------------


def test_compose_holds_the_promised_services(compose: dict[str, Any]) -> None:
    """Plain `up` starts the service and Prometheus; the others wait for their profile."""
    profiles = {name: service.get("profiles") for name, service in compose["services"].items()}
    assert profiles == {
        "serve": None,
        "prometheus": None,
        "grafana": ["grafana"],
        "proxy": ["tls"],
        "serve-gpu": ["gpu"],
        "train": ["train"],
    }


@pytest.mark.parametrize("name", ALL)
def test_every_service_is_hardened(compose: dict[str, Any], name: str) -> None:
    """No service may write to its root, gain a privilege, or use up the host."""
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert 0 < service["pids_limit"] <= 4096
    assert service["mem_limit"] == service["memswap_limit"]
    assert service["stop_grace_period"] == "30s"
    (scratch,) = service["tmpfs"]
    folder, _, options = scratch.partition(":")
    assert folder == "/tmp"
    assert {"noexec", "nosuid", "nodev"} <= set(options.split(","))
    assert re.search(r"\bsize=\d+m\b", options)
    assert "cpus" in service
    assert service["logging"]["driver"] == "json-file"
    assert {"max-size", "max-file"} <= set(service["logging"]["options"])
    for forbidden in ("privileged", "cap_add", "devices", "pid", "ipc", "userns_mode"):
        assert forbidden not in service


@pytest.mark.parametrize("name", SERVING)
def test_every_server_is_watched_and_restarted(compose: dict[str, Any], name: str) -> None:
    """A server that dies is started again until somebody stops it; one that hangs is seen."""
    service = compose["services"][name]
    assert service["restart"] == "unless-stopped"
    assert {"test", "interval", "timeout", "start_period", "retries"} <= set(service["healthcheck"])


@pytest.mark.parametrize("name", SERVING)
def test_ports_are_published_on_loopback_alone(compose: dict[str, Any], name: str) -> None:
    """A published port passes by the host's firewall: only the host itself may reach it."""
    ports = compose["services"][name]["ports"]
    assert len(ports) == 1
    assert ports[0].startswith("127.0.0.1:")


def test_no_two_services_want_one_port(compose: dict[str, Any]) -> None:
    """Every profile may be up beside the others, each port under a variable of its own."""
    published = [
        port for service in compose["services"].values() for port in service.get("ports", [])
    ]
    found = [re.fullmatch(r"127\.0\.0\.1:\$\{(\w+):-(\d+)\}:\d+", port) for port in published]
    variables, numbers = zip(*(one.groups() for one in found if one), strict=True)
    assert len(published) == len(set(variables)) == len(set(numbers)) == 5


def test_training_has_no_network(compose: dict[str, Any]) -> None:
    """Training reads and writes files, and nothing else."""
    train = compose["services"]["train"]
    assert train["network_mode"] == "none"
    assert "ports" not in train


@pytest.mark.parametrize("name", ALL)
def test_mounts_are_folders_of_the_checkout(compose: dict[str, Any], name: str) -> None:
    """No service sees the host outside the checkout, and only train writes to it."""
    for mount in compose["services"][name]["volumes"]:
        source, target, *mode = mount.split(":")
        if source in compose["volumes"]:
            continue
        assert source.startswith("./")
        assert target.startswith("/")
        assert mode == ["ro"] or name == "train"


def test_train_hands_its_bundles_to_serve(compose: dict[str, Any]) -> None:
    """What is exported lands in the folder that is served."""
    sources = {
        name: [mount.split(":")[0] for mount in compose["services"][name]["volumes"]]
        for name in ("serve", "serve-gpu", "train")
    }
    assert sources["serve"] == ["./bundles", "jobs"]
    assert sources["serve-gpu"] == ["./bundles", "jobs-gpu"]
    assert "./bundles" in sources["train"]


@pytest.mark.parametrize("name", ["serve", "serve-gpu"])
def test_jobs_lie_on_a_volume_that_the_server_may_write_to(
    compose: dict[str, Any], dockerfile: list[list[str]], name: str
) -> None:
    """A new volume takes the owner of the image's own folder, and that is the image's user."""
    service = compose["services"][name]
    folder = service["environment"]["LIERE_JOBS"]
    (volume,) = (
        source
        for source, target in (mount.split(":")[:2] for mount in service["volumes"])
        if target == folder
    )
    assert volume in compose["volumes"]
    owner, group = _argument(_stage(dockerfile, "serve"), "USER").split(":")
    made = f"install --directory --owner {owner} --group {group} {folder}"
    assert made in " ".join(_stage(dockerfile, "debian"))
    others = [one["volumes"] for other, one in compose["services"].items() if other != name]
    assert f"{volume}:{folder}" not in [mount for mounts in others for mount in mounts]


@pytest.mark.parametrize("name", ALL)
def test_images_are_built_here_or_pinned(
    compose: dict[str, Any], dockerfile: list[list[str]], name: str
) -> None:
    """An image is a target of the Dockerfile, or has a full version in its tag."""
    service = compose["services"][name]
    if name in OWN:
        assert _stage(dockerfile, service["build"]["target"])
        assert service["image"] == f"liere-{name}:${{VERSION:-latest}}"
    else:
        assert "build" not in service
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])


@pytest.mark.parametrize("file", ["docker-compose.yml", "deploy/keys.yml"])
def test_settings_are_those_of_the_service(repo_root: Path, file: str) -> None:
    """The server refuses a variable that it does not know: compose gives it none."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in ("serve", "serve-gpu"):
        given = set(_read(repo_root / file)["services"][name]["environment"])
        assert {variable for variable in given if variable.startswith(PREFIX)} <= known


def test_keys_close_the_service(repo_root: Path, compose: dict[str, Any]) -> None:
    """With deploy/keys.yml both servers take keys from a mounted folder and are no longer open."""
    keys = _read(repo_root / "deploy" / "keys.yml")
    for name in ("serve", "serve-gpu"):
        assert compose["services"][name]["environment"]["LIERE_OPEN"] == "true"
        service = keys["services"][name]
        assert service["environment"]["LIERE_OPEN"] == "false"
        folder, _, file = service["environment"]["LIERE_KEYS_FILE"].rpartition("/")
        (mount,) = service["volumes"]
        source, target, mode = mount.split(":")
        assert (target, mode, file) == (folder, "ro", "keys.txt")
        assert (repo_root / source).is_dir()  # of a file that is missing an engine makes a folder


def test_no_key_can_be_committed(repo_root: Path) -> None:
    """The folder of the keys is part of the checkout, whatever lies in it is not."""
    for file in ("deploy/keys/keys.txt", "deploy/keys/old", "deploy/tls/key.pem", ".env"):
        done = subprocess.run(["git", "check-ignore", "-q", file], cwd=repo_root, check=False)
        assert done.returncode == 0, file
    done = subprocess.run(
        ["git", "check-ignore", "-q", "deploy/keys/.gitignore"], cwd=repo_root, check=False
    )
    assert done.returncode == 1


def test_prometheus_scrapes_the_service(repo_root: Path, compose: dict[str, Any]) -> None:
    """It asks for both servers of compose, on the port that the image listens on."""
    config = _read(repo_root / "deploy" / "prometheus" / "prometheus.yml")
    (job,) = config["scrape_configs"]
    (names,) = job["dns_sd_configs"]
    assert names["names"] == ["serve", "serve-gpu"]
    for name in names["names"]:
        assert compose["services"][name]["ports"][0].endswith(f":{names['port']}")


def test_grafana_is_given_the_dashboard_and_its_prometheus(
    repo_root: Path, compose: dict[str, Any]
) -> None:
    """Provisioned: the source that every panel names, and the folder that holds the file."""
    (source,) = _read(repo_root / "deploy/grafana/datasources/prometheus.yml")["datasources"]
    name, port = source["url"].removeprefix("http://").split(":")
    assert compose["services"][name]["ports"][0].endswith(f":{port}")
    (provider,) = _read(repo_root / "deploy/grafana/dashboards/provider.yml")["providers"]
    grafana = compose["services"]["grafana"]
    mounted = dict(mount.split(":")[1::-1] for mount in grafana["volumes"])
    folder = provider["options"]["path"]
    root = next(target for target in mounted if folder.startswith(target))
    here = repo_root / mounted[root] / Path(folder).relative_to(root)
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    dashboard = json.loads((here / Path(home).name).read_text(encoding="utf-8"))
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}


def test_nobody_changes_grafana(compose: dict[str, Any]) -> None:
    """Without a password there is nobody to be but a viewer."""
    environment = compose["services"]["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"


# --- Dockerfile ------------------------------------------------------------------------------


def test_every_stage_starts_from_debian(dockerfile: list[list[str]], repo_root: Path) -> None:
    """One image is pulled, debian:bookworm-slim or what BASE names; the rest stands on it."""
    text = (repo_root / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^ARG BASE=(.*)$", text, re.MULTILINE) == ["debian:bookworm-slim"]
    names = {"$BASE", "scratch"}
    for stage in dockerfile:
        words = stage[0].split()
        assert words[1] in names
        names.add(words[3])


def test_dockerfile_needs_no_particular_builder(repo_root: Path) -> None:
    """No here-document, no mount, no syntax line: docker, podman and buildah all build it."""
    text = (repo_root / "Dockerfile").read_text(encoding="utf-8")
    assert not re.search(r"<<|^# *syntax *=|--mount|--link|--chmod", text, flags=re.MULTILINE)


@pytest.mark.parametrize("target", ["serve", "train", "proxy"])
def test_images_run_as_a_numbered_user(dockerfile: list[list[str]], target: str) -> None:
    """No image runs as root, which a cluster can only check where the user is a number."""
    user, group = _argument(_stage(dockerfile, target), "USER").split(":")
    assert int(user) > 1000
    assert int(group) > 1000


@pytest.mark.parametrize("target", ["serve", "train"])
def test_signals_reach_the_process(dockerfile: list[list[str]], target: str) -> None:
    """The entry point is a list: no shell stands between a signal and the process."""
    assert json.loads(_argument(_stage(dockerfile, target), "ENTRYPOINT"))[0] == "tini"


def test_serve_leaves_in_the_time_that_it_is_given(
    dockerfile: list[list[str]], compose: dict[str, Any]
) -> None:
    """It tells before it stops, and both together end before it is killed."""
    words = _argument(_stage(dockerfile, "serve"), "ENV").split()
    given = dict(word.split("=", 1) for word in words)
    values = {name.removeprefix(PREFIX).lower(): value for name, value in given.items()}
    settings = Settings(**values)  # type: ignore[arg-type]
    assert settings.drain_delay > 0
    assert settings.ready == "all"
    for name in ("serve", "serve-gpu"):
        grace = float(compose["services"][name]["stop_grace_period"].removesuffix("s"))
        assert settings.drain_delay + settings.grace_seconds < grace


def test_serve_answers_for_its_health(dockerfile: list[list[str]]) -> None:
    """Whoever runs the image knows whether it is ready."""
    assert '"service", "health"' in _argument(_stage(dockerfile, "serve"), "HEALTHCHECK")


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_images_carry_the_version_which_stands_in_one_place(repo_root: Path, extra: str) -> None:
    """The version of the project is tag and label of what `make images` builds, beside latest."""
    project = tomllib.loads((repo_root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = project["version"]
    words = ["make", "--dry-run", "images", "ENGINE=docker", f"EXTRA={extra}"]
    told = subprocess.run(words, cwd=repo_root, capture_output=True, text=True, check=True).stdout
    server = "liere-serve-gpu" if extra == "gpu" else "liere-serve"
    for name in (server, "liere-train", "liere-proxy"):
        assert f"--tag {name}:{version} --tag {name}:latest ." in told
    assert told.count(f"--label org.opencontainers.image.version={version} ") == 3
    for file in ("Dockerfile", "docker-compose.yml", "Makefile"):
        text = (repo_root / file).read_text(encoding="utf-8")
        assert not re.search(rf"(?<![\w.]){re.escape(version)}(?![\w.])", text)


def test_build_context_is_a_list_of_what_is_needed(repo_root: Path) -> None:
    """Nothing lies in an image because somebody forgot to leave it out: all is, but for a list."""
    lines = (repo_root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == {
        "pyproject.toml",
        "constraints.txt",
        "LICENSE",
        "THIRD_PARTY.md",
        "media",
        "models",
        "service",
        "training",
        "export",
        "bundles",
    }
