"""Gauges and counters about a model, rebuilt from what a pass saw and decided, so that they survive pods and restarts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import Gauge

from espalier_operator import telemetry
from espalier_operator.adapters.resources import MODELS
from espalier_operator.controllers.model.reference import SERVING
from espalier_operator.decisions.attempts import AttemptState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from espalier_operator.controllers.loop import Key
    from espalier_operator.decisions.model_seen import Seen
    from espalier_operator.decisions.model_summary import Decision

Series = tuple[Gauge, tuple[str, ...]]
Facts = dict[Series, float]
CONDITION_STATUSES = ("True", "False", "Unknown")


class ModelGauges:
    """Remembers which series belong to which object, and removes them with it."""

    def __init__(self) -> None:
        self._series: dict[Key, set[Series]] = {}

    def show(self, key: Key, seen: Seen, decision: Decision) -> None:
        """After a pass was executed."""
        status = decision.plan.status or {}
        self._replace(key, {**_conditions(key, status), **_accuracies(key, status), **_training(key, seen, status)})
        _count(key, seen, decision)

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self._replace(key, {})
        self._series.pop(key, None)

    def _replace(self, key: Key, fresh: Facts) -> None:
        for gauge, labels in self._series.get(key, set()) - fresh.keys():
            gauge.remove(*labels)
        for (gauge, labels), value in fresh.items():
            gauge.labels(*labels).set(value)
        self._series[key] = set(fresh)


def _conditions(key: Key, status: Mapping[str, Any]) -> Facts:
    return {
        (telemetry.CONDITION, (key.namespace, MODELS.kind, key.name, condition["type"], value)): float(
            condition["status"] == value
        )
        for condition in status.get("conditions", [])
        for value in CONDITION_STATUSES
    }


def _accuracies(key: Key, status: Mapping[str, Any]) -> Facts:
    return {
        (telemetry.REFERENCE_ACCURACY, (key.namespace, key.name, version["version"])): version["metrics"]["accuracy"][
            "value"
        ]
        for version in status.get("versions", [])
        if version["state"] in SERVING and "accuracy" in version.get("metrics", {})
    }


def _training(key: Key, seen: Seen, status: Mapping[str, Any]) -> Facts:
    training = status.get("training") or {}
    identity = (key.namespace, key.name, training.get("version", ""))
    facts: Facts = {
        (telemetry.TRAINING_LOSS, (*identity, split)): training[field]
        for split, field in (("train", "trainLoss"), ("validation", "validationLoss"))
        if field in training
    }
    if "progress" in training:
        facts[telemetry.TRAINING_PROGRESS, identity] = training["progress"]
    for name, share in (seen.progress.regularizers if seen.progress is not None else {}).items():
        facts[telemetry.REGULARIZER_COEFFICIENT, (*identity, name)] = share.coefficient
        facts[telemetry.REGULARIZER_VALUE, (*identity, name)] = share.value
        facts[telemetry.REGULARIZER_SHARE, (*identity, name)] = share.share
        if share.gradient_ratio is not None:
            facts[telemetry.REGULARIZER_GRADIENT_RATIO, (*identity, name)] = share.gradient_ratio
    return facts


def _count(key: Key, seen: Seen, decision: Decision) -> None:
    """An attempt that this pass judged, and a version whose training this pass ended: each is latched in status, so it is counted once."""
    before, status = seen.status.training, decision.plan.status or {}
    after = status.get("training") or {}
    if before is None or (after.get("version"), after.get("attempt")) == (before.version, before.attempt):
        return
    if seen.attempt.state in {AttemptState.SUCCEEDED, AttemptState.FAILED}:
        telemetry.TRAINING_ATTEMPTS.labels(key.namespace, key.name, str(seen.attempt.reason)).inc()
    if after:
        return
    ended: Mapping[str, object] = next(
        (each for each in status.get("versions", []) if each["version"] == before.version), {}
    )
    reason = str(ended.get("requestedBy", "spec")).partition("@")[0]
    result = "failed" if ended.get("state") == "Failed" else "succeeded"
    telemetry.RETRAIN_RUNS.labels(key.namespace, key.name, reason, result).inc()
