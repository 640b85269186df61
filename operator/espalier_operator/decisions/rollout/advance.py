"""Rules that move a rollout forward. They come last: whatever gives traffic back, waits or asks has been considered before."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from espalier_operator.decisions.judge.verdict import SampleState
from espalier_operator.decisions.rollout.following import astray, followed
from espalier_operator.decisions.rollout.health import verified
from espalier_operator.decisions.rollout.plan import Note
from espalier_operator.decisions.rollout.progress import (
    RESTING,
    STAGED,
    ZERO,
    Clock,
    Ended,
    Failure,
    Outcome,
    PauseReason,
    State,
)
from espalier_operator.decisions.rollout.view import Change, View, bank, fail, pause, roll_back, see_again, unpause
from espalier_operator.decisions.rollout.world import FULL, Reading, Then, VersionRef


def adopt_the_champion(view: View) -> Change | None:
    """A rollout without memory (re-created, or created beside a serving model) takes over the champion that is named elsewhere."""
    if view.progress.stable is not None or view.progress.canary is not None or view.seen.champion is None:
        return None
    champion = view.seen.champion
    adopted = view.progress.enter(State.IDLE, view.now, stable=champion)
    return Change(adopted, (Note("Adopted", f"{champion.name} serves as champion"),))


def give_way_to_a_newer_candidate(view: View) -> Change | None:
    """With supersede: true a newer candidate takes the canary's place, but only between steps."""
    newest = view.newest
    if not view.spec.supersede or newest is None or not view.live or not _between_steps(view):
        return None
    return superseded(view, newest)


def superseded(view: View, newest: VersionRef) -> Change:
    """End this attempt in favour of a newer version; no verdict, no quarantine."""
    weight = view.seen.traffic.weight(view.progress.canary)
    message = f"{newest.name} is newer and spec.supersede is true"
    return roll_back(view, Failure(Outcome.SUPERSEDED, "Superseded", message, view.now, weight=weight))


def _between_steps(view: View) -> bool:
    if view.state in {State.DEPLOYING, State.INITIAL}:
        return True
    wait = view.progress.pause
    return view.state in STAGED and wait is not None and wait.reason in {PauseReason.STEP, PauseReason.PROMOTION}


def start_with_the_newest_candidate(view: View) -> Change | None:
    """Versions only move forward: the newest candidate that is newer than everything tried so far."""
    newest = view.newest
    if view.state not in RESTING or newest is None or view.progress.pause is not None or view.spec.problems:
        return None
    return start(view, newest)


def start(view: View, version: VersionRef) -> Change:
    """Begin an attempt: pods first, traffic later. Without a champion there is nothing to compare with, and that is said."""
    first = view.progress.stable is None
    begun = view.progress.enter(
        State.INITIAL if first else State.DEPLOYING,
        view.now,
        canary=version,
        started=view.now,
        stage=0,
        weight=0,
        evidence_from=None,
        observation=None,
        clock=Clock(),
        hold=None,
        failure=None,
        keep_until=None,
    )
    if first:
        said = f"{version.name} is the first version: it becomes champion when its pods are verified; no canary is possible"
    else:
        said = (
            f"{version.name} is deployed as canary beside {view.progress.stable.name if view.progress.stable else ''}"
        )
    return Change(begun, (Note("Initial" if first else "Deploying", said),))


def take_traffic_when_verified(view: View) -> Change | None:
    """Every pod is ready and serves the intended digest; readiness itself includes the golden inputs."""
    if view.state not in {State.DEPLOYING, State.INITIAL} or _waiting(view) or not verified(view):
        return None
    canary = view.progress.canary.name if view.progress.canary else ""
    if view.state is State.INITIAL or not view.spec.steps:
        return Change(
            view.progress.enter(State.PROMOTING, view.now),
            (Note("Promoting", f"{canary} is verified and takes all traffic"),),
        )
    step = view.spec.steps[0]
    first = view.progress.enter(State.STEPPING, view.now, stage=0, weight=step.weight)
    return Change(first, (Note("Stepping", _step_sentence(view, 0)),))


def follow_an_edited_step(view: View) -> Change | None:
    """The present step's weight was edited, or steps were cut away: the route follows, and a rise starts the step's clock anew."""
    if view.state not in STAGED:
        return None
    weight, before = view.stage.weight, view.progress.weight
    if weight == before:
        return None
    banked = bank(view)
    index = min(view.progress.stage, len(view.spec.steps) - 1)
    goes_on = weight < before and index == view.progress.stage
    clock = banked.clock if goes_on else replace(banked.clock, active=ZERO)
    edited = replace(banked, weight=weight, observed_at=None, clock=clock, stage=index)
    return Change(edited, (Note("StepEdited", f"the step's weight was edited from {before} to {weight}"),))


def see_the_weight(view: View) -> Change | None:
    """The route carries the stage's weight and traffic follows it: the clock starts. It stops when the route says otherwise."""
    progress = view.progress
    if view.state not in STAGED:
        return None
    there = (
        view.seen.traffic.weight(progress.canary) == progress.weight
        and view.seen.traffic.settled
        and not astray(progress)
    )
    if there and progress.observed_at is None:
        warm = progress.evidence_from or view.now + view.spec.warm_up
        begins = max(view.now, warm)
        clock = replace(progress.clock, counts_from=None if progress.pause else begins)
        return Change(replace(progress, observed_at=view.now, evidence_from=warm, clock=clock))
    if not there and progress.observed_at is not None:
        return Change(replace(see_again(bank(view), view.now), observed_at=None))  # who has no traffic is not blind
    return None


def finish_the_step(view: View) -> Change | None:
    """The hold has passed in active time, traffic follows, no Fail, enough requests, and every due block was judged."""
    progress = view.progress
    if view.state not in STAGED or progress.observed_at is None or _waiting(view) or _blind(view):
        return None
    if not followed(progress, view.seen.traffic):
        return None
    if view.active < view.stage.hold or not (view.proceeding or _looked(view)):
        return None
    return _end_of_step(view)


def _end_of_step(view: View) -> Change:
    """A newer candidate, an undecided SLI or a declared pause may stand between this step and the next."""
    if view.spec.supersede and view.newest is not None:
        return superseded(view, view.newest)
    undecided = _undecided(view)
    if undecided is not None and view.spec.on_inconclusive is not Then.PROCEED:
        message = f"{undecided.name}: {undecided.sentence or 'not enough evidence either way'}"
        if view.spec.on_inconclusive is Then.ROLLBACK:
            return fail(view, Outcome.ROLLED_BACK, "Inconclusive", message)
        return pause(view, PauseReason.INCONCLUSIVE, message)
    if view.stage.pause:
        return pause(
            view,
            PauseReason.STEP,
            f"step {view.progress.stage + 1} of {len(view.spec.steps)} waits for promote or resume",
        )
    return move_on(view, approved=False)


def _undecided(view: View) -> Reading | None:
    return next((r for r in view.seen.readings if r.state is SampleState.INCONCLUSIVE and not r.dry_run), None)


def go_on_when_decided(view: View) -> Change | None:
    """A pause for lack of evidence ends by itself when the evidence has come: analysis goes on while a rollout waits."""
    wait = view.progress.pause
    if view.state not in STAGED or wait is None or wait.reason is not PauseReason.INCONCLUSIVE or view.spec.problems:
        return None
    clear = all(r.state is SampleState.PASS or r.dry_run for r in view.seen.readings)
    if not clear or _blind(view) or not _looked(view):
        return None
    decided = replace(view, progress=unpause(view))
    return _end_of_step(decided)


def _looked(view: View) -> bool:
    """Every due block was judged, at least one of this stage, and on enough requests: a short hold does not skip the look."""
    if not view.spec.analysed:
        return True
    since = view.progress.observed_at
    judged = [r for r in view.seen.readings if not r.dry_run]
    enough = all(r.requests >= r.min_requests for r in judged)
    looked = all(r.last_block_end is not None and since is not None and r.last_block_end > since for r in judged)
    return bool(judged) and enough and looked and not view.seen.backlog


def move_on(view: View, *, approved: bool) -> Change:
    """To the next step; after the last one to 100 %, or to a person when promotion is Manual."""
    following = view.progress.stage + 1
    if following < len(view.spec.steps):
        step = view.spec.steps[following]
        on = bank(view).enter(view.state, view.now, stage=following, weight=step.weight, hold=None)
        return Change(on, (Note("Stepping", _step_sentence(view, following)),))
    if view.spec.manual_promotion and not approved:
        return pause(view, PauseReason.PROMOTION, "every step is done and promotion is Manual; promote goes on")
    return promote_now(view)


def promote_now(view: View) -> Change:
    """All traffic to the canary: a role swap, no pod starts for it."""
    canary = view.progress.canary.name if view.progress.canary else ""
    on = bank(view).enter(State.PROMOTING, view.now, hold=None, pause=None)
    return Change(on, (Note("Promoting", f"{canary} takes all traffic"),))


def finish_the_promotion(view: View) -> Change | None:
    """All traffic was observed at the canary: it bakes, or it is the champion."""
    traffic = view.seen.traffic
    there = traffic.weight(view.progress.canary) == FULL and followed(view.progress, traffic)
    if view.state is not State.PROMOTING or not there:
        return None
    if view.spec.bake is not None and view.progress.stable is not None:
        clock = Clock(total=view.progress.clock.total, counts_from=view.now)
        baking = view.progress.enter(State.BAKING, view.now, observed_at=view.now, clock=clock, weight=FULL)
        return Change(baking, (Note("Baking", "all traffic; the previous version stays warm and a breach reverts"),))
    return crown(view)


def finish_the_bake(view: View) -> Change | None:
    """The bake's hold has passed in active time."""
    if view.state is not State.BAKING or _waiting(view) or _blind(view) or (view.seen.backlog and not view.proceeding):
        return None
    return crown(view) if view.active >= (view.spec.bake or ZERO) else None


def crown(view: View) -> Change:
    """The canary is champion; the old champion is previous and stays warm for a while."""
    progress = view.progress
    canary, old = progress.canary, progress.stable
    assert canary is not None  # noqa: S101 - narrows the type: only live states come here
    ended = Ended(
        version=canary.name,
        digest=canary.digest,
        outcome=Outcome.PROMOTED,
        at=view.now,
        reason="Promoted",
        message=f"champion after {_lasted(view)}" if old else "first version: champion without a canary",
        from_=old.name if old else "",
        to=canary.name,
        weight=FULL,
    )
    crowned = progress.remember(ended).enter(
        State.IDLE,
        view.now,
        stable=canary,
        canary=None,
        previous=old or progress.previous,
        previous_until=view.now + view.spec.keep_previous if old else None,
        clock=Clock(),
        hold=None,
        stage=0,
        weight=0,
    )
    return Change(crowned, (Note("Promoted", f"{canary.name}: {ended.message}"),))


def _lasted(view: View) -> str:
    seconds = (view.now - (view.progress.started or view.now)).total_seconds()
    return str(timedelta(seconds=round(seconds)))


def clear_away(view: View) -> Change | None:
    """A look at a rolled-back canary, and the warmth of the previous champion, end with their time."""
    progress = view.progress
    if view.state is State.ROLLED_BACK and progress.keep_until is not None and view.now >= progress.keep_until:
        return Change(
            progress.enter(State.IDLE, view.now, canary=None, keep_until=None, stage=0, weight=0, clock=Clock())
        )
    if progress.previous_until is not None and view.now >= progress.previous_until:
        return Change(replace(progress, previous_until=None))
    return None


def _waiting(view: View) -> bool:
    return view.progress.pause is not None or bool(view.spec.problems)


def _blind(view: View) -> bool:
    """Held, unless its deadline said to go on without looking."""
    hold = view.progress.hold
    return hold is not None and not hold.expired


def _step_sentence(view: View, index: int) -> str:
    step = view.spec.steps[index]
    canary = view.progress.canary.name if view.progress.canary else ""
    how_long = f", holds {step.hold.total_seconds():.0f} s" if step.hold else ""
    return f"step {index + 1} of {len(view.spec.steps)}: {canary} to {step.weight} %{how_long}{', then waits' if step.pause else ''}"
