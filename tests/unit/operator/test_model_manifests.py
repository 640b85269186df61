"""The training Job: restricted, with exactly the credentials that the spec names, told everything in one document."""

from __future__ import annotations

from typing import Any

import pytest

from espalier_api.hashing import sha256, spec_hash
from espalier_api.kubernetes import ObjectMeta
from espalier_api.model import RegularizedModelSpec, VersionStatus
from espalier_api.training import TrainingJob
from espalier_operator.controllers.model.manifests import job_children
from espalier_operator.decisions.attempts import CONTAINER
from tests.unit.operator.samples import DIGEST, model

META = ObjectMeta(name="digits", namespace="vision", uid="u1", generation=3)


def children(**spec: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    version = VersionStatus(version="v4", state="Training", spec_hash="sha256:h", snapshot_digest=DIGEST, parent="v3")
    parsed = RegularizedModelSpec.model_validate(model(**spec)["spec"])
    config_map, job = job_children(META, parsed, version, 2, "trainer:default")
    return dict(config_map), dict(job)


def manifests(**spec: Any) -> dict[str, dict[str, Any]]:
    """All children by kind."""
    version = VersionStatus(version="v4", state="Training", spec_hash="sha256:h", snapshot_digest=DIGEST)
    parsed = RegularizedModelSpec.model_validate(model(**spec)["spec"])
    return {each["kind"]: dict(each) for each in job_children(META, parsed, version, 2, "trainer:default")}


def search(**fields: Any) -> dict[str, Any]:
    return {"space": {"regularizers.l2.strength": {"uniform": {"min": 0, "max": 1}}}, **fields}


def pod(**spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = children(**spec)[1]["spec"]["template"]["spec"]
    return found


def test_names_labels_and_owner() -> None:
    for child in children():
        metadata = child["metadata"]
        assert (metadata["name"], metadata["namespace"]) == ("digits-v4-a2", "vision")
        assert metadata["labels"] == {
            "app.kubernetes.io/managed-by": "espalier", "espalier.dev/model": "digits", "espalier.dev/version": "v4",
            "espalier.dev/attempt": "2", "espalier.dev/component": "trainer",
        }  # fmt: skip
        assert [owner["uid"] for owner in metadata["ownerReferences"]] == ["u1"]


def test_the_document_is_whole_and_its_digest_is_on_the_job() -> None:
    config_map, job = children(
        evaluation={
            "seeds": 3,
            "gates": [
                {"metric": "latencyP95Seconds", "max": 1},
                {"metric": "latencyP95Seconds", "max": 0.5},
                {"metric": "accuracy", "group": "g", "min": 0},
            ],
            "robustness": {"epsilon": 0.2},
        }
    )
    text = config_map["data"]["job.json"]
    assert job["metadata"]["annotations"]["espalier.dev/spec-digest"] == sha256(text.encode())
    told = TrainingJob.model_validate_json(text)
    assert told.data.snapshot.digest == DIGEST
    assert told.artifact.uri == "s3://models/vision/digits/v4/"
    assert told.checkpoint.uri == "s3://models/vision/digits/.checkpoints/v4/"
    assert told.parent_artifact is not None
    assert told.parent_artifact.uri == "s3://models/vision/digits/v3/"
    assert (told.attempt, told.seeds, told.seed, told.latency_gate, told.group_metrics) == (2, 3, 7, True, ("g",))
    assert told.budgets == {"latencyP95Seconds": 0.5}
    assert told.robustness is not None
    assert (told.robustness.epsilon, told.robustness.norm, told.robustness.steps) == (0.2, "linf", 10)
    assert told.image == "trainer:default"


def test_the_pod_is_restricted() -> None:
    spec = pod()
    container = spec["containers"][0]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert {volume["name"]: set(volume) - {"name"} for volume in spec["volumes"]} == {
        "job": {"configMap"}, "tmp": {"emptyDir"}, "shm": {"emptyDir"},
    }  # fmt: skip


def test_credentials_are_named_one_by_one() -> None:
    env = {variable["name"]: variable for variable in pod()["containers"][0]["env"]}
    references = {
        name: variable["valueFrom"]["secretKeyRef"] for name, variable in env.items() if "valueFrom" in variable
    }
    assert references["AWS_ACCESS_KEY_ID"] == {"name": "s3", "key": "AWS_ACCESS_KEY_ID"}
    assert references["AWS_SESSION_TOKEN"] == {"name": "s3", "key": "AWS_SESSION_TOKEN", "optional": True}
    assert len(references) == 5
    assert "envFrom" not in pod()["containers"][0]
    assert not [name for name in pod(artifacts={"uri": "s3://models/"})["containers"][0]["env"] if "valueFrom" in name]


def test_the_operator_decides_on_attempts() -> None:
    spec = children(training={"deadline": "90m"})[1]["spec"]
    assert (spec["backoffLimit"], spec["template"]["spec"]["restartPolicy"]) == (0, "Never")
    assert (spec["activeDeadlineSeconds"], spec["podReplacementPolicy"]) == (5400, "Failed")
    assert "ttlSecondsAfterFinished" not in spec
    assert {rule["action"] for rule in spec["podFailurePolicy"]["rules"]} == {"FailJob"}
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == CONTAINER


SINGLE = (
    {},
    {"search": search(trials=9)},
    {"search": search(trials=1, parallelism=4)},
    {"training": {"processesPerNode": 2}},
)


@pytest.mark.parametrize("spec", SINGLE)
def test_one_pod_needs_neither_index_nor_service(spec: dict[str, Any]) -> None:
    found = manifests(**spec)
    job = found["Job"]["spec"]
    assert "Service" not in found
    assert (job["completions"], job["parallelism"], "completionMode" in job) == (1, 1, False)
    assert {rule["action"] for rule in job["podFailurePolicy"]["rules"]} == {"FailJob"}
    assert "subdomain" not in job["template"]["spec"]
    told = TrainingJob.model_validate_json(found["ConfigMap"]["data"]["job.json"])
    assert (told.nodes, told.rendezvous) == (1, "")


def test_ranks_find_each_other_by_a_headless_service() -> None:
    found = manifests(training={"nodes": 3, "processesPerNode": 2})
    service, job = found["Service"], found["Job"]
    assert [*found] == ["ConfigMap", "Service", "Job"]  # the Job last: what it needs is there
    assert service["metadata"] == found["ConfigMap"]["metadata"]
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    assert service["spec"]["ports"] == [{"name": "rendezvous", "port": 29400}]
    assert service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"]) == ("Indexed", 3, 3)
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"] == "digits-v4-a2"
    assert [rule["action"] for rule in job["spec"]["podFailurePolicy"]["rules"]] == ["FailJob", "FailJob"]
    told = TrainingJob.model_validate_json(found["ConfigMap"]["data"]["job.json"])
    assert (told.nodes, told.processes_per_node) == (3, 2)
    assert told.rendezvous == "digits-v4-a2-0.digits-v4-a2.vision.svc:29400"


def test_a_worker_of_a_search_that_is_sent_away_comes_back() -> None:
    """In order: 75 and disruptions are ignored, so the index starts anew; every other end of its own fails the Job."""
    found = manifests(search=search(trials=3, parallelism=8))
    job = found["Job"]["spec"]
    assert "Service" not in found
    assert (job["completionMode"], job["completions"], job["parallelism"], job["backoffLimit"]) == ("Indexed", 3, 3, 0)
    assert job["podReplacementPolicy"] == "Failed"
    assert [(rule["action"], rule.get("onExitCodes", {}).get("values")) for rule in job["podFailurePolicy"]["rules"]] == [
        ("Ignore", [75]), ("Ignore", None), ("FailJob", [0]),
    ]  # fmt: skip


def test_how_many_train_makes_no_new_version() -> None:
    hashes = {
        spec_hash(RegularizedModelSpec.model_validate(model(training=training)["spec"]), DIGEST)
        for training in ({}, {"nodes": 4}, {"processesPerNode": 8})
    }
    assert len(hashes) == 1


def test_a_queue_suspends_and_labels_the_job() -> None:
    _, job = children(training={"queueName": "gpus"})
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert "suspend" not in children()[1]["spec"]


def test_placement_resources_and_environment_are_passed_on() -> None:
    training = {
        "image": "mine:1",
        "resources": {"limits": {"nvidia.com/gpu": 2, "cpu": "1"}},
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "priorityClassName": "low",
        "env": [{"name": "A", "value": "1"}, {"name": "B", "secretKeyRef": {"name": "s", "key": "k"}}],
    }
    spec = pod(training=training)
    container = spec["containers"][0]
    assert container["image"] == "mine:1"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 2, "cpu": "1"}
    assert (spec["nodeSelector"], spec["priorityClassName"]) == ({"pool": "gpu"}, "low")
    assert spec["tolerations"][0]["key"] == "gpu"
    assert {"name": "A", "value": "1"} in container["env"]
    assert {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}} in container["env"]


@pytest.mark.parametrize("field", ["nodeSelector", "tolerations", "priorityClassName", "serviceAccountName"])
def test_absent_fields_stay_absent(field: str) -> None:
    assert field not in pod()
