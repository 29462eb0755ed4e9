"""Is everything that a config says known? Ray ignores a mistyped key, and so a wish with it.

    python -m deploy.ray.check deploy/ray/serve.yaml

Ends with 2, and the first thing that is wrong, where `serve run` should not be given the file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from pydantic import ValidationError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.schema import ServeDeploySchema

from deploy.ray.replica import check_bound, deployment, replica_settings
from service.settings import SettingsError

IMPORT_PATH = "deploy.ray.replica:build"
#: Where the config says nothing.
RAYS_BOUND = deployment.max_ongoing_requests
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
    for number, application in enumerate(config.applications):
        where = f"applications.{number}"
        if application.import_path != IMPORT_PATH:
            continue  # somebody else's application beside ours
        try:
            settings = replica_settings(application.args)
        except SettingsError as error:
            raise ValueError(f"{where}.args: {error}") from None
        for place, one in enumerate(application.deployments):
            at = f"{where}.deployments.{place}"
            if one.name != deployment.name:
                raise ValueError(f"{at}.name: expected {deployment.name}, got {one.name!r}")
            values = one.model_dump(exclude_unset=True)
            try:  # Ray gives running replicas a new bound without asking them
                check_bound(values.get("max_ongoing_requests", RAYS_BOUND), settings)
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
