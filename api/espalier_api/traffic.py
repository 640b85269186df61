"""How traffic is divided: exactly one router. A step that the router cannot do is refused when it is declared, not at 3 a.m."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from espalier_api.base import ApiModel, Cel, exactly_one
from espalier_api.kubernetes import ObjectName

Hostname = Annotated[
    str,
    StringConstraints(
        pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", max_length=253
    ),
]


class ParentRef(ApiModel):
    """A Gateway that the route attaches to."""

    name: ObjectName
    """Gateway."""
    namespace: ObjectName | None = None
    """Its namespace; absent means the rollout's."""
    section_name: ObjectName | None = None
    """Listener; absent means all."""


class GatewayAPI(ApiModel):
    """An HTTPRoute of the Gateway API, owned by the rollout or adopted."""

    parent_refs: tuple[ParentRef, ...] = Field(default=(), max_length=8)
    """Gateways of a route that we own."""
    hostnames: tuple[Hostname, ...] = Field(default=(), max_length=16)
    """Hosts of a route that we own; empty means any."""
    path: Annotated[str, StringConstraints(pattern=r"^/", max_length=1024)] = "/"
    """Path prefix of a route that we own."""
    existing_route: ObjectName | None = None
    """An HTTPRoute that you own and that names the stable and canary Services; only their weights become ours."""
    supports: tuple[Literal["Mirror", "MirrorPercent", "HeaderMatch"], ...] | None = Field(default=None, max_length=3)
    """Overrides what is known of the gateway's controller; a probe still decides before traffic moves."""

    cel = (
        Cel(
            rule="has(self.existingRoute) != (has(self.parentRefs) && self.parentRefs.size() > 0)",
            message="gatewayAPI: give parentRefs for a route of our own, or existingRoute to adopt one, and not both",
            holds=lambda route: (route.existing_route is not None) != bool(route.parent_refs),
        ),
        Cel(
            rule="!has(self.existingRoute) || !has(self.hostnames) || self.hostnames.size() == 0",
            message="gatewayAPI: hostnames of an adopted route are its owner's; remove hostnames or existingRoute",
            holds=lambda route: route.existing_route is None or not route.hostnames,
        ),
    )


class ReplicaShares(ApiModel):
    """No router: the stable Service selects pods of both versions and the share of ready pods is the weight, rounded."""


class Istio(ApiModel):
    """Weights of two destinations in a VirtualService that you own."""

    virtual_service: ObjectName
    """Its name."""
    route: str | None = Field(default=None, max_length=253)
    """HTTP route in it; absent means the only one."""


class KServe(ApiModel):
    """Canary fields of an InferenceService that you own."""

    inference_service: ObjectName
    """Its name."""


class Traffic(ApiModel):
    """Exactly one router."""

    gateway_api: GatewayAPI | None = Field(default=None, alias="gatewayAPI")
    replicas: ReplicaShares | None = None
    istio: Istio | None = None
    kserve: KServe | None = None

    cel = (
        Cel(
            rule="(has(self.gatewayAPI) ? 1 : 0) + (has(self.replicas) ? 1 : 0)"
            " + (has(self.istio) ? 1 : 0) + (has(self.kserve) ? 1 : 0) == 1",
            message="traffic: set exactly one of gatewayAPI, replicas, istio, kserve",
            holds=exactly_one("gateway_api", "replicas", "istio", "kserve", what="traffic").holds,
        ),
    )

    @property
    def router(self) -> str:
        """`gatewayAPI`, `replicas`, `istio` or `kserve`."""
        if self.gateway_api is not None:
            return "gatewayAPI"
        return next(name for name in ("replicas", "istio", "kserve") if getattr(self, name) is not None)
