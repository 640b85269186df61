"""Between `Progress` and `status`: what the machine remembers, written as the API's models and read back equal."""

from __future__ import annotations

from dataclasses import asdict, fields
from datetime import timedelta
from typing import TYPE_CHECKING

from espalier_api.rollout import (
    CanaryRolloutStatus,
    HistoryEntry,
    LastRequest,
    QuarantinedVersion,
)
from espalier_api.rollout_machine import (
    MachineClock,
    MachineFailure,
    MachineHold,
    MachineObservation,
    MachinePause,
    MachineStatus,
    MachineVersion,
)
from espalier_operator.decisions.plan import shorten
from espalier_operator.decisions.rollout.progress import (
    Answer,
    Clock,
    Ended,
    Failure,
    Hold,
    Observation,
    Outcome,
    Pause,
    PauseReason,
    Progress,
    Quarantined,
    State,
)
from espalier_operator.decisions.rollout.world import VersionRef

if TYPE_CHECKING:
    from datetime import datetime

LINE = 256
"""Characters of a sentence that a table shows; the whole one stands beside it."""
LONG = 1024
TEXT = 2048


def remembered(status: CanaryRolloutStatus, now: datetime) -> Progress:
    """The machine's memory as status holds it; a fresh one for a rollout that has none."""
    machine = status.machine
    if machine is None:
        return Progress(since=now)
    return Progress(
        state=State(machine.state),
        since=machine.since,
        stable=_ref(machine.stable),
        canary=_ref(machine.canary),
        previous=_ref(machine.previous),
        started=machine.started,
        stage=machine.stage,
        weight=machine.weight,
        observed_at=machine.observed_at,
        evidence_from=machine.evidence_from,
        observation=_observation(machine.observation),
        clock=_clock(machine.clock),
        pause=_pause(machine.pause),
        hold=_hold(machine.hold),
        failure=_failure(machine.failure),
        keep_until=machine.keep_until,
        previous_until=machine.previous_until,
        history=tuple(map(_ended, status.history)),
        quarantined=tuple(Quarantined(q.version, q.message or q.reason or "", q.at) for q in status.quarantined),
        answer=_answer(status.last_request),
    )


def machine_of(progress: Progress) -> MachineStatus:
    """`status.machine`."""
    return MachineStatus(
        state=str(progress.state),
        since=progress.since,
        stable=_version(progress.stable),
        canary=_version(progress.canary),
        previous=_version(progress.previous),
        started=progress.started,
        stage=progress.stage,
        weight=progress.weight,
        observed_at=progress.observed_at,
        evidence_from=progress.evidence_from,
        observation=_observation_status(progress.observation),
        clock=MachineClock(
            active=progress.clock.active.total_seconds(),
            total=progress.clock.total.total_seconds(),
            counts_from=progress.clock.counts_from,
            held=progress.clock.held.total_seconds(),
        ),
        pause=_pause_status(progress.pause),
        hold=_hold_status(progress.hold),
        failure=_failure_status(progress.failure),
        keep_until=progress.keep_until,
        previous_until=progress.previous_until,
    )


def history_of(progress: Progress) -> tuple[HistoryEntry, ...]:
    """`status.history`: `reason` is the sentence as a table shows it, `message` the whole one."""
    return tuple(
        HistoryEntry(
            version=e.version,
            outcome=e.outcome.value,
            reason=shorten(e.message or e.reason, LINE),
            message=shorten(e.message, TEXT),
            sli=e.sli or None,
            evidence=e.evidence,
            from_=e.from_ or None,
            to=e.to or None,
            at=e.at,
            digest=e.digest or None,
            weight=e.weight,
            verdict_at=e.verdict_at,
            weight_zero_at=e.weight_zero_at,
        )
        for e in progress.history
    )


def quarantine_of(progress: Progress) -> tuple[QuarantinedVersion, ...]:
    """`status.quarantined`."""
    return tuple(
        QuarantinedVersion(version=q.version, reason=shorten(q.reason, LINE), message=shorten(q.reason, TEXT), at=q.at)
        for q in progress.quarantined
    )


def answer_of(progress: Progress) -> LastRequest | None:
    """`status.lastRequest`."""
    answer = progress.answer
    if answer is None:
        return None
    return LastRequest(
        id=answer.id, verb=answer.verb, by=answer.by or None, at=answer.at, result=shorten(answer.result, 1024)
    )


def _ref(version: MachineVersion | None) -> VersionRef | None:
    return VersionRef(version.name, version.digest) if version else None


def _version(ref: VersionRef | None) -> MachineVersion | None:
    return MachineVersion(name=ref.name, digest=ref.digest) if ref else None


def _clock(clock: MachineClock) -> Clock:
    active, total, held = (timedelta(seconds=s) for s in (clock.active, clock.total, clock.held))
    return Clock(active, total, clock.counts_from, held)


def _observation(seen: MachineObservation | None) -> Observation | None:
    if seen is None:
        return None
    return Observation(**{field.name: getattr(seen, field.name) for field in fields(Observation)})


def _observation_status(seen: Observation | None) -> MachineObservation | None:
    return None if seen is None else MachineObservation(**{**asdict(seen), "said": shorten(seen.said, LONG)})


def _pause(pause: MachinePause | None) -> Pause | None:
    return Pause(PauseReason(pause.reason), pause.since, pause.message) if pause else None


def _pause_status(pause: Pause | None) -> MachinePause | None:
    if pause is None:
        return None
    return MachinePause(reason=str(pause.reason), since=pause.since, message=shorten(pause.message, TEXT))


def _hold(hold: MachineHold | None) -> Hold | None:
    return Hold(hold.reason, hold.since, hold.sli, hold.message, hold.expired) if hold else None


def _hold_status(hold: Hold | None) -> MachineHold | None:
    if hold is None:
        return None
    message = shorten(hold.message, TEXT)
    return MachineHold(reason=hold.reason, since=hold.since, sli=hold.sli, message=message, expired=hold.expired)


def _failure(failure: MachineFailure | None) -> Failure | None:
    if failure is None:
        return None
    return Failure(
        outcome=Outcome(failure.outcome),
        reason=failure.reason,
        message=failure.message,
        at=failure.at,
        sli=failure.sli,
        evidence=failure.evidence,
        weight=failure.weight,
        weight_zero_at=failure.weight_zero_at,
    )


def _failure_status(failure: Failure | None) -> MachineFailure | None:
    if failure is None:
        return None
    return MachineFailure(
        outcome=str(failure.outcome),
        reason=failure.reason,
        message=shorten(failure.message, TEXT),
        at=failure.at,
        sli=failure.sli,
        evidence=failure.evidence,
        weight=failure.weight,
        weight_zero_at=failure.weight_zero_at,
    )


def _ended(entry: HistoryEntry) -> Ended:
    return Ended(
        version=entry.version,
        outcome=Outcome.PROMOTED if entry.outcome == "Initial" else Outcome(entry.outcome),
        at=entry.at,
        digest=entry.digest or "",
        message=entry.message or entry.reason or "",
        sli=entry.sli or "",
        evidence=entry.evidence,
        from_=entry.from_ or "",
        to=entry.to or "",
        weight=entry.weight,
        verdict_at=entry.verdict_at,
        weight_zero_at=entry.weight_zero_at,
    )


def _answer(request: LastRequest | None) -> Answer | None:
    if request is None:
        return None
    return Answer(request.id, request.verb, request.by or "", request.at, request.result or "")
