"""CRDs and docs/api.md: what is committed is what api/ says, structural, complete and small enough to apply."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field

from espalier_api import conditions, metrics
from espalier_api.base import ApiModel
from espalier_api.rules import RULES
from tools.crds.__main__ import drifted, generated
from tools.crds.definitions import KINDS, Kind, definition, openapi
from tools.crds.schema import NotStructuralError, structural

ROOT = Path(__file__).parents[3]
APPLY_LIMIT = 262_144
"""Bytes of the annotation in which client-side `kubectl apply` keeps the object."""


def nodes(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield schema
    for child in schema.get("properties", {}).values():
        yield from nodes(child)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            yield from nodes(schema[key])


def test_committed_files_are_what_api_says() -> None:
    assert [str(path.relative_to(ROOT)) for path in drifted(generated())] == []


def test_no_bare_word_is_a_boolean_to_kubectl() -> None:
    """YAML 1.1: a bare `n` is false. The status field `n` was pruned by every API server because of it."""
    bare = re.compile(r"^[\s-]*(y|n|yes|no|on|off)(:|$)", re.IGNORECASE | re.MULTILINE)
    assert {path.name: found for path, text in generated().items() if (found := bare.findall(text))} == {}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.short)
def test_schema_is_structural_and_bounded(kind: Kind) -> None:
    for node in nodes(openapi(kind)):
        assert not node.keys() & {"$ref", "allOf", "oneOf", "not", "const", "prefixItems", "patternProperties"}
        assert "anyOf" not in node or node.get("x-kubernetes-int-or-string")
        assert node.get("default", ...) is not None
        if node.get("type") == "array":
            assert "maxItems" in node


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.short)
def test_definition_fits_into_kubectl_apply_and_follows_the_conventions(kind: Kind) -> None:
    crd = definition(kind)
    assert len(yaml.dump(crd)) < APPLY_LIMIT
    names, version = crd["spec"]["names"], crd["spec"]["versions"][0]
    assert names["shortNames"] == [kind.short]
    assert names["categories"] == ["espalier"]
    assert version["subresources"] == {"status": {}}
    status = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    assert "observedGeneration" in status
    assert status["conditions"]["x-kubernetes-list-map-keys"] == ["type"]
    assert {"Ready", "Age"} <= {column["name"] for column in version["additionalPrinterColumns"]}


def test_every_field_of_a_spec_has_words() -> None:
    """`kubectl explain` is the documentation that people find first."""
    for kind in KINDS:
        for node in nodes(openapi(kind)["properties"]["spec"]):
            for name, child in node.get("properties", {}).items():
                assert child.get("description"), f"{kind.kind}: {name}"


def test_durations_and_blocks_have_plain_defaults() -> None:
    training = openapi(KINDS[0])["properties"]["spec"]["properties"]["training"]["properties"]
    assert training["deadline"]["default"] == "6h"
    assert openapi(KINDS[1])["properties"]["spec"]["properties"]["strategy"]["properties"]["steps"]["default"] == [
        {"weight": 5, "hold": "10m"},
        {"weight": 25, "hold": "10m"},
        {"weight": 50, "hold": "10m"},
    ]


def test_docs_tell_every_condition_reason_rule_and_metric() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    for word in (
        *conditions.REASONS,
        *conditions.MODEL_CONDITIONS,
        *conditions.ROLLOUT_CONDITIONS,
        *conditions.RETRAIN_CONDITIONS,
    ):
        assert f"| `{word}` |" in page
    for rule in RULES:
        assert f"| {rule.id} | {rule.level} |" in page
    for metric in metrics.ALL:
        assert f"| `{metric.name}` |" in page


def test_what_no_crd_can_say_is_refused_with_its_path() -> None:
    class Choice(ApiModel):
        value: int | str = Field(default=1)

    class Unbounded(ApiModel):
        items: tuple[int, ...] = ()

    class Open(ApiModel):
        anything: dict[str, Any] = Field(default_factory=dict, max_length=3)

    for model, path in ((Choice, r"Choice\.value"), (Unbounded, r"Unbounded\.items"), (Open, r"Open\.anything")):
        with pytest.raises(NotStructuralError, match=path):
            structural(model)
