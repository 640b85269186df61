"""A rollout's own metrics: what is intended, what the evidence is, how canaries ended and how long rollbacks took."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from espalier_api import metrics as names
from espalier_api.exit_codes import ExitCode
from espalier_operator import telemetry
from espalier_operator.decisions.judge.verdict import SampleState
from espalier_operator.decisions.rollout.world import FULL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from espalier_operator.controllers.loop import Key
    from espalier_operator.decisions.rollout.plan import RolloutPlan
    from espalier_operator.decisions.rollout.progress import Progress
    from espalier_operator.decisions.rollout.world import Pod

WEIGHT = telemetry.gauge(names.ROLLOUT_WEIGHT)
EVIDENCE = telemetry.gauge(names.ROLLOUT_EVIDENCE)
ABORT_AT = telemetry.gauge(names.ROLLOUT_ABORT_AT)
SLI_STATE = telemetry.gauge(names.ROLLOUT_SLI_STATE)
OUTCOMES = telemetry.counter(names.ROLLOUT_OUTCOMES)
ROLLBACK_SECONDS = telemetry.histogram(names.ROLLOUT_ROLLBACK_SECONDS)
REFUSED = telemetry.gauge(names.REFUSED_PODS)
HELD_SECONDS = telemetry.counter(names.ROLLOUT_HELD_SECONDS)


def refusals(pods: Iterable[Pod]) -> Counter[tuple[str, str]]:
    """Pods by version and by the error that their server ended with; those that serve meanwhile do not count.

    The server's own gauges end with its process, so only the operator can show this.
    """
    codes = {ExitCode.INVALID_CONFIG, ExitCode.DATA_PROBLEM}
    refused = (pod for pod in pods if pod.crash is not None and not pod.ready and pod.crash.exit_code in codes)
    return Counter((pod.version, _error(pod)) for pod in refused)


def _error(pod: Pod) -> str:
    """The class's name that the server's last words begin with; never its text, which is of any length."""
    word = pod.crash.detail.partition(":")[0] if pod.crash is not None else ""
    return word if word.isidentifier() else "Unknown"


class RolloutGauges:
    """Series of all rollouts; those of one go with it."""

    def __init__(self) -> None:
        self._shown: dict[Key, list[tuple[Any, tuple[str, ...]]]] = {}

    def show(
        self,
        key: Key,
        model: str,
        plan: RolloutPlan,
        entries: Mapping[str, Mapping[str, Any]],
        pods: Iterable[Pod] = (),
    ) -> None:
        """The present."""
        shown: list[tuple[Any, tuple[str, ...]]] = []
        place = (key.namespace, model)

        def put(gauge: Any, labels: tuple[str, ...], value: float) -> None:  # noqa: ANN401 - a client's gauge
            gauge.labels(*labels).set(value)
            shown.append((gauge, labels))

        roles = {"stable": plan.progress.stable, "canary": plan.progress.canary}
        weights = plan.split.weights if plan.split else {}
        for role, ref in roles.items():
            if ref is not None:
                put(WEIGHT, (*place, role, ref.name), weights.get(ref.name, 0) / FULL)
        for name, entry in entries.items():
            if entry.get("evidence") is not None:
                put(EVIDENCE, (*place, name), float(entry["evidence"]))
                put(ABORT_AT, (*place, name), float(entry["abortAt"]))
            for state in SampleState:
                put(SLI_STATE, (*place, name, state.value), float(entry.get("state") == state.value))
        for (version, reason), count in refusals(pods).items():
            put(REFUSED, (*place, version, reason), count)
        self._drop(set(self._shown.get(key, ())) - set(shown))
        self._shown[key] = shown

    def count(self, key: Key, model: str, before: Progress, after: Progress, now: datetime) -> None:
        """What has just ended."""
        for ended in after.history:
            if ended in before.history:
                break  # newest first
            OUTCOMES.labels(key.namespace, model, ended.outcome.value).inc()
            if ended.verdict_at is not None and ended.weight_zero_at is not None and ended.weight:
                ROLLBACK_SECONDS.observe((ended.weight_zero_at - ended.verdict_at).total_seconds())
        if before.hold is not None and after.hold is None:
            HELD_SECONDS.labels(key.namespace, model, before.hold.reason).inc(
                max(0.0, (now - before.hold.since).total_seconds())
            )

    def forget(self, key: Key) -> None:
        """The rollout is gone."""
        self._drop(set(self._shown.pop(key, ())))

    def _drop(self, gone: set[tuple[Any, tuple[str, ...]]]) -> None:
        for gauge, labels in gone:
            gauge.remove(*labels)
