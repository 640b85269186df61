"""No router: the stable Service selects pods, and the share of ready pods is the weight.

At weight 0 or 100 the Service selects one version by label, so taking traffic away is one write and needs no pod to
stop. In between it selects every server pod of the model; the machine has then scaled all other versions to 0, and the
canary's pods are c of stable's s so that c / (s + c) is the nearest possible to the weight. What it really is, is told.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from espalier_api import names
from espalier_operator.adapters.kube import ConflictError, Kube, Object
from espalier_operator.adapters.resources import DEPLOYMENTS, SERVICES
from espalier_operator.adapters.traffic.mark import annotations_of, mark_in
from espalier_operator.adapters.traffic.settling import Settling
from espalier_operator.decisions.plan import ObjectRef
from espalier_operator.decisions.rollout.pods import HALF
from espalier_operator.decisions.rollout.world import FULL, Capabilities, Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from espalier_operator.adapters.traffic import Target
    from espalier_operator.adapters.watches import Caches
    from espalier_operator.decisions.rollout.plan import Split

WEIGHTS: Final = f"{names.GROUP}/weights"
"""Annotation of the Service with the weights that were asked for, as JSON; pods only tell what became of them."""
LAG: Final = timedelta(seconds=1)
"""From a Service or pod that changed to kube-proxy's rules on every node."""


class ReplicasRouter:
    """Router over the Service `<model>` and numbers of pods."""

    def __init__(self, kube: Kube, caches: Caches, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._kube = kube
        self._caches = caches
        self._settling = Settling(clock)

    def capabilities(self, target: Target) -> Capabilities:
        """Weights up to 50 % by pods, and the switch to 100 %."""
        return Capabilities(by_pods=True, max_weight=HALF, per_request=False, lag=LAG)

    async def observed(self, target: Target) -> Traffic:
        """The Service's selector and the ready pods behind it."""
        service = self._service(target)
        if service is None:
            return Traffic()
        weights = weights_of(service)
        divided = [version for version, weight in weights.items() if 0 < weight < FULL]
        pods = {version: self._pods(target, version) for version in divided}
        complete = all(ready == wanted > 0 for ready, wanted in pods.values())
        metadata = service["metadata"]
        state = (metadata["uid"], metadata["resourceVersion"], tuple(sorted(pods.items())))
        since = self._settling.accepted((target.namespace, target.rollout), state) if complete else None
        share, note = _share(target, weights, {version: ready for version, (ready, _) in pods.items()})
        return Traffic(
            weights=weights,
            settled=since is not None and self._settling.settled(since, LAG),
            accepted_at=since,
            mark=mark_in(metadata),
            route=f"{metadata['uid']}/{json.dumps(weights, sort_keys=True)}/{share}",
            note=note,
            share=share,
            resource_version=metadata["resourceVersion"],
        )

    async def apply(self, target: Target, split: Split, seen: Traffic) -> None:
        """Server-side apply of the Service; its resourceVersion is the precondition."""
        service = self._service(target)
        same = dict(seen.weights) == split.weights and seen.mark == split.mark
        if same and service is not None and service["spec"]["ports"][0]["port"] == target.spec.service.port:
            return
        manifest = service_manifest(target, split)
        if seen.resource_version:
            manifest["metadata"]["resourceVersion"] = seen.resource_version
        elif service is not None:
            raise ConflictError(409, f"Service {target.namespace}/{target.model} appeared since it was looked for")
        self._caches.assume(await self._kube.apply(manifest))

    async def remove(self, target: Target) -> None:
        """Delete the Service."""
        await self._kube.delete(ObjectRef(SERVICES.api_version, SERVICES.kind, target.namespace, target.model))

    def forget(self, target_key: tuple[str, str]) -> None:
        """See Router."""
        self._settling.forget(target_key)

    def _service(self, target: Target) -> Object | None:
        service = self._caches.of(SERVICES).get(target.namespace, target.model)
        return None if service is None or service["metadata"].get("deletionTimestamp") else service

    def _pods(self, target: Target, version: str) -> tuple[int, int]:
        """(ready, wanted) pods of a version."""
        deployment = self._caches.of(DEPLOYMENTS).get(target.namespace, names.workload_name(target.model, version))
        if deployment is None:
            return 0, 0
        return int((deployment.get("status") or {}).get("readyReplicas") or 0), int(deployment["spec"]["replicas"])


def service_manifest(target: Target, split: Split) -> dict[str, Any]:
    """The stable Service: one version by label at 0 and 100 %, all server pods of the model in between."""
    selector = {
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_MODEL: target.model,
        names.LABEL_COMPONENT: names.COMPONENT_SERVER,
    }
    receiving = [version for version, weight in split.weights.items() if weight > 0]
    if len(receiving) == 1:
        selector[names.LABEL_VERSION] = receiving[0]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": target.model,
            "namespace": target.namespace,
            "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY, names.LABEL_MODEL: target.model},
            "annotations": {WEIGHTS: json.dumps(split.weights, sort_keys=True), **annotations_of(split.mark)},
        },
        "spec": {
            "selector": selector,
            "ports": [{"name": "http", "port": target.spec.service.port, "targetPort": names.PORT_SERVER}],
        },
    }


def weights_of(service: Object) -> dict[str, int]:
    """What was asked for; what the selector says, where the annotation is missing or contradicts it."""
    selected = service["spec"].get("selector", {}).get(names.LABEL_VERSION)
    try:
        asked = json.loads((service["metadata"].get("annotations") or {}).get(WEIGHTS, "{}"))
        weights = {str(version): int(weight) for version, weight in asked.items()}
    except (ValueError, TypeError, AttributeError):
        weights = {}
    if selected is None or weights.get(selected) == FULL:
        return weights
    return {**dict.fromkeys(weights, 0), selected: FULL}


def _share(target: Target, weights: Mapping[str, int], ready: Mapping[str, int]) -> tuple[int | None, str]:
    """The canary's real percent, and the rounding in words."""
    canary = target.progress.canary
    if canary is None or not ready or not sum(ready.values()):
        return None, "one version by its label"
    share = round(FULL * ready.get(canary.name, 0) / sum(ready.values()))
    pods = f"{ready.get(canary.name, 0)} of {sum(ready.values())} ready pods"
    return share, f"{canary.name}: {pods} = {share} % for {weights.get(canary.name, 0)} %"
