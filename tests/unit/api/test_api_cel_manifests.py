"""The manifests that the API server judges in tests/e2e/test_cel.py, judged by pydantic and the rules: both must mean the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from espalier_api.model import RegularizedModel
from espalier_api.problems import problems
from espalier_api.retrain import RetrainPolicy
from espalier_api.rollout import CanaryRollout
from espalier_api.rules import Subject, validate
from tools.crds.definitions import KINDS, openapi

FOLDER = Path(__file__).parents[2] / "e2e" / "manifests" / "cel"
MODELS = {"RegularizedModel": RegularizedModel, "CanaryRollout": CanaryRollout, "RetrainPolicy": RetrainPolicy}
ONLY_SERVER = "modelRef cannot change"
KEY_RULE = "every key must match"


def manifests(side: str) -> list[Any]:
    return [pytest.param(path, id=path.stem) for path in sorted((FOLDER / side).glob("*.yaml"))]


def comment(path: Path, key: str) -> str:
    return next(line.split(": ", 1)[1] for line in path.read_text().splitlines() if line.startswith(f"# {key}: "))


def objections(path: Path) -> list[str]:
    manifest = yaml.safe_load(path.read_text())
    try:
        parsed = MODELS[manifest["kind"]].model_validate(manifest)
    except ValidationError as error:
        return [str(problem) for problem in problems(error)]
    return (
        [str(finding) for finding in validate(Subject.of_spec(parsed.spec))]
        if isinstance(parsed, RegularizedModel)
        else []
    )


@pytest.mark.parametrize("path", manifests("accept"))
def test_accepts(path: Path) -> None:
    MODELS[yaml.safe_load(path.read_text())["kind"]].model_validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    "path", [item for item in manifests("reject") if ONLY_SERVER not in item.values[0].read_text()]
)
def test_refuses_for_the_same_reason(path: Path) -> None:
    expected = comment(path, "expect")
    found = objections(path)
    if expected.startswith(KEY_RULE):
        assert any("should match pattern" in line for line in found)
        return
    rule, _, text = expected.partition(": ")
    is_rule = rule[0] == "R" and rule[1:].isdigit()
    assert any(line.startswith(f"{rule}: ") if is_rule else text in line for line in found), found


def validations(node: Mapping[str, Any]) -> Iterator[str]:
    yield from (rule["message"] for rule in node.get("x-kubernetes-validations", ()))
    for child in node.get("properties", {}).values():
        yield from validations(child)
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), Mapping):
            yield from validations(node[key])


@pytest.mark.parametrize("side", ["accept", "reject"])
def test_every_rule_of_the_crds_has_a_manifest(side: str) -> None:
    """A rule that nobody ever saw accept and refuse is not a rule."""
    told = [comment(path.values[0], "rule" if side == "accept" else "expect") for path in manifests(side)]
    for kind in KINDS:
        for message in set(validations(openapi(kind))):
            assert any(message.startswith(text) for text in told), f"{kind.kind}: no {side} manifest for {message!r}"
