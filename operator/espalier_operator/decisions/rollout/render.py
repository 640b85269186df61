"""From what a rollout remembers to what shall be true in the cluster. Level-triggered: the same memory always asks for the same world.

The weight never rises while something is in doubt (paused, blind, spec refused, route not settled, pods not ready): then what the route
already gives stays. It always may fall.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from espalier_operator.decisions.rollout import health
from espalier_operator.decisions.rollout.agreement import LASTS
from espalier_operator.decisions.rollout.following import astray
from espalier_operator.decisions.rollout.plan import RolloutPlan, Serve, Split
from espalier_operator.decisions.rollout.pods import pods_for
from espalier_operator.decisions.rollout.progress import LIVE, STAGED, ZERO, State
from espalier_operator.decisions.rollout.world import FULL, Mark

if TYPE_CHECKING:
    from collections.abc import Iterator

    from espalier_operator.decisions.rollout.plan import Note
    from espalier_operator.decisions.rollout.progress import Progress
    from espalier_operator.decisions.rollout.view import View
    from espalier_operator.decisions.rollout.world import VersionRef

AGAIN = timedelta(0)
"""Something changed: look again at once."""
SETTLING = timedelta(milliseconds=250)
"""While a route settles; the watch usually wakes us before."""
ASKING = timedelta(seconds=1)
"""While a ready pod has not told its digest yet."""


def render(view: View, notes: tuple[Note, ...], remembered: Progress) -> RolloutPlan:
    """The plan of this pass. `remembered` is the memory as it was read: news in it mean another pass at once."""
    if view.seen.deleting_since is not None:
        return _leave(view, notes)
    split = split_of(view)
    serve = tuple(workloads(view, split))
    return RolloutPlan(
        progress=view.progress,
        split=split,
        serve=serve,
        remove=tuple(removable(view, split, serve)),
        notes=notes,
        requeue_after=AGAIN if view.progress != remembered else _next_look(view),
    )


def split_of(view: View) -> Split | None:
    """Who shall have the traffic now; None while nobody is fit for it and nothing is there to be changed."""
    progress = view.progress
    stable, canary = progress.stable, progress.canary
    if canary is None or progress.state is State.IDLE:
        return _rest(view, stable)
    if stable is None:
        return Split(None, canary.name) if progress.state is State.PROMOTING and _fit(view, canary) else None
    weight = exposure(view)
    marked = progress.state in {State.ROLLING_BACK, State.ROLLED_BACK}
    known = any(workload.version == canary.name and workload.service for workload in view.seen.workloads)
    unknown = not known and weight == 0 and not marked
    if unknown or (not view.seen.traffic.weights and not _fit(view, stable)):
        return _rest(view, stable)
    if progress.state is State.ROLLED_BACK and not known:
        return Split(stable.name, None, 0, mark_of(progress))
    return Split(stable.name, canary.name, weight, mark_of(progress) if marked else None)


def _rest(view: View, stable: VersionRef | None) -> Split | None:
    """Everything to stable; a version without a ready pod is only left with what it already has."""
    if stable is None:
        return None
    fit = _fit(view, stable) or view.seen.traffic.weight(stable) == FULL
    return Split(stable.name) if fit else None


def _fit(view: View, version: VersionRef) -> bool:
    has_service = any(w.version == version.name and w.service for w in view.seen.workloads)
    return has_service and view.seen.ready(version) > 0


def target(progress: Progress) -> int:
    """The weight that the state asks for."""
    if progress.state in STAGED:
        return progress.weight
    return FULL if progress.state in {State.PROMOTING, State.BAKING} else 0


def exposure(view: View) -> int:
    """The canary's weight now: the target, unless that would be a rise that is not safe yet."""
    progress, present = view.progress, view.seen.traffic.weight(view.progress.canary)
    wanted = target(progress)
    if wanted and view.seen.ready(progress.canary) == 0:
        return 0
    if wanted <= present:
        return wanted
    return wanted if may_rise(view, wanted) else present


def may_rise(view: View, wanted: int) -> bool:
    """Nobody waits, nobody is blind, the spec is honoured, the route has settled on what it has, and the pods can take it."""
    progress, seen = view.progress, view.seen
    waiting = progress.pause is not None or (progress.hold is not None and not progress.hold.expired)
    if waiting or view.spec.problems or progress.canary is None:
        return False
    named = progress.canary.name in seen.traffic.weights and seen.traffic.settled
    enough = pods_for(view.spec, FULL) if wanted >= FULL else 1
    return named and seen.ready(progress.canary) >= enough and not _strangers(view)


def _strangers(view: View) -> bool:
    """Sharing by pods: a third version's pods would get traffic that nobody gave them."""
    known = {ref.name for ref in (view.progress.stable, view.progress.canary) if ref}
    return view.spec.capabilities.by_pods and any(pod.version not in known for pod in view.seen.pods)


def mark_of(progress: Progress) -> Mark | None:
    """The verdict as it rides along with weight 0."""
    failure, canary = progress.failure, progress.canary
    if failure is None or canary is None:
        return None
    message = failure.message.split("; weight 0 after ", 1)[0]
    return Mark(
        canary.name,
        progress.attempt,
        str(failure.outcome),
        failure.reason,
        message,
        failure.at,
        failure.sli,
        failure.evidence,
    )


def workloads(view: View, split: Split | None) -> Iterator[Serve]:
    """Which versions run with how many pods. Stable is always at full size: it may have to take everything back at once."""
    progress, full = view.progress, view.spec.replicas
    if progress.stable is not None:
        yield Serve(progress.stable, full)
    if progress.canary is not None and progress.state is not State.IDLE:
        yield Serve(progress.canary, _canary_pods(view, split))
    previous = progress.previous
    if previous is None or previous in {progress.stable, progress.canary}:
        return
    has_traffic = view.seen.traffic.weight(previous) > 0
    crowded = view.spec.capabilities.by_pods and progress.canary is not None
    warm = progress.previous_until is not None and not crowded
    yield Serve(previous, full if warm or has_traffic else 0)


def _canary_pods(view: View, split: Split | None) -> int:
    progress = view.progress
    if not view.spec.capabilities.by_pods:
        return view.spec.replicas
    if progress.state in {State.INITIAL, State.PROMOTING, State.BAKING}:
        return view.spec.replicas
    existing = next(
        (w.replicas for w in view.seen.workloads if progress.canary and w.version == progress.canary.name), 0
    )
    if progress.state is State.ROLLING_BACK and astray(progress):
        return 0  # connections that outlive the switch end with their pods
    if progress.state in {State.ROLLING_BACK, State.ROLLED_BACK}:
        return max(1, existing)
    first = view.spec.steps[0].weight if view.spec.steps else FULL
    weight = split.weight if split is not None and split.weight else first
    return pods_for(view.spec, weight)


def removable(view: View, split: Split | None, serve: tuple[Serve, ...]) -> Iterator[str]:
    """Versions that exist, are not wanted, and to which the settled route sends nothing."""
    traffic = view.seen.traffic
    wanted = {one.version.name for one in serve}
    kept = set(split.weights if split else {}) | set(traffic.weights)
    for workload in view.seen.workloads:
        if workload.version not in wanted | kept and (traffic.settled or not traffic.weights):
            yield workload.version


def _leave(view: View, notes: tuple[Note, ...]) -> RolloutPlan:
    """The way out of a deleted rollout: traffic to stable, then the others' pods, then the finalizer. A dead gateway cannot hold it."""
    since = view.seen.deleting_since or view.now
    stable = view.progress.stable
    split = Split(stable.name) if stable is not None else None
    others = tuple(w.version for w in view.seen.workloads if stable is None or w.version != stable.name)
    at_stable = (
        stable is not None and dict(view.seen.traffic.weights) == {stable.name: FULL} and view.seen.traffic.settled
    )
    everything = view.spec.delete_serving
    begun = everything and not view.seen.traffic.weights  # a pass before this one took the route away and died
    safe = at_stable or begun or stable is None or view.now >= since + view.spec.patience.leave
    return RolloutPlan(
        progress=view.progress,
        split=None if safe and everything else split,
        serve=(Serve(stable, view.spec.replicas),) if stable is not None and not everything else (),
        remove=(tuple(w.version for w in view.seen.workloads) if everything else others) if safe else (),
        notes=notes,
        requeue_after=SETTLING,
        release=safe,
        remove_all=safe and everything,
    )


def _next_look(view: View) -> timedelta | None:
    """When something may change by itself; None when only news can change anything."""
    moments = [moment for moment in _moments(view) if moment is not None]
    return max(ZERO, min(moments) - view.now) if moments else None


def _moments(view: View) -> Iterator[datetime | None]:
    progress, seen, spec = view.progress, view.seen, view.spec
    yield progress.keep_until
    yield progress.previous_until
    settling = bool(seen.traffic.weights) and not seen.traffic.settled and not seen.traffic.problem
    if settling or (progress.state is State.ROLLING_BACK and not seen.traffic.settled):
        yield view.now + SETTLING
    yield from _observations(view)
    if progress.state not in LIVE:
        return
    yield from (moment for moment in health.deadlines(view) if moment > view.now)
    if any(pod.ready and pod.digest is None for pod in seen.of(progress.canary)):
        yield view.now + ASKING
    hold = progress.hold
    if hold is not None and not hold.expired:
        policy = spec.on_source_down if hold.reason == "SourceDown" else spec.on_no_data
        yield hold.since + policy.deadline
    if progress.state in STAGED and progress.pause is None and (not spec.analysed or view.proceeding):
        yield view.now + max(SETTLING, view.stage.hold - view.active)
    if progress.state is State.BAKING and not spec.analysed:
        yield view.now + max(SETTLING, (spec.bake or ZERO) - view.active)


def _observations(view: View) -> Iterator[datetime]:
    """When the wait for counters ends without them, and when a disagreement has lasted."""
    known, counted = view.progress.observation, view.seen.counted
    if known is None or counted is None or known.how:
        return
    ends = known.since + counted.patience
    if ends > view.now:
        yield ends
    lasts = known.disagrees_since + LASTS * view.spec.interval if known.disagrees_since else None
    if lasts is not None and lasts > view.now:
        yield lasts
