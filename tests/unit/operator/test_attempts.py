"""Every way in which an attempt can stand or end, as a table: Job and pod in, reason, finality and charge out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier_api import conditions as c
from espalier_operator.decisions.attempts import LAST_WORDS, LONGEST_RETRY, AttemptState, observe_attempt, retry_delay
from espalier_operator.decisions.diagnosis import diagnose
from tests.unit.operator.samples import finished_job, pod_of, result, terminated

JOB: dict[str, Any] = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "digits-v1-a1", "namespace": "vision", "uid": "j1", "labels": {}},
    "spec": {},
    "status": {"startTime": "2026-11-22T12:00:00Z"},
}
POLICY = "Container trainer for pod vision/digits-v1-a1-x failed with exit code {} matching FailJob rule at index 0"


def failed(reason: str = "PodFailurePolicy", message: str = "") -> dict[str, Any]:
    return finished_job(JOB, "Failed", reason, message)


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"containerStatuses": [{"name": "trainer", "state": {"waiting": {"reason": reason, "message": message}}}]}


def disrupted(reason: str) -> dict[str, Any]:
    return {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason}]}


def limited(code: int, words: str = "", *, deleted: bool = False, reason: str = "Error") -> dict[str, Any]:
    """A pod with a memory limit that ended with this code."""
    pod = pod_of(JOB, "Failed", **terminated(code, words, reason=reason))
    pod["spec"] = {"containers": [{"name": "trainer", "resources": {"limits": {"memory": "48Mi"}}}]}
    if deleted:
        pod["metadata"] = {**pod["metadata"], "deletionTimestamp": "2026-11-22T12:05:00Z"}
    return pod


ENDINGS = {
    "invalid config": (failed(), pod_of(JOB, "Failed", **terminated(42)), c.INVALID_CONFIG, True, True),
    "diverged": (failed(), pod_of(JOB, "Failed", **terminated(43)), c.DIVERGED, True, True),
    "bad data": (failed(), pod_of(JOB, "Failed", **terminated(44)), c.DATA_PROBLEM, True, True),
    "snapshot changed": (
        failed(),
        pod_of(JOB, "Failed", **terminated(44, result("DataProblem", 44, reason="SnapshotChanged"))),
        c.SNAPSHOT_CHANGED,
        True,
        True,
    ),
    "preempted": (failed(), pod_of(JOB, "Failed", **terminated(75)), c.PREEMPTED, False, False),
    "preempted by eviction": (
        failed(),
        pod_of(JOB, "Failed", **terminated(75), **disrupted("EvictionByEvictionAPI")),
        c.PREEMPTED,
        False,
        False,
    ),
    "deadline outranks the checkpoint": (
        failed("DeadlineExceeded"),
        pod_of(JOB, "Failed", **terminated(75)),
        c.DEADLINE_EXCEEDED,
        True,
        True,
    ),
    "out of memory": (
        failed(),
        pod_of(JOB, "Failed", **terminated(137, reason="OOMKilled")),
        c.OOM_KILLED,
        False,
        True,
    ),
    "killed below a memory limit, the runtime's word lost": (failed(), limited(137), c.OOM_KILLED, False, True),
    "the launcher tells of a killed process": (
        failed(),
        limited(137, result("Failed", 137, reason="InfrastructureFailure")),
        c.INFRASTRUCTURE_FAILURE,
        False,
        True,
    ),
    "killed on deletion": (failed(), limited(137, deleted=True), c.INFRASTRUCTURE_FAILURE, False, True),
    "lost by its kubelet": (
        failed(),
        limited(137, reason="ContainerStatusUnknown"),
        c.INFRASTRUCTURE_FAILURE,
        False,
        True,
    ),
    "killed without a limit": (
        failed(),
        pod_of(JOB, "Failed", **terminated(137)),
        c.INFRASTRUCTURE_FAILURE,
        False,
        True,
    ),
    "node lost": (failed(), pod_of(JOB, "Failed", **disrupted("DeletionByTaintManager")), c.NODE_LOST, False, True),
    "evicted by the kubelet": (failed(), pod_of(JOB, "Failed", reason="Evicted"), c.EVICTED, False, True),
    "preempted without a checkpoint": (
        failed(),
        pod_of(JOB, "Failed", **terminated(137), **disrupted("PreemptionByScheduler")),
        c.EVICTED,
        False,
        True,
    ),
    "some other exit": (failed(), pod_of(JOB, "Failed", **terminated(1)), c.INFRASTRUCTURE_FAILURE, False, True),
    "pod gone, exit code in the Job": (failed(message=POLICY.format(43)), None, c.DIVERGED, True, True),
    "pod gone, nothing known": (
        failed(message="Job has reached the specified backoff limit"),
        None,
        c.INFRASTRUCTURE_FAILURE,
        False,
        True,
    ),
}


@pytest.mark.parametrize("case", ENDINGS)
def test_endings(case: str) -> None:
    job, pod, reason, final, charged = ENDINGS[case]
    attempt = observe_attempt(job, [pod] if pod else [])
    assert (attempt.state, attempt.reason, attempt.final, attempt.charged) == (
        AttemptState.FAILED,
        reason,
        final,
        charged,
    )
    assert attempt.message


ENDED_AT = datetime(2026, 11, 22, 12, 5, tzinfo=UTC)


def ended_at(type_: str, reason: str = "") -> dict[str, Any]:
    job = finished_job(JOB, type_, reason, POLICY.format(137))
    job["status"]["conditions"][0]["lastTransitionTime"] = "2026-11-22T12:05:00Z"
    return job


@pytest.mark.parametrize("type_", ["Failed", "FailureTarget", "Complete", "SuccessCriteriaMet"])
def test_a_jobs_end_that_comes_before_its_pods_waits_for_the_last_words(type_: str) -> None:
    """Else the reason (out of memory) and the trainer's result would be lost with them."""
    job, running = ended_at(type_), pod_of(JOB)
    seen = observe_attempt(job, [running], ENDED_AT + LAST_WORDS / 2)
    assert (seen.state, seen.reason) == (AttemptState.WAITING, c.TRAINING)
    assert "waiting for what its pod tells" in seen.message
    done = {AttemptState.FAILED, AttemptState.SUCCEEDED}
    assert observe_attempt(job, [running], ENDED_AT + LAST_WORDS).state in done  # not for ever
    assert observe_attempt(job, [], ENDED_AT).state in done  # the pod is gone
    assert observe_attempt(job, [pod_of(JOB, "Failed", **terminated(137))], ENDED_AT).state in done


def test_what_is_sent_away_or_late_has_no_last_words_to_wait_for() -> None:
    lost = pod_of(JOB, **disrupted("DeletionByTaintManager"))
    assert observe_attempt(ended_at("Failed"), [lost], ENDED_AT).reason == c.NODE_LOST
    late = observe_attempt(ended_at("Failed", "DeadlineExceeded"), [pod_of(JOB)], ENDED_AT)
    assert late.reason == c.DEADLINE_EXCEEDED


ALIVE = {
    "no pod yet": (JOB, None, AttemptState.WAITING, c.TRAINING),
    "image": (
        JOB,
        pod_of(JOB, "Pending", **waiting("ImagePullBackOff", "no such tag")),
        AttemptState.WAITING,
        c.IMAGE_PULL_BACK_OFF,
    ),
    "secret missing": (
        JOB,
        pod_of(JOB, "Pending", **waiting("CreateContainerConfigError", 'secret "s3" not found')),
        AttemptState.WAITING,
        c.CREATE_CONTAINER_ERROR,
    ),
    "no node fits": (
        JOB,
        pod_of(
            JOB,
            "Pending",
            conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"}],
        ),
        AttemptState.WAITING,
        c.UNSCHEDULABLE,
    ),
    "queued": ({**JOB, "spec": {"suspend": True}}, None, AttemptState.WAITING, c.QUEUED),
    "running": (JOB, pod_of(JOB, "Running", podIP="10.0.0.7"), AttemptState.RUNNING, c.TRAINING),
    "succeeded": (finished_job(JOB, "Complete"), None, AttemptState.SUCCEEDED, c.TRAINING_SUCCEEDED),
    "missing": (None, None, AttemptState.MISSING, c.TRAINING),
    "leaving": (
        {**JOB, "metadata": {**JOB["metadata"], "deletionTimestamp": "2026-11-22T12:00:00Z"}},
        None,
        AttemptState.LEAVING,
        c.TRAINING,
    ),
}


@pytest.mark.parametrize("case", ALIVE)
def test_alive(case: str) -> None:
    job, pod, state, reason = ALIVE[case]
    attempt = observe_attempt(job, [pod] if pod else [])
    assert (attempt.state, attempt.reason) == (state, reason)


def test_pods_of_another_job_of_the_same_name_do_not_count() -> None:
    """A pod that outlived its deleted Job must not speak for the new one."""
    stale = pod_of({**JOB, "metadata": {**JOB["metadata"], "uid": "older"}}, "Failed", **terminated(42))
    assert observe_attempt(JOB, [stale]).state is AttemptState.WAITING


@pytest.mark.parametrize("message", ["", "{", "not json", '{"outcome": "Nonsense", "exitCode": 0}', "x" * 4096])
def test_unreadable_results_are_absent(message: str) -> None:
    attempt = observe_attempt(finished_job(JOB, "Complete"), [pod_of(JOB, "Succeeded", **terminated(0, message))])
    assert attempt.result is None


def test_divergence_is_diagnosed_even_without_the_trainers_word() -> None:
    attempt = observe_attempt(failed(), [pod_of(JOB, "Failed", **terminated(43))])
    assert [finding.mode for finding in diagnose(attempt)] == ["F7"]


def test_the_trainers_words_are_passed_on() -> None:
    message = result("InvalidConfig", 42, message="params: no_such_parameter is unknown")
    attempt = observe_attempt(failed(), [pod_of(JOB, "Failed", **terminated(42, message))])
    assert attempt.message == "params: no_such_parameter is unknown"


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.booleans())
def test_delays_are_bounded(failures: int, preemptions: int, charged: bool) -> None:
    assert timedelta(0) < retry_delay(failures, preemptions, charged=charged) <= LONGEST_RETRY


def test_delays_double() -> None:
    assert [retry_delay(n, 0, charged=True).total_seconds() for n in (1, 2, 3)] == [10, 20, 40]
    assert [retry_delay(0, n, charged=False).total_seconds() for n in (1, 2, 3)] == [1, 2, 4]
