"""Gates: bounds on recorded numbers. Judged from status alone, so that changing a gate judges again and never trains
again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from espalier_api.artifact import MetricValue
from espalier_api.evaluation import HIGHER_IS_BETTER, Gate
from espalier_api.model import GateResult

MIN_GROUP_ROWS = 50
"""A group with fewer rows is reported and decides nothing."""


def judge_gates(
    gates: Iterable[Gate], metrics: Mapping[str, MetricValue], champion: Mapping[str, MetricValue] | None
) -> tuple[GateResult, ...]:
    """Each gate against the recorded metrics. `champion` are the champion's; None when there is no champion."""
    return tuple(_judge(gate, metrics, champion) for gate in gates)


def wanted_metrics(name: str, gates: Iterable[Gate]) -> bool:
    """True when a gate asks for the recorded metric `<metric>` or `<metric>/<column>=<group>`."""
    metric, _, group = name.partition("/")
    column = group.partition("=")[0] or None
    return any(gate.metric == metric and gate.group == column for gate in gates)


def _judge(gate: Gate, metrics: Mapping[str, MetricValue], champion: Mapping[str, MetricValue] | None) -> GateResult:
    value = _value(gate, metrics)
    if gate.vs is not None:
        return _against_champion(gate, value, None if champion is None else (_value(gate, champion),))
    bound = " and ".join(
        [
            *([f">= {gate.min:g}"] if gate.min is not None else []),
            *([f"<= {gate.max:g}"] if gate.max is not None else []),
        ]
    )
    passed = value is not None and (gate.min is None or value >= gate.min) and (gate.max is None or value <= gate.max)
    return GateResult(metric=gate.metric, passed=passed, value=value, bound=bound, group=gate.group)


def _against_champion(gate: Gate, value: float | None, champion: tuple[float | None] | None) -> GateResult:
    """`champion` is None without a champion (met), and holds None when the champion recorded no such number (met:
    nothing to compare).
    """
    drop = gate.max_drop or 0.0
    higher = gate.metric in HIGHER_IS_BETTER
    sign, relation = ("-", ">=") if higher else ("+", "<=")
    bound = f"{relation} champion {sign} {drop:g}"
    if champion is None or champion[0] is None:
        words = "no champion" if champion is None else "the champion recorded none"
        return GateResult(metric=gate.metric, passed=True, value=value, bound=f"{bound} ({words})", group=gate.group)
    limit = champion[0] - drop if higher else champion[0] + drop
    passed = value is not None and (value >= limit if higher else value <= limit)
    return GateResult(
        metric=gate.metric, passed=passed, value=value, bound=f"{bound} ({champion[0]:.6g})", group=gate.group
    )


def _value(gate: Gate, metrics: Mapping[str, MetricValue]) -> float | None:
    """The number that a gate is about; None when it was not recorded."""
    if gate.group is None:
        recorded = metrics.get(gate.metric)
        return None if recorded is None else recorded.value
    prefix = f"{gate.metric}/{gate.group}="
    groups = [metric for name, metric in metrics.items() if name.startswith(prefix)]
    big = [metric.value for metric in groups if metric.n is None or metric.n >= MIN_GROUP_ROWS]
    if gate.worst:
        return (min if gate.metric in HIGHER_IS_BETTER else max)(big, default=None)
    return sum(big) / len(big) if big else None
