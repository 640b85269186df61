"""Is the spec acceptable? Schema, ranges and CEL by pydantic, then every validator rule by id; the same rules as
`espalier lint` and the trainer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from espalier_api import conditions as c
from espalier_api.model import RegularizedModelSpec
from espalier_api.problems import problems
from espalier_api.rules import Finding, Subject, errors, not_in_this_release, validate, warnings
from espalier_operator.decisions.model_seen import SpecVerdict

if TYPE_CHECKING:
    from collections.abc import Mapping


def judge_spec(raw: Mapping[str, Any]) -> tuple[RegularizedModelSpec | None, SpecVerdict]:
    """The parsed spec and what is to be said about it; no spec when it cannot even be parsed."""
    try:
        spec = RegularizedModelSpec.model_validate(raw)
    except ValidationError as error:
        found = tuple(f"spec.{problem}" for problem in problems(error))
        return None, SpecVerdict(errors=found, reason=c.INVALID_SPEC)
    findings = validate(Subject.of_spec(spec))
    missing = tuple(_located(each) for each in not_in_this_release(spec))
    objections = tuple(_located(each) for each in errors(findings))
    reason = c.NOT_YET_IMPLEMENTED if missing and not objections else c.INCOMPATIBLE_REGULARIZERS
    return spec, SpecVerdict((*objections, *missing), tuple(_located(each) for each in warnings(findings)), reason)


def _located(finding: Finding) -> str:
    return f"spec.{finding.field}: {finding}" if finding.field else str(finding)
