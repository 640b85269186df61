"""Two pods train one model: they find each other, publish one version, and leave nothing behind; one that is taken away costs no retry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import requests

from espalier_api.names import PORT_TRAINER
from tests.e2e.harness import model_manifest, torch_engine

if TYPE_CHECKING:
    from tests.e2e.harness import World

pytestmark = pytest.mark.e2e


def two_nodes(epochs: int, **training: Any) -> dict[str, Any]:
    """A small network on two pods with one CPU process each."""
    engine = torch_engine(architecture={"mlp": {"hidden": [32]}}, batchSize=64, epochs=epochs)
    resources = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}}
    return model_manifest(engine=engine, training={"nodes": 2, "resources": resources, "deadline": "10m", **training})


def children(world: World) -> list[str]:
    """What training Jobs consist of, by kind."""
    kinds = ("jobs", "services", "configmaps")
    return [kind for kind in kinds if world.kube.items(kind, "espalier.dev/component=trainer")]


def test_two_pods_train_one_version(world: World) -> None:
    world.apply(two_nodes(epochs=20))
    world.await_("both pods", lambda: len(world.job_pods()) == 2, timeout=60)
    assert children(world) == ["jobs", "services", "configmaps"]
    (job,) = world.kube.items("jobs", "espalier.dev/component=trainer")
    assert (job["spec"]["completionMode"], job["spec"]["completions"]) == ("Indexed", 2)
    version = world.await_version("v1", "Candidate", "Rejected", "Failed", timeout=300)
    assert version["state"] == "Candidate", version
    world.await_("nothing left", lambda: not children(world), timeout=60)


def test_a_pod_that_is_taken_away_costs_no_retry(world: World) -> None:
    """SIGTERM reaches one rank only: all leave at one step with a checkpoint, and the next attempt goes on from there.

    Both pods answer a scrape meanwhile; the leader's alone has samples, so that a sum counts a fit once.
    """
    world.apply(two_nodes(epochs=600, retries=0, checkpoint={"interval": "5s"}))
    world.await_("some progress", lambda: _epoch(world) >= 10, timeout=240)
    first, second = sorted(world.job_pods(), key=_index)
    assert (bool(_samples(world, first)), _samples(world, second)) == (True, [])
    world.kube.run("delete", "pod", second["metadata"]["name"], "--wait=false")
    world.await_("a second attempt", lambda: _training(world).get("attempt") == 2, timeout=120)
    assert "Preempted" in _training(world).get("lastFailure", "")
    resumed = world.await_("its progress", lambda: _epoch(world), timeout=240)
    assert resumed >= 10, f"attempt 2 began again at epoch {resumed}"


def _samples(world: World, pod: dict[str, Any]) -> list[str]:
    """What the pod tells Prometheus."""
    with world.kube.forward(f"pod/{pod['metadata']['name']}", PORT_TRAINER) as url:
        reply = requests.get(f"{url}/metrics", timeout=30)
    reply.raise_for_status()
    return [line for line in reply.text.splitlines() if not line.startswith("#")]


def _index(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"])


def _training(world: World) -> dict[str, Any]:
    found: dict[str, Any] = (world.model().get("status") or {}).get("training") or {}
    return found


def _epoch(world: World) -> int:
    return int(_training(world).get("epoch") or 0)
