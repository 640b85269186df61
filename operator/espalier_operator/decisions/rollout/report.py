"""What people see: conditions, phase, columns, arms and the step, computed from memory and world. Nothing here decides anything.

Nothing in it changes on every pass: times are those of transitions, and what is left of a step is as of the last judged block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from espalier_api import conditions as c
from espalier_api.rollout import Aliases, ArmStatus, CanaryRolloutStatus, Columns, SliStatus, StepStatus
from espalier_operator.decisions.judge.verdict import SampleState
from espalier_operator.decisions.plan import Condition, shorten, upsert
from espalier_operator.decisions.rollout import memory
from espalier_operator.decisions.rollout.following import astray, followed
from espalier_operator.decisions.rollout.progress import (
    ANALYSING,
    LIVE,
    STAGED,
    PauseReason,
    Progress,
    State,
    stage_of,
)
from espalier_operator.decisions.rollout.render import target
from espalier_operator.decisions.rollout.world import FULL, RolloutSpec, Seen, VersionRef

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SECOND = timedelta(seconds=1)
PROGRESS_REASONS: Mapping[State, str] = {
    State.INITIAL: c.INITIAL,
    State.IDLE: c.IDLE,
    State.DEPLOYING: c.DEPLOYING,
    State.SHADOWING: c.SHADOWING,
    State.MATCHING: c.MATCHING,
    State.STEPPING: c.STEPPING,
    State.PROMOTING: c.PROMOTING,
    State.BAKING: c.BAKING,
    State.ROLLING_BACK: c.ROLLING_BACK,
    State.ROLLED_BACK: c.ROLLED_BACK,
}


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that a report is made from."""

    spec: RolloutSpec
    seen: Seen
    progress: Progress
    looks: Mapping[str, Mapping[str, Any]]
    """Status entries of the SLIs, by name, in the spec's order."""
    model_found: bool
    now: datetime


def status_of(picture: Picture, before: Mapping[str, Any]) -> dict[str, Any]:
    """The whole desired status. `before` is the stored one: conditions keep their transition times."""
    progress, seen = picture.progress, picture.seen
    status = CanaryRolloutStatus(
        observed_generation=picture.spec.generation,
        phase=phase(progress),
        machine=memory.machine_of(progress),
        stable=_arm(picture, progress.stable),
        canary=_arm(picture, progress.canary),
        step=_step(picture),
        history=memory.history_of(progress),
        aliases=aliases(progress),
        quarantined=memory.quarantine_of(progress),
        last_request=memory.answer_of(progress),
        router=shorten(seen.traffic.note, 1024) or None,
        columns=_columns(picture),
    ).dump()
    existing: Sequence[Mapping[str, Any]] = before.get("conditions") or ()
    wanted = (replace(each, type=str(each.type), reason=str(each.reason)) for each in conditions(picture))
    status["conditions"] = upsert(existing, wanted, generation=picture.spec.generation, now=picture.now)
    status["slis"] = [_sli(entry) for entry in picture.looks.values()]
    return status


def _sli(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry with the fields that the schema keeps, and no defaults: an SLI that was not judged must not look judged."""
    return SliStatus.model_validate(entry).model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)


def phase(progress: Progress) -> str:
    """For people: the state, or what keeps it waiting."""
    if progress.state in LIVE and progress.pause is not None:
        return "Paused"
    if progress.hold is not None and not progress.hold.expired and progress.state in ANALYSING:
        return "Held"
    return str(progress.state)


def aliases(progress: Progress) -> Aliases:
    """The truth about roles. A canary is challenger while it may still win."""
    live = progress.state in LIVE and progress.canary is not None
    return Aliases(
        champion=progress.stable.name if progress.stable else None,
        challenger=progress.canary.name if live and progress.canary else None,
        previous=progress.previous.name if progress.previous else None,
    )


def _arm(picture: Picture, ref: VersionRef | None) -> ArmStatus | None:
    if ref is None:
        return None
    pods = picture.seen.of(ref)
    ready = [pod for pod in pods if pod.ready]
    workload = next((w for w in picture.seen.workloads if w.version == ref.name), None)
    is_canary = picture.progress.canary == ref
    return ArmStatus(
        version=ref.name,
        digest=ref.digest or None,
        ready=len(ready),
        replicas=workload.replicas if workload else 0,
        since=picture.progress.started if is_canary else None,
        verified=is_canary and bool(ready) and all(pod.digest == ref.digest for pod in ready),
    )


def _step(picture: Picture) -> StepStatus | None:
    progress, spec = picture.progress, picture.spec
    if progress.state not in LIVE | {State.ROLLING_BACK} or progress.canary is None:
        return None
    stage = stage_of(spec, progress)
    left = max(timedelta(0), stage.hold - progress.clock.active)
    waiting = progress.pause.message or str(progress.pause.reason) if progress.pause else None
    return StepStatus(
        index=progress.stage,
        of=len(spec.steps),
        weight=target(progress),
        observed_weight=_observed(picture),
        observed_by=_observed_by(picture),
        since=progress.observed_at,
        held_since=_held_since(progress),
        held_seconds=progress.clock.held.total_seconds(),
        remaining=left - left % SECOND if progress.state in STAGED and not stage.pause else None,
        waiting=shorten(waiting, 256) if waiting else None,
    )


def _observed(picture: Picture) -> int | None:
    """Percent that the canary gets; None until it was observed."""
    traffic, seen = picture.seen.traffic, picture.progress.observation
    if astray(picture.progress) and seen is not None and seen.share is not None:
        return round(FULL * seen.share)
    if not followed(picture.progress, traffic):
        return None
    return traffic.weight(picture.progress.canary) if traffic.share is None else traffic.share


def _observed_by(picture: Picture) -> Literal["counters", "lag"] | None:
    seen = picture.progress.observation
    if seen is None or not followed(picture.progress, picture.seen.traffic):
        return None
    return "counters" if seen.how == "counters" else "lag"


def _held_since(progress: Progress) -> datetime | None:
    """Since when the clock stands: blind, or with traffic that does not follow."""
    hold, seen = progress.hold, progress.observation
    if hold is not None and not hold.expired:
        return hold.since
    return seen.disagrees_since if seen is not None and seen.told else None


def _columns(picture: Picture) -> Columns:
    progress = picture.progress
    if progress.canary is None or progress.state not in LIVE:
        return Columns()
    observed = "?" if (weight := _observed(picture)) is None else str(weight)
    staged = progress.state in STAGED
    return Columns(
        weight=f"{target(progress)}/{observed}%",
        step=f"{min(progress.stage + 1, len(picture.spec.steps))}/{len(picture.spec.steps)}" if staged else None,
        sli=_nearest(picture.looks),
    )


def _nearest(looks: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The SLI with the most evidence in proportion to what fails it."""
    weighed = [
        (float(entry["evidence"]) / float(entry["abortAt"]), name, entry)
        for name, entry in looks.items()
        if entry.get("evidence") is not None and entry.get("abortAt")
    ]
    if not weighed:
        return None
    _, name, entry = max(weighed, key=lambda found: found[0])
    return shorten(f"{name} {float(entry['evidence']):.1f}/{float(entry['abortAt']):.0f}", 128)


def conditions(picture: Picture) -> tuple[Condition, ...]:
    """All of them, anew."""
    return (
        _spec_valid(picture),
        _available(picture),
        _progressing(picture),
        _analysis(picture),
        _route(picture),
        _ready(picture),
    )


def _spec_valid(picture: Picture) -> Condition:
    if not picture.model_found:
        return Condition(
            c.SPEC_VALID, "False", c.MODEL_NOT_FOUND, "spec.modelRef names no RegularizedModel here; create it"
        )
    problems = picture.spec.problems
    if not problems:
        return Condition(c.SPEC_VALID, "True", c.VALID)
    reason = c.NOT_YET_IMPLEMENTED
    if any(".steps[" in problem for problem in problems):
        reason = c.ROUTER_INCAPABLE
    elif any(problem.startswith("spec.analysis.source") for problem in problems):
        reason = c.SOURCE_UNKNOWN
    return Condition(c.SPEC_VALID, "False", reason, "; ".join(problems))


def _available(picture: Picture) -> Condition:
    stable, seen = picture.progress.stable, picture.seen
    if stable is None:
        return Condition(c.AVAILABLE, "False", c.NO_CHAMPION, "no version serves yet")
    ready = seen.ready(stable)
    serving = seen.traffic.weight(stable) + seen.traffic.weight(picture.progress.canary) == FULL
    if ready and serving:
        return Condition(c.AVAILABLE, "True", c.STABLE_AVAILABLE, f"{stable.name} serves")
    why = "its pods are not ready" if not ready else "its route does not exist yet"
    return Condition(
        c.AVAILABLE, "False", c.STABLE_UNHEALTHY if not ready else c.ROUTE_PENDING, f"{stable.name}: {why}"
    )


def _progressing(picture: Picture) -> Condition:
    progress = picture.progress
    name = progress.canary.name if progress.canary else ""
    if progress.state in LIVE and progress.pause is not None:
        waits = progress.pause.reason is PauseReason.PROMOTION
        reason = c.AWAITING_PROMOTION if waits else c.PAUSED
        return Condition(c.PROGRESSING, "False", reason, f"{name}: {progress.pause.reason}: {progress.pause.message}")
    hold = progress.hold
    if hold is not None and not hold.expired and progress.state in ANALYSING:
        return Condition(c.PROGRESSING, "False", c.HELD, f"{name}: {hold.sli}: {hold.reason}: {hold.message}")
    if progress.state in LIVE | {State.ROLLING_BACK}:
        said = progress.failure.message if progress.failure else f"{name}: {progress.state}"
        return Condition(c.PROGRESSING, "True", PROGRESS_REASONS[progress.state], said)
    return Condition(c.PROGRESSING, "False", *_resting(picture))


def _resting(picture: Picture) -> tuple[str, str]:
    progress = picture.progress
    if progress.state is State.ROLLED_BACK and progress.failure is not None:
        name = progress.canary.name if progress.canary else ""
        return str(progress.failure.outcome), f"{name}: {progress.failure.message}"
    if progress.pause is not None:
        return c.PAUSED, f"{progress.pause.reason}: no candidate is started"
    if progress.stable is None:
        return c.WAITING_FOR_CANDIDATE, "the model has no version that passed its gates yet"
    return c.IDLE, f"{progress.stable.name} is champion; no newer candidate waits"


def _analysis(picture: Picture) -> Condition:
    if picture.progress.state not in ANALYSING:
        return Condition(c.ANALYSIS_HEALTHY, "True", c.ANALYSIS_IDLE, "no canary is being judged")
    for state, reason in ((SampleState.SOURCE_DOWN, c.SOURCE_DOWN), (SampleState.NO_DATA, c.NO_DATA)):
        for reading in picture.seen.readings:
            if reading.state is state:
                why = picture.looks.get(reading.name, {}).get("message") or reading.sentence
                return Condition(c.ANALYSIS_HEALTHY, "False", reason, f"{reading.name}: {why}")
    return Condition(c.ANALYSIS_HEALTHY, "True", c.ANALYSIS_RUNNING, "every SLI is judged")


def _route(picture: Picture) -> Condition:
    traffic = picture.seen.traffic
    if traffic.problem:
        return Condition(c.ROUTE_ACCEPTED, "False", c.ROUTE_REJECTED, traffic.problem)
    if not traffic.weights:
        return Condition(
            c.ROUTE_ACCEPTED, "Unknown", c.ROUTE_PENDING, "no route yet: it is written when a pod is ready"
        )
    if not traffic.settled:
        return Condition(c.ROUTE_ACCEPTED, "Unknown", c.ROUTE_PENDING, "the router has not accepted the latest weights")
    return _followed(picture)


def _followed(picture: Picture) -> Condition:
    """An accepted route: what is known of its traffic."""
    traffic, seen = picture.seen.traffic, picture.progress.observation
    if seen is None:
        return Condition(c.ROUTE_ACCEPTED, "True", c.ROUTE_OBSERVED, traffic.note)
    if seen.told:
        return Condition(c.ROUTE_ACCEPTED, "False", c.TRAFFIC_DISAGREES, seen.said)
    said = "; ".join(part for part in (traffic.note, seen.said) if part)
    if not followed(picture.progress, traffic):
        return Condition(c.ROUTE_ACCEPTED, "Unknown", c.ROUTE_PENDING, f"accepted; not observed yet: {said}")
    return Condition(c.ROUTE_ACCEPTED, "True", c.ROUTE_OBSERVED, said)


def _ready(picture: Picture) -> Condition:
    """The summary: stable serves and nothing waits for a person."""
    valid, available, progressing = _spec_valid(picture), _available(picture), _progressing(picture)
    for condition in (valid, available):
        if condition.status != "True":
            return Condition(c.READY, "False", condition.reason, condition.message)
    if picture.progress.state is State.ROLLING_BACK:
        return Condition(c.READY, "False", progressing.reason, progressing.message)
    return Condition(c.READY, "True", progressing.reason, progressing.message)
