"""What became of a training attempt: from its Job and pods (as the API server stores them) to one word, one sentence
and a charge.

Order matters and is the table `_ENDINGS`: what the Job says outranks the exit code (a Job past its deadline also lets
the trainer checkpoint and exit 75, and that must not count as a preemption), the exit code outranks what happened to
the pod around it. Of several pods one speaks: `ranks` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from espalier_api import conditions as c
from espalier_api.exit_codes import ExitCode, counts_as_attempt, is_final
from espalier_api.training import TrainingResult
from espalier_operator.decisions.mounts import waits_for_volumes
from espalier_operator.decisions.plan import parse_time, shorten
from espalier_operator.decisions.ranks import (
    CONTAINER,
    Death,
    condition,
    container_of,
    culprit,
    need_each_other,
    ranks,
    size,
)

Object = Mapping[str, Any]

__all__ = ["CONTAINER", "Attempt", "AttemptState", "observe_attempt", "retry_delay"]

LEADER: Final = 0
"""Index of the pod that reports, publishes and leaves the result."""
LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)
FIRST_RETRY: Final = timedelta(seconds=10)
LONGEST_RETRY: Final = timedelta(minutes=10)
FIRST_RESUME: Final = timedelta(seconds=1)
"""A preempted attempt goes on at once, the next preemptions wait longer: a node that evicts in a loop must not be
hammered."""
LAST_WORDS: Final = timedelta(seconds=10)
"""Jobs and pods come by two watches, and a Job's end may come first. So long its pod's last words are waited for."""
SIGKILLED: Final = 128 + 9


class AttemptState(StrEnum):
    """Where an attempt is."""

    MISSING = "Missing"
    """No Job: not created yet, or somebody deleted it."""
    WAITING = "Waiting"
    """The Job exists and does not train: not yet (`reason` tells why), or not any more and how it ended is not yet seen."""
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    LEAVING = "Leaving"
    """The Job is being deleted; its name is free when it is gone."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt as observed."""

    state: AttemptState
    reason: str = c.TRAINING
    """A reason of espalier_api.conditions."""
    message: str = ""
    final: bool = False
    """Failed for good: another attempt with the same inputs would end the same way."""
    charged: bool = True
    """Failed at the cost of one of `training.retries`."""
    result: TrainingResult | None = None
    """What the trainer left, when it is readable."""
    pod_ip: str = ""
    """Of the running leader, for /progress."""
    started_at: str | None = None
    """RFC 3339; when the Job started, absent while suspended."""


def observe_attempt(job: Object | None, pods: Sequence[Object], now: datetime = LONG_AGO) -> Attempt:
    """Judge a Job and those of `pods` that are its own (label `batch.kubernetes.io/job-name`); `now` tells a slow start."""
    if job is None:
        return Attempt(AttemptState.MISSING)
    if job["metadata"].get("deletionTimestamp"):
        return Attempt(AttemptState.LEAVING)
    found = ranks(job, pods)
    started = (job.get("status") or {}).get("startTime")
    if (verdict := _verdict(job)) is not None:
        return replace(_over(job, verdict, found, now), started_at=started)
    if (job.get("spec") or {}).get("suspend"):
        return Attempt(AttemptState.WAITING, c.QUEUED, "the Job is suspended until its queue admits it")
    return replace(_alive(job, found, now), started_at=started)


def retry_delay(failures: int, preemptions: int, *, charged: bool) -> timedelta:
    """Time before the next attempt, doubling with each failure of the same sort (counts include the one that just
    happened).
    """
    first, count = (FIRST_RETRY, failures) if charged else (FIRST_RESUME, preemptions)
    return min(LONGEST_RETRY, first * (1 << min(max(count - 1, 0), 16)))


# --- alive -----------------------------------------------------------------------------------------------------------
_WAITING_REASONS: Final[Mapping[str, str]] = {
    "ErrImagePull": c.IMAGE_PULL_BACK_OFF,
    "ImagePullBackOff": c.IMAGE_PULL_BACK_OFF,
    "InvalidImageName": c.IMAGE_PULL_BACK_OFF,
    "ErrImageNeverPull": c.IMAGE_PULL_BACK_OFF,
    "CreateContainerConfigError": c.CREATE_CONTAINER_ERROR,
    "CreateContainerError": c.CREATE_CONTAINER_ERROR,
    "RunContainerError": c.CREATE_CONTAINER_ERROR,
}


def _alive(job: Object, found: Mapping[int, Object], now: datetime) -> Attempt:
    """The leader's state, unless another pod waits for something that somebody may have to provide."""
    leader = _standing(found.get(LEADER), now)
    troubled = {index: each for index, pod in found.items() if (each := _standing(pod, now)).reason != c.TRAINING}
    if size(job) == 1 or not troubled:
        return leader
    index, trouble = next(iter(troubled.items()))
    told = shorten(f"{_which(index, size(job))}: {trouble.message}", 1024)
    if leader.state is AttemptState.RUNNING and not need_each_other(job):
        return replace(leader, message=told)
    return replace(trouble, message=told)


def _which(index: int, count: int) -> str:
    return f"pod {index} (of 0-{count - 1})"


def _standing(pod: Object | None, now: datetime) -> Attempt:
    """Of one pod that has not ended."""
    if pod is None:
        return Attempt(AttemptState.WAITING, c.TRAINING, "the pod is being created")
    status = pod.get("status") or {}
    waiting = (container_of(pod).get("state") or {}).get("waiting") or {}
    if (reason := _WAITING_REASONS.get(waiting.get("reason", ""))) is not None:
        message = shorten(f"{waiting['reason']}: {waiting.get('message', '')}", 1024)
        return Attempt(AttemptState.WAITING, reason, message)
    scheduled = condition(pod, "PodScheduled", "False")
    if scheduled is not None and scheduled.get("reason") == "Unschedulable":
        return Attempt(AttemptState.WAITING, c.UNSCHEDULABLE, shorten(scheduled.get("message", ""), 1024))
    if message := waits_for_volumes(pod, now):
        return Attempt(AttemptState.WAITING, c.CREATE_CONTAINER_ERROR, shorten(message, 1024))
    if status.get("phase") == "Running":
        return Attempt(AttemptState.RUNNING, c.TRAINING, pod_ip=status.get("podIP", ""))
    return Attempt(AttemptState.WAITING, c.TRAINING, "the pod is starting")


# --- ended -----------------------------------------------------------------------------------------------------------
_SUCCESS: Final = ("Complete", "SuccessCriteriaMet")
_FAILURE: Final = ("Failed", "FailureTarget")


def _verdict(job: Object) -> Object | None:
    """The condition by which the Job says how it ended."""
    return next((found for type_ in (*_SUCCESS, *_FAILURE) if (found := condition(job, type_)) is not None), None)


def _over(job: Object, verdict: Object, found: Mapping[int, Object], now: datetime) -> Attempt:
    """Of a Job that has ended, once its pod has been seen to end, too."""
    death = culprit(verdict, found) if verdict["type"] in _FAILURE else None
    pod = death.pod if death is not None else found.get(LEADER)
    if _not_yet_told(verdict, pod, now):
        return Attempt(AttemptState.WAITING, message="the Job has ended; waiting for what its pod tells")
    if death is not None:
        return _ended(verdict, death, size(job))
    return Attempt(AttemptState.SUCCEEDED, c.TRAINING_SUCCEEDED, result=_result(container_of(pod)))


def _not_yet_told(verdict: Object, pod: Object | None, now: datetime) -> bool:
    """True while `verdict` is young and its pod is still seen as alive, without anything that sends it away."""
    if pod is None or verdict.get("reason") == "DeadlineExceeded" or condition(pod, "DisruptionTarget"):
        return False
    phase = (pod.get("status") or {}).get("phase")
    since = verdict.get("lastTransitionTime")
    return phase in {"Pending", "Running"} and bool(since) and now - parse_time(str(since)) < LAST_WORDS


@dataclass(frozen=True, slots=True)
class _Evidence:
    """Everything that may tell why an attempt failed."""

    job: Object
    """The Job's Failed condition."""
    death: Death
    """Of the pod that tells why."""
    result: TrainingResult | None

    @property
    def exit_code(self) -> int | None:
        """Of its container."""
        return self.death.exit_code

    def said(self, otherwise: str) -> str:
        """The trainer's own words, else `otherwise`."""
        return shorten((self.result.message if self.result else "") or otherwise, 1024)


_Ending = Callable[[_Evidence], Attempt | None]


def _past_its_deadline(seen: _Evidence) -> Attempt | None:
    if seen.job.get("reason") != "DeadlineExceeded":
        return None
    return _failed(
        c.DEADLINE_EXCEEDED,
        "the attempt ran longer than training.deadline; raise it or make the fit shorter",
        final=True,
    )


def _by_exit_code(seen: _Evidence) -> Attempt | None:
    if seen.exit_code is None or not (is_final(seen.exit_code) or seen.exit_code == ExitCode.PREEMPTED):
        return None
    reason, fallback = {
        ExitCode.INVALID_CONFIG: (c.INVALID_CONFIG, "the trainer refused the configuration (exit 42)"),
        ExitCode.DIVERGED: (c.DIVERGED, "the objective became NaN or infinite (exit 43)"),
        ExitCode.DATA_PROBLEM: (c.DATA_PROBLEM, "the data does not fit (exit 44)"),
        ExitCode.PREEMPTED: (c.PREEMPTED, "stopped with a checkpoint (exit 75)"),
    }[ExitCode(seen.exit_code)]
    return _failed(
        _specific(reason, seen.result),
        seen.said(fallback),
        final=is_final(seen.exit_code),
        charged=counts_as_attempt(seen.exit_code),
        result=seen.result,
    )


def _specific(reason: str, result: TrainingResult | None) -> str:
    """A changed snapshot is told apart from other data problems."""
    return c.SNAPSHOT_CHANGED if reason == c.DATA_PROBLEM and result and result.reason == c.SNAPSHOT_CHANGED else reason


def _out_of_memory(seen: _Evidence) -> Attempt | None:
    if seen.death.terminated.get("reason") != "OOMKilled":
        return None
    return _failed(
        c.OOM_KILLED,
        "the trainer needed more memory than its limit; raise training.resources.limits.memory or lower batchSize",
    )


def _killed_without_a_word(seen: _Evidence) -> Attempt | None:
    """SIGKILL under a memory limit, and nobody who tells asked for it: the runtime's word for it is sometimes lost, since
    the kernel's news of an OOM may come after that of the exit (containerd's issues 8180 and 12260). The kubelet also
    says 137 of a container that it lost (ContainerStatusUnknown); that tells nothing about memory.
    """
    limits = (_trainer_of(seen.death.pod).get("resources") or {}).get("limits") or {}
    leaving = ((seen.death.pod or {}).get("metadata") or {}).get("deletionTimestamp")
    killed = (seen.death.terminated.get("exitCode"), seen.death.terminated.get("reason")) == (SIGKILLED, "Error")
    if not killed or leaving or seen.result is not None or "memory" not in limits:
        return None
    return _failed(
        c.OOM_KILLED,
        f"killed (exit {SIGKILLED}) and nothing tells by whom; most likely the trainer needed more memory than its limit "
        f"of {limits['memory']}: raise training.resources.limits.memory or lower batchSize",
    )


def _trainer_of(pod: Object | None) -> Object:
    """The trainer's container as specified; empty when there is none."""
    containers: Sequence[Object] = ((pod or {}).get("spec") or {}).get("containers") or []
    return next((container for container in containers if container.get("name") == CONTAINER), {})


def _node_lost(seen: _Evidence) -> Attempt | None:
    if (
        seen.death.disruption not in {"DeletionByTaintManager", "DeletionByPodGC"}
        and seen.death.pod_reason != "NodeLost"
    ):
        return None
    return _failed(c.NODE_LOST, f"the pod's node vanished ({seen.death.disruption or seen.death.pod_reason})")


def _evicted(seen: _Evidence) -> Attempt | None:
    if not seen.death.disruption and seen.death.pod_reason != "Evicted":
        return None
    return _failed(
        c.EVICTED, f"the pod was evicted ({seen.death.disruption or seen.death.pod_reason}) before it could checkpoint"
    )


def _anything_else(seen: _Evidence) -> Attempt:
    code = "unknown" if seen.exit_code is None else str(seen.exit_code)
    words = seen.job.get("message", "")
    return _failed(c.INFRASTRUCTURE_FAILURE, seen.said(f"exit code {code}: {words}"), result=seen.result)


_ENDINGS: Final[tuple[_Ending, ...]] = (
    _past_its_deadline,  # the Job's own verdict: its SIGTERM makes the trainer exit 75
    _by_exit_code,  # the contract between trainer and operator
    _out_of_memory,  # the kernel killed it
    _node_lost,  # the node went away
    _evicted,  # the pod was sent away and could not checkpoint in time
    _killed_without_a_word,  # memory, most likely
    _anything_else,  # infrastructure, until proven otherwise
)


def _ended(failed: Object, death: Death, count: int) -> Attempt:
    evidence = _Evidence(failed, death, _result(container_of(death.pod)))
    ending = next(found for rule in _ENDINGS if (found := rule(evidence)) is not None)
    if count == 1 or ending.reason == c.DEADLINE_EXCEEDED:
        return ending
    return replace(ending, message=shorten(f"{_which(death.index, count)}: {ending.message}", 1024))


def _failed(
    reason: str, message: str, *, final: bool = False, charged: bool = True, result: TrainingResult | None = None
) -> Attempt:
    return Attempt(AttemptState.FAILED, reason, message, final, charged, result)


def _result(container: Object) -> TrainingResult | None:
    """The termination message of the trainer; None when it is cut, empty or not ours."""
    message = ((container.get("state") or {}).get("terminated") or {}).get("message", "")
    try:
        return TrainingResult.from_termination_message(message)
    except ValueError:
        return None
