"""What a person may ask of a rollout, once per request id. A table of verbs; every answer, also a refusal, is recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from espalier_operator.decisions.rollout.advance import move_on, promote_now, start
from espalier_operator.decisions.rollout.plan import Note
from espalier_operator.decisions.rollout.progress import (
    RESTING,
    STAGED,
    Answer,
    Outcome,
    PauseReason,
    State,
)
from espalier_operator.decisions.rollout.view import Change, View, fail, pause, unpause

Verb = Callable[[View], tuple[Change | None, str]]
"""What changes, and the result in words; None when the request does not apply now."""


def do_as_a_person_asked(view: View) -> Change | None:
    """Promote, abort, retry, pause …: once per request id, with the result in status.lastRequest."""
    request, answered = view.seen.request, view.progress.answer
    if request is None or (answered is not None and answered.id == request.id):
        return None
    verb = VERBS.get(request.verb)
    change, result = verb(view) if verb else (None, f"Refused: {request.verb!r} is none of {', '.join(VERBS)}")
    answer = Answer(request.id, request.verb, request.by, view.now, result)
    done = change or Change(view.progress)
    said = Note(
        "RequestDone" if change else "RequestRefused", f"{request.verb}@{request.id}: {result}", warning=change is None
    )
    return Change(replace(done.progress, answer=answer), (*done.notes, said))


def _promote(view: View) -> tuple[Change | None, str]:
    if view.state not in STAGED:
        return None, _not_now(view, "there is no step to complete")
    if view.spec.problems:
        return None, f"Refused: the spec is refused: {view.spec.problems[0]}"
    return move_on(replace(view, progress=unpause(view)), approved=True), "Done: the present step was completed"


def _skip_step(view: View) -> tuple[Change | None, str]:
    last = view.progress.stage + 1 >= len(view.spec.steps)
    if view.state in STAGED and last:
        return None, "Refused: this is the last step; use promote"
    return _promote(view)


def _promote_full(view: View) -> tuple[Change | None, str]:
    if view.state not in STAGED:
        return None, _not_now(view, "there is no verified canary to promote")
    if view.spec.problems:
        return None, f"Refused: the spec is refused: {view.spec.problems[0]}"
    return promote_now(replace(view, progress=unpause(view))), "Done: all remaining steps were skipped"


def _abort(view: View) -> tuple[Change | None, str]:
    if not view.live:
        return None, _not_now(view, "no canary is in flight")
    if view.progress.stable is None and view.state is State.PROMOTING:
        return None, "Refused: the first champion already has the traffic and there is no version to return to"
    by = view.seen.request.by if view.seen.request else ""
    return fail(view, Outcome.ABORTED, "Aborted", "aborted by request" + (f" of {by}" if by else "")), "Done"


def _retry(view: View) -> tuple[Change | None, str]:
    if view.state not in RESTING:
        return None, _not_now(view, "a canary is in flight")
    champion = view.progress.stable.number if view.progress.stable else 0
    last = next((e for e in view.progress.history if e.outcome is not Outcome.PROMOTED), None)
    if last is None or last.ref.number <= champion:
        return None, "Refused: no version newer than the champion has ended without promotion"
    if view.spec.problems:
        return None, f"Refused: the spec is refused: {view.spec.problems[0]}"
    forgiven = replace(view, progress=replace(view.progress.pardon(last.version), pause=None))
    change = start(forgiven, last.ref)
    return replace(change, notes=(Note("Retried", f"{last.version} is tried again by request"), *change.notes)), "Done"


def _pause(view: View) -> tuple[Change | None, str]:
    if view.state is State.ROLLING_BACK:
        return None, _not_now(view, "a rollback cannot be paused")
    if view.progress.pause is not None:
        return None, f"Refused: already paused ({view.progress.pause.reason})"
    return pause(view, PauseReason.REQUESTED, "by request; resume goes on"), "Done"


def _resume(view: View) -> tuple[Change | None, str]:
    wait = view.progress.pause
    if wait is None:
        return None, _not_now(view, "nothing is paused")
    if view.spec.paused:
        return None, "Refused: spec.paused is true; set it to false instead"
    if wait.reason is PauseReason.PROMOTION:
        return None, "Refused: promotion is Manual and awaits promote, not resume"
    going = replace(view, progress=unpause(view))
    if wait.reason in {PauseReason.STEP, PauseReason.INCONCLUSIVE} and view.state in STAGED:
        return move_on(going, approved=False), "Done: the step was completed"
    return Change(going.progress, (Note("Resumed", "by request"),)), "Done"


def _not_now(view: View, why: str) -> str:
    return f"Refused: {why} (state {view.state})"


VERBS: dict[str, Verb] = {
    "promote": _promote,  # complete the present step, or the last one: take all traffic
    "promote-full": _promote_full,  # skip all steps; pods are still judged
    "skip-step": _skip_step,  # complete the present step unless it is the last
    "abort": _abort,  # give stable its traffic back; not a verdict on the version, so no quarantine
    "retry": _retry,  # take the last ended version out of quarantine and start it again
    "pause": _pause,
    "resume": _resume,
}


def pause_as_the_spec_says(view: View) -> Change | None:
    """spec.paused is the declarative pause: it comes and goes with the field, and never undoes a person's pause."""
    wait = view.progress.pause
    if view.spec.paused and wait is None:
        return pause(view, PauseReason.SPEC, "spec.paused is true")
    if not view.spec.paused and wait is not None and wait.reason is PauseReason.SPEC:
        return Change(unpause(view), (Note("Resumed", "spec.paused was taken back"),))
    if wait is not None and wait.reason is PauseReason.PROMOTION and not view.spec.manual_promotion:
        return move_on(replace(view, progress=unpause(view)), approved=False)
    return None
