"""Is the spec acceptable? Schema, ranges and CEL by pydantic, then every validator rule by id; the same rules as
`espalier lint` and the trainer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from espalier_api import conditions as c
from espalier_api.model import RegularizedModelSpec
from espalier_api.rules import Finding, Subject, errors, validate, warnings
from espalier_operator.decisions.model_seen import SpecVerdict

if TYPE_CHECKING:
    from collections.abc import Mapping


def judge_spec(raw: Mapping[str, Any]) -> tuple[RegularizedModelSpec | None, SpecVerdict]:
    """The parsed spec and what is to be said about it; no spec when it cannot even be parsed."""
    try:
        spec = RegularizedModelSpec.model_validate(raw)
    except ValidationError as error:
        found = tuple(_sentence(each) for each in error.errors(include_url=False, include_input=False))
        return None, SpecVerdict(errors=found, reason=c.INVALID_SPEC)
    findings = validate(Subject.of_spec(spec))
    missing = _not_in_this_release(spec)
    refused = (*(_located(each) for each in errors(findings)), *missing)
    if not refused:
        reason = c.INCOMPATIBLE_REGULARIZERS
    else:
        reason = c.NOT_YET_IMPLEMENTED if len(refused) == len(missing) else c.INCOMPATIBLE_REGULARIZERS
    return spec, SpecVerdict(refused, tuple(_located(each) for each in warnings(findings)), reason)


def _not_in_this_release(spec: RegularizedModelSpec) -> tuple[str, ...]:
    """Fields of the API that would be ignored: refused instead (NotYetImplemented), each with what to write now."""
    tracking = spec.training.tracking
    table = (
        (spec.training.nodes > 1, "training.nodes: only one node is supported in this release; set nodes: 1"),
        (spec.training.processes_per_node not in ("auto", 1), "training.processesPerNode: only one process; remove it"),
        (
            tracking is not None and tracking != type(tracking)(),
            "training.tracking: not supported yet; remove it and read /metrics",
        ),
        (
            spec.artifacts.signing is not None,
            "artifacts.signing: not supported yet; digests are verified without it, remove it",
        ),
        (spec.serving.fallback is not None, "serving.fallback: not supported yet; remove it"),
        (spec.serving.uncertainty is not None, "serving.uncertainty: not supported yet; remove it"),
    )
    return tuple(f"spec.{sentence}" for applies, sentence in table if applies)


def _located(finding: Finding) -> str:
    return f"spec.{finding.field}: {finding}" if finding.field else str(finding)


def _sentence(error: Any) -> str:  # noqa: ANN401 - pydantic's ErrorDetails, a TypedDict of any
    return f"spec.{'.'.join(map(str, error['loc']))}: {error['msg']}"
