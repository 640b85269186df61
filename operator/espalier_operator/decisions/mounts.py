"""Pods that cannot start because a volume is not there. The kubelet tells it in Events only, which the operator does not read.

What the pod itself shows is enough: it has a node, and its sandbox is not ready after a while (condition PodReadyToStartContainers,
Kubernetes 1.29). Volumes come before the sandbox, pulling the image after it. Pure.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from espalier_operator.decisions.plan import parse_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

GRACE: Final = timedelta(seconds=20)
"""From node to sandbox; a healthy pod needs two."""


def waits_for_volumes(pod: Mapping[str, Any], now: datetime) -> str:
    """What must exist before the pod can start, with the remedy; empty while nothing is wrong with it."""
    status = pod.get("status") or {}
    found = {each.get("type"): each for each in status.get("conditions") or ()}
    scheduled, sandbox = found.get("PodScheduled") or {}, found.get("PodReadyToStartContainers") or {}
    since = scheduled.get("lastTransitionTime")
    if status.get("phase") != "Pending" or scheduled.get("status") != "True" or sandbox.get("status") != "False":
        return ""
    if not since or now - parse_time(since) < GRACE:
        return ""
    name, needed = pod["metadata"]["name"], ", ".join(_needed(pod)) or "its volumes"
    return (
        f"FailedMount: pod {name} is on a node and not started after {GRACE.seconds} s; these must exist in its namespace: {needed}. "
        f"`kubectl describe pod {name}` has the kubelet's words"
    )


def _needed(pod: Mapping[str, Any]) -> Iterator[str]:
    for volume in (pod.get("spec") or {}).get("volumes") or ():
        for kind, source in (("Secret", volume.get("secret")), ("ConfigMap", volume.get("configMap"))):
            if source:
                keys = " and ".join(str(item.get("key")) for item in source.get("items") or ())
                name = source.get("secretName") or source.get("name")
                yield f"{kind} {name}" + (f" with {keys}" if keys else "")
