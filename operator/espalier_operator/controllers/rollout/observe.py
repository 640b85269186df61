"""What the watch caches know about one rollout, in the words of its decision. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from espalier_api import names
from espalier_api.kubernetes import ObjectMeta
from espalier_api.model import RegularizedModelSpec, RegularizedModelStatus
from espalier_operator.adapters.resources import DEPLOYMENTS, MODELS, PODS, ROLLOUTS, SERVICES
from espalier_operator.decisions.mounts import waits_for_volumes
from espalier_operator.decisions.plan import parse_time
from espalier_operator.decisions.rollout.world import Crash, Pod, Request, Traffic, VersionRef, Workload

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from espalier_operator.adapters.kube import Object
    from espalier_operator.adapters.watches import Caches

CONTAINER_TROUBLE = frozenset({"Lost", "NodeLost", "Evicted", "Shutdown", "Terminated", "NodeShutdown"})


@dataclass(frozen=True, slots=True)
class ModelSeen:
    """The model that a rollout serves, as far as it could be read."""

    meta: ObjectMeta
    spec: RegularizedModelSpec | None
    """None when the spec cannot be read by this operator: what serves goes on serving."""
    status: RegularizedModelStatus

    @property
    def candidates(self) -> tuple[VersionRef, ...]:
        """Versions that passed their gates and wait for a rollout."""
        return tuple(
            VersionRef(v.version, v.digest or "") for v in self.status.versions if v.state == "Candidate" and v.digest
        )

    def ref(self, version: str | None) -> VersionRef | None:
        """A version with its digest, if the model knows both."""
        found = next((v for v in self.status.versions if v.version == version and v.digest), None)
        return VersionRef(found.version, found.digest or "") if found else None


def observe_model(caches: Caches, namespace: str, name: str) -> ModelSeen | None:
    """The model, or None when there is none."""
    obj = caches.of(MODELS).get(namespace, name)
    if obj is None:
        return None
    try:
        spec = RegularizedModelSpec.model_validate(obj.get("spec") or {})
    except ValidationError:
        spec = None  # the model's own controller tells what is wrong with it
    return ModelSeen(
        ObjectMeta.model_validate(obj["metadata"]), spec, RegularizedModelStatus.model_validate(obj.get("status") or {})
    )


def serving_pods(caches: Caches, namespace: str, model: str) -> list[Object]:
    """Pods that serve the model, of whatever version."""
    return [
        pod
        for pod in caches.of(PODS).by_model(namespace, model)
        if _label(pod, names.LABEL_COMPONENT) == names.COMPONENT_SERVER
    ]


def observe_pods(pods: Iterable[Object], digests: Mapping[str, str | None], now: datetime) -> tuple[Pod, ...]:
    """Pods as the decision sees them; `digests` are what they said they serve, by uid."""
    return tuple(_pod(pod, digests.get(pod["metadata"]["uid"]), now) for pod in pods)


def _pod(pod: Object, digest: str | None, now: datetime) -> Pod:
    metadata, status = pod["metadata"], pod.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    ready = conditions.get("Ready") or {}
    created = parse_time(metadata["creationTimestamp"])
    changed = parse_time(ready["lastTransitionTime"]) if ready.get("lastTransitionTime") else created
    began = parse_time(status["startTime"]) if status.get("startTime") else created
    container: Mapping[str, Any] = next(iter(status.get("containerStatuses") or ()), {})
    is_ready = ready.get("status") == "True"
    scheduled = conditions.get("PodScheduled") or {}
    full = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    return Pod(
        name=metadata["name"],
        version=_label(pod, names.LABEL_VERSION),
        ready=is_ready,
        created=created,
        changed=changed,
        was_ready=is_ready or (changed - began).total_seconds() > 1,
        leaving=_leaving(metadata, status, conditions),
        restarts=int(container.get("restartCount") or 0),
        crash=_crash(container),
        waiting=str(((container.get("state") or {}).get("waiting") or {}).get("reason", "")),
        unschedulable=str(scheduled.get("message") or "no node fits") if full else "",
        mounting=waits_for_volumes(pod, now),
        digest=digest,
    )


def _leaving(metadata: Mapping[str, Any], status: Mapping[str, Any], conditions: Mapping[str, Any]) -> bool:
    """Deleted, evicted, or its node is gone: the cluster's doing, and its replacement is on the way."""
    disrupted = (conditions.get("DisruptionTarget") or {}).get("status") == "True"
    return bool(metadata.get("deletionTimestamp")) or disrupted or status.get("reason") in CONTAINER_TROUBLE


def _crash(container: Mapping[str, Any]) -> Crash | None:
    """The latest end of the container, if it ever ended."""
    ends = [(container.get(state) or {}).get("terminated") for state in ("state", "lastState")]
    end = next((end for end in ends if end), None)
    if end is None or not end.get("finishedAt"):
        return None
    detail = " ".join(str(end.get("message") or "").split())[:512]
    return Crash(str(end.get("reason") or "Error"), int(end.get("exitCode", -1)), parse_time(end["finishedAt"]), detail)


def process_starts(pods: Iterable[Object]) -> dict[str, datetime]:
    """When each pod's process began, by pod name: a counter born with its process counts from zero."""
    starts = {}
    for pod in pods:
        for container in (pod.get("status") or {}).get("containerStatuses") or ():
            running = (container.get("state") or {}).get("running") or {}
            if running.get("startedAt"):
                starts[pod["metadata"]["name"]] = parse_time(running["startedAt"])
    return starts


def observe_workloads(caches: Caches, namespace: str, model: str) -> tuple[Workload, ...]:
    """Versions with a Deployment or a Service; one without a Deployment counts as having no pods."""
    services = {
        version
        for s in caches.of(SERVICES).by_model(namespace, model)
        if (version := _label(s, names.LABEL_VERSION)) and _label(s, names.LABEL_COMPONENT) != names.COMPONENT_TRAINER
    }
    replicas = {
        version: int(d["spec"].get("replicas", 1))
        for d in caches.of(DEPLOYMENTS).by_model(namespace, model)
        if (version := _label(d, names.LABEL_VERSION)) and not d["metadata"].get("deletionTimestamp")
    }
    return tuple(
        Workload(version, replicas.get(version, 0), service=version in services)
        for version in sorted(services | set(replicas))
    )


def _label(obj: Object, name: str) -> str:
    return str((obj["metadata"].get("labels") or {}).get(name, ""))


def observe_request(obj: Object) -> Request | None:
    """The request annotation. One that cannot be read is answered, too: with a refusal that tells the form."""
    metadata = obj["metadata"]
    value = (metadata.get("annotations") or {}).get(names.ANNOTATION_REQUEST)
    if not value:
        return None
    try:
        verb, identity = names.parse_request(value)
    except ValueError:
        verb, _, identity = value.partition("@")
    by = next((str(entry.get("manager", "")) for entry in metadata.get("managedFields") or ()), "")
    return Request(verb[:32], (identity or value)[:63], by[:253])


def rival(caches: Caches, obj: Object, model: str) -> str | None:
    """Another CanaryRollout for the same model that was there first: two would fight over one route."""
    metadata = obj["metadata"]
    others = [
        other["metadata"]
        for other in caches.of(ROLLOUTS).by_model(metadata["namespace"], model)
        if other["metadata"]["uid"] != metadata["uid"]
    ]
    earlier = [
        o["name"]
        for o in others
        if (o["creationTimestamp"], o["name"]) < (metadata["creationTimestamp"], metadata["name"])
    ]
    return min(earlier, default=None)


def serving_version(traffic: Traffic) -> str | None:
    """The version that a route from a former life gives (most of) its traffic."""
    return max(traffic.weights, key=lambda version: traffic.weights[version], default=None)
