"""Training goes wrong in each way that it can: the right reason, the right retry, never a half-written version."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.harness import MODEL, data_from, model_manifest, torch_engine

if TYPE_CHECKING:
    from tests.e2e.harness import World

pytestmark = pytest.mark.e2e


def failed(world: World, reason: str, timeout: float = 180) -> dict[str, Any]:
    """Wait for v1 to fail and check its reason."""
    version = world.await_version("v1", "Failed", timeout=timeout)
    assert version["reason"].startswith(reason), version
    condition = world.condition(MODEL, "Trained")
    assert condition["status"] == "False"
    assert condition["reason"] == reason
    assert not world.job_pods() or all(pod["status"]["phase"] != "Running" for pod in world.job_pods())
    return condition


def test_preempted_training_resumes_from_its_checkpoint(world: World) -> None:
    """The pod is evicted mid-training: checkpoint, exit 75, a second attempt that resumes and is not a retry."""
    engine = torch_engine()
    training = {**model_manifest()["spec"]["training"], "retries": 0, "checkpoint": {"interval": "5s"}}
    world.apply(model_manifest(engine=engine, training=training))
    world.await_("some progress", lambda: _epoch(world) >= 10)
    pod = world.job_pods()[0]["metadata"]["name"]
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": world.kube.namespace},
    }
    world.kube.run(
        "create",
        "--raw",
        f"/api/v1/namespaces/{world.kube.namespace}/pods/{pod}/eviction",
        "-f",
        "-",
        stdin=json.dumps(eviction),
    )
    world.await_("a second attempt", lambda: _training(world).get("attempt") == 2)
    resumed = world.await_("its progress", lambda: _epoch(world))
    assert resumed >= 10, f"attempt 2 began again at epoch {resumed}"
    world.await_version("v1", "Candidate", timeout=300)


def test_divergence_is_final(world: World) -> None:
    """The largest learning rate of the schema makes the loss NaN: exit 43, Diverged, diagnosis F7, no retry."""
    engine = torch_engine(optimizer={"sgd": {"learningRate": 10.0, "momentum": 0.99}}, epochs=50)
    world.apply(model_manifest(engine=engine, regularizers={}))
    failed(world, "Diverged")
    diagnosis = world.version("v1").get("diagnosis") or []
    assert any(entry["mode"] == "F7" for entry in diagnosis)


def test_incompatible_cocktail_is_refused_before_any_job(world: World) -> None:
    """R7: l2 and weightDecay on the same targets. The condition names the rule and the fix; nothing is started."""
    world.apply(
        model_manifest(
            engine=torch_engine(), regularizers={"l2": {"strength": 0.01}, "weightDecay": {"strength": 0.01}}
        )
    )
    condition = world.await_(
        "SpecValid=False", lambda: (found := world.condition(MODEL, "SpecValid")).get("status") == "False" and found
    )
    assert condition["reason"] == "IncompatibleRegularizers"
    assert "R7" in condition["message"]
    assert not world.kube.items("jobs")


def test_config_that_only_the_trainer_can_refuse(world: World) -> None:
    """An estimator parameter that scikit-learn does not know: exit 42, InvalidConfig, its name is told, no retry."""
    world.apply(
        model_manifest(engine={"sklearn": {"estimator": "logisticRegression", "params": {"no_such_parameter": 1}}})
    )
    condition = failed(world, "InvalidConfig")
    assert "no_such_parameter" in condition["message"]


def test_bad_data_is_final_and_named(world: World) -> None:
    """A label outside the declared classes: exit 44, reason DataProblem, the label in the message."""
    task = {"type": "classification", "classes": [str(digit) for digit in range(9)]}  # the data has ten
    world.apply(model_manifest(task=task))
    condition = failed(world, "DataProblem")
    assert "9" in condition["message"]


def test_missing_snapshot_is_said(world: World) -> None:
    """A prefix without files: DataResolved=False with the prefix and a remedy; no Job."""
    world.apply(model_manifest(data=data_from("s3://datasets/nowhere/")))
    condition = world.await_(
        "DataResolved=False",
        lambda: (found := world.condition(MODEL, "DataResolved")).get("status") == "False" and found,
    )
    assert condition["reason"] == "SnapshotNotFound"
    assert "nowhere" in condition["message"]
    assert not world.kube.items("jobs")


def test_pinned_digest_that_does_not_match(world: World) -> None:
    """A pinned digest that the listing does not have: SnapshotChanged, nothing is trained."""
    data = data_from("s3://datasets/digits/2026-11-01/")
    data["snapshot"]["digest"] = "sha256:" + "0" * 64
    world.apply(model_manifest(data=data))
    condition = world.await_(
        "DataResolved=False",
        lambda: (found := world.condition(MODEL, "DataResolved")).get("status") == "False" and found,
    )
    assert condition["reason"] == "SnapshotChanged"
    assert not world.kube.items("jobs")


def test_out_of_memory_has_its_own_reason(world: World) -> None:
    """A memory limit far below what the trainer needs: OOMKilled, in those words, with the limit as the remedy."""
    training = {"resources": {"limits": {"memory": "48Mi"}}, "retries": 0}
    world.apply(model_manifest(training=training))
    condition = failed(world, "OOMKilled")
    assert "memory" in condition["message"]


def test_unschedulable_has_its_own_reason(world: World) -> None:
    """More GPUs than any node has: the condition says Unschedulable while it waits."""
    training = {"resources": {"limits": {"nvidia.com/gpu": 64}}}
    world.apply(model_manifest(training=training))
    condition = world.await_(
        "Unschedulable", lambda: (found := world.condition(MODEL, "Trained")).get("reason") == "Unschedulable" and found
    )
    assert "nvidia.com/gpu" in condition["message"]


def test_failed_gate_rejects_and_a_changed_gate_judges_again(world: World) -> None:
    """Rejected by an impossible gate, never retrained; lowering the gate makes the same digest a Candidate."""
    world.apply(model_manifest(evaluation={"gates": [{"metric": "accuracy", "min": 0.999}]}))
    rejected = world.await_version("v1", "Rejected")
    assert world.condition(MODEL, "GatesPassed")["reason"] == "GatesFailed"
    world.apply(model_manifest(evaluation={"gates": [{"metric": "accuracy", "min": 0.5}]}))
    accepted = world.await_version("v1", "Candidate", timeout=30)
    assert accepted["digest"] == rejected["digest"]
    assert not world.version("v2")


def _training(world: World) -> dict[str, Any]:
    found: dict[str, Any] = (world.model().get("status") or {}).get("training") or {}
    return found


def _epoch(world: World) -> int:
    return int(_training(world).get("epoch") or 0)
