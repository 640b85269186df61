"""Specs for the rules' tests: parts are written as in a manifest."""

from __future__ import annotations

from typing import Any

import yaml

from espalier_api.model import RegularizedModelSpec
from espalier_api.rules import Subject, validate

BASE: dict[str, Any] = {
    "task": {"type": "classification"},
    "data": {"snapshot": {"uri": "s3://datasets/digits/"}, "target": "label"},
    "engine": {"torch": {"architecture": {"mlp": {}}}},
    "artifacts": {"uri": "s3://models/"},
}


def spec(blocks: str, besides: str = "{}") -> RegularizedModelSpec:
    """The plain spec with these regularizers and these parts; parts below `data` and `engine.torch` are added to what is there."""
    parts = yaml.safe_load(besides)
    if "data" in parts:
        parts["data"] = BASE["data"] | parts["data"]
    if "torch" in parts:
        parts["engine"] = {"torch": BASE["engine"]["torch"] | parts.pop("torch")}
    return RegularizedModelSpec.model_validate({**BASE, **parts, "regularizers": yaml.safe_load(blocks)})


def levels(rule: str, blocks: str, besides: str = "{}") -> set[str]:
    """How serious a rule takes it; empty when it has no objection."""
    return {each.level for each in validate(Subject.of_spec(spec(blocks, besides))) if each.rule == rule}
