"""Which pod of a training Job speaks for it. A Job with several pods (ranks that train together, or workers of a search) fails once,
and then all its pods end in some way: one of them tells why, the others were merely torn down. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from espalier_api.exit_codes import Blame, blame
from espalier_api.names import LABEL_JOB_INDEX

Object = Mapping[str, Any]

CONTAINER: Final = "trainer"
"""Name of the one container of a training pod."""
_EXIT_IN_MESSAGE: Final = re.compile(r"(?:for pod (?:\S+/)?(?P<pod>\S+) )?failed with exit code (?P<code>\d+)")


@dataclass(frozen=True, slots=True)
class Death:
    """How one pod ended."""

    index: int
    """Of the pod in its Job."""
    pod: Object | None
    """None when it is gone, and only the Job's condition tells of it."""
    exit_code: int | None
    terminated: Object
    """state.terminated of the container; empty when the pod is gone."""
    disruption: str
    """reason of the pod's DisruptionTarget condition."""
    pod_reason: str

    @property
    def blame(self) -> Blame:
        """Of its exit code; a pod that was taken away is a cause of its own, unless the trainer says more."""
        told = blame(self.exit_code)
        taken = bool(self.disruption or self.pod_reason)
        return Blame.OWN if taken and told in {Blame.TORN_DOWN, Blame.UNKNOWN} else told

    @property
    def order(self) -> tuple[Blame, str, int]:
        """Sorts the one that tells why first: by blame, then by time; an end without a time comes from the Job, which saw it first."""
        return self.blame, str(self.terminated.get("finishedAt") or ""), self.index


def ranks(job: Object, pods: Sequence[Object]) -> dict[int, Object]:
    """The newest pod of each index of `job`, by owner: a pod that outlived a deleted Job of the same name does not count."""
    own = [pod for pod in pods if _uid_of_owner(pod) == job["metadata"].get("uid")]
    oldest_first = sorted(own, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
    newest = {index_of(pod): pod for pod in oldest_first}
    return dict(sorted(newest.items()))


def culprit(failed: Object, found: Mapping[int, Object]) -> Death:
    """The end that explains the Job's condition `failed`."""
    return min(_deaths(str(failed.get("message", "")), found), key=lambda death: death.order)


def size(job: Object) -> int:
    """How many pods the Job has."""
    return int((job.get("spec") or {}).get("completions") or 1)


def need_each_other(job: Object) -> bool:
    """True for ranks of one fit, which none of them can do alone; workers of a search go on without the others."""
    template = ((job.get("spec") or {}).get("template") or {}).get("spec") or {}
    return bool(template.get("subdomain"))


def index_of(pod: Object) -> int:
    """Of an Indexed Job's pod; 0 for the only one of another Job."""
    return int((pod["metadata"].get("labels") or {}).get(LABEL_JOB_INDEX) or 0)


def container_of(pod: Object | None) -> Object:
    """containerStatuses of the trainer; empty when there is none."""
    containers: Sequence[Object] = ((pod or {}).get("status") or {}).get("containerStatuses") or []
    return next((container for container in containers if container.get("name") == CONTAINER), {})


def condition(obj: Object, type_: str, status: str = "True") -> Object | None:
    """The condition of that type and status, if it is there."""
    conditions: Sequence[Object] = (obj.get("status") or {}).get("conditions") or []
    return next((entry for entry in conditions if entry.get("type") == type_ and entry.get("status") == status), None)


def _deaths(message: str, found: Mapping[int, Object]) -> Iterator[Death]:
    """Of every pod, and what a PodFailurePolicy says of one: all that is left when the pod itself is gone (node drained and collected)."""
    said = _EXIT_IN_MESSAGE.search(message)
    code, name = (int(said["code"]), said["pod"]) if said else (None, None)
    known = [pod["metadata"]["name"] for pod in found.values()]
    if not found or (said and name not in known):
        yield Death(_index_in(name), None, code, {}, "", "")
    for index, pod in found.items():
        terminated = (container_of(pod).get("state") or {}).get("terminated") or {}
        named = pod["metadata"]["name"] == name
        yield Death(
            index=index,
            pod=pod,
            exit_code=terminated.get("exitCode", code if named else None),
            terminated=terminated,
            disruption=(condition(pod, "DisruptionTarget") or {}).get("reason", ""),
            pod_reason=(pod.get("status") or {}).get("reason", ""),
        )


def _index_in(name: str | None) -> int:
    """`digits-v1-a1-2-x7f3q`, a pod of an Indexed Job -> 2; 0 for others."""
    parts = (name or "").rsplit("-", 2)
    return int(parts[1]) if len(parts) == 3 and parts[1].isdigit() else 0  # noqa: PLR2004 - job, index, suffix


def _uid_of_owner(pod: Object) -> str | None:
    owners: Sequence[Object] = pod["metadata"].get("ownerReferences") or []
    return next((owner.get("uid") for owner in owners if owner.get("controller")), None)
