"""From pydantic's JSON Schema (2020-12) to the structural OpenAPI v3 schema that a CustomResourceDefinition takes.

Structural means: no $ref, no anyOf over types, every node typed, no additionalProperties beside properties. What cannot be said that
way is refused here with its path, so that a model that does not fit is found when the CRDs are generated and not on a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from espalier_api.base import ApiModel
from espalier_api.durations import format_duration

JsonSchema = dict[str, Any]

COPIED = (
    "type", "format", "pattern", "enum", "default", "description", "minimum", "maximum", "minLength", "maxLength", "minItems",
    "maxItems", "minProperties", "maxProperties", "required", "x-kubernetes-validations", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields",
)  # fmt: skip
DROPPED = {"title", "additionalProperties", "properties", "items", "prefixItems", "anyOf", "allOf", "$ref", "$defs", "const"} | {
    "exclusiveMinimum", "exclusiveMaximum", "patternProperties", "propertyNames", "examples",
}  # fmt: skip


class NotStructuralError(ValueError):
    """A model that no structural schema can express; the message gives its path."""


class _WithPlainDefaults(GenerateJsonSchema):
    """Writes defaults the way a person would: durations as `10m`, blocks without the fields that have defaults of their own."""

    def encode_default(self, dft: Any) -> Any:  # noqa: ANN401 - pydantic's signature
        """JSON of a default."""
        if isinstance(dft, ApiModel):
            return dft.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude_none=True)
        if isinstance(dft, timedelta):
            return format_duration(dft)
        if isinstance(dft, tuple):
            return [self.encode_default(item) for item in dft]
        return super().encode_default(dft)


def structural(model: type[ApiModel]) -> JsonSchema:
    """The structural schema of a model. Raises NotStructuralError."""
    source = model.model_json_schema(by_alias=True, mode="validation", schema_generator=_WithPlainDefaults)
    return _node(source, source.get("$defs", {}), model.__name__)


def _node(raw: Mapping[str, Any], defs: Mapping[str, Any], path: str) -> JsonSchema:
    merged = _resolve(raw, defs, path)
    if unknown := set(merged) - set(COPIED) - DROPPED:
        raise NotStructuralError(f"{path}: JSON Schema keywords {sorted(unknown)} have no place in a CRD")
    node = {key: merged[key] for key in COPIED if key in merged}
    if "const" in merged:
        node |= {"type": "string", "enum": [merged["const"]]}
    _bounds(merged, node)
    match node.get("type"):
        case "object":
            _object(merged, node, defs, path)
        case "array":
            _array(merged, node, defs, path)
        case None if not node.keys() & {"x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"}:
            raise NotStructuralError(f"{path}: no type; give the field one type or a WithJsonSchema")
    if node.get("x-kubernetes-int-or-string"):
        node["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    _bounded(node, path)
    _default(node)
    return node


def _bounded(node: Mapping[str, Any], path: str) -> None:
    """The API server multiplies the cost of a rule by how often it may run: everything that can grow needs a bound."""
    grows = {"string": "maxLength", "array": "maxItems"}.get(node.get("type", ""))
    if node.get("type") == "object" and "additionalProperties" in node:
        grows = "maxProperties"
    if grows and grows not in node and "enum" not in node and "format" not in node:
        raise NotStructuralError(f"{path}: no {grows}; CEL cost and etcd need one")


def _resolve(raw: Mapping[str, Any], defs: Mapping[str, Any], path: str) -> JsonSchema:
    """Inline $ref, single allOf and `X or null`; what stands beside a reference wins over what it refers to."""
    if raw.get("x-kubernetes-int-or-string"):
        return dict(raw)
    own = {key: value for key, value in raw.items() if key not in {"$ref", "anyOf", "allOf"}}
    bases: list[Mapping[str, Any]] = list(raw.get("allOf", ()))
    if "$ref" in raw:
        bases.append(defs[raw["$ref"].rsplit("/", 1)[-1]])
    if "anyOf" in raw:
        options = [option for option in raw["anyOf"] if option.get("type") != "null"]
        if len(options) != 1:
            raise NotStructuralError(f"{path}: a choice between {len(options)} types; use a map of optional blocks")
        bases.extend(options)
        if own.get("default", ...) is None:
            del own["default"]
    for base in bases:
        own = {**_resolve(base, defs, path), **own}
    return own


def _bounds(merged: Mapping[str, Any], node: JsonSchema) -> None:
    """OpenAPI 3.0 says `minimum: 0, exclusiveMinimum: true` where JSON Schema 2020 says `exclusiveMinimum: 0`."""
    for side in ("Minimum", "Maximum"):
        if (bound := merged.get(f"exclusive{side}")) is not None:
            node[side.lower()] = bound
            node[f"exclusive{side}"] = True


def _object(merged: Mapping[str, Any], node: JsonSchema, defs: Mapping[str, Any], path: str) -> None:
    if "properties" in merged:
        node["properties"] = {name: _node(raw, defs, f"{path}.{name}") for name, raw in merged["properties"].items()}
        return
    patterns = merged.get("patternProperties", {})
    values = next(iter(patterns.values()), merged.get("additionalProperties"))
    if not isinstance(values, Mapping):
        if "default" in node or merged.get("additionalProperties") is False:
            node.pop("default", None)  # a marker block without fields, e.g. `errorRatio: {}`
            return
        raise NotStructuralError(f"{path}: an open object; name its fields or type its values")
    node["additionalProperties"] = _node(values, defs, f"{path}[*]")
    key = next(iter(patterns), merged.get("propertyNames", {}).get("pattern"))
    if key is not None and "type" in node["additionalProperties"]:  # CEL cannot see maps of untyped values
        rule = {"rule": f"self.all(key, key.matches({_cel_string(key)}))", "message": f"every key must match {key}"}
        node["x-kubernetes-validations"] = [*node.get("x-kubernetes-validations", ()), rule]


def _array(merged: Mapping[str, Any], node: JsonSchema, defs: Mapping[str, Any], path: str) -> None:
    items = merged.get("items")
    if "prefixItems" in merged:
        items = merged["prefixItems"][0]
        if any(other != items for other in merged["prefixItems"]):
            raise NotStructuralError(f"{path}: a tuple of different types; use an object")
    if not isinstance(items, Mapping):
        raise NotStructuralError(f"{path}: a list without an item type")
    node["items"] = _node(items, defs, f"{path}[]")


def _default(node: JsonSchema) -> None:
    """Defaults that say nothing are left out: null, empty lists and maps, and blocks without any default inside."""
    default = node.get("default", ...)
    if default is None or default in ([], {}):
        del node["default"]
        if node.get("type") == "object" and "properties" in node and not node.get("required") and _has_defaults(node):
            node["default"] = {}


def _has_defaults(node: Mapping[str, Any]) -> bool:
    return any("default" in child for child in node["properties"].values())


def _cel_string(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
