"""A canary in trouble and people in a hurry: crashes, kills, requests, deletions.

Traffic never goes where it must not.
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes import client, config

from tests.e2e.harness import MODEL, RESCALED, ROLLOUT, data_from, model_manifest
from tests.e2e.history import Recorder, breaches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.harness import World

pytestmark = pytest.mark.e2e
KILLS = 50


def first_champion(world: World, **spec: Any) -> None:
    """Rollout and model applied, v1 serving."""
    world.apply_rollout(**spec)
    world.apply(model_manifest())
    world.await_("v1 champion", lambda: world.champion() == "v1")


def next_version(world: World, strength: float = 0.011, **spec: Any) -> None:
    """A version as good as the first (or, with `data=`, a bad one)."""
    world.apply(model_manifest(regularizers={"l2": {"strength": strength}}, **spec))


def steps(*weights: int, hold: str = "12s") -> dict[str, Any]:
    """A strategy with these weights."""
    return {"warmUp": "4s", "steps": [{"weight": weight, "hold": hold} for weight in weights]}


@contextmanager
def watched(world: World) -> Iterator[None]:
    """Every state of the route and the pods is recorded meanwhile; at the end it fails when an invariant was broken in any."""
    api_client = config.new_client_from_config(context=world.kube.context)
    core, custom = client.CoreV1Api(api_client), client.CustomObjectsApi(api_client)
    routes = ("gateway.networking.k8s.io", "v1", world.kube.namespace, "httproutes")
    recorders = [
        Recorder("Pod", core.list_namespaced_pod, (world.kube.namespace,)),
        Recorder("HTTPRoute", custom.list_namespaced_custom_object, routes),
    ]
    threads = [threading.Thread(target=recorder.run, daemon=True) for recorder in recorders]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for recorder in recorders:
            recorder.stop.set()
        for thread in threads:
            thread.join(timeout=30)
        api_client.close()
    assert not any(recorder.gaps for recorder in recorders), [recorder.gaps for recorder in recorders]
    assert all(recorder.changes for recorder in recorders)
    broken = list(
        breaches([change for recorder in recorders for change in recorder.changes], "digits", time.monotonic())
    )
    assert not broken, broken[:10]


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
        import json  # noqa: PLC0415 - used here only

        world.kube.run("patch", "deployment", "digits-v2", "--field-manager", "vandal", "-p", json.dumps(image))
        world.kube.run(
            "delete", "pod", "--selector", "espalier.dev/version=v2", "--grace-period=0", "--force", "--wait=false"
        )
        world.await_("weight 0", lambda: world.weight("v2") == 0, 120)
        world.await_("rolled back", lambda: world.outcome("v2").get("outcome") == "RolledBack", 120)
    assert world.champion() == "v1"
    assert [entry["version"] for entry in world.status()["quarantined"]] == ["v2"]
    assert world.weight("v1") == 100


@pytest.mark.alone
@pytest.mark.parametrize("phase", ["Training", "Deploying", "Stepping", "Roll"])
def test_operator_killed_in_each_phase(world: World, phase: str) -> None:
    """SIGKILL when the phase is seen: the next operator goes on from what the cluster holds, to the right end."""
    bad = phase == "Roll"  # RollingBack lasts less than a look; RolledBack follows
    first_champion(world)
    with world.traffic(), watched(world):
        next_version(world, **({"data": data_from(RESCALED)} if bad else {}))
        world.await_(f"phase {phase}", lambda: _phase(world).startswith(phase), 240)
        world.kill_operator()
        world.await_operator()
        outcome = world.await_("an outcome", lambda: world.outcome("v2"), 240)
        world.await_("settled", lambda: world.status().get("phase") == "Idle", 120)
    assert outcome["outcome"] == ("RolledBack" if bad else "Promoted")
    assert world.weight("v1" if bad else "v2") == 100


@pytest.mark.alone
def test_fifty_kills_break_no_invariant(world: World) -> None:
    """50 SIGKILLs at random moments over rollouts good and bad.

    Weights always sum to 100 on ready versions, good ones get through, bad ones never.
    """
    dice = random.Random(20261122)
    first_champion(world)
    kills = 0
    newest = 1
    with world.traffic(seconds=1500), watched(world):
        while kills < KILLS:
            newest += 1
            bad = newest % 2 == 1
            next_version(world, 0.01 + newest / 1000, **({"data": data_from(RESCALED)} if bad else {}))
            version = f"v{newest}"
            while not world.outcome(version):
                if kills < KILLS:
                    world.kill_operator()
                    kills += 1
                time.sleep(dice.uniform(2.0, 9.0))
            world.await_(f"{version} settled", lambda: world.status().get("phase") == "Idle", 180)
            assert world.outcome(version)["outcome"] == ("RolledBack" if bad else "Promoted")
    assert kills == KILLS


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


def _phase(world: World) -> str:
    training = (world.model().get("status") or {}).get("training") or {}
    return "Training" if training.get("job") else str(world.status().get("phase"))
