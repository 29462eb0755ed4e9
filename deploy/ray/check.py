"""Is everything that a config says known? Ray ignores a mistyped key, and so a wish with it.

    python -m deploy.ray.check deploy/ray/serve.yaml

Ends with 2, and the first thing that is wrong, where `serve run` should not be given the file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml  # type: ignore[import-untyped]
from pydantic import ValidationError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from deploy.ray.replica import build, check_bound, deployment, given_cpus, replica_settings
from service.settings import SettingsError

IMPORT_PATH = "deploy.ray.replica:build"
#: Where the config says nothing.
RAYS_BOUND, RAYS_CPUS = deployment.max_ongoing_requests, 1
#: Values that Ray reads later, as another class than the one that stands in its schema.
LATER = {"autoscaling_config": AutoscalingConfig}


def check(text: str) -> None:
    """Raise ValueError, with one line, for the first thing that is wrong.

    Args:
        text: YAML, as `serve run` reads it.
    """
    try:
        document = yaml.safe_load(text)
        config = ServeDeploySchema.model_validate(document, extra="forbid")
    except yaml.YAMLError as error:
        raise ValueError(f"expected YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise ValueError(_first(error)) from None
    except (AttributeError, ImportError) as error:  # Ray has looked the function up
        raise ValueError(f"autoscaling_config.policy: {error}") from None
    ours = [
        _is_ours(f"applications.{number}", application)
        for number, application in enumerate(config.applications)
    ]
    if not any(ours):
        raise ValueError(f"applications: expected one with import_path: {IMPORT_PATH}, got none")
    for number in (number for number, yes in enumerate(ours) if yes):
        _check_ours(f"applications.{number}", config.applications[number])


def _is_ours(where: str, application: ServeApplicationSchema) -> bool:
    """Or somebody else's, of which no more is known than that it is there."""
    try:
        return resolve_name(application.import_path) is build
    except Exception as error:  # others' modules may raise anything
        raise ValueError(
            f"{where}.import_path: expected {IMPORT_PATH}, or another application that can be "
            f"imported here, got {application.import_path!r}: {error}"
        ) from None


def _check_ours(where: str, application: ServeApplicationSchema) -> None:
    try:
        settings = replica_settings(application.args)
    except SettingsError as error:
        raise ValueError(f"{where}.args: {error}") from None
    if not application.deployments:  # Ray's own values are none to serve with
        raise ValueError(f"{where}.deployments: expected one named {deployment.name}, got none")
    for place, one in enumerate(application.deployments):
        at = f"{where}.deployments.{place}"
        if one.name != deployment.name:
            raise ValueError(f"{at}.name: expected {deployment.name}, got {one.name!r}")
        values = one.model_dump(exclude_unset=True)
        try:  # Ray gives running replicas a new bound without asking them
            check_bound(values.get("max_ongoing_requests", RAYS_BOUND), settings)
            cpus = (values.get("ray_actor_options") or {}).get("num_cpus")
            given_cpus({"CPU": RAYS_CPUS if cpus is None else cpus})
        except SettingsError as error:
            raise ValueError(f"{at}.{error}") from None
        _check_later(at, values)


def _check_later(where: str, values: dict[str, Any]) -> None:
    for name, schema in LATER.items():
        if isinstance(value := values.get(name), dict):
            try:
                schema.model_validate(value, extra="forbid")
            except ValidationError as error:
                raise ValueError(f"{where}.{name}.{_first(error)}") from None
            policy = value.get("policy") or {}  # is made by Ray's own __init__, which forbids none
            for unknown in sorted(policy.keys() - AutoscalingPolicy.model_fields.keys()):
                raise ValueError(f"{where}.{name}.policy.{unknown}: unknown key")


def _first(error: ValidationError) -> str:
    """Where, what and what came, of the first mistake."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{place}: unknown key"
    return f"{place}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r}"


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    path = parser.parse_args().config
    try:
        check(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 2
    print(f"{path}: everything in it is known")
    return 0


if __name__ == "__main__":
    sys.exit(main())
