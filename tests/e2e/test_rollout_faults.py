"""A canary in trouble and people in a hurry: crashes, requests, deletions.

Traffic never goes where it must not.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import MODEL, ROLLOUT, model_manifest
from tests.e2e.rollouts import first_champion, next_version, steps, watched

if TYPE_CHECKING:
    from tests.e2e.harness import World

pytestmark = pytest.mark.e2e


@pytest.mark.alone
def test_crashing_canary_is_rolled_back_without_prometheus(world: World) -> None:
    """Its pods die while Prometheus is away: weight 0 and quarantine come from the pods alone."""
    first_champion(world, strategy=steps(20, 50, hold="10m"))
    next_version(world)
    world.await_("v2 takes traffic", lambda: world.weight("v2") == 20)
    with world.stopped("deployment/prometheus"):
        image = {
            "spec": {"template": {"spec": {"containers": [{"name": "server", "command": ["sh", "-c", "exit 3"]}]}}}
        }
        world.kube.run("patch", "deployment", "digits-v2", "--field-manager", "vandal", "-p", json.dumps(image))
        world.kube.run(
            "delete", "pod", "--selector", "espalier.dev/version=v2", "--grace-period=0", "--force", "--wait=false"
        )
        world.await_("weight 0", lambda: world.weight("v2") == 0, 120)
        world.await_("rolled back", lambda: world.outcome("v2").get("outcome") == "RolledBack", 120)
    assert world.champion() == "v1"
    assert [entry["version"] for entry in world.status()["quarantined"]] == ["v2"]
    assert world.weight("v1") == 100


def test_requests_are_done_once_and_recorded(world: World) -> None:
    """pause, resume, promote, abort, retry: each id once, its result in lastRequest."""
    first_champion(world, strategy=steps(20, 50, hold="10m"))
    with world.traffic():
        next_version(world)
        world.await_("v2 takes traffic", lambda: world.weight("v2") == 20)
        for verb in ("pause", "resume"):
            identity = world.request(verb)
            world.await_(
                verb, lambda identity=identity: (world.status().get("lastRequest") or {}).get("id") == identity, 30
            )
        assert world.weight("v2") == 20
        identity = world.request("skip-step")
        world.await_("step 2", lambda: world.weight("v2") == 50, 60)
        world.request("abort")
        world.await_("aborted", lambda: world.outcome("v2").get("outcome") == "Aborted", 60)
        assert world.weight("v2") == 0
        assert world.champion() == "v1"
        world.request("retry")
        world.await_("v2 again", lambda: world.weight("v2") == 20, 120)
        world.request("promote-full")
        world.await_("v2 champion", lambda: world.champion() == "v2", 120)


def test_deleting_a_live_rollout_gives_stable_its_traffic(world: World) -> None:
    """Deleted at 20 %: the stable version has all traffic before the object is gone, and goes on serving."""
    first_champion(world, strategy=steps(20, hold="10m"))
    with world.traffic(), watched(world):
        next_version(world)
        world.await_("v2 takes traffic", lambda: world.weight("v2") == 20)
        world.kube.run("delete", ROLLOUT, "digits", "--wait=true", "--timeout=60s")
        assert not world.rollout()
        assert world.kube.get("deployment", "digits-v1")["status"]["readyReplicas"] >= 1
        assert world.weight("v2") == 0


def test_deleting_a_training_model_stops_its_job_and_keeps_artifacts(world: World) -> None:
    """Deleted while training: the Job goes; deleted and re-created after publishing: the version is adopted."""
    world.apply(model_manifest())
    world.await_("a job", lambda: world.kube.items("jobs"))
    world.kube.run("delete", MODEL, "digits", "--wait=true", "--timeout=60s")
    world.await_("no job", lambda: not world.kube.items("jobs"), 60)
    world.apply(model_manifest())
    first = world.await_version("v1", "Candidate")
    world.kube.run("delete", MODEL, "digits", "--wait=true", "--timeout=60s")
    world.apply(model_manifest())
    again = world.await_version("v1", "Candidate", timeout=60)
    assert again["digest"] == first["digest"]
    assert not world.kube.items("jobs")


def test_deleting_a_retrain_policy(world: World) -> None:
    """A RetrainPolicy is accepted and goes away at once."""
    policy = {
        "apiVersion": "espalier.dev/v1alpha1",
        "kind": "RetrainPolicy",
        "metadata": {"name": "digits"},
        "spec": {"modelRef": {"name": "digits"}, "triggers": [{"name": "after-rollback", "rollback": {}}]},
    }
    world.apply(policy)
    world.kube.run("delete", "retrainpolicies.espalier.dev", "digits", "--wait=true", "--timeout=30s")


def test_replicas_router_needs_no_gateway(world: World) -> None:
    """The share of ready pods is the weight; a rollback empties the Service of the canary at once."""
    serving = {**model_manifest()["spec"]["serving"], "replicas": 2}
    world.apply_rollout(
        traffic={"replicas": {}},
        strategy=steps(50, hold="8s"),
        analysis={"slis": [{"name": "errors", "errorRatio": {}}], "onNoData": {"policy": "Proceed"}, "interval": "4s"},
    )
    world.apply(model_manifest(serving=serving))
    world.await_("v1 champion", lambda: world.champion() == "v1")
    next_version(world, serving=serving)
    world.await_("v2 observed", lambda: (world.status().get("step") or {}).get("observedWeight") == 50, 120)
    world.request("abort")
    world.await_("aborted", lambda: world.outcome("v2").get("outcome") == "Aborted", 60)
    selector = world.kube.get("service", "digits")["spec"]["selector"]
    assert selector["espalier.dev/version"] == "v1"
