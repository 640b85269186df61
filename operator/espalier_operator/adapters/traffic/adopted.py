"""Gateway API with a route that somebody else owns: only the weights of two of its backends are ours.

The route names two Services that never change their names, `<model>` and `<model>-canary`; which version each selects is
ours. A Service is only ever pointed at another version while its weight is 0, so the order of writes is the safety:
point what is at 0, move the weights, point what has become 0.

`spec.rules` is one atomic list for server-side apply: to own two weights we must apply the whole list, as it was read,
with its resourceVersion as precondition. The owner's tool has to leave it alone (docs/rollout.md tells how for Argo CD).
"""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from espalier_api import names
from espalier_operator.adapters.kube import ConflictError, Kube, NotFoundError, Object
from espalier_operator.adapters.resources import HTTP_ROUTES, SERVICES
from espalier_operator.adapters.traffic.httproute import LAGS, UNKNOWN_LAG, acceptance
from espalier_operator.adapters.traffic.mark import annotations_of, mark_in
from espalier_operator.adapters.traffic.settling import Settling
from espalier_operator.decisions.plan import ObjectRef
from espalier_operator.decisions.rollout.world import FULL, Capabilities, Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from espalier_operator.adapters.traffic import Target
    from espalier_operator.adapters.watches import Caches
    from espalier_operator.decisions.rollout.plan import Split

STABLE: Final = "stable"
CANARY: Final = "canary"


class AdoptedRouteRouter:
    """Router over an HTTPRoute named by `spec.traffic.gatewayAPI.existingRoute`."""

    def __init__(self, kube: Kube, caches: Caches, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._kube = kube
        self._caches = caches
        self._settling = Settling(clock)

    def capabilities(self, target: Target) -> Capabilities:
        """Any weight."""
        return Capabilities(lag=UNKNOWN_LAG)

    async def observed(self, target: Target) -> Traffic:
        """The route as the API server has it: it does not carry our label, so no watch brings it."""
        route = await self._route(target)
        if route is None:
            return Traffic(problem=f"{_ref(target)} does not exist; create it, or let Espalier own one (parentRefs)")
        roles = role_weights(route, target.model)
        if set(roles) != {STABLE, CANARY}:
            missing = ", ".join(_service(target.model, role) for role in (STABLE, CANARY) if role not in roles)
            return Traffic(problem=f"{_ref(target)} has no backendRef to {missing}; add it with weight 0")
        told = acceptance(route)
        lag = LAGS.get(told.controller, UNKNOWN_LAG)
        metadata = route["metadata"]
        key = (target.namespace, target.rollout)
        since = self._settling.accepted(key, (metadata["uid"], metadata.get("generation"))) if told.accepted else None
        return Traffic(
            weights=self._by_version(target, roles),
            settled=since is not None and self._settling.settled(since, lag),
            accepted_at=since,
            mark=mark_in(metadata),
            route=f"{metadata['uid']}/{metadata.get('generation')}",
            problem=told.refused,
            note=f"accepted by {told.controller}; counted as observed {lag.total_seconds():g} s after",
            resource_version=metadata["resourceVersion"],
        )

    async def apply(self, target: Target, split: Split, seen: Traffic) -> None:
        """Point what is at 0, move the weights, point what has become 0."""
        route = await self._route(target)
        if route is None or (present := role_weights(route, target.model)).keys() != {STABLE, CANARY}:
            return  # `observed` has said what is missing
        if seen.resource_version and route["metadata"]["resourceVersion"] != seen.resource_version:
            raise ConflictError(409, f"{_ref(target)} changed since it was looked at")
        versions = {STABLE: split.stable or split.canary, CANARY: split.canary if split.stable else None}
        wanted = {STABLE: FULL, CANARY: 0}
        if split.stable is not None and split.canary is not None:
            wanted = {STABLE: FULL - split.weight, CANARY: split.weight}
        for role in (STABLE, CANARY):
            await self._point(target, role, versions[role], free=present[role] == 0)
        if present != wanted or mark_in(route["metadata"]) != split.mark:
            await self._kube.apply(_manifest(route, target.model, wanted, split))
        for role in (STABLE, CANARY):
            await self._point(target, role, versions[role], free=wanted[role] == 0)

    async def remove(self, target: Target) -> None:
        """Nothing of the route is ours to delete; the canary's Service is."""
        await self._kube.delete(
            ObjectRef(SERVICES.api_version, SERVICES.kind, target.namespace, _service(target.model, CANARY))
        )

    def forget(self, target_key: tuple[str, str]) -> None:
        """See Router."""
        self._settling.forget(target_key)

    async def _route(self, target: Target) -> Object | None:
        try:
            return await self._kube.get(_ref(target))
        except NotFoundError:
            return None

    async def _point(self, target: Target, role: str, version: str | None, *, free: bool) -> None:
        """Make a role's Service select `version`, if it has no traffic or does not exist yet."""
        present = self._selected(target, role)
        if version is None or present == version or (present is not None and not free):
            return
        self._caches.assume(await self._kube.apply(role_service(target, role, version)))

    def _selected(self, target: Target, role: str) -> str | None:
        service = self._caches.of(SERVICES).get(target.namespace, _service(target.model, role))
        if service is None:
            return None
        version: str | None = (service["spec"].get("selector") or {}).get(names.LABEL_VERSION)
        return version

    def _by_version(self, target: Target, roles: Mapping[str, int]) -> dict[str, int]:
        found: dict[str, int] = {}
        for role, weight in roles.items():
            if (version := self._selected(target, role)) is not None:
                found[version] = found.get(version, 0) + weight
        return found if sum(found.values()) else {}


def _ref(target: Target) -> ObjectRef:
    gateway = target.spec.traffic.gateway_api
    name = gateway.existing_route if gateway is not None and gateway.existing_route else target.model
    return ObjectRef(HTTP_ROUTES.api_version, HTTP_ROUTES.kind, target.namespace, name)


def _service(model: str, role: str) -> str:
    return model if role == STABLE else f"{model}-{CANARY}"


def role_service(target: Target, role: str, version: str) -> dict[str, Any]:
    """A Service that keeps its name while versions come and go behind it."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": _service(target.model, role),
            "namespace": target.namespace,
            "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY, names.LABEL_MODEL: target.model},
        },
        "spec": {
            "selector": {
                names.LABEL_MANAGED_BY: names.MANAGED_BY,
                names.LABEL_MODEL: target.model,
                names.LABEL_VERSION: version,
                names.LABEL_COMPONENT: names.COMPONENT_SERVER,
            },
            "ports": [{"name": "http", "port": target.spec.service.port, "targetPort": names.PORT_SERVER}],
        },
    }


def role_weights(route: Object, model: str) -> dict[str, int]:
    """Percent by role, from the first rule that names the Service; scaled when the owner's weights do not sum to 100."""
    found: dict[str, int] = {}
    for ref in _backends(route):
        for role in (STABLE, CANARY):
            if ref["name"] == _service(model, role):
                found.setdefault(role, int(ref.get("weight", 1)))
    total = sum(found.values())
    return {role: round(FULL * weight / total) for role, weight in found.items()} if total not in {0, FULL} else found


def _backends(route: Object) -> Iterator[dict[str, Any]]:
    for rule in route["spec"].get("rules") or ():
        yield from rule.get("backendRefs") or ()


def _manifest(route: Object, model: str, wanted: Mapping[str, int], split: Split) -> dict[str, Any]:
    """The route's rules as they were read, with our two weights in them."""
    changed = {"spec": {"rules": copy.deepcopy(route["spec"]["rules"])}}
    for ref in _backends(changed):
        for role, weight in wanted.items():
            if ref["name"] == _service(model, role):
                ref["weight"] = weight
    return {
        "apiVersion": route["apiVersion"],
        "kind": route["kind"],
        "metadata": {
            "name": route["metadata"]["name"],
            "namespace": route["metadata"]["namespace"],
            "resourceVersion": route["metadata"]["resourceVersion"],
            "annotations": annotations_of(split.mark),
        },
        **changed,
    }
