"""RetrainPolicy in this release: checked and answered, not acted on.

Triggers are not evaluated yet. A policy that silently did nothing would be worse than none, so its Ready condition
says so, with what works today.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from espalier_api import conditions as c
from espalier_api.retrain import RetrainPolicySpec, RetrainPolicyStatus
from espalier_operator.decisions.plan import Condition, Plan, upsert

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from espalier_api.kubernetes import ObjectMeta

NOT_YET = (
    "this release checks policies but does not evaluate their triggers; until then a new version is trained by changing the model's"
    " spec, or on demand: kubectl annotate regmodel <name> espalier.dev/request=retry@<unique id> --overwrite"
)


def decide(meta: ObjectMeta, raw: Mapping[str, Any], status: RetrainPolicyStatus, now: datetime) -> Plan:
    """Conditions only; nothing is ever requested."""
    try:
        RetrainPolicySpec.model_validate(raw)
        ready = Condition(c.READY, "False", c.NOT_YET_IMPLEMENTED, NOT_YET)
    except ValidationError as error:
        words = "\n".join(f"spec.{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        ready = Condition(c.READY, "False", c.INVALID_SPEC, words)
    existing = [condition.dump() for condition in status.conditions]
    merged = upsert(existing, (ready,), generation=meta.generation, now=now.replace(microsecond=0))
    conditions = tuple(c.Condition.model_validate(condition) for condition in merged)
    return Plan(
        status=status.model_copy(update={"observed_generation": meta.generation, "conditions": conditions}).dump()
    )
