"""The controller against an API server in memory: what it writes, in which order, and what survives its death."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from espalier_operator.adapters.events import Recorder
from espalier_operator.adapters.kube import ForbiddenError, UnavailableError
from espalier_operator.adapters.objectstore import StoreDownError
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
from tests.unit.operator.samples import model

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

    async def instant(self, query: Query) -> Vector | SourceDown:
        if self.down:
            return SourceDown(DownReason.REFUSED, "connection refused")
        seconds = query.time.timestamp() % 1_000_000
        samples = []
        for version in ("v1", "v2", "v3"):
            labels = {"namespace": NAMESPACE, "model": "digits", "version": version, "pod": f"digits-{version}-0"}
            bad = self.bad.get(version, 0.0)
            total = 100 * seconds
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


@pytest.fixture
async def cluster() -> Cluster:
    """v1 is champion."""
    cluster = Cluster()
    cluster.kube.put(model(serving={"replicas": 2}))
    cluster.kube.put(rollout())
    cluster.versions(("v1", "Candidate"))
    await cluster.until("Initial")
    await cluster.until("Idle")
    return cluster


async def test_the_first_version_becomes_champion_and_gets_everything(cluster: Cluster) -> None:
    assert cluster.status["aliases"]["champion"] == "v1"
    assert cluster.weights() == {"digits-v1": 100}
    assert cluster.get("Service", "digits")["spec"]["selector"]["espalier.dev/version"] == "v1"
    await cluster.turn()
    assert cluster.status["history"][0]["outcome"] == "Promoted"


async def test_a_good_canary_is_promoted_and_the_old_version_stays_warm(cluster: Cluster) -> None:
    cluster.versions(("v2", "Candidate"), ("v1", "Champion"))
    await cluster.until("Deploying")
    await cluster.until("Stepping")
    await cluster.turn()
    await cluster.turn()
    assert cluster.weights() == {"digits-v1": 80, "digits-v2": 20}
    await cluster.until("Idle")
    assert cluster.status["aliases"] == {"champion": "v2", "previous": "v1"}
    assert cluster.weights()["digits-v2"] == 100
    assert cluster.get("Deployment", "digits-v1")["spec"]["replicas"] == 2
    for _ in range(8):
        await cluster.turn()
    assert cluster.get("Deployment", "digits-v1")["spec"]["replicas"] == 0
    assert cluster.weights() == {"digits-v2": 100}


async def test_a_bad_canary_is_rolled_back_and_never_offered_again(cluster: Cluster) -> None:
    cluster.source.bad = {"v1": 0.01, "v2": 0.3}
    cluster.versions(("v2", "Candidate"), ("v1", "Champion"))
    await cluster.until("RolledBack")
    entry = cluster.status["history"][0]
    assert (entry["outcome"], entry["sli"], entry["version"]) == ("RolledBack", "errors", "v2")
    assert "evidence" in entry["reason"]
    assert "weight 0 after" in entry["reason"]
    assert entry["verdictAt"] <= entry["weightZeroAt"]
    assert [q["version"] for q in cluster.status["quarantined"]] == ["v2"]
    assert cluster.weights()["digits-v2"] == 0
    await cluster.until("Idle")
    for _ in range(20):
        await cluster.turn()
    assert cluster.status["phase"] == "Idle"
    assert cluster.weights() == {"digits-v1": 100}
    assert not cluster.get("Deployment", "digits-v2")


async def test_the_verdict_and_weight_0_are_one_pass_and_one_write(cluster: Cluster) -> None:
    cluster.versions(("v2", "Candidate"), ("v1", "Champion"))
    await cluster.until("Stepping")
    pod = cluster.get("Pod", "digits-v2-0")
    stamp = cluster.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    ended = {"reason": "OOMKilled", "exitCode": 137, "finishedAt": stamp}
    pod["status"]["containerStatuses"] = [{"restartCount": 1, "lastState": {"terminated": ended}, "state": {}}]
    cluster.kube.put(pod)
    cluster.kube.requests.clear()
    await cluster.turn()
    writes = [r for r in cluster.kube.requests if not r.startswith(("list", "get", "create"))]
    assert writes[0] == "apply HTTPRoute digits"
    assert "status CanaryRollout digits" in writes
    assert cluster.weights()["digits-v2"] == 0
    assert "OOMKilled" in cluster.get("HTTPRoute", "digits")["metadata"]["annotations"]["espalier.dev/rolled-back"]
    assert cluster.status["phase"] == "RollingBack"


async def test_a_verdict_survives_death_between_the_route_and_the_status(cluster: Cluster) -> None:
    """The pod has recovered when the next process looks; only the mark on the route remembers."""
    cluster.versions(("v2", "Candidate"), ("v1", "Champion"))
    await cluster.until("Stepping")
    cluster.digests.lies = {"v2": "sha256:other"}
    cluster.kube.fail = []
    original = cluster.kube.patch_status

    async def dies(*args: Any, **kwargs: Any) -> Any:
        raise UnavailableError(0, "killed")

    cluster.kube.patch_status = dies  # type: ignore[method-assign]
    with pytest.raises(UnavailableError):
        await cluster.turn()
    assert cluster.weights()["digits-v2"] == 0
    cluster.kube.patch_status = original  # type: ignore[method-assign]
    cluster.digests.lies = {}
    cluster.start_operator()
    await cluster.until("RolledBack")
    assert cluster.status["history"][0]["version"] == "v2"
    assert "sha256:other" in cluster.status["history"][0]["reason"]


async def test_a_wrong_digest_gets_no_traffic_at_all(cluster: Cluster) -> None:
    cluster.digests.lies = {"v2": "sha256:other"}
    cluster.versions(("v2", "Candidate"), ("v1", "Champion"))
    await cluster.until("RolledBack")
    assert "serves sha256:other" in cluster.status["history"][0]["reason"]
    assert cluster.status["history"][0]["weight"] == 0


async def test_an_outage_holds_and_costs_no_evidence(cluster: Cluster) -> None:
    cluster.versions(("v2", "Candidate"), ("v1", "Champion"))
    await cluster.until("Stepping")
    while not cluster.status["slis"] or not cluster.status["slis"][0].get("blocks"):
        await cluster.turn()
    cluster.source.down = True
    await cluster.until("Held")
    held = {c["type"]: c for c in cluster.status["conditions"]}["AnalysisHealthy"]
    assert (held["status"], held["reason"]) == ("False", "SourceDown")
    step, blocks = cluster.status["step"]["index"], cluster.status["slis"][0]["blocks"]
    for _ in range(60):
        await cluster.turn()
    assert cluster.status["step"]["index"] == step
    assert cluster.status["slis"][0]["blocks"] == blocks
    cluster.start_operator()
    cluster.source.down = False
    await cluster.until("Idle")
    assert cluster.status["aliases"]["champion"] == "v2"
    assert "quarantined" not in cluster.status or not cluster.status["quarantined"]


async def test_a_request_is_done_once_and_answered(cluster: Cluster) -> None:
    cluster.versions(("v2", "Candidate"), ("v1", "Champion"))
    await cluster.until("Stepping")
    found = cluster.get("CanaryRollout", "digits")
    found["metadata"]["annotations"] = {"espalier.dev/request": "pause@1"}
    cluster.kube.put(found)
    await cluster.until("Paused")
    assert cluster.status["lastRequest"]["result"] == "Done"
    at = cluster.status["lastRequest"]["at"]
    await cluster.turn()
    assert cluster.status["lastRequest"]["at"] == at


async def test_an_unreadable_request_is_refused_with_the_form(cluster: Cluster) -> None:
    found = cluster.get("CanaryRollout", "digits")
    found["metadata"]["annotations"] = {"espalier.dev/request": "dance"}
    cluster.kube.put(found)
    await cluster.turn()
    assert cluster.status["lastRequest"]["result"].startswith("Refused: 'dance' is none of promote")


async def test_a_quiet_pass_writes_nothing(cluster: Cluster) -> None:
    for _ in range(3):
        await cluster.turn()
    cluster.kube.requests.clear()
    await cluster.turn()
    assert [r for r in cluster.kube.requests if not r.startswith("list")] == []


async def test_deletion_gives_stable_everything_and_keeps_it(cluster: Cluster) -> None:
    cluster.versions(("v2", "Candidate"), ("v1", "Champion"))
    await cluster.until("Stepping")
    found = cluster.get("CanaryRollout", "digits")
    found["metadata"]["deletionTimestamp"] = cluster.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    cluster.kube.put(found)
    released = [await cluster.turn(delete=True) for _ in range(4)]
    assert released[0] is False, "traffic is not back yet"
    assert released[-1] is True
    assert cluster.weights() == {"digits-v1": 100}
    assert cluster.get("Deployment", "digits-v1")
    assert not cluster.get("Deployment", "digits-v2")


async def test_deletion_policy_delete_takes_everything(cluster: Cluster) -> None:
    found = cluster.get("CanaryRollout", "digits")
    found["metadata"]["deletionTimestamp"] = cluster.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    found["spec"]["deletionPolicy"] = "Delete"
    cluster.kube.put(found)
    released = [await cluster.turn(delete=True) for _ in range(4)]
    assert released[-1] is True
    for kind in ("HTTPRoute", "Deployment", "Service", "ConfigMap"):
        assert not cluster.kube.of_kind(kind), kind


async def test_a_namespace_that_is_going_is_not_held_up(cluster: Cluster) -> None:
    cluster.versions(("v2", "Candidate"), ("v1", "Champion"))
    await cluster.until("Stepping")
    found = cluster.get("CanaryRollout", "digits")
    found["metadata"]["deletionTimestamp"] = cluster.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    cluster.kube.put(found)
    refusal = "unable to create new content in namespace vision because it is being terminated"
    cluster.kube.fail = [ForbiddenError(403, refusal)]
    assert await cluster.turn(delete=True) is True


async def test_a_second_life_continues_with_what_serves(cluster: Cluster) -> None:
    """The object was deleted and applied again; the model has forgotten who was champion, the route has not."""
    await asyncio.sleep(0)
    found = cluster.get("CanaryRollout", "digits")
    cluster.kube.put({**found, "status": {}})
    cluster.versions(("v2", "Candidate"), ("v1", "Candidate"))
    await cluster.turn()
    assert cluster.status["aliases"]["champion"] == "v1"
    assert cluster.weights() == {"digits-v1": 100}


async def test_a_second_life_knows_the_quarantine_from_the_store() -> None:
    cluster = Cluster()
    cluster.kube.put(model())
    cluster.kube.put(rollout())
    cluster.store.objects["s3://models/vision/digits/aliases.json"] = (
        b'{"aliases": {"champion": "v1"}, "quarantined": [{"version": "v2", "reason": "bad", "at": "2026-11-01T00:00:00Z"}]}'
    )
    cluster.versions(("v2", "Candidate"), ("v1", "Candidate"))
    for _ in range(10):
        await cluster.turn()
    assert cluster.status["aliases"]["champion"] == "v1"
    assert [q["version"] for q in cluster.status["quarantined"]] == ["v2"]
    assert not cluster.get("Deployment", "digits-v2")


async def test_a_silent_store_is_waited_for_before_a_first_life_begins() -> None:
    cluster = Cluster()
    cluster.kube.put(model())
    cluster.kube.put(rollout())
    cluster.store.down = StoreDownError("down")
    cluster.versions(("v1", "Candidate"))
    await cluster.turn()
    assert not cluster.kube.of_kind("Deployment")
    cluster.store.down = None
    await cluster.until("Idle")


async def test_records_reach_the_store(cluster: Cluster) -> None:
    for _ in range(3):
        await cluster.turn()
        await asyncio.sleep(0)
    written = cluster.store.objects
    assert b'"champion": "v1"' in written["s3://models/vision/digits/aliases.json"]
    assert [uri for uri in written if "/history/" in uri and uri.endswith("-v1.json")]


async def test_a_younger_rival_stands_back(cluster: Cluster) -> None:
    rival = rollout()
    rival["metadata"] = {**rival["metadata"], "name": "zzz", "creationTimestamp": "2026-11-22T13:00:00Z"}
    cluster.kube.put(rival)
    await cluster.turn()
    before = dict(cluster.weights())
    await cluster.controller.reconcile(Key("CanaryRollout", NAMESPACE, "zzz"))
    status = cluster.get("CanaryRollout", "zzz")["status"]
    valid = {c["type"]: c for c in status["conditions"]}["SpecValid"]
    assert valid["status"] == "False"
    assert "digits already rolls out digits" in valid["message"]
    assert cluster.weights() == before


@pytest.mark.parametrize(
    "spec, named",
    [
        ({"strategy": {"shadow": {}}}, "spec.strategy.shadow"),
        ({"strategy": {"match": {"headers": {"x": "y"}}}}, "spec.strategy.match"),
        ({"strategy": {"bake": {}}}, "spec.strategy.bake"),
        ({"traffic": {"istio": {"virtualService": "x"}}}, "spec.traffic.istio"),
        ({"traffic": {"kserve": {"inferenceService": "x"}}}, "spec.traffic.kserve"),
        ({"rollback": {"retrain": {"policyRef": {"name": "x"}}}}, "spec.rollback.retrain"),
        ({"traffic": {"replicas": {}}, "strategy": {"steps": [{"weight": 75, "hold": "1s"}]}}, "steps[0].weight"),
        ({"analysis": {"source": "elsewhere"}}, "spec.analysis.source"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(spec: dict[str, Any], named: str) -> None:
    cluster = Cluster()
    cluster.kube.put(model())
    cluster.kube.put(rollout(**spec))
    cluster.versions(("v1", "Candidate"))
    for _ in range(3):
        await cluster.turn()
    valid = {c["type"]: c for c in cluster.status["conditions"]}["SpecValid"]
    assert valid["status"] == "False"
    assert named in valid["message"]
    assert not cluster.kube.of_kind("Deployment"), "a refused spec starts nothing"


async def test_the_replicas_router_moves_the_selector_and_counts_pods() -> None:
    cluster = Cluster()
    cluster.kube.put(model(serving={"replicas": 2}))
    analysis = {"interval": "4s", "slis": [{"name": "errors", "errorRatio": {}}]}
    strategy = {"warmUp": "4s", "steps": [{"weight": 50, "hold": "8s"}]}
    cluster.kube.put(rollout(traffic={"replicas": {}}, analysis=analysis, strategy=strategy))
    cluster.versions(("v1", "Candidate"))
    await cluster.until("Initial")
    await cluster.until("Idle")
    selector = cluster.get("Service", "digits")["spec"]["selector"]
    assert selector["espalier.dev/version"] == "v1"
    cluster.versions(("v2", "Candidate"), ("v1", "Champion"))
    await cluster.until("Stepping")
    for _ in range(4):
        await cluster.turn()
    assert cluster.status["step"]["observedWeight"] == 50
    assert "2 of 4 ready pods = 50 %" in cluster.status["router"]
    await cluster.until("Idle")
    assert cluster.status["aliases"]["champion"] == "v2"
