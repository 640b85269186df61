"""Rules that come first: giving traffic back. None of them can be delayed by a pause, by blindness, or by a person's request."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from espalier_operator.decisions.judge.verdict import SampleState, VerdictKind
from espalier_operator.decisions.rollout import health
from espalier_operator.decisions.rollout.following import followed
from espalier_operator.decisions.rollout.plan import Note
from espalier_operator.decisions.rollout.progress import (
    ANALYSING,
    STAGED,
    Clock,
    Ended,
    Failure,
    Hold,
    Outcome,
    PauseReason,
    State,
)
from espalier_operator.decisions.rollout.view import Change, View, fail, pause, roll_back, see_again
from espalier_operator.decisions.rollout.world import Blindness, BlindPolicy, Reading, Then

if TYPE_CHECKING:
    from datetime import datetime


def let_go_when_deleted(view: View) -> Change | None:
    """A deleted rollout forgets its canary; what is left to do (traffic to stable, then pods) follows from that."""
    if view.seen.deleting_since is None:
        return None
    progress = view.progress
    if progress.canary is None or progress.state is State.IDLE:
        return Change(progress)
    if progress.stable is None and progress.state is State.PROMOTING:
        return Change(progress.enter(State.IDLE, view.now, stable=progress.canary, canary=None))
    ended = _ended(view, Outcome.ABORTED, view.now, "Deleted", "the CanaryRollout was deleted")
    idle = progress.remember(ended).enter(State.IDLE, view.now, canary=None, pause=None, hold=None, failure=None)
    return Change(idle, (Note("Aborted", f"{ended.version}: the CanaryRollout was deleted", warning=True),))


def honour_the_mark(view: View) -> Change | None:
    """The route remembers a verdict that status does not: the operator died between the two writes."""
    mark, canary = view.seen.traffic.mark, view.progress.canary
    if mark is None or canary is None or not view.live:
        return None
    if (mark.version, mark.started) != (canary.name, view.progress.attempt):
        return None
    failure = Failure(Outcome(mark.outcome), mark.reason, mark.message, mark.at, sli=mark.sli, evidence=mark.evidence)
    return roll_back(view, failure)


def finish_rolling_back(view: View) -> Change | None:
    """RollingBack lasts until weight 0 was observed; nothing else is considered meanwhile.

    Weight 0 stands since the route was seen to have it; the counters only say when the rollback may be called done.
    """
    progress, failure = view.progress, view.progress.failure
    if view.state is not State.ROLLING_BACK or failure is None:
        return None
    traffic = view.seen.traffic
    gone = traffic.weight(progress.canary) == 0 and (traffic.settled or not traffic.weights)
    if not gone:
        return Change(progress)
    zero_at = failure.weight_zero_at or view.now
    failure = replace(failure, weight_zero_at=zero_at)
    if traffic.weights and not followed(progress, traffic):
        return Change(replace(progress, failure=failure))
    took = max(0.0, (zero_at - failure.at).total_seconds())
    message = f"{failure.message}; weight 0 after {took:.1f} s" if failure.weight else failure.message
    ended = _ended(view, failure.outcome, view.now, failure.reason, message, failure)
    over = progress.remember(ended).enter(
        State.ROLLED_BACK,
        view.now,
        failure=replace(failure, message=message),
        keep_until=view.now + view.spec.keep_canary,
        clock=Clock(),
    )
    return Change(over, (Note(str(failure.outcome), f"{ended.version}: {message}", warning=True),))


def _ended(
    view: View, outcome: Outcome, at: datetime, reason: str, message: str, failure: Failure | None = None
) -> Ended:
    progress = view.progress
    canary, stable = progress.canary, progress.stable
    return Ended(
        version=canary.name if canary else "",
        digest=canary.digest if canary else "",
        outcome=outcome,
        at=at,
        reason=reason,
        message=message,
        sli=failure.sli if failure else "",
        evidence=failure.evidence if failure else None,
        from_=canary.name if canary else "",
        to=stable.name if stable else "",
        weight=failure.weight if failure else 0,
        verdict_at=failure.at if failure else None,
        weight_zero_at=failure.weight_zero_at if failure else None,
    )


def roll_back_when_canary_is_unhealthy(view: View) -> Change | None:
    """Pods that crash need no metric to be judged."""
    if not view.live or (view.state is State.PROMOTING and view.progress.stable is None):
        return None  # a first champion that already has the traffic has nobody to give it back to
    found = health.trouble(view)
    return fail(view, found.outcome, found.reason, found.message) if found else None


def roll_back_on_fail(view: View) -> Change | None:
    """A Fail is final, also while paused or held."""
    if view.state not in ANALYSING | {State.PROMOTING} or view.progress.stable is None:
        return None
    failed = next((r for r in view.seen.readings if r.verdict is VerdictKind.FAIL and not r.dry_run), None)
    if failed is None:
        return None
    weight = view.seen.traffic.weight(view.progress.canary)
    message = failed.sentence if failed.sentence.startswith(f"{failed.name}:") else f"{failed.name}: {failed.sentence}"
    return roll_back(
        view,
        Failure(
            Outcome.ROLLED_BACK,
            "SLIBreach",
            message,
            view.now,
            sli=failed.name,
            evidence=failed.evidence,
            weight=weight,
        ),
    )


def hold_while_blind(view: View) -> Change | None:
    """NoData and SourceDown stop the step's clock, not the rollout; each has its own deadline and what follows it."""
    if view.state not in ANALYSING or (view.progress.observed_at is None and view.progress.hold is None):
        return None
    blind, hold = blind_reading(view), view.progress.hold
    if blind is not None and blind.state is SampleState.NO_DATA and view.seen.traffic.weight(view.progress.canary) == 0:
        blind = None  # who has no traffic cannot show any: first it must get its weight back
    if blind is None:
        return _see_again(view) if hold is not None else None
    policy = _policy(view, blind)
    if policy.policy is BlindPolicy.ROLLBACK:
        return fail(view, Outcome.ROLLED_BACK, str(blind.state), f"{blind.name}: {blind.sentence or blind.state}")
    if hold is None or hold.reason != str(blind.state):
        held = Hold(str(blind.state), view.now, blind.name, blind.sentence)
        return Change(
            replace(see_again(view.progress, view.now), hold=held),
            (
                Note(
                    "Held",
                    f"{blind.name}: {blind.state}: {blind.sentence}; weight stays, the step's clock stands",
                    warning=True,
                ),
            ),
        )
    if not hold.expired and view.now >= hold.since + policy.deadline:
        return _blind_for_too_long(view, hold, policy)
    return None


def _see_again(view: View) -> Change:
    return Change(see_again(view.progress, view.now), (Note("Resumed", "data are back; the step's clock runs again"),))


def _blind_for_too_long(view: View, hold: Hold, policy: Blindness) -> Change:
    message = f"{hold.sli}: {hold.reason} for {policy.deadline.total_seconds():.0f} s: {hold.message}"
    if policy.then is Then.ROLLBACK:
        return fail(view, Outcome.ROLLED_BACK, hold.reason, message)
    expired = replace(view.progress, hold=replace(hold, expired=True))
    if policy.then is Then.PROCEED:
        return Change(
            expired,
            (Note("Proceeding", f"{message}; going on without it, as onNoData/onSourceDown say", warning=True),),
        )
    if view.progress.pause is not None:
        return Change(expired)
    reason = PauseReason.SOURCE_DOWN if hold.reason == SampleState.SOURCE_DOWN else PauseReason.NO_DATA
    waiting = pause(view, reason, message)  # banks the clock before the hold counts as expired: blind time is no time
    return replace(waiting, progress=replace(waiting.progress, hold=expired.hold))


def blind_reading(view: View) -> Reading | None:
    """The reading that blinds us, an unreachable source before missing data; None when all are seen, or when told not to mind."""
    for state in (SampleState.SOURCE_DOWN, SampleState.NO_DATA):
        for reading in view.seen.readings:
            if reading.dry_run or _policy_for(view, state).policy is BlindPolicy.PROCEED:
                continue
            if reading.state is state:
                return reading
            if state is SampleState.NO_DATA and _starved(view, reading):
                few = f"{reading.requests:.0f} of {reading.min_requests} requests at the end of the step"
                return replace(reading, state=SampleState.NO_DATA, sentence=few)
    return None


def _starved(view: View, reading: Reading) -> bool:
    """The step's time is over, and too few requests reached the canary to say anything."""
    over = view.state in STAGED and view.active >= view.stage.hold
    return over and not view.seen.backlog and reading.requests < reading.min_requests


def _policy(view: View, reading: Reading) -> Blindness:
    return _policy_for(view, reading.state)


def _policy_for(view: View, state: SampleState) -> Blindness:
    return view.spec.on_source_down if state is SampleState.SOURCE_DOWN else view.spec.on_no_data


def end_at_the_deadline(view: View) -> Change | None:
    """Too much active time in the whole rollout."""
    if not view.staged or view.progress.pause is not None:
        return None
    spent = view.progress.clock.total + view.active
    if spent < view.spec.deadline:
        return None
    message = (
        f"{spent.total_seconds():.0f} s of active time, strategy.deadline is {view.spec.deadline.total_seconds():.0f} s"
    )
    if view.spec.on_deadline is Then.ROLLBACK:
        return fail(view, Outcome.ROLLED_BACK, "DeadlineExceeded", message)
    return pause(view, PauseReason.DEADLINE, message)
