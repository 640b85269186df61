"""From the API's spec to the machine's wish: defaults filled in, durations parsed, and what cannot be honoured said by its field.

A refused field stops starts and rises (condition SpecValid=False), never a rollback: safety does not wait for a valid spec.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from espalier_operator.decisions.judge.compile import problems as sli_problems
from espalier_operator.decisions.rollout.world import (
    Blindness,
    BlindPolicy,
    Capabilities,
    Patience,
    RolloutSpec,
    Step,
    Then,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from espalier_api.analysis import OnNoData, OnSourceDown
    from espalier_api.rollout import CanaryRolloutSpec

ON_INCONCLUSIVE = {"Pause": Then.PAUSE, "Promote": Then.PROCEED, "Rollback": Then.ROLLBACK}


def resolve(
    spec: CanaryRolloutSpec,
    *,
    replicas: int,
    capabilities: Capabilities,
    sources: Collection[str],
    generation: int,
) -> RolloutSpec:
    """The wish. `replicas` are the model's serving pods, `sources` the Prometheus that the operator's settings know."""
    strategy, analysis, rollback = spec.strategy, spec.analysis, spec.rollback
    return RolloutSpec(
        steps=tuple(Step(s.weight, s.hold or timedelta(0), s.pause is not None) for s in strategy.steps),
        replicas=replicas,
        warm_up=strategy.warm_up,
        deadline=strategy.deadline,
        on_deadline=Then(strategy.on_deadline),
        manual_promotion=strategy.promotion == "Manual",
        bake=strategy.bake.hold if strategy.bake is not None else None,
        analysed=bool(analysis.slis),
        interval=analysis.interval,
        on_no_data=_blindness(analysis.on_no_data),
        on_source_down=_blindness(analysis.on_source_down),
        on_inconclusive=ON_INCONCLUSIVE[analysis.on_inconclusive],
        quarantine=rollback.quarantine,
        keep_canary=rollback.keep_canary,
        keep_previous=rollback.keep_previous,
        paused=spec.paused,
        supersede=strategy.supersede,
        delete_serving=spec.deletion_policy == "Delete",
        capabilities=capabilities,
        patience=Patience(deploy=strategy.start_deadline, unready=strategy.unready_grace),
        problems=(*unsupported(spec), *incapable(spec, capabilities), *_analysis_problems(spec, sources)),
        generation=generation,
    )


def _blindness(policy: OnNoData | OnSourceDown) -> Blindness:
    return Blindness(BlindPolicy(policy.policy), policy.deadline, Then(policy.then))


def unsupported(spec: CanaryRolloutSpec) -> Iterator[str]:
    """Fields of the API that this release cannot honour: refused by name, never ignored."""
    strategy, traffic = spec.strategy, spec.traffic
    if strategy.shadow is not None:
        yield "spec.strategy.shadow: mirrored traffic is not available in this release; remove it"
    if strategy.match is not None:
        yield "spec.strategy.match: matching by header is not available in this release; remove it"
    if strategy.bake is not None:
        yield "spec.strategy.bake: judging after 100 % is not available in this release; remove it, or add a last step"
    if traffic.istio is not None:
        yield "spec.traffic.istio: not available in this release; use gatewayAPI or replicas"
    if traffic.kserve is not None:
        yield "spec.traffic.kserve: not available in this release; use gatewayAPI or replicas"
    if spec.rollback.retrain is not None:
        yield "spec.rollback.retrain: retraining after a rollback is not available in this release; remove it"


def incapable(spec: CanaryRolloutSpec, capabilities: Capabilities) -> Iterator[str]:
    """Steps that the router cannot do, said when they are declared and not at 3 a.m."""
    for index, step in enumerate(spec.strategy.steps):
        if step.weight > capabilities.max_weight:
            yield (
                f"spec.strategy.steps[{index}].weight: {step.weight} % cannot be had by shares of pods, because stable "
                f"keeps all its pods to take everything back at once; {capabilities.max_weight} % at most, or use gatewayAPI"
            )


def _analysis_problems(spec: CanaryRolloutSpec, sources: Collection[str]) -> Iterator[str]:
    yield from sli_problems(spec.analysis)
    if spec.analysis.slis and spec.analysis.source not in sources:
        known = ", ".join(sorted(sources)) or "none"
        yield f"spec.analysis.source: {spec.analysis.source!r} is not in the operator's settings; configured: {known}"
