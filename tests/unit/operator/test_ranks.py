"""Jobs of several pods: who leads, who waits, and which of many ends tells why."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier_api import conditions as c
from espalier_operator.decisions.attempts import AttemptState, observe_attempt
from espalier_operator.decisions.ranks import culprit
from tests.unit.operator.samples import finished_job, pod_of, result, terminated

NEWER = itertools.count(1)


def job(count: int = 3, *, ranks: bool = True) -> dict[str, Any]:
    """An Indexed Job; without `ranks` its pods are workers of a search."""
    pod = {"subdomain": "digits-v1-a1"} if ranks else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "digits-v1-a1", "namespace": "vision", "uid": "j1", "labels": {}},
        "spec": {"completions": count, "parallelism": count, "template": {"spec": pod}},
        "status": {"startTime": "2026-11-22T12:00:00Z"},
    }


def rank(index: int, phase: str = "Failed", **status: Any) -> dict[str, Any]:
    """One pod of it; later ones are newer."""
    pod = pod_of(job(), phase, **status)
    pod["metadata"] |= {
        "name": f"digits-v1-a1-{index}-x{next(NEWER)}",
        "labels": {"batch.kubernetes.io/job-completion-index": str(index)},
        "creationTimestamp": f"2026-11-22T12:{next(NEWER) % 60:02}:00Z",
    }
    return pod


def ended(index: int, code: int, second: int = 0, message: str = "", **more: Any) -> dict[str, Any]:
    return rank(index, **terminated(code, message, at=f"2026-11-22T12:30:{second:02}Z", **more))


def gone(index: int, reason: str) -> dict[str, Any]:
    """A pod whose node vanished: no container status will ever come."""
    return rank(index, conditions=[{"type": "DisruptionTarget", "status": "True", "reason": reason}])


def waiting(reason: str) -> dict[str, Any]:
    return {
        "containerStatuses": [{"name": "trainer", "state": {"waiting": {"reason": reason, "message": "no such tag"}}}]
    }


FAILED = finished_job(job(), "Failed", "PodFailurePolicy", "a pod failed")
SAID = result("Diverged", 43, message="l2 is NaN at step 7")

ENDINGS = {
    "a final code outranks whoever ended first": ([ended(0, 76, 1), ended(1, 43, 5), ended(2, 1, 0)], c.DIVERGED, 1),
    "also a preemption that came first": ([ended(0, 75, 1), ended(1, 42, 9)], c.INVALID_CONFIG, 1),
    "the first of its own outranks the echoes": ([ended(0, 76, 1), ended(1, 75, 1), ended(2, 137, 4)], c.INFRASTRUCTURE_FAILURE, 2),
    "of two own the earlier": ([ended(0, 1, 8), ended(1, 137, 3, reason="OOMKilled"), ended(2, 76, 9)], c.OOM_KILLED, 1),
    "a lost node outranks the echoes": ([ended(0, 76, 1), gone(1, "DeletionByTaintManager")], c.NODE_LOST, 1),
    "torn down by SIGTERM": ([ended(0, 143, 1), ended(1, 1, 7)], c.INFRASTRUCTURE_FAILURE, 1),
    "all preempted": ([ended(0, 75, 4), ended(1, 75, 3), ended(2, 75, 5)], c.PREEMPTED, 1),
    "preempted, and an echo of it": ([ended(0, 75, 4), ended(1, 76, 3)], c.PREEMPTED, 0),
    "nothing but echoes": ([ended(0, 76, 4), ended(1, 76, 3)], c.INFRASTRUCTURE_FAILURE, 1),
    "one still runs": ([rank(0, "Running"), ended(1, 44, 2)], c.DATA_PROBLEM, 1),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDINGS)
def test_the_root_cause_is_told_with_its_pod(case: str) -> None:
    pods, reason, index = ENDINGS[case]
    attempt = observe_attempt(FAILED, pods)
    assert (attempt.state, attempt.reason) == (AttemptState.FAILED, reason)
    assert attempt.message.startswith(f"pod {index} (of 0-2): ")
    assert attempt.charged == (reason != c.PREEMPTED)
    assert attempt.started_at == "2026-11-22T12:00:00Z"


def test_its_words_and_diagnosis_are_its_own() -> None:
    attempt = observe_attempt(
        FAILED, [ended(0, 76, message=result("Failed", 76, message="rank 1 is gone")), ended(1, 43, 1, SAID)]
    )
    assert attempt.message == "pod 1 (of 0-2): l2 is NaN at step 7"
    assert attempt.result is not None
    assert attempt.result.outcome == "Diverged"


def test_a_pod_that_is_gone_speaks_through_the_job() -> None:
    words = "Container trainer for pod vision/digits-v1-a1-2-abcde failed with exit code 42 matching FailJob rule at index 0"
    failed = finished_job(job(), "Failed", "PodFailurePolicy", words)
    attempt = observe_attempt(failed, [ended(0, 75), ended(1, 1)])
    assert (attempt.reason, attempt.final) == (c.INVALID_CONFIG, True)
    assert attempt.message.startswith("pod 2 (of 0-2)")


def test_the_jobs_own_deadline_is_nobodys_fault() -> None:
    failed = finished_job(job(), "Failed", "DeadlineExceeded", "")
    attempt = observe_attempt(failed, [ended(0, 75), ended(1, 42)])
    assert attempt.reason == c.DEADLINE_EXCEEDED
    assert "pod" not in attempt.message


CODES = st.sampled_from([0, 1, 42, 43, 44, 75, 76, 137, 143])


@given(st.lists(st.tuples(CODES, st.integers(0, 59)), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_echoes_never_hide_a_cause(ends: list[tuple[int, int]], random: Any) -> None:
    """Whatever the order in which pods are seen: a final code wins, then the earliest with an own end, and only then 75 and 76."""
    pods = [ended(index, code, second) for index, (code, second) in enumerate(ends)]
    random.shuffle(pods)
    found = culprit(
        {}, {int(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]): pod for pod in pods}
    )
    final = [end for end in ends if end[0] in {42, 43, 44}]
    own = [end for end in ends if end[0] in {1, 137}]
    preempted = [end for end in ends if end[0] == 75]
    candidates = final or own or preempted or [end for end in ends if end[0] in {76, 143}] or ends
    assert (found.exit_code, found.terminated["finishedAt"][-3:-1]) in {
        (code, f"{second:02}") for code, second in candidates
    }
    assert found.terminated["finishedAt"][-3:-1] == f"{min(second for _, second in candidates):02}"


# --- alive -----------------------------------------------------------------------------------------------------------
def test_the_leader_is_asked_and_its_result_counts() -> None:
    pods = [
        rank(1, "Running", podIP="10.0.0.2"),
        rank(0, "Running", podIP="10.0.0.1"),
        rank(2, "Running", podIP="10.0.0.3"),
    ]
    attempt = observe_attempt(job(), pods)
    assert (attempt.state, attempt.pod_ip) == (AttemptState.RUNNING, "10.0.0.1")
    ends = [ended(1, 0, 9, result(message="another")), ended(0, 0, 1, result(message="the leader"))]
    finished = observe_attempt(finished_job(job(2), "Complete"), ends)
    assert finished.result is not None
    assert finished.result.message == "the leader"


def test_any_pod_that_waits_is_told_with_its_index() -> None:
    unschedulable = {
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"}]
    }
    attempt = observe_attempt(job(), [rank(0, "Running", podIP="10.0.0.1"), rank(1, "Pending", **unschedulable)])
    assert (attempt.state, attempt.reason) == (AttemptState.WAITING, c.UNSCHEDULABLE)
    assert attempt.message == "pod 1 (of 0-2): 0/2 nodes"


def test_workers_of_a_search_go_on_while_one_waits() -> None:
    pods = [rank(0, "Running", podIP="10.0.0.1"), rank(2, "Pending", **waiting("ImagePullBackOff"))]
    attempt = observe_attempt(job(ranks=False), pods)
    assert (attempt.state, attempt.reason, attempt.pod_ip) == (AttemptState.RUNNING, c.TRAINING, "10.0.0.1")
    assert attempt.message == "pod 2 (of 0-2): ImagePullBackOff: no such tag"


def test_a_worker_that_came_back_speaks_for_its_index() -> None:
    former, present = ended(0, 75), rank(0, "Running", podIP="10.0.0.9")
    former["metadata"]["creationTimestamp"] = "2026-11-22T11:00:00Z"
    assert observe_attempt(job(ranks=False), [present, former]).pod_ip == "10.0.0.9"
