"""What each pass learns of traffic before any rule is asked: the observation of the route's present state, and news about it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from espalier_operator.decisions.rollout.agreement import Declared, Disagrees, Observed, agreement, lasting
from espalier_operator.decisions.rollout.plan import Note
from espalier_operator.decisions.rollout.progress import Observation, Progress, State
from espalier_operator.decisions.rollout.world import FULL

if TYPE_CHECKING:
    from espalier_operator.decisions.rollout.agreement import Agreement
    from espalier_operator.decisions.rollout.view import View
    from espalier_operator.decisions.rollout.world import RolloutSpec, Traffic, VersionRef


def follow(view: View) -> tuple[Progress, tuple[Note, ...]]:
    """The memory with what is known of traffic now; an event when a disagreement has lasted, and when it is over."""
    progress, traffic = view.progress, view.seen.traffic
    if progress.canary is None:
        return replace(progress, observation=None), ()
    if not traffic.settled or not traffic.weights:
        return progress, ()
    fresh = _observation(view)
    declared = declared_of(fresh, progress.canary, view.spec)
    found = agreement(declared, view.seen.counted, fresh.since, view.now)
    now = _learn(view, fresh, found)
    if now.told == fresh.told:
        return replace(progress, observation=now), ()
    clock = progress.clock
    if not now.told and fresh.disagrees_since is not None:
        clock = replace(clock, held=clock.held + (view.now - fresh.disagrees_since))
    note = Note("TrafficDisagrees", now.said, warning=True) if now.told else Note("TrafficFollows", now.said)
    return replace(progress, observation=now, clock=clock), (note,)


def followed(progress: Progress, traffic: Traffic) -> bool:
    """Traffic was observed to follow the route as it is now."""
    seen = progress.observation
    return traffic.settled and seen is not None and seen.route == traffic.route and bool(seen.how)


def astray(progress: Progress) -> bool:
    """Counters have refuted the route's weight for longer than requests under way can explain."""
    return progress.observation is not None and progress.observation.told


def declared_of(seen: Observation, canary: VersionRef, spec: RolloutSpec) -> Declared:
    """The question that an observation asks the counters."""
    return Declared(
        canary.name, seen.weight, seen.before, seen.baseline, seen.reach, per_request=spec.capabilities.per_request
    )


def _observation(view: View) -> Observation:
    """Of the present route: the known one, or a new one that remembers the weight before it."""
    known, traffic = view.progress.observation, view.seen.traffic
    if known is not None and known.route == traffic.route:
        return known
    weight = traffic.weight(view.progress.canary)
    failure = view.progress.failure
    condemned = failure.weight if failure is not None and view.state is State.ROLLING_BACK else 0
    if known is None:
        before = condemned or None
        return Observation(traffic.route, weight, view.now, before, before / FULL if before else None)
    same = known.weight == weight
    before = known.before if same else known.weight
    baseline = known.baseline if same else (known.share if known.how == "counters" else known.weight / FULL)
    if condemned > (before or 0):  # the weight fell before it was ever observed
        before, baseline = condemned, condemned / FULL
    return Observation(traffic.route, weight, view.now, before, baseline, known.reach)


def _learn(view: View, seen: Observation, found: Agreement) -> Observation:
    if isinstance(found, Observed):
        counted = found.how == "counters"
        reach = min(1.0, found.interval[0] * FULL / seen.weight) if counted and seen.weight else seen.reach
        return replace(
            seen, how=found.how, share=found.share if counted else None, reach=reach, said=found.said,
            disagrees_since=None, told=False,
        )  # fmt: skip
    if isinstance(found, Disagrees):
        since = seen.disagrees_since or view.now
        told = lasting(since, view.spec.interval, view.now)
        return replace(seen, how="", share=found.share, said=found.said, disagrees_since=since, told=told)
    if seen.how:
        return seen  # what was observed stays observed until it is refuted
    if seen.told:
        return seen  # a refuted weight needs more than silence
    return replace(seen, said=found.why, disagrees_since=None)
