#!/usr/bin/env python3
"""Reduces a CustomResourceDefinition to the JSON schema that the tests need: reduce.py CRD.yaml VERSION > SCHEMA.json

Descriptions and Kubernetes' own keywords are dropped. A map with known fields refuses others, as the API server does with strict
validation. The template of a JobSet's pods becomes any map: its fields are checked against the types of Kubernetes. Needs PyYAML.
"""
import json
import sys

import yaml


def reduce(schema, path):
    if path == ".spec.replicatedJobs.template.spec.template.spec":
        return {"type": "object"}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    keep = {"type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "required", "format"}
    small = {key: value for key, value in schema.items() if key in keep and not (key == "format" and value in ("int32", "int64"))}
    if "properties" in schema:
        small["properties"] = {name: reduce(field, f"{path}.{name}") for name, field in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            small["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        small["additionalProperties"] = reduce(schema["additionalProperties"], path)
    if "items" in schema:
        small["items"] = reduce(schema["items"], path)
    return small


crd = yaml.safe_load(open(sys.argv[1]))
version = next(version for version in crd["spec"]["versions"] if version["name"] == sys.argv[2])
schema = version["schema"]["openAPIV3Schema"]
for field in ("metadata", "status"):
    schema["properties"].pop(field)
schema = reduce(schema, "")
schema["properties"]["metadata"] = {"type": "object"}
print(json.dumps(schema, separators=(",", ":"), sort_keys=True))
