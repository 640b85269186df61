"""The controller's world in memory: an API server, a Prometheus, pods that say what they serve, and an operator that can die."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from espalier_operator.adapters.events import Recorder
from espalier_operator.adapters.traffic.httproute import HTTPRouteRouter
from espalier_operator.adapters.traffic.replicas import ReplicasRouter
from espalier_operator.adapters.watches import Caches
from espalier_operator.controllers.execute import Executor
from espalier_operator.controllers.loop import Key
from espalier_operator.controllers.rollout.controller import RolloutController
from espalier_operator.decisions.judge.readings import SourceDown
from espalier_operator.decisions.judge.series import Matrix, Sample, Vector
from espalier_operator.decisions.judge.verdict import DownReason
from espalier_operator.decisions.plan import ObjectRef
from espalier_operator.settings import Settings
from tests.unit.operator.fakes import FakeKube, FakeStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from espalier_operator.adapters.kube import Object
    from espalier_operator.decisions.judge.queries import Query, RangeQuery

KEY = Key("CanaryRollout", "vision", "digits")
NAMESPACE = "vision"
ROUTE = "gateway.networking.k8s.io/v1"


def digest(version: str) -> str:
    return "sha256:" + version.removeprefix("v").zfill(64)


class Source:
    """A Prometheus that counts: per version so many requests and errors per block, or nothing at all."""

    scrape_interval = timedelta(seconds=2)
    lag = timedelta(seconds=4)
    sharded = False

    def __init__(self) -> None:
        self.down = False
        self.bad: dict[str, float] = {}
        self.asked: list[Query] = []
        self.totals: dict[str, float] = dict.fromkeys(("v1", "v2", "v3"), 0.0)
        self.history: list[tuple[datetime, dict[str, float]]] = []

    def serve(self, until: datetime, seconds: float, shares: Mapping[str, int]) -> None:
        """200 requests per second reach the versions as the data plane divides them (percent)."""
        for version in self.totals:
            self.totals[version] += 2 * seconds * shares.get(version, 0)
        self.history.append((until, dict(self.totals)))

    async def instant(self, query: Query) -> Vector | SourceDown:
        if self.down:
            return SourceDown(DownReason.REFUSED, "connection refused")
        self.asked.append(query)
        totals = next((t for at, t in reversed(self.history) if at <= query.time), dict.fromkeys(self.totals, 0.0))
        samples = []
        for version in ("v1", "v2", "v3"):
            labels = {"namespace": NAMESPACE, "model": "digits", "version": version, "pod": f"digits-{version}-0"}
            bad = self.bad.get(version, 0.0)
            total = totals[version]
            samples.append(Sample({**labels, "outcome": "ok", "instance": "x"}, total * (1 - bad)))
            samples.append(Sample({**labels, "outcome": "error", "instance": "x"}, total * bad))
        return Vector(samples)

    async def range(self, query: RangeQuery) -> Matrix | SourceDown:
        return SourceDown(DownReason.REFUSED, "connection refused") if self.down else Matrix(())


class Applying(FakeKube):
    """Server-side apply where it matters here: what we applied before and leave out now goes; a wrong version conflicts."""

    async def apply(self, manifest: Object) -> Object:
        ref = ObjectRef.of(manifest)
        wanted = manifest["metadata"].get("resourceVersion")
        if (found := self.objects.get(ref)) is not None and ref.kind in {"Service", "HTTPRoute"}:
            self._current(ref, wanted)
            found["spec"].pop("selector", None)
            found["metadata"].pop("annotations", None)
        return await super().apply(manifest)


class Digests:
    """What pods say they serve."""

    def __init__(self) -> None:
        self.lies: dict[str, str] = {}

    async def of(self, model: str, pods: Iterable[Object]) -> dict[str, str | None]:
        told: dict[str, str | None] = {}
        for pod in pods:
            version = pod["metadata"]["labels"]["espalier.dev/version"]
            told[pod["metadata"]["uid"]] = self.lies.get(version, digest(version))
        return told


class Cluster:
    """An API server, its controllers played by hand, a gateway, and one operator process."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
        self.kube = Applying()
        self.store = FakeStore()
        self.source = Source()
        self.digests = Digests()
        self.accepting = True
        self.stuck: dict[str, int] | None = None
        """What the data plane does whatever the route says: a proxy that is behind."""
        self.start_operator()

    def start_operator(self) -> None:
        """A process without memory."""
        self.caches = Caches(self.kube, Settings("t", "s"), lambda _: None)
        recorder = Recorder(self.kube)
        self.controller = RolloutController(
            caches=self.caches,
            executor=Executor(self.kube, self.caches, recorder),
            routers={
                "gatewayAPI": HTTPRouteRouter(self.kube, self.caches, lambda: self.now),
                "replicas": ReplicasRouter(self.kube, self.caches, lambda: self.now),
            },
            sources={"default": self.source},
            digests=self.digests,  # type: ignore[arg-type]
            store=self.store,
            server_image="server:1",
            clock=lambda: self.now,
        )

    def versions(self, *states: tuple[str, str]) -> None:
        """The model's status: (version, state), newest first."""
        found = self.get("RegularizedModel", "digits", "espalier.dev/v1alpha1")
        listed = [{"version": v, "state": s, "digest": digest(v)} for v, s in states]
        self.kube.put({**found, "status": {"versions": listed}})

    def get(self, kind: str, name: str, api_version: str = "apps/v1") -> dict[str, Any]:
        return next((o for o in self.kube.of_kind(kind) if o["metadata"]["name"] == name), {})

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("CanaryRollout", "digits").get("status") or {}
        return found

    def weights(self) -> dict[str, int]:
        route = self.get("HTTPRoute", "digits")
        rules = route["spec"]["rules"] if route else [{"backendRefs": []}]
        return {ref["name"]: ref["weight"] for ref in rules[0]["backendRefs"]}

    def world_turns(self) -> None:
        """kube-controller-manager, kubelet and gateway do their part."""
        for deployment in self.kube.of_kind("Deployment"):
            self._run_pods(deployment)
        alive = {d["metadata"]["name"] for d in self.kube.of_kind("Deployment")}
        for pod in self.kube.of_kind("Pod"):
            owner = pod["metadata"]["name"].rpartition("-")[0]
            if owner not in alive:
                self.kube._removed(
                    next(r for r in self.kube.objects if r.kind == "Pod" and r.name == pod["metadata"]["name"])
                )
        for route in self.kube.of_kind("HTTPRoute"):
            if self.accepting:
                self.kube.put({**route, "status": {"parents": [_parent(route)]}})

    def _run_pods(self, deployment: dict[str, Any]) -> None:
        name, replicas = deployment["metadata"]["name"], deployment["spec"]["replicas"]
        stamp = self.now.strftime("%Y-%m-%dT%H:%M:%SZ")
        for index in range(replicas):
            if not self.get("Pod", f"{name}-{index}"):
                self.kube.put(_pod(name, index, deployment["metadata"]["labels"], stamp))
        ready = sum(
            p["status"]["conditions"][0]["status"] == "True"
            for p in self.kube.of_kind("Pod")
            if p["metadata"]["name"].rpartition("-")[0] == name
        )
        if (deployment.get("status") or {}).get("readyReplicas") != min(ready, replicas):
            self.kube.put({**deployment, "status": {"readyReplicas": min(ready, replicas)}})

    async def turn(self, seconds: float = 1.0, *, delete: bool = False) -> Any:
        """Time passes, the world follows, the watch catches up, one pass runs."""
        self.now += timedelta(seconds=seconds)
        routed = {name.removeprefix("digits-"): weight for name, weight in self.weights().items()}
        shares = routed or dict.fromkeys(self.source.totals, 50)
        self.source.serve(self.now, seconds, shares if self.stuck is None else self.stuck)
        self.world_turns()
        for cache in self.caches._caches.values():
            objects, version = await self.kube.list(cache.resource, "", "")
            cache.replace("", objects, version)
        return await (self.controller.finalize(KEY) if delete else self.controller.reconcile(KEY))

    async def until(self, what: str, turns: int = 200) -> None:
        """Turns until the phase is `what`."""
        for _ in range(turns):
            if self.status.get("phase") == what:
                return
            await self.turn()
        raise AssertionError(f"never {what}: {self.status}")


def _parent(route: Mapping[str, Any]) -> dict[str, Any]:
    generation = route["metadata"]["generation"]
    told = [{"type": t, "status": "True", "observedGeneration": generation} for t in ("Accepted", "ResolvedRefs")]
    return {
        "controllerName": "projectcontour.io/gateway-controller",
        "parentRef": {"name": "public", "namespace": "espalier-stack"},
        "conditions": told,
    }


def _pod(name: str, index: int, labels: Mapping[str, str], stamp: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{name}-{index}",
            "namespace": NAMESPACE,
            "labels": dict(labels),
            "creationTimestamp": stamp,
        },
        "status": {
            "startTime": stamp,
            "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": stamp}],
            "containerStatuses": [{"restartCount": 0, "state": {"running": {"startedAt": stamp}}}],
        },
    }


def rollout(**spec: Any) -> dict[str, Any]:
    base = {
        "modelRef": {"name": "digits"},
        "traffic": {"gatewayAPI": {"parentRefs": [{"name": "public", "namespace": "espalier-stack"}]}},
        "strategy": {"warmUp": "4s", "steps": [{"weight": 20, "hold": "8s"}, {"weight": 50, "hold": "8s"}]},
        "analysis": {"interval": "4s", "slis": [{"name": "errors", "errorRatio": {}}]},
        "rollback": {"keepCanary": "5s", "keepPrevious": "5s"},
    }
    return {
        "apiVersion": "espalier.dev/v1alpha1",
        "kind": "CanaryRollout",
        "metadata": {"name": "digits", "namespace": NAMESPACE, "creationTimestamp": "2026-11-22T12:00:00Z"},
        "spec": {**base, **spec},
    }
