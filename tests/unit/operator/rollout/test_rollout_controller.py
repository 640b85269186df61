"""The controller against an API server in memory: what it writes, in which order, and what survives its death."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest

from espalier_operator.adapters.kube import ForbiddenError, UnavailableError
from espalier_operator.adapters.objectstore import StoreDownError
from espalier_operator.controllers.loop import Key
from tests.unit.operator.rollout.controller_world import NAMESPACE, Cluster, rollout
from tests.unit.operator.samples import model


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


async def test_a_request_is_answered_with_who_asked(cluster: Cluster) -> None:
    found = cluster.get("CanaryRollout", "digits")
    found["metadata"]["annotations"] = {"espalier.dev/request": "pause@1"}
    owned = {"f:metadata": {"f:annotations": {"f:espalier.dev/request": {}}}}
    found["metadata"]["managedFields"] = [
        {"manager": "helm", "fieldsV1": {"f:spec": {}}},
        {"manager": "kubectl-annotate", "fieldsV1": owned},
    ]
    cluster.kube.put(found)
    await cluster.turn()
    assert cluster.status["lastRequest"]["by"] == "kubectl-annotate"


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


async def test_status_says_how_the_weight_was_observed(cluster: Cluster) -> None:
    cluster.versions(("v2", "Candidate"), ("v1", "Champion"))
    await cluster.until("Stepping")
    while cluster.status["step"].get("observedWeight") != 20:
        await cluster.turn()
    assert cluster.status["step"]["observedBy"] == "counters"
    assert cluster.status["step"]["observedWeight"] == 20
    route = {c["type"]: c for c in cluster.status["conditions"]}["RouteAccepted"]
    assert "requests (20.0 %) at weight 20" in route["message"]


async def test_a_step_does_not_end_while_traffic_does_not_follow(cluster: Cluster) -> None:
    cluster.versions(("v2", "Candidate"), ("v1", "Champion"))
    cluster.stuck = {"v1": 100}
    await cluster.until("Stepping")
    for _ in range(60):
        await cluster.turn()
    step = cluster.status["step"]
    assert (step["index"], step["observedWeight"]) == (0, 0)
    assert step["heldSince"]
    route = {c["type"]: c for c in cluster.status["conditions"]}["RouteAccepted"]
    assert (route["status"], route["reason"]) == ("False", "TrafficDisagrees")
    assert "v2 had 0 of" in route["message"]
    cluster.stuck = None
    await cluster.until("Idle")
    assert cluster.status["aliases"]["champion"] == "v2"


async def test_a_rollback_is_done_when_the_canarys_counter_has_stopped(cluster: Cluster) -> None:
    cluster.versions(("v2", "Candidate"), ("v1", "Champion"))
    await cluster.until("Stepping")
    while cluster.status["step"].get("observedWeight") != 20:
        await cluster.turn()
    cluster.stuck = {"v1": 80, "v2": 20}
    cluster.digests.lies = {"v2": "sha256:other"}
    cluster.start_operator()
    await cluster.until("RollingBack")
    zero = cluster.now
    assert cluster.weights()["digits-v2"] == 0, "weight 0 waits for nobody"
    for _ in range(90):
        await cluster.turn()
    assert cluster.status["phase"] == "RollingBack"
    route = {c["type"]: c for c in cluster.status["conditions"]}["RouteAccepted"]
    assert route["reason"] == "TrafficDisagrees"
    cluster.stuck = None
    await cluster.until("RolledBack")
    entry = cluster.status["history"][0]
    assert (datetime.fromisoformat(entry["weightZeroAt"]) - zero).total_seconds() <= 2, "when the route had it"


async def test_a_rollback_without_prometheus_is_done_by_the_lag(cluster: Cluster) -> None:
    cluster.versions(("v2", "Candidate"), ("v1", "Champion"))
    await cluster.until("Stepping")
    for _ in range(4):
        await cluster.turn()
    cluster.source.down = True
    cluster.digests.lies = {"v2": "sha256:other"}
    cluster.start_operator()
    await cluster.until("RollingBack", 3)
    assert cluster.weights()["digits-v2"] == 0
    await cluster.until("RolledBack", 25)  # three blocks, a scrape and the source's lag: 18 s
    assert cluster.status["history"][0]["version"] == "v2"


async def test_counting_asks_what_the_fleet_asks_anyway(cluster: Cluster) -> None:
    cluster.versions(("v2", "Candidate"), ("v1", "Champion"))
    await cluster.until("Stepping")
    cluster.source.asked.clear()
    await cluster.until("Promoting")
    assert len({query.text for query in cluster.source.asked}) == 1
    assert "digits" not in cluster.source.asked[0].text
