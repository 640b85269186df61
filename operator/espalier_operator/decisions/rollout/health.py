"""What pods alone say about a canary. Needs no metric and no Prometheus: a crash is a breach by itself.

Two kinds: the version is to blame (crash, OOM, unready, wrong digest: rolled back and quarantined), or the cluster is (no node, no
image, no time: aborted, and a person may retry).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from espalier_operator.decisions.rollout.pods import pods_for
from espalier_operator.decisions.rollout.progress import Outcome, State
from espalier_operator.decisions.rollout.world import FULL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from espalier_operator.decisions.rollout.view import View
    from espalier_operator.decisions.rollout.world import Pod

IMAGE_TROUBLE = frozenset({"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"})
OOM = "OOMKilled"
UNSIGNED = "SignatureError"
"""How the server's last words begin when model.sig is missing, wrong or of another key."""
WAITING = frozenset({State.DEPLOYING, State.INITIAL})
"""Nobody sends it traffic yet."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A breach by pods: who is to blame, one word for machines, one sentence for people."""

    outcome: Outcome
    reason: str
    message: str


def trouble(view: View) -> Trouble | None:
    """The first breach found; the version's own faults are looked for before the cluster's."""
    pods = view.seen.of(view.progress.canary)
    for symptom in SYMPTOMS:
        for pod in pods:
            if (found := symptom(view, pod)) is not None:
                return found
    return too_late(view)


def wrong_digest(view: View, pod: Pod) -> Trouble | None:
    """It serves something else than the version that passed the gates."""
    intended = view.progress.canary.digest if view.progress.canary else ""
    if not intended or pod.digest in {None, intended}:
        return None
    said = f"pod {pod.name} serves {pod.digest}, intended is {intended}"
    return Trouble(Outcome.ROLLED_BACK, "DigestMismatch", said)


def crashed(view: View, pod: Pod) -> Trouble | None:
    """OOM at once; a crash after it was ready at once; otherwise a few restarts are forgiven while others serve or nobody does yet."""
    started = view.progress.started
    if pod.crash is None or (started is not None and pod.crash.at < started):
        return None
    how = f"{pod.crash.reason}, exit code {pod.crash.exit_code}" + (f": {pod.crash.detail}" if pod.crash.detail else "")
    if pod.crash.reason == OOM:
        return Trouble(Outcome.ROLLED_BACK, OOM, f"pod {pod.name} ran out of memory ({how})")
    if pod.crash.detail.startswith(UNSIGNED):  # the store will not heal, and somebody may have changed it
        return Trouble(Outcome.ROLLED_BACK, "SignatureInvalid", f"pod {pod.name} refuses the version ({how})")
    if pod.was_ready:
        return Trouble(Outcome.ROLLED_BACK, "Crashed", f"pod {pod.name} crashed after it was ready ({how})")
    alone = view.state not in WAITING and view.seen.ready(view.progress.canary) == 0
    if alone or pod.restarts >= view.spec.patience.restarts:
        return Trouble(Outcome.ROLLED_BACK, "CrashLoop", f"pod {pod.name} crashed {pod.restarts} times ({how})")
    return None


def unready(view: View, pod: Pod) -> Trouble | None:
    """It was ready and has not been for longer than the grace; or it replaces the last ready one and does not get there."""
    away = view.now - pod.changed
    last = view.state not in WAITING and view.seen.ready(view.progress.canary) == 0
    if pod.ready or not (pod.was_ready or last) or away <= view.spec.patience.unready:
        return None
    return Trouble(Outcome.ROLLED_BACK, "Unready", f"pod {pod.name} has been unready for {away.total_seconds():.0f} s")


def unschedulable(view: View, pod: Pod) -> Trouble | None:
    """No node takes it: the capacity for a canary is not there."""
    waited = view.now - max(pod.created, view.progress.started or pod.created)
    if not pod.unschedulable or pod.ready or waited <= view.spec.patience.unschedulable:
        return None
    said = f"pod {pod.name} found no node in {waited.total_seconds():.0f} s: {pod.unschedulable}"
    return Trouble(Outcome.ABORTED, "Unschedulable", said)


SYMPTOMS: tuple[Callable[[View, Pod], Trouble | None], ...] = (
    wrong_digest,  # traffic must never judge, or trust, another model than the one that passed
    crashed,  # the container's own failure
    unready,  # alive but refusing traffic
    unschedulable,  # the cluster's failure
)


def verified(view: View) -> bool:
    """As many ready pods as the first stage needs, and every ready one has told the intended digest."""
    canary = view.progress.canary
    ready = [pod for pod in view.seen.of(canary) if pod.ready]
    weight = FULL if view.state is State.INITIAL or not view.spec.steps else view.spec.steps[0].weight
    needed = pods_for(view.spec, weight)
    return (
        canary is not None
        and len(ready) >= needed
        and all(pod.digest == (canary.digest or pod.digest) for pod in ready)
    )


def too_late(view: View) -> Trouble | None:
    """Deploying takes too long; the reason is the best that the pods offer."""
    if view.state not in WAITING or verified(view):
        return None
    waited = view.now - view.progress.since
    if waited <= view.spec.patience.deploy:
        return None
    reason, why = _why_not_ready(view)
    return Trouble(Outcome.ABORTED, reason, f"not ready and verified after {waited.total_seconds():.0f} s: {why}")


def _why_not_ready(view: View) -> tuple[str, str]:
    pods = view.seen.of(view.progress.canary)
    for pod in pods:
        if pod.unschedulable:
            return "Unschedulable", f"pod {pod.name}: {pod.unschedulable}"
        if pod.mounting:
            return "FailedMount", pod.mounting.removeprefix("FailedMount: ")
        if pod.waiting in IMAGE_TROUBLE:
            return "ImagePull", f"pod {pod.name}: {pod.waiting}"
        if not pod.ready:
            return "NeverReady", f"pod {pod.name} is not ready" + (f" ({pod.waiting})" if pod.waiting else "")
        if pod.digest is None:
            return "Unverified", f"pod {pod.name} is ready but does not say which digest it serves"
    return (
        "NoPods",
        f"{len(pods)} of {view.spec.replicas} pods exist; look at the Deployment's events and the namespace's quota",
    )


def deadlines(view: View) -> Iterator[datetime]:
    """When a pod that troubles us now becomes a breach: the pass must run again then."""
    patience, progress = view.spec.patience, view.progress
    for pod in view.seen.of(progress.canary):
        if not pod.ready:
            yield pod.changed + patience.unready
        if pod.unschedulable and not pod.ready:
            yield max(pod.created, progress.started or pod.created) + patience.unschedulable
    if view.state in WAITING:
        yield progress.since + patience.deploy
