"""The table of design/rollout.md, row by row: what each rule answers, without a cluster and without a clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier_api.rollout import CanaryRolloutStatus
from espalier_operator.decisions.judge.verdict import SampleState, VerdictKind
from espalier_operator.decisions.rollout import memory
from espalier_operator.decisions.rollout.machine import decide
from espalier_operator.decisions.rollout.plan import Effect, RolloutPlan, effects
from espalier_operator.decisions.rollout.pods import pods_for
from espalier_operator.decisions.rollout.progress import (
    HISTORY,
    Clock,
    Ended,
    Outcome,
    Pause,
    PauseReason,
    Progress,
    State,
)
from espalier_operator.decisions.rollout.report import Picture, status_of
from espalier_operator.decisions.rollout.world import (
    Blindness,
    BlindPolicy,
    Capabilities,
    Crash,
    Pod,
    Reading,
    Request,
    RolloutSpec,
    Seen,
    Span,
    Step,
    Then,
    Traffic,
    VersionRef,
    Workload,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
EARLIER = NOW - timedelta(minutes=5)
MINUTE = timedelta(minutes=1)
V1, V2, V3 = (VersionRef(f"v{n}", f"sha256:{n}") for n in (1, 2, 3))
SPEC = RolloutSpec(steps=(Step(20, MINUTE), Step(50, MINUTE)), replicas=1)
STEPPING = Progress(
    state=State.STEPPING,
    since=EARLIER,
    stable=V1,
    canary=V2,
    started=EARLIER,
    weight=20,
    observed_at=EARLIER,
    evidence_from=EARLIER,
    clock=Clock(counts_from=EARLIER),
)
GOOD = Reading("errors", SampleState.PASS, requests=100, min_requests=20, last_block_end=NOW)


def pod(version: VersionRef, **changes: object) -> Pod:
    base = Pod(f"digits-{version.name}-0", version.name, True, EARLIER, EARLIER, was_ready=True, digest=version.digest)
    return replace(base, **changes)  # type: ignore[arg-type]


def world(weights: Mapping[str, int] | None = None, **changes: object) -> Seen:
    base = Seen(
        pods=(pod(V1), pod(V2)),
        workloads=(Workload("v1", 1), Workload("v2", 1)),
        traffic=Traffic(weights=weights or {"v1": 80, "v2": 20}, settled=True, resource_version="1"),
        readings=(GOOD,),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def step(progress: Progress = STEPPING, seen: Seen | None = None, spec: RolloutSpec = SPEC) -> RolloutPlan:
    return decide(spec, seen or world(), progress, NOW)


def active(seconds: float) -> Progress:
    return replace(STEPPING, clock=Clock(active=timedelta(seconds=seconds), counts_from=EARLIER))


# --- steps -----------------------------------------------------------------------------------------------------------
def test_a_step_ends_when_its_active_time_is_over() -> None:
    assert step(active(59)).progress.stage == 0
    after = step(active(60))
    assert (after.progress.stage, after.progress.weight) == (1, 50)
    assert after.split is not None
    assert after.split.weight == 50


def test_time_without_data_is_no_active_time() -> None:
    half = timedelta(seconds=30)
    spans = (Span(NOW - MINUTE, NOW - half, counts=False), Span(NOW - half, NOW))
    plan = step(seen=world(spans=spans))
    assert plan.progress.clock.active == half
    assert plan.progress.clock.counts_from == NOW


def test_the_same_span_never_counts_twice() -> None:
    span = Span(NOW - timedelta(seconds=30), NOW)
    once = step(seen=world(spans=(span,))).progress
    assert step(once, world(spans=(span,))).progress.clock.active == timedelta(seconds=30)


@pytest.mark.parametrize(
    "changes", [{"backlog": True}, {"readings": ()}, {"readings": (replace(GOOD, last_block_end=EARLIER),)}]
)
def test_a_step_does_not_end_before_everything_due_was_judged(changes: dict[str, Any]) -> None:
    assert step(active(600), world(**changes)).progress.stage == 0


def test_too_few_requests_hold_the_step_at_its_end() -> None:
    plan = step(active(600), world(readings=(replace(GOOD, requests=12),)))
    assert plan.progress.hold is not None
    assert "12 of 20 requests" in plan.progress.hold.message
    assert plan.progress.stage == 0


def test_a_paused_step_waits_and_its_clock_stands() -> None:
    spec = replace(SPEC, steps=(Step(20, MINUTE, pause=True), Step(50, MINUTE)))
    waiting = step(active(60), spec=spec).progress
    assert waiting.pause is not None
    assert waiting.pause.reason is PauseReason.STEP
    assert step(waiting, world(request=Request("resume", "1")), spec).progress.stage == 1


def test_manual_promotion_waits_for_promote_and_not_for_resume() -> None:
    spec = replace(SPEC, manual_promotion=True)
    last = replace(active(60), stage=1, weight=50)
    seen = world({"v1": 50, "v2": 50})
    waiting = step(last, seen, spec).progress
    assert waiting.pause is not None
    assert waiting.pause.reason is PauseReason.PROMOTION
    refused = step(waiting, replace(seen, request=Request("resume", "1")), spec)
    assert refused.progress.answer is not None
    assert refused.progress.answer.result.startswith("Refused")
    promoted = step(waiting, replace(seen, request=Request("promote", "2")), spec)
    assert promoted.progress.state is State.PROMOTING
    assert promoted.split is not None
    assert promoted.split.weight == 100


def test_without_slis_wall_time_is_the_clock() -> None:
    spec = replace(SPEC, analysed=False)
    plan = step(seen=world(readings=()), spec=spec)
    assert plan.progress.stage == 1


# --- what rolls back -------------------------------------------------------------------------------------------------
TROUBLES: dict[str, dict[str, Any]] = {
    "OOMKilled": {"crash": Crash("OOMKilled", 137, NOW), "was_ready": False},
    "Crashed": {"crash": Crash("Error", 1, NOW), "restarts": 1},
    "SignatureInvalid": {"crash": Crash("Error", 44, NOW, "SignatureError: model.sig: wrong"), "was_ready": False},
    "DigestMismatch": {"digest": "sha256:other"},
    "Unready": {"ready": False, "changed": NOW - MINUTE},
}


@pytest.mark.parametrize("reason", TROUBLES)
@pytest.mark.parametrize("overlay", [None, "paused", "down"])
def test_pods_alone_roll_back_also_paused_and_without_prometheus(reason: str, overlay: str | None) -> None:
    progress = replace(STEPPING, pause=Pause(PauseReason.REQUESTED, EARLIER)) if overlay == "paused" else STEPPING
    readings = (replace(GOOD, state=SampleState.SOURCE_DOWN),) if overlay == "down" else (GOOD,)
    seen = world(pods=(pod(V1), pod(V2, **TROUBLES[reason])), readings=readings)
    plan = step(progress, seen)
    assert plan.progress.state is State.ROLLING_BACK
    assert plan.progress.failure is not None
    assert plan.progress.failure.reason == reason
    assert plan.split is not None
    assert plan.split.weights == {"v1": 100, "v2": 0}
    assert [q.version for q in plan.progress.quarantined] == ["v2"]
    assert next(iter(effects(plan, seen))) is Effect.ROUTE


def test_a_fail_rolls_back_also_while_held_and_paused() -> None:
    failed = replace(GOOD, verdict=VerdictKind.FAIL, state=SampleState.BREACH, sentence="errors: worse", evidence=47.0)
    plan = step(replace(STEPPING, pause=Pause(PauseReason.REQUESTED, EARLIER)), world(readings=(failed,)))
    assert plan.progress.state is State.ROLLING_BACK
    assert plan.progress.failure is not None
    assert plan.progress.failure.evidence == 47.0
    assert plan.split is not None
    assert plan.split.mark is not None


def test_a_dry_run_never_acts() -> None:
    failed = replace(GOOD, verdict=VerdictKind.FAIL, state=SampleState.BREACH, dry_run=True)
    assert step(seen=world(readings=(failed, GOOD))).progress.state is State.STEPPING


def test_a_crash_before_the_attempt_is_the_past() -> None:
    seen = world(pods=(pod(V1), pod(V2, crash=Crash("Error", 1, EARLIER - MINUTE), restarts=1)))
    assert step(seen=seen).progress.state is State.STEPPING


def test_an_evicted_pod_is_the_clusters_doing() -> None:
    seen = world(pods=(pod(V1), pod(V2), pod(V2, name="gone", leaving=True, ready=False, changed=EARLIER)))
    assert step(seen=seen).progress.state is State.STEPPING


def test_a_canary_without_pods_gets_no_traffic_but_no_verdict_yet() -> None:
    seen = world(pods=(pod(V1), pod(V2, ready=False, was_ready=False, changed=NOW)))
    plan = step(seen=seen)
    assert plan.progress.state is State.STEPPING
    assert plan.split is not None
    assert plan.split.weight == 0


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"unschedulable": "0/3 nodes are available"}, "Unschedulable"),
        ({"waiting": "ImagePullBackOff"}, "ImagePull"),
        ({}, "NeverReady"),
        ({"ready": True, "digest": None}, "Unverified"),
    ],
)
def test_what_the_cluster_is_to_blame_for_aborts_without_quarantine(changes: dict[str, object], reason: str) -> None:
    long_ago = NOW - timedelta(minutes=11)
    deploying = replace(STEPPING, state=State.DEPLOYING, since=long_ago, started=long_ago, weight=0, observed_at=None)
    stuck = pod(V2, **{"ready": False, "was_ready": False, "created": long_ago, "digest": None, **changes})
    plan = step(deploying, world({"v1": 100, "v2": 0}, pods=(pod(V1), stuck)))
    assert plan.progress.failure is not None
    assert (plan.progress.failure.outcome, plan.progress.failure.reason) == (Outcome.ABORTED, reason)
    assert not plan.progress.quarantined


def test_a_verified_canary_may_be_paused_while_deploying_for_as_long_as_anybody_likes() -> None:
    long_ago = NOW - timedelta(days=1)
    wait = Pause(PauseReason.REQUESTED, long_ago)
    deploying = replace(STEPPING, state=State.DEPLOYING, since=long_ago, weight=0, observed_at=None, pause=wait)
    assert step(deploying, world({"v1": 100, "v2": 0})).progress.state is State.DEPLOYING


def test_rolling_back_ends_when_weight_0_was_observed_and_tells_how_long_it_took() -> None:
    failed = replace(GOOD, verdict=VerdictKind.FAIL, sentence="errors: worse")
    rolling = step(seen=world(readings=(failed,))).progress
    waiting = decide(SPEC, world({"v1": 100, "v2": 0}, traffic=Traffic({"v1": 100, "v2": 0})), rolling, NOW + MINUTE)
    assert waiting.progress.state is State.ROLLING_BACK
    over = decide(SPEC, world({"v1": 100, "v2": 0}), rolling, NOW + timedelta(seconds=1.2))
    assert over.progress.state is State.ROLLED_BACK
    entry = over.progress.history[0]
    assert entry.message == "errors: worse; weight 0 after 1.2 s"
    assert entry.verdict_at == NOW
    assert entry.weight == 20


# --- blindness -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("state", [SampleState.NO_DATA, SampleState.SOURCE_DOWN])
@pytest.mark.parametrize("then", list(Then))
def test_blindness_holds_and_then_does_what_its_policy_says(state: SampleState, then: Then) -> None:
    blindness = Blindness(deadline=10 * MINUTE, then=then)
    spec = replace(SPEC, on_no_data=blindness, on_source_down=blindness)
    blind = world(readings=(replace(GOOD, state=state),), backlog=state is SampleState.SOURCE_DOWN)
    held = step(active(600), blind, spec).progress
    assert held.hold is not None
    assert held.stage == 0
    later = decide(spec, blind, held, NOW + 11 * MINUTE)
    match then:
        case Then.PAUSE:
            assert later.progress.pause is not None
        case Then.ROLLBACK:
            assert later.progress.state is State.ROLLING_BACK
        case Then.PROCEED:
            assert later.progress.hold is not None
            assert decide(spec, blind, later.progress, NOW + 12 * MINUTE).progress.stage == 1


def test_data_that_come_back_end_the_hold() -> None:
    held = step(seen=world(readings=(replace(GOOD, state=SampleState.SOURCE_DOWN),))).progress
    assert step(held).progress.hold is None


@pytest.mark.parametrize("state", [SampleState.NO_DATA, SampleState.SOURCE_DOWN])
def test_only_a_policy_makes_blindness_a_rollback(state: SampleState) -> None:
    strict = Blindness(policy=BlindPolicy.ROLLBACK)
    spec = replace(SPEC, on_no_data=strict, on_source_down=strict)
    seen = world(readings=(replace(GOOD, state=state),))
    assert step(seen=seen, spec=spec).progress.state is State.ROLLING_BACK
    assert step(seen=seen).progress.state is State.STEPPING


@pytest.mark.parametrize("then", list(Then))
def test_an_undecided_end_of_step(then: Then) -> None:
    seen = world(readings=(replace(GOOD, state=SampleState.INCONCLUSIVE),))
    plan = step(active(60), seen, replace(SPEC, on_inconclusive=then))
    if then is Then.PAUSE:
        assert plan.progress.pause is not None
        assert step(plan.progress).progress.stage == 1, "the evidence has come"
    elif then is Then.ROLLBACK:
        assert plan.progress.state is State.ROLLING_BACK
    else:
        assert plan.progress.stage == 1


def test_the_deadline_counts_active_time() -> None:
    spec = replace(SPEC, deadline=2 * MINUTE, steps=(Step(20, timedelta(hours=1)),))
    assert step(active(119), spec=spec).progress.pause is None
    paused = step(active(120), spec=spec).progress
    assert paused.pause is not None
    assert paused.pause.reason is PauseReason.DEADLINE
    rolled = step(active(120), spec=replace(spec, on_deadline=Then.ROLLBACK)).progress
    assert rolled.state is State.ROLLING_BACK


# --- people and edits ------------------------------------------------------------------------------------------------
def test_a_request_is_done_once() -> None:
    asked = world(request=Request("skip-step", "a"))
    once = step(seen=asked).progress
    assert once.stage == 1
    again = step(once, replace(asked, traffic=Traffic({"v1": 50, "v2": 50}, settled=True)))
    assert again.progress.stage == 1


def test_an_abort_is_no_verdict_and_is_not_started_again_without_retry() -> None:
    aborted = step(seen=world(request=Request("abort", "a"))).progress
    assert aborted.failure is not None
    assert aborted.failure.outcome is Outcome.ABORTED
    rested = step(aborted, world({"v1": 100, "v2": 0}, candidates=(V2,))).progress
    idle = decide(SPEC, world({"v1": 100}, candidates=(V2,)), rested, NOW + timedelta(hours=1)).progress
    assert idle.state is State.IDLE
    assert (
        decide(SPEC, world({"v1": 100}, candidates=(V2,)), idle, NOW + timedelta(hours=2)).progress.state is State.IDLE
    )
    again = decide(SPEC, world({"v1": 100}, request=Request("retry", "b")), idle, NOW + timedelta(hours=2)).progress
    assert (again.state, again.canary) == (State.DEPLOYING, V2)


@pytest.mark.parametrize("weight, kept", [(10, 30.0), (40, 0.0)])
def test_an_edited_step_moves_the_weight_and_a_rise_starts_the_clock_anew(weight: int, kept: float) -> None:
    spec = replace(SPEC, steps=(Step(weight, MINUTE), Step(50, MINUTE)))
    plan = step(active(30), spec=spec)
    assert plan.progress.weight == weight
    assert plan.progress.clock.active.total_seconds() == kept
    assert plan.split is not None
    assert plan.split.weight == weight


def test_a_refused_spec_raises_nothing_and_still_rolls_back() -> None:
    spec = replace(SPEC, problems=("spec.strategy.shadow: not available",))
    assert step(active(600), spec=spec).progress.stage == 0
    crashed = world(pods=(pod(V1), pod(V2, crash=Crash("OOMKilled", 137, NOW))))
    assert step(seen=crashed, spec=spec).progress.state is State.ROLLING_BACK


def test_a_newer_candidate_supersedes_only_between_steps_and_only_when_told() -> None:
    newer = world(candidates=(V3,))
    supersede = replace(SPEC, supersede=True)
    assert step(active(30), newer, supersede).progress.state is State.STEPPING
    assert step(active(60), newer).progress.stage == 1
    gone = step(active(60), newer, supersede).progress
    assert gone.failure is not None
    assert gone.failure.outcome is Outcome.SUPERSEDED
    rested = step(gone, world({"v1": 100, "v2": 0}, candidates=(V3,)), supersede).progress
    assert step(rested, world({"v1": 100, "v2": 0}, candidates=(V3,)), supersede).progress.canary == V3


# --- memory ----------------------------------------------------------------------------------------------------------
def test_history_is_bounded_and_never_forgets_the_newest_version() -> None:
    progress = Progress(stable=V1)
    progress = progress.remember(Ended("v99", Outcome.ROLLED_BACK, NOW))
    for number in range(2, 60):
        progress = progress.remember(Ended(f"v{number}", Outcome.ABORTED, NOW))
    assert len(progress.history) == HISTORY
    assert progress.tried() == 99


@pytest.mark.parametrize("verb", ["pause", "abort", "skip-step", "promote-full"])
def test_memory_survives_status(verb: str) -> None:
    """Written to status and read back, a rollout decides the same."""
    progress = step(active(30), world(request=Request(verb, "1", "me"))).progress
    picture = Picture(SPEC, world(), progress, {}, model_found=True, now=NOW)
    status = CanaryRolloutStatus.model_validate(status_of(picture, {}))
    again = memory.remembered(status, NOW)
    assert replace(again, history=(), quarantined=()) == replace(progress, history=(), quarantined=())
    assert decide(SPEC, world(), again, NOW + MINUTE) == decide(SPEC, world(), progress, NOW + MINUTE)


@given(st.integers(1, 50), st.integers(1, 50))
def test_shares_of_pods_are_the_nearest_possible(replicas: int, weight: int) -> None:
    spec = replace(SPEC, replicas=replicas, capabilities=Capabilities(by_pods=True, max_weight=50))
    chosen = pods_for(spec, weight)
    assert 1 <= chosen <= replicas
    wished = replicas * weight / (100 - weight)
    assert abs(chosen - wished) <= max(0.5, 1 - wished)
