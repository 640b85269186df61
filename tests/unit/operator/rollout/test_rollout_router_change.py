"""`spec.traffic` names another router while a canary is live."""

from __future__ import annotations

from espalier_operator.decisions.rollout.leftovers import own_route_is_left
from espalier_operator.decisions.rollout.world import Traffic
from tests.unit.operator.rollout.controller_world import Cluster, rollout
from tests.unit.operator.samples import model

SETTLED = Traffic(weights={"v1": 100}, settled=True)


def test_our_route_goes_when_another_router_has_the_traffic() -> None:
    assert own_route_is_left(owns_routes=False, adopted=None, route="digits", traffic=SETTLED)
    assert own_route_is_left(owns_routes=False, adopted="theirs", route="digits", traffic=SETTLED)


def test_our_route_stays_while_it_is_needed_or_somebody_elses() -> None:
    assert not own_route_is_left(owns_routes=True, adopted=None, route="digits", traffic=SETTLED)
    assert not own_route_is_left(owns_routes=False, adopted="digits", route="digits", traffic=SETTLED)
    assert not own_route_is_left(owns_routes=False, adopted=None, route=None, traffic=SETTLED)
    assert not own_route_is_left(owns_routes=False, adopted=None, route="digits", traffic=Traffic(weights={"v1": 100}))
    assert not own_route_is_left(owns_routes=False, adopted=None, route="digits", traffic=Traffic(settled=True))


async def test_a_live_canary_changes_its_router_and_the_old_route_goes() -> None:
    cluster = Cluster()
    cluster.kube.put(model(serving={"replicas": 2}))
    cluster.kube.put(rollout())
    cluster.versions(("v1", "Candidate"))
    await cluster.until("Initial")
    await cluster.until("Idle")
    cluster.versions(("v2", "Candidate"), ("v1", "Champion"))
    await cluster.until("Stepping")
    while cluster.weights().get("digits-v2") != 20:
        await cluster.turn()
    found = cluster.get("CanaryRollout", "digits")
    found["spec"]["traffic"] = {"replicas": {}}
    cluster.kube.put(found)
    for _ in range(4):
        await cluster.turn()
    assert not cluster.get("HTTPRoute", "digits")
    assert cluster.get("Service", "digits")["spec"]["selector"]["espalier.dev/model"] == "digits"
    await cluster.until("Idle")
    assert cluster.status["aliases"]["champion"] == "v2"
    assert cluster.get("Service", "digits")["spec"]["selector"]["espalier.dev/version"] == "v2"
