"""Gateway API: the weights of an HTTPRoute of our own, one backend Service per version.

What gateways really do was measured (references/gateway.md), and this router is built on it: a missing Service or one
without a ready pod is never given weight (the machine sees to that), weights are never both 0, and a route counts as
settled when every parent accepted this generation and the controller's known lag has passed. Each version has a Service
of its own, so that a gateway's per-Service counters are per arm.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from espalier_api import names
from espalier_operator.adapters.kube import ConflictError, Kube, Object
from espalier_operator.adapters.resources import HTTP_ROUTES
from espalier_operator.adapters.traffic.mark import annotations_of, mark_in
from espalier_operator.adapters.traffic.settling import Settling
from espalier_operator.decisions.plan import ObjectRef
from espalier_operator.decisions.rollout.world import FULL, Capabilities, Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from espalier_operator.adapters.traffic import Target
    from espalier_operator.adapters.watches import Caches
    from espalier_operator.decisions.rollout.plan import Split

UNKNOWN_LAG: Final = timedelta(seconds=2)
"""The worst that was measured of any gateway, for those that were not."""
LAGS: Final[Mapping[str, timedelta]] = {
    "projectcontour.io/gateway-controller": timedelta(milliseconds=200),
    "gateway.envoyproxy.io/gatewayclass-controller": timedelta(milliseconds=200),
    "traefik.io/gateway-controller": timedelta(seconds=2),
}
"""Seconds between a route's acceptance and traffic, by the controller that writes the route's status; twice what was measured."""


class HTTPRouteRouter:
    """Router over an HTTPRoute named like the model."""

    def __init__(self, kube: Kube, caches: Caches, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._kube = kube
        self._caches = caches
        self._settling = Settling(clock)

    def capabilities(self, target: Target) -> Capabilities:
        """Any weight. Mirrors and header matches are not written yet, whatever the gateway could do."""
        return Capabilities(lag=UNKNOWN_LAG)

    async def observed(self, target: Target) -> Traffic:
        """The route as the watch has it."""
        route = self._caches.of(HTTP_ROUTES).get(target.namespace, target.model)
        if route is None or route["metadata"].get("deletionTimestamp"):
            return Traffic()
        weights = weights_of(route, target.model)
        told = acceptance(route)
        lag = LAGS.get(told.controller, UNKNOWN_LAG)
        metadata = route["metadata"]
        key = (target.namespace, target.rollout)
        since = self._settling.accepted(key, (metadata["uid"], metadata.get("generation"))) if told.accepted else None
        return Traffic(
            weights=weights,
            settled=since is not None and self._settling.settled(since, lag),
            accepted_at=since,
            mark=mark_in(metadata),
            route=f"{metadata['uid']}/{metadata.get('generation')}",
            problem=told.refused,
            note=f"accepted by {told.controller}; counted as observed {lag.total_seconds():g} s after",
            resource_version=metadata["resourceVersion"],
        )

    async def apply(self, target: Target, split: Split, seen: Traffic) -> None:
        """Server-side apply of the whole route; its resourceVersion is the precondition."""
        if dict(seen.weights) == split.weights and seen.mark == split.mark and self._fits(target, split):
            return
        manifest = route_manifest(target, split)
        if seen.resource_version:
            manifest["metadata"]["resourceVersion"] = seen.resource_version
        elif self._caches.of(HTTP_ROUTES).get(target.namespace, target.model) is not None:
            raise ConflictError(409, f"HTTPRoute {target.namespace}/{target.model} appeared since it was looked for")
        self._caches.assume(await self._kube.apply(manifest))

    def _fits(self, target: Target, split: Split) -> bool:
        """The written route has the parents, hosts, path and port of the spec, too."""
        route = self._caches.of(HTTP_ROUTES).get(target.namespace, target.model)
        return route is not None and _shape(route["spec"]) == _shape(route_manifest(target, split)["spec"])

    async def remove(self, target: Target) -> None:
        """Delete the route."""
        await self._kube.delete(_ref(target))

    def forget(self, target_key: tuple[str, str]) -> None:
        """See Router."""
        self._settling.forget(target_key)


def _ref(target: Target) -> ObjectRef:
    return ObjectRef(HTTP_ROUTES.api_version, HTTP_ROUTES.kind, target.namespace, target.model)


def route_manifest(target: Target, split: Split) -> dict[str, Any]:
    """The HTTPRoute: one rule, one backend per version that takes part, weights in percent."""
    gateway = target.spec.traffic.gateway_api
    if gateway is None:
        raise ValueError(f"CanaryRollout {target.namespace}/{target.rollout}: spec.traffic.gatewayAPI is needed here")
    backends = [
        {
            "group": "",
            "kind": "Service",
            "name": names.workload_name(target.model, version),
            "port": target.spec.service.port,
            "weight": weight,
        }
        for version, weight in split.weights.items()
    ]
    match = {"path": {"type": "PathPrefix", "value": gateway.path}}
    return {
        "apiVersion": HTTP_ROUTES.api_version,
        "kind": HTTP_ROUTES.kind,
        "metadata": {
            "name": target.model,
            "namespace": target.namespace,
            "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY, names.LABEL_MODEL: target.model},
            "annotations": annotations_of(split.mark),
        },
        "spec": {
            "parentRefs": [
                {"group": "gateway.networking.k8s.io", "kind": "Gateway", **parent.dump()}
                for parent in gateway.parent_refs
            ],
            **({"hostnames": list(gateway.hostnames)} if gateway.hostnames else {}),
            "rules": [{"matches": [match], "backendRefs": backends}],
        },
    }


def _shape(spec: Mapping[str, Any]) -> object:
    """What of a route's spec is ours besides the weights, without the API server's defaults."""
    rules = spec.get("rules") or [{}]
    paths = [match.get("path", {}).get("value") for match in rules[0].get("matches") or [{}]]
    parents = [(ref.get("namespace"), ref["name"], ref.get("sectionName")) for ref in spec.get("parentRefs") or ()]
    ports = [ref.get("port") for ref in rules[0].get("backendRefs") or ()]
    return parents, list(spec.get("hostnames") or ()), paths, ports, len(rules)


def weights_of(route: Object, model: str) -> dict[str, int]:
    """Percent by version. Weights that somebody else wrote may not sum to 100: they are scaled to tell shares."""
    prefix = f"{model}-"
    found: dict[str, int] = {}
    for rule in route["spec"].get("rules") or ():
        for ref in rule.get("backendRefs") or ():
            if ref["name"].startswith(prefix):
                found[ref["name"].removeprefix(prefix)] = int(ref.get("weight", 1))
    total = sum(found.values())
    if total in {0, FULL}:
        return found
    return {version: round(FULL * weight / total) for version, weight in found.items()}


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What the parents of a route say about its present generation."""

    accepted: bool = False
    refused: str = ""
    """Why a parent will not have it, in its own words; empty while they have merely not looked yet."""
    controller: str = ""


def acceptance(route: Object) -> Acceptance:
    """Accepted only when every parent accepts this generation and resolves its backends."""
    generation = route["metadata"].get("generation", 0)
    told = {_parent(entry["parentRef"], route): entry for entry in (route.get("status") or {}).get("parents") or ()}
    wanted = {_parent(ref, route) for ref in route["spec"].get("parentRefs") or ()}
    answers = [_of_parent(parent, told.get(parent), generation) for parent in sorted(wanted, key=str)]
    refused = next((answer for answer in answers if answer.refused), None)
    if refused is not None:
        return refused
    return next((answer for answer in answers if not answer.accepted), answers[-1] if answers else Acceptance())


def _of_parent(parent: tuple[str, str, str], entry: Mapping[str, Any] | None, generation: int) -> Acceptance:
    if entry is None:
        return Acceptance()
    controller = entry["controllerName"]
    conditions = {condition["type"]: condition for condition in entry.get("conditions") or ()}
    for type_ in ("Accepted", "ResolvedRefs"):
        condition = conditions.get(type_)
        if condition is None or condition.get("observedGeneration", 0) < generation:
            return Acceptance(controller=controller)
        if condition["status"] != "True":
            why = f"{type_}={condition['status']}: {condition.get('reason')}: {condition.get('message', '')}"
            return Acceptance(refused=f"Gateway {parent[0]}/{parent[1]}: {why}", controller=controller)
    return Acceptance(accepted=True, controller=controller)


def _parent(ref: Mapping[str, Any], route: Object) -> tuple[str, str, str]:
    return ref.get("namespace") or route["metadata"]["namespace"], ref["name"], ref.get("sectionName") or ""
