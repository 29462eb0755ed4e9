"""Writes the schemas beside it from packages that README.md names.

In an environment of its own, where nothing else of the project is:

    python -m venv /tmp/crds
    /tmp/crds/bin/pip install -r tests/scale/crds/requirements.txt
    /tmp/crds/bin/pip install --no-deps kserve==0.21.0
    /tmp/crds/bin/python tests/scale/crds/renew.py
"""

from __future__ import annotations

import ast
import importlib
import json
import re
from importlib.metadata import files
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: Kinds as pydantic models that were made from the CRDs.
MODELS = {
    "ScaledObject": "cloudcoil.models.keda.v1alpha1",
    "ServiceMonitor": "cloudcoil.models.prometheus_operator.v1",
    "PrometheusRule": "cloudcoil.models.prometheus_operator.v1",
}
DRAFT = "https://json-schema.org/draft/2020-12/schema"
#: Where kubernetes-validate has the types of Kubernetes itself.
CORE = "https://kubernetes.io/api/_definitions.json#/$defs/io.k8s."
WORDS = ("title", "description", "default")
SCALARS = {"str": "string", "int": "integer", "bool": "boolean", "float": "number"}


def closed(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    """An object that has these members and no others."""
    made = {"type": "object", "properties": properties, "additionalProperties": False}
    return made | ({"required": required} if required else {})


def resource(spec: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A whole object with this spec."""
    members = {
        "apiVersion": {"type": "string"}, "kind": {"type": "string"},
        "metadata": {"$ref": CORE + "apimachinery.pkg.apis.meta.v1.ObjectMeta"}, "spec": spec,
    }  # fmt: skip
    return {"$schema": DRAFT} | closed(members, list(members)) | {"$defs": definitions}


def bare(schema: Any) -> Any:
    """Without words, and with every object closed: an API server drops what it does not know."""
    if isinstance(schema, list):
        return [bare(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: one for key, one in schema.items() if key not in WORDS}
    if members := kept.pop("properties", {}):
        named = {name: bare(one) for name, one in members.items()}
        return bare(kept) | closed(named, kept.get("required"))
    return {key: bare(one) for key, one in kept.items()}


def reached(schema: Any, definitions: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """The definitions that a schema asks for, and those that they ask for."""
    for name in re.findall(r'"#/\$defs/([^"]+)"', json.dumps(schema)):
        if name not in found:
            found[name] = bare(definitions[name])
            reached(found[name], definitions, found)
    return found


def of_pydantic(kind: str, module: str) -> dict[str, Any]:
    whole = getattr(importlib.import_module(module), kind).model_json_schema(by_alias=True)
    spec = bare(whole["properties"]["spec"])
    return resource(spec, reached(spec, whole["$defs"], {}))


def of_kserve(name: str) -> dict[str, Any]:
    """A class of KServe's SDK, read and not imported: that would need all that KServe needs."""
    (path,) = (one for one in files("kserve") or () if one.name == f"{name}.py")
    tables: dict[str, Any] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            tables[ast.unparse(node.targets[0])] = ast.literal_eval(node.value)
    types, names = tables["openapi_types"], tables["attribute_map"]
    return closed({names[one]: of_type(type_) for one, type_ in types.items()})


def of_type(name: str) -> dict[str, Any]:
    """A type as that SDK writes it."""
    if name in SCALARS:
        return {"type": SCALARS[name]}
    if inner := re.fullmatch(r"list\[(.*)\]", name):
        return {"type": "array", "items": of_type(inner[1])}
    if inner := re.fullmatch(r"dict\(str, (.*)\)", name):
        return {"type": "object", "additionalProperties": of_type(inner[1])}
    if name == "V1beta1PredictorSpec":
        return of_kserve("v1beta1_predictor_spec")
    if name == "ResourceQuantity":
        return {"$ref": CORE + "apimachinery.pkg.api.resource.Quantity"}
    if core := re.fullmatch(r"V1([A-Z]\w*)", name):
        return {"$ref": f"{CORE}api.core.v1.{core[1]}"}
    return {"type": "object"}  # other components and runtimes, which are not used here


def main() -> None:
    made = {kind: of_pydantic(kind, module) for kind, module in MODELS.items()}
    spec = of_kserve("v1beta1_inference_service_spec") | {"required": ["predictor"]}
    made["InferenceService"] = resource(spec, {})
    for kind, schema in made.items():
        text = json.dumps(schema, indent=1, sort_keys=True) + "\n"
        (HERE / f"{kind}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
