"""Fields of v1alpha1 that this release cannot honour yet. They are refused, with what to write now, and never ignored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from espalier_api.rules.engine_support import SKLEARN, supported
from espalier_api.rules.rule import Finding

if TYPE_CHECKING:
    from espalier_api.model import RegularizedModelSpec

RULE = "NotYetImplemented"


def not_in_this_release(spec: RegularizedModelSpec) -> tuple[Finding, ...]:
    """Every field of the spec that would be ignored. Blocks that an engine cannot honour are R38's."""
    return tuple(
        Finding(RULE, "error", field.split(":", 1)[0], f"{field} is part of the API but not of this release", remedy)
        for applies, field, remedy in _table(spec)
        if applies
    )


def _table(spec: RegularizedModelSpec) -> Iterator[tuple[bool, str, str]]:
    """(applies, field, what to write now) of everything that is refused."""
    serving = spec.serving
    yield serving.fallback is not None, "serving.fallback", "Remove it"
    yield serving.uncertainty is not None, "serving.uncertainty", "Remove it"
    yield serving.autoscaling is not None, "serving.autoscaling", "Set serving.replicas instead"
    yield from _engines(spec)


def _engines(spec: RegularizedModelSpec) -> Iterator[tuple[bool, str, str]]:
    engine, task = spec.engine, spec.task.type
    if engine.sklearn is not None and supported(engine, task) is None:
        others = sorted(estimator for estimator, kind in SKLEARN if kind == task)
        field = f"engine.sklearn.estimator: {engine.sklearn.estimator} for a {task}"
        yield True, field, f"Use one of {', '.join(others)}"
