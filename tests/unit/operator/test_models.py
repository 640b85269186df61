"""The model's rules, one by one: what is seen in, what happens to training out. No cluster, no clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from espalier_api import conditions as c
from espalier_api.hashing import spec_hash
from espalier_api.kubernetes import ObjectMeta
from espalier_api.model import RegularizedModelSpec, RegularizedModelStatus
from espalier_operator.decisions import versions as v
from espalier_operator.decisions.attempts import Attempt, AttemptState
from espalier_operator.decisions.model_seen import (
    Absent,
    Holdings,
    Listing,
    Question,
    Seen,
    SpecVerdict,
    StoreTrouble,
    questions,
)
from espalier_operator.decisions.model_summary import Decision, decide
from espalier_operator.decisions.validation import judge_spec
from tests.unit.operator.samples import DIGEST, manifest, model, version_digest

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
META = ObjectMeta(name="digits", namespace="vision", uid="u1", generation=3)
LISTED = Listing(DIGEST, 2, 1000)
OTHER = "sha256:" + "cd" * 32


def seen(status: dict[str, Any] | None = None, **given: Any) -> Seen:
    """A model with a valid spec; keyword arguments replace fields of Seen, `spec` may be a dict of spec fields."""
    raw = model(**given.pop("spec", {}))["spec"]
    spec, verdict = judge_spec(raw)
    return Seen(
        **{
            "meta": META,
            "status": RegularizedModelStatus.model_validate(status or {}),
            "spec": spec,
            "verdict": verdict,
            **given,
        }
    )


def status_of(decision: Decision) -> RegularizedModelStatus:
    return RegularizedModelStatus.model_validate(decision.plan.status)


def condition(decision: Decision, type_: str) -> tuple[str, str]:
    found = next(each for each in status_of(decision).conditions if each.type == type_)
    return found.status, found.reason


def hash_of(digest: str = DIGEST, request: str | None = None, **spec: Any) -> str:
    return spec_hash(RegularizedModelSpec.model_validate(model(**spec)["spec"]), digest, request)


def training(**fields: Any) -> dict[str, Any]:
    """Status of a model whose v1 trains as attempt 1."""
    entry = {"version": "v1", "state": "Training", "specHash": hash_of(), "snapshotDigest": DIGEST, "seed": 7}
    snapshot = {"uri": "s3://datasets/digits/2026-11-01/", "digest": DIGEST, "objects": 2, "bytes": 1000}
    attempt = {"version": "v1", "job": "digits-v1-a1", "attempt": 1, "specHash": hash_of(), **fields}
    return {"versions": [entry], "nextVersion": 2, "snapshot": snapshot, "training": attempt}


def trained(**fields: Any) -> dict[str, Any]:
    """Status of a model whose v1 fits its spec."""
    entry = {"version": "v1", "state": "Candidate", "specHash": hash_of(), "snapshotDigest": DIGEST, "digest": OTHER,
             "metrics": {"accuracy": {"value": 0.93}}, **fields}  # fmt: skip
    snapshot = {"uri": "s3://datasets/digits/2026-11-01/", "digest": DIGEST}
    return {"versions": [entry], "nextVersion": 2, "snapshot": snapshot}


def stored(version: str = "v1", accuracy: float = 0.93, **changes: Any) -> v.Stored:
    content = manifest(version, changes.pop("spec_hash", hash_of()), accuracy, **changes)
    from espalier_api.artifact import Manifest  # noqa: PLC0415 - used here only

    return v.Stored(Manifest.model_validate_json(content), version_digest(content))


RUNNING = Attempt(AttemptState.RUNNING, pod_ip="10.0.0.7", started_at="2026-11-22T11:59:00Z")
DONE = Attempt(AttemptState.SUCCEEDED, c.TRAINING_SUCCEEDED)


# --- start ---------------------------------------------------------------------------------------------------------------
def test_a_fresh_model_asks_the_store_before_anything() -> None:
    assert questions(seen()) == {Question.LISTING, Question.HOLDINGS}


def test_a_fresh_model_starts_version_one() -> None:
    decision = decide(seen(listing=LISTED, holdings=Holdings()), NOW)
    status = status_of(decision)
    assert decision.start is not None
    assert (decision.start.version.version, decision.start.attempt) == ("v1", 1)
    assert (status.next_version, status.versions[0].spec_hash) == (2, hash_of())
    assert status.training is not None
    assert status.training.job == "digits-v1-a1"
    assert condition(decision, "DataResolved") == ("True", "Resolved")
    assert condition(decision, "Ready") == ("False", "Training")


def test_a_half_written_version_in_the_store_is_never_numbered_again() -> None:
    decision = decide(seen(listing=LISTED, holdings=Holdings(numbers=frozenset({7}))), NOW)
    assert decision.start is not None
    assert decision.start.version.version == "v8"


def test_versions_in_the_store_are_adopted_and_fit() -> None:
    """A deleted and re-created object goes on where the old one stopped, without training."""
    first = decide(seen(listing=LISTED, holdings=Holdings((stored("v4"),), frozenset({4, 5}))), NOW)
    assert first.start is None
    assert first.plan.requeue_after == timedelta(0)
    second = decide(seen(first.plan.status, listing=LISTED), NOW)  # type: ignore[arg-type]
    assert second.start is None
    assert status_of(second).next_version == 6
    assert condition(second, "Ready") == ("True", "CandidateAvailable")


@pytest.mark.parametrize(
    "reason,status", [(c.STORE_UNAVAILABLE, "Unknown"), (c.ACCESS_DENIED, "False"), (c.SNAPSHOT_NOT_FOUND, "False")]
)
def test_without_data_nothing_starts(reason: str, status: str) -> None:
    decision = decide(seen(listing=StoreTrouble(reason, "why"), holdings=Holdings()), NOW)
    assert decision.start is None
    assert condition(decision, "DataResolved") == (status, reason)
    assert condition(decision, "Trained") == ("False", "WaitingForData")
    assert decision.plan.requeue_after == timedelta(seconds=15)


def test_without_knowing_the_store_no_number_is_guessed() -> None:
    decision = decide(seen(listing=LISTED, holdings=StoreTrouble(c.STORE_UNAVAILABLE, "down")), NOW)
    assert decision.start is None


def test_a_pinned_digest_that_does_not_match_is_said() -> None:
    pinned = {"data": {"snapshot": {"uri": "s3://datasets/digits/2026-11-01/", "digest": OTHER}, "target": "label"}}
    decision = decide(seen(spec=pinned, listing=LISTED, holdings=Holdings()), NOW)
    assert decision.start is None
    assert condition(decision, "DataResolved") == ("False", "SnapshotChanged")


def test_an_invalid_spec_starts_nothing() -> None:
    spec = {"engine": {"torch": {"architecture": {"mlp": {"hidden": [8]}}, "optimizer": {"adamw": {"learningRate": 0.001}}}},
            "regularizers": {"l2": {"strength": 0.1}, "weightDecay": {"strength": 0.1}}}  # fmt: skip
    view = seen(spec=spec)
    assert questions(view) == frozenset()
    decision = decide(view, NOW)
    assert condition(decision, "SpecValid") == ("False", "IncompatibleRegularizers")
    assert condition(decision, "Trained") == ("False", "WaitingForSpec")
    assert "R7" in str(decision.plan.status)


def test_a_spec_that_cannot_be_parsed_names_the_field() -> None:
    spec, verdict = judge_spec({"task": {"type": "poetry"}})
    assert spec is None
    assert any("spec.task.type" in error for error in verdict.errors)
    decision = decide(seen().__class__(META, RegularizedModelStatus(), None, verdict), NOW)
    assert condition(decision, "SpecValid") == ("False", "InvalidSpec")


def test_fields_of_later_releases_are_refused_not_ignored() -> None:
    _, verdict = judge_spec(model(serving={"autoscaling": {}})["spec"])
    assert verdict.reason == c.NOT_YET_IMPLEMENTED
    assert "serving.autoscaling" in verdict.errors[0]


# --- a settled model ---------------------------------------------------------------------------------------------------------
def test_a_settled_model_asks_nothing_and_writes_the_same() -> None:
    view = seen(trained())
    assert questions(view) == frozenset()
    first = decide(view, NOW)
    second = decide(seen(dict(first.plan.status or {})), NOW + timedelta(hours=1))
    assert second.plan.status == first.plan.status
    assert (second.plan.events, second.plan.delete, second.plan.requeue_after) == ((), (), None)


@pytest.mark.parametrize(
    "change",
    [
        {"evaluation": {"gates": [{"metric": "accuracy", "min": 0.5}]}},
        {"serving": {"replicas": 5}},
        {"training": {"retries": 9, "deadline": "1h"}},
        {"artifacts": {"uri": "s3://models/", "retention": {"keep": 2}}},
    ],
)
def test_operational_changes_never_retrain(change: dict[str, Any]) -> None:
    view = seen(trained(), spec=change)
    assert questions(view) == frozenset()
    assert decide(view, NOW).start is None


def test_a_changed_regularizer_asks_for_data_and_trains() -> None:
    view = seen(trained(), spec={"regularizers": {"l2": {"strength": 0.5}}})
    assert questions(view) == {Question.LISTING}
    decision = decide(seen(trained(), spec={"regularizers": {"l2": {"strength": 0.5}}}, listing=LISTED), NOW)
    assert decision.start is not None
    assert decision.start.version.version == "v2"


def test_a_failed_version_is_not_trained_again() -> None:
    view = seen(trained(state="Failed", reason="Diverged", message="NaN"))
    assert questions(view) == frozenset()
    decision = decide(view, NOW)
    assert decision.start is None
    assert condition(decision, "Trained") == ("False", "Diverged")


def test_a_request_trains_once() -> None:
    view = seen(trained(), request="retry@42")
    assert questions(view) == {Question.LISTING}
    first = decide(seen(trained(), request="retry@42", listing=LISTED), NOW)
    assert first.start is not None
    assert first.start.version.requested_by == "request/retry@42"
    assert status_of(first).handled_request == "retry@42"
    after = dict(first.plan.status or {})
    running = seen(after, request="retry@42", attempt=RUNNING)
    assert decide(running, NOW).start is None
    assert "SpecChanged" not in str(decide(running, NOW).plan.status)


# --- attempts ---------------------------------------------------------------------------------------------------------------
def test_a_running_attempt_is_asked_for_progress_only() -> None:
    assert questions(seen(training(), attempt=RUNNING)) == {Question.PROGRESS}


def test_a_finished_job_is_latched_before_it_is_deleted() -> None:
    assert questions(seen(training(startedAt="2026-11-22T11:59:00Z"), attempt=DONE)) == {Question.MANIFEST}
    decision = decide(seen(training(), attempt=DONE, manifest=stored()), NOW)
    status = status_of(decision)
    assert status.training is None
    assert (status.versions[0].state, status.versions[0].digest) == ("Candidate", stored().digest)
    assert {ref.kind for ref in decision.plan.delete} == {"Job", "ConfigMap"}
    met = replace(seen(training(), attempt=DONE, manifest=stored()), has_service=True)
    assert {ref.kind for ref in decide(met, NOW).plan.delete} == {"Job", "ConfigMap", "Service"}
    assert decision.plan.purge == ("s3://models/vision/digits/.checkpoints/v1/",)
    assert condition(decision, "Published") == ("True", "ArtifactPublished")


def test_a_published_version_that_misses_its_gates_is_rejected() -> None:
    decision = decide(seen(training(), attempt=DONE, manifest=stored(accuracy=0.5)), NOW)
    assert status_of(decision).versions[0].state == "Rejected"
    assert condition(decision, "GatesPassed") == ("False", "GatesFailed")
    assert condition(decision, "Ready") == ("False", "VersionRejected")


def test_while_the_store_is_down_a_finished_job_waits() -> None:
    trouble = StoreTrouble(c.STORE_UNAVAILABLE, "timeout")
    decision = decide(seen(training(), attempt=DONE, manifest=trouble), NOW)
    assert status_of(decision).training is not None
    assert decision.plan.delete == ()
    assert decision.plan.requeue_after == timedelta(seconds=15)


def test_success_without_a_manifest_is_an_infrastructure_failure() -> None:
    decision = decide(seen(training(), attempt=DONE, manifest=Absent()), NOW)
    status = status_of(decision)
    assert status.training is not None
    assert (status.training.attempt, status.training.failures) == (2, 1)
    assert condition(decision, "Trained") == ("False", "WaitingForRetry")


def test_a_vanished_job_whose_artifact_is_complete_has_succeeded() -> None:
    view = seen(training(startedAt="2026-11-22T11:59:00Z"))
    assert questions(view) == {Question.MANIFEST}
    decision = decide(seen(training(startedAt="2026-11-22T11:59:00Z"), manifest=stored()), NOW)
    assert status_of(decision).versions[0].state == "Candidate"


def test_a_vanished_job_without_artifact_is_repeated_for_free() -> None:
    decision = decide(seen(training(startedAt="2026-11-22T11:59:00Z"), manifest=Absent()), NOW)
    status = status_of(decision)
    assert status.training is not None
    assert (status.training.attempt, status.training.failures, status.training.preemptions) == (2, 0, 1)


def test_a_crash_between_status_and_job_repairs_itself() -> None:
    decision = decide(seen(training()), NOW)
    assert decision.start is not None
    assert decision.start.attempt == 1


def failed(reason: str, *, final: bool = False, charged: bool = True) -> Attempt:
    return Attempt(AttemptState.FAILED, reason, "words", final, charged)


def test_a_final_failure_is_final() -> None:
    decision = decide(seen(training(), attempt=failed(c.DIVERGED, final=True)), NOW)
    version = status_of(decision).versions[0]
    assert (version.state, version.reason, version.diagnosis[0].mode) == ("Failed", "Diverged", "F7")
    assert "s3://models/vision/digits/v1/" in decision.plan.purge


def test_infrastructure_failures_are_retried_up_to_the_bound() -> None:
    status = training()
    attempts = []
    for _ in range(10):
        decision = decide(seen(status, attempt=failed(c.OOM_KILLED)), NOW)
        status = dict(decision.plan.status or {})
        if "training" not in status:
            break
        attempts.append(status["training"]["attempt"])
        assert decide(seen(status), NOW).start is None  # the backoff is kept
        later = decide(seen(status), NOW + timedelta(hours=1))
        assert later.start is not None
        status = dict(later.plan.status or {})
    assert attempts == [2, 3]
    assert status["versions"][0]["reason"] == "RetriesExhausted"
    assert "OOMKilled" in status["versions"][0]["message"]


def test_without_retries_the_reason_itself_is_told() -> None:
    spec = {"training": {"retries": 0}}
    decision = decide(seen(training(), spec=spec, attempt=failed(c.OOM_KILLED)), NOW)
    assert status_of(decision).versions[0].reason == "OOMKilled"


def test_preemptions_cost_nothing() -> None:
    status = training()
    for number in range(2, 12):
        decision = decide(
            seen(status, spec={"training": {"retries": 0}}, attempt=failed(c.PREEMPTED, charged=False)), NOW
        )
        status = dict(decision.plan.status or {})
        assert (status["training"]["attempt"], status["training"]["failures"]) == (number, 0)


def test_a_spec_change_stops_what_trains() -> None:
    changed = {"regularizers": {"l2": {"strength": 0.5}}}
    first = decide(seen(training(), spec=changed, attempt=RUNNING), NOW)
    assert {ref.name for ref in first.plan.delete} == {"digits-v1-a1"}
    assert status_of(first).versions[0].reason == "SpecChanged"
    assert first.plan.requeue_after == timedelta(0)
    second = decide(seen(dict(first.plan.status or {}), spec=changed, listing=LISTED), NOW)
    assert second.start is not None
    assert second.start.version.version == "v2"


def test_a_stopped_spec_that_comes_back_is_trained() -> None:
    status = trained(state="Failed", reason="SpecChanged", message="stopped")
    assert Question.LISTING in questions(seen(status))
    assert decide(seen(status, listing=LISTED), NOW).start is not None


def test_what_waits_tells_why() -> None:
    attempt = Attempt(AttemptState.WAITING, c.UNSCHEDULABLE, "0/2 nodes: Insufficient nvidia.com/gpu")
    decision = decide(seen(training(), attempt=attempt), NOW)
    assert condition(decision, "Trained") == ("False", "Unschedulable")
    assert "nvidia.com/gpu" in str(decision.plan.status)


def test_strays_are_removed() -> None:
    from espalier_operator.decisions.plan import ObjectRef  # noqa: PLC0415 - used here only

    stray = ObjectRef("batch/v1", "Job", "vision", "digits-v0-a1")
    assert decide(seen(trained(), strays=(stray,)), NOW).plan.delete == (stray,)


# --- rollout and retention ------------------------------------------------------------------------------------------------------
def test_the_champion_is_copied() -> None:
    decision = decide(seen(trained(), rollout=v.Rollout(champion="v1")), NOW)
    status = status_of(decision)
    assert status.champion is not None
    assert (status.champion.version, status.versions[0].state) == ("v1", "Champion")
    assert condition(decision, "Ready") == ("True", "Serving")


def test_a_quarantined_version_is_not_ready() -> None:
    decision = decide(seen(trained(), rollout=v.Rollout(quarantined={"v1": "errors: 11/300"})), NOW)
    assert condition(decision, "Ready") == ("False", "VersionQuarantined")


def test_retention_deletes_artifacts_only_when_told() -> None:
    status = trained()
    old = [{"version": f"v{n}", "state": "Rejected", "specHash": "h"} for n in range(3, 9)]
    status["versions"] = [{**status["versions"][0], "version": "v9"}, *old]
    keep = {"artifacts": {"uri": "s3://models/", "retention": {"keep": 2}}}
    assert decide(seen(status, spec=keep), NOW).plan.purge == ()
    keep["artifacts"]["deletionPolicy"] = "Delete"
    decision = decide(seen(status, spec=keep), NOW)
    assert [each.version for each in status_of(decision).versions] == ["v9", "v8"]
    assert decision.plan.purge == tuple(
        f"s3://models/vision/digits/{place}v{n}/" for n in (7, 6, 5, 4, 3) for place in ("", ".tracking/")
    )


def test_warnings_do_not_stop_anything() -> None:
    verdict = SpecVerdict(warnings=("R35: much",))
    decision = decide(seen(trained(), verdict=verdict), NOW)
    assert condition(decision, "SpecValid") == ("True", "ValidWithWarnings")
