"""The routers against a real API server and a real gateway: what only server-side apply and a controller can tell."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from espalier_api.names import workload_name
from espalier_api.rollout import CanaryRolloutSpec
from espalier_operator.adapters.kube import AioKube, ConflictError
from espalier_operator.adapters.traffic import Target
from espalier_operator.adapters.traffic.adopted import AdoptedRouteRouter
from espalier_operator.adapters.traffic.httproute import HTTPRouteRouter
from espalier_operator.adapters.traffic.replicas import ReplicasRouter
from espalier_operator.adapters.watches import Caches
from espalier_operator.decisions.plan import ObjectRef
from espalier_operator.decisions.rollout.plan import Split
from espalier_operator.decisions.rollout.progress import Progress
from espalier_operator.decisions.rollout.world import Mark, Traffic, VersionRef
from espalier_operator.settings import Settings
from tests.e2e.clients import api_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from espalier_operator.adapters.traffic import Router
    from tests.e2e.harness import World

pytestmark = pytest.mark.e2e
PARENT = {"name": "public", "namespace": "espalier-stack"}
MARK = Mark(
    "v2", "2026-11-22T12:00:00+00:00", "RolledBack", "SLIBreach", "errors: worse", datetime.now(UTC), "errors", 47.0
)
PATIENCE = 20.0  # seconds


class Stand:
    """An API client, caches that follow, and a target in the test's namespace."""

    def __init__(self, kube: AioKube, caches: Caches, namespace: str, traffic: dict[str, Any]) -> None:
        self.kube, self.caches = kube, caches
        spec = CanaryRolloutSpec.model_validate({"modelRef": {"name": "digits"}, "traffic": traffic})
        progress = Progress(stable=VersionRef("v1"), canary=VersionRef("v2"))
        self.target = Target(namespace, "digits", "digits", spec, progress)

    async def service(self, name: str) -> None:
        port = {"name": "http", "port": 8080, "targetPort": 8080}
        await self.kube.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": self.target.namespace},
                "spec": {"selector": {"app": name}, "ports": [port]},
            }
        )

    async def settled(self, router: Router, weights: dict[str, int]) -> Traffic:
        """What the router observes, once it has settled on `weights`."""
        end = time.monotonic() + PATIENCE
        while True:
            seen = await router.observed(self.target)
            if seen.settled and dict(seen.weights) == weights:
                return seen
            assert time.monotonic() < end, seen
            await asyncio.sleep(0.05)

    async def write(self, router: Router, split: Split, target: Target | None = None) -> None:
        """Look and write, as a pass of the loop does: again when the gateway reported on the route in between."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return await router.apply(target or self.target, split, await router.observed(self.target))
            except ConflictError:
                assert time.monotonic() < end
                await asyncio.sleep(0.05)


@asynccontextmanager
async def stand(namespace: str, traffic: dict[str, Any]) -> AsyncIterator[Stand]:
    settings = Settings("t", "s", namespaces=(namespace,))
    async with api_client() as client:
        kube = AioKube(client, timeout=settings.kube_timeout, concurrency=4)
        caches = Caches(kube, settings, lambda _: None)
        feeding = asyncio.create_task(caches.run())
        try:
            await caches.wait_synced()
            yield Stand(kube, caches, namespace, traffic)
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)


async def test_route_of_our_own(world: World) -> None:
    """Written, accepted, moved, marked, unmarked; a stale write is refused."""
    gateway = {"gatewayAPI": {"parentRefs": [PARENT], "hostnames": [world.host]}}
    async with stand(world.kube.namespace, gateway) as here:
        for version in ("v1", "v2"):
            await here.service(workload_name("digits", version))
        router = HTTPRouteRouter(here.kube, here.caches)
        await here.write(router, Split("v1", "v2", 0))
        first = await here.settled(router, {"v1": 100, "v2": 0})
        began = time.monotonic()
        await router.apply(here.target, Split("v1", "v2", 25), first)
        moved = await here.settled(router, {"v1": 75, "v2": 25})
        print(f"weight written -> counted as observed: {time.monotonic() - began:.2f} s")  # noqa: T201 - a figure for who runs it with -s
        with pytest.raises(ConflictError):
            await router.apply(here.target, Split("v1", "v2", 50), first)
        await router.apply(here.target, Split("v1", "v2", 0, MARK), moved)
        marked = await here.settled(router, {"v1": 100, "v2": 0})
        assert marked.mark == MARK
        await router.apply(here.target, Split("v1"), marked)
        assert (await here.settled(router, {"v1": 100})).mark is None


async def test_a_backend_without_a_service_does_not_settle(world: World) -> None:
    """Contour would send its share to the other arm with 200: ResolvedRefs tells, and nothing rises on such a route."""
    gateway = {"gatewayAPI": {"parentRefs": [PARENT], "hostnames": [world.host]}}
    async with stand(world.kube.namespace, gateway) as here:
        await here.service(workload_name("digits", "v1"))
        router = HTTPRouteRouter(here.kube, here.caches)
        await router.apply(here.target, Split("v1", "v2", 0), Traffic())
        end = time.monotonic() + PATIENCE
        while not (seen := await router.observed(here.target)).problem:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
        assert "ResolvedRefs" in seen.problem
        assert not seen.settled


async def test_adopted_route_keeps_its_owners_fields(world: World) -> None:
    """Only two weights change; roles move behind Services that keep their names, and only at weight 0."""
    gateway = {"gatewayAPI": {"existingRoute": "front"}}
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/models"}}],
        "backendRefs": [
            {"name": "digits", "port": 8080, "weight": 100},
            {"name": "digits-canary", "port": 8080, "weight": 0},
        ],
    }
    front = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "front"},
        "spec": {"parentRefs": [PARENT], "hostnames": [world.host], "rules": [rule]},
    }
    world.apply(front)
    async with stand(world.kube.namespace, gateway) as here:
        router = AdoptedRouteRouter(here.kube, here.caches)
        await here.write(router, Split("v1", "v2", 0))
        await here.settled(router, {"v1": 100, "v2": 0})
        await here.write(router, Split("v1", "v2", 30))
        await here.settled(router, {"v1": 70, "v2": 30})
        stored = await here.kube.get(
            ObjectRef("gateway.networking.k8s.io/v1", "HTTPRoute", world.kube.namespace, "front")
        )
        assert stored["spec"]["hostnames"] == [world.host]
        assert stored["spec"]["rules"][0]["matches"] == rule["matches"]
        await here.write(router, Split("v1", "v2", 100))
        await here.settled(router, {"v1": 0, "v2": 100})
        crowned = replace(here.target, progress=Progress(stable=VersionRef("v2")))
        await here.write(router, Split("v2"), crowned)
        await here.settled(router, {"v2": 100})
        stored = await here.kube.get(
            ObjectRef("gateway.networking.k8s.io/v1", "HTTPRoute", world.kube.namespace, "front")
        )
        assert [ref["weight"] for ref in stored["spec"]["rules"][0]["backendRefs"]] == [100, 0]


async def test_shares_of_pods_move_by_one_selector(world: World) -> None:
    """The version's label comes and goes with server-side apply, which removes what we no longer say."""
    async with stand(world.kube.namespace, {"replicas": {}}) as here:
        router = ReplicasRouter(here.kube, here.caches)

        async def selector() -> dict[str, str]:
            found = await here.kube.get(ObjectRef("v1", "Service", world.kube.namespace, "digits"))
            labels: dict[str, str] = found["spec"]["selector"]
            return labels

        await here.write(router, Split("v1", "v2", 0))
        assert (await selector())["espalier.dev/version"] == "v1"
        await here.write(router, Split("v1", "v2", 50))
        assert "espalier.dev/version" not in await selector()
        await here.write(router, Split("v1", "v2", 0, MARK))
        assert (await selector())["espalier.dev/version"] == "v1"
        seen = await router.observed(here.target)
        assert seen.mark == MARK
        assert dict(seen.weights) == {"v1": 100, "v2": 0}
