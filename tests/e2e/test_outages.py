"""Prometheus and S3 go away mid-flight: the rollout is held, nothing is lost, nothing is rolled back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.harness import MODEL, ROLLOUT, model_manifest

if TYPE_CHECKING:
    from tests.e2e.harness import World

pytestmark = [pytest.mark.e2e, pytest.mark.alone]
OUTAGE = 120.0  # seconds: many analysis intervals


def second_version(world: World, **spec: Any) -> None:
    """Apply the model with another strength: a new version, as good as the first."""
    world.apply(model_manifest(regularizers={"l2": {"strength": 0.011}}, **spec))


def first_champion(world: World) -> None:
    """Rollout and model applied, v1 serving."""
    world.apply_rollout()
    world.apply(model_manifest())
    world.await_("v1 champion", lambda: world.champion() == "v1")


def test_prometheus_outage_holds_and_resumes(world: World) -> None:
    """Held with AnalysisHealthy=False while it is away, evidence kept, promoted afterwards, no rollback."""
    first_champion(world)
    with world.traffic():
        second_version(world)
        world.await_("v2 takes traffic", lambda: world.weight("v2") == 20)
        world.await_("evidence", lambda: any(sli.get("blocks") for sli in world.status().get("slis") or []))
        with world.stopped("deployment/prometheus"):
            world.await_("held", lambda: world.condition(ROLLOUT, "AnalysisHealthy").get("status") == "False", 60)
            blocks = {sli["name"]: sli.get("blocks", 0) for sli in world.status()["slis"]}
            step = world.status()["step"]["index"]
            end = time.monotonic() + OUTAGE
            while time.monotonic() < end:
                status = world.status()
                assert world.weight("v2") == 20, "an outage must not move traffic"
                assert status["step"]["index"] == step
                assert not world.outcome("v2")
                time.sleep(3)
            assert all(sli.get("blocks", 0) >= blocks[sli["name"]] for sli in world.status()["slis"])
        world.await_("healthy again", lambda: world.condition(ROLLOUT, "AnalysisHealthy").get("status") == "True", 90)
        world.await_("v2 champion", lambda: world.champion() == "v2", 180)
    assert world.outcome("v2")["outcome"] == "Promoted"
    assert not world.status().get("quarantined")


def test_store_outage_waits_and_loses_nothing(world: World) -> None:
    """S3 away when a model is applied: the condition says so and names the remedy; it trains when S3 is back.

    Serving goes on.
    """
    first_champion(world)
    with world.stopped("deployment/s3"):
        second_version(world)
        waiting = world.await_(
            "StoreUnavailable",
            lambda: (found := world.condition(MODEL, "DataResolved")).get("reason") == "StoreUnavailable" and found,
        )
        assert waiting["status"] in {"False", "Unknown"}
        assert world.champion() == "v1"
        assert world.version("v1")["state"] == "Champion"
    world.await_version("v2", "Candidate", "Canary", "Champion", timeout=240)
    assert world.version("v1")["digest"]


def test_store_outage_during_training_is_retried(world: World) -> None:
    """S3 goes away while the trainer runs: the attempt fails as infrastructure and a later one publishes."""
    world.apply(model_manifest())
    world.await_("a training pod", world.job_pods)
    with world.stopped("deployment/s3"):
        world.await_(
            "first attempt ended or waits",
            lambda: _attempt_over(world) or world.version("v1").get("state") == "Candidate",
            180,
        )
    world.await_version("v1", "Candidate", timeout=240)


def _attempt_over(world: World) -> bool:
    return any(pod.get("status", {}).get("phase") in {"Failed", "Succeeded"} for pod in world.job_pods())
