"""What a rule gets and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from espalier_operator.decisions.judge.verdict import SampleState
from espalier_operator.decisions.rollout.plan import Note
from espalier_operator.decisions.rollout.progress import (
    ANALYSING,
    LIVE,
    STAGED,
    ZERO,
    Clock,
    Failure,
    Outcome,
    Pause,
    PauseReason,
    Progress,
    Quarantined,
    State,
    stage_of,
)
from espalier_operator.decisions.rollout.world import BlindPolicy, RolloutSpec, Seen, Span, Step, VersionRef

if TYPE_CHECKING:
    from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class View:
    """One pass: the wish, the world, the memory, the time."""

    spec: RolloutSpec
    seen: Seen
    progress: Progress
    now: datetime

    @property
    def state(self) -> State:
        """Where the rollout is."""
        return self.progress.state

    @property
    def live(self) -> bool:
        """A canary is on its way."""
        return self.progress.state in LIVE

    @property
    def staged(self) -> bool:
        """In a stage with a weight, a hold and a clock."""
        return self.progress.state in STAGED

    @property
    def stage(self) -> Step:
        """The present stage under the present spec."""
        return stage_of(self.spec, self.progress)

    @property
    def active(self) -> timedelta:
        """Active time in the present stage. Judged time when there are SLIs, wall time when there are none or nobody minds."""
        clock = self.progress.clock
        if clock.counts_from is None:
            return clock.active
        wall = max(ZERO, self.now - clock.counts_from)
        return clock.active + wall if not self.spec.analysed or self.proceeding else clock.active

    @property
    def proceeding(self) -> bool:
        """Blind, and told to go on nevertheless: by policy, or because the blindness outlasted its deadline."""
        if self.progress.hold is not None and self.progress.hold.expired:
            return True
        policies = {
            SampleState.SOURCE_DOWN: self.spec.on_source_down.policy,
            SampleState.NO_DATA: self.spec.on_no_data.policy,
        }
        return any(
            policies.get(reading.state) is BlindPolicy.PROCEED for reading in self.seen.readings if not reading.dry_run
        )

    @property
    def newest(self) -> VersionRef | None:
        """The newest candidate that is newer than everything tried so far."""
        fresh = [c for c in self.seen.candidates if c.number > self.progress.tried()]
        return max(fresh, key=lambda c: c.number, default=None)


@dataclass(frozen=True, slots=True)
class Change:
    """A rule's answer: what the rollout remembers from now on, and what is worth an event."""

    progress: Progress
    notes: tuple[Note, ...] = ()


Rule = Callable[[View], Change | None]
"""None means: this rule has nothing to say."""


def tick(view: View) -> Progress:
    """The memory with newly judged time added to the clock. Idempotent: a span is reported once, with the evidence of its blocks."""
    clock, state = view.progress.clock, view.progress.state
    if not view.seen.spans or clock.counts_from is None or state not in ANALYSING:
        return view.progress
    blind_counts = view.spec.on_no_data.policy is BlindPolicy.PROCEED
    gained = sum((overlap(s, clock.counts_from) for s in view.seen.spans if s.counts or blind_counts), start=ZERO)
    reached = max(clock.counts_from, *(span.end for span in view.seen.spans))
    return replace(view.progress, clock=replace(clock, active=clock.active + gained, counts_from=reached))


def overlap(span: Span, since: datetime) -> timedelta:
    """How much of a span lies after `since`."""
    return max(ZERO, span.end - max(span.start, since))


def bank(view: View) -> Progress:
    """The memory with all active time written down and the clock standing."""
    clock = view.progress.clock
    return replace(view.progress, clock=replace(clock, active=view.active, counts_from=None))


def pause(view: View, reason: PauseReason, message: str) -> Change:
    """Wait for somebody: the clock stands, weights stay, rollbacks still happen."""
    return Change(
        replace(bank(view), pause=Pause(reason, view.now, message)),
        (Note("Paused", f"{reason}: {message}" if message else str(reason), warning=reason in _BAD_PAUSES),),
    )


_BAD_PAUSES = frozenset({PauseReason.NO_DATA, PauseReason.SOURCE_DOWN, PauseReason.INCONCLUSIVE, PauseReason.DEADLINE})


def unpause(view: View) -> Progress:
    """The memory without its pause; blindness gets a new deadline, and so does the whole rollout if that was what ended."""
    was, clock = view.progress.pause, view.progress.clock
    if was is not None and was.reason is PauseReason.DEADLINE:
        clock = Clock(active=clock.active, held=clock.held)
    restarted = replace(clock, counts_from=view.now if view.progress.observed_at else None)
    seen = see_again(replace(view.progress, clock=restarted), view.now)
    hold = replace(view.progress.hold, since=view.now, expired=False) if view.progress.hold else None
    return replace(seen, pause=None, hold=hold)


def see_again(progress: Progress, now: datetime) -> Progress:
    """The memory without its hold; the time that it took is written down."""
    if progress.hold is None:
        return progress
    held = progress.clock.held + max(ZERO, now - progress.hold.since)
    return replace(progress, hold=None, clock=replace(progress.clock, held=held))


def roll_back(view: View, failure: Failure) -> Change:
    """The verdict, in one step: state, quarantine and failure are one status write; weight 0 is the same pass."""
    condemned = bank(view)
    blamed = failure.outcome is Outcome.ROLLED_BACK and view.spec.quarantine
    if blamed and condemned.canary is not None:
        ref = condemned.canary
        condemned = condemned.condemn(Quarantined(ref.name, failure.message, failure.at, ref.digest))
    after = condemned.enter(State.ROLLING_BACK, view.now, failure=failure, pause=None, hold=None)
    return Change(after, (Note("RollingBack", failure.message, warning=True),))


def fail(view: View, outcome: Outcome, reason: str, message: str) -> Change:
    """Roll back for a reason that is not an SLI's."""
    weight = view.seen.traffic.weight(view.progress.canary)
    return roll_back(view, Failure(outcome, reason, message, view.now, weight=weight))
