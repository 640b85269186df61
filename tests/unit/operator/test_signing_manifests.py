"""Who gets which key of the signing Secret, and what is said when it is not there or a version is not signed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from espalier_api import conditions as c
from espalier_api.kubernetes import ObjectMeta
from espalier_api.model import RegularizedModelSpec, VersionStatus
from espalier_api.rollout import CanaryRolloutSpec
from espalier_api.rules import Subject, errors, validate
from espalier_api.serving import ServingConfig
from espalier_api.training import TrainingJob
from espalier_operator.controllers.model.manifests import job_children
from espalier_operator.controllers.rollout.gauges import refusals
from espalier_operator.controllers.rollout.manifests import Serving, version_children
from espalier_operator.controllers.rollout.observe import observe_pods
from espalier_operator.decisions.attempts import AttemptState, observe_attempt
from espalier_operator.decisions.rollout.plan import Serve
from espalier_operator.decisions.rollout.world import Crash, Pod, VersionRef
from espalier_operator.rbac import OPERATOR
from tests.unit.operator.samples import DIGEST, model, pod_of

META = ObjectMeta(name="digits", namespace="vision", uid="u1", generation=3)
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SIGNED: dict[str, Any] = {
    "uri": "s3://models/",
    "secretRef": {"name": "s3"},
    "signing": {"keySecretRef": {"name": "digits-key"}},
}


def spec_of(*, signed: bool) -> RegularizedModelSpec:
    spec = model()["spec"] | ({"artifacts": SIGNED} if signed else {})
    return RegularizedModelSpec.model_validate(spec)


def training(*, signed: bool) -> tuple[TrainingJob, dict[str, Any]]:
    version = VersionStatus(version="v4", state="Training", spec_hash="sha256:h", snapshot_digest=DIGEST)
    config_map, job = job_children(META, spec_of(signed=signed), version, 1, "trainer:default")
    return TrainingJob.model_validate_json(config_map["data"]["job.json"]), job["spec"]["template"]["spec"]


def serving(*, signed: bool) -> tuple[ServingConfig, dict[str, Any]]:
    rollout = CanaryRolloutSpec.model_validate({"modelRef": {"name": "digits"}, "traffic": {"replicas": {}}})
    served = Serving(META, spec_of(signed=signed), rollout, "server:default")
    config_map, _, deployment = version_children(served, Serve(VersionRef("v4", DIGEST), 1))
    config = ServingConfig.model_validate_json(config_map["data"]["serving.json"])
    return config, deployment["spec"]["template"]["spec"]


def keys_in(pod: dict[str, Any]) -> dict[str, list[str]]:
    """Every key of every Secret that the pod's volumes bring, by the Secret's name. A Secret without items would bring all."""
    secrets = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    assert not any("projected" in volume or "csi" in volume for volume in pod["volumes"])
    return {secret["secretName"]: [item["key"] for item in secret["items"]] for secret in secrets}


def test_a_serving_pod_gets_the_public_key_only() -> None:
    config, pod = serving(signed=True)
    assert keys_in(pod) == {"digits-key": ["cosign.pub"]}
    assert "cosign.key" not in json.dumps(pod)
    (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "signing"]
    assert mount["readOnly"] is True
    assert config.public_key_path == f"{mount['mountPath']}/cosign.pub"


def test_the_training_pod_gets_the_pair_as_files_that_its_group_alone_reads() -> None:
    job, pod = training(signed=True)
    assert keys_in(pod) == {"digits-key": ["cosign.key", "cosign.pub"]}
    (volume,) = [each["secret"] for each in pod["volumes"] if "secret" in each]
    assert volume["defaultMode"] == 0o440
    assert "optional" not in volume
    assert job.signing is not None
    assert job.signing.secret == "digits-key"
    (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "signing"]
    assert job.signing.key_path == f"{mount['mountPath']}/cosign.key"
    assert job.signing.public_key_path == f"{mount['mountPath']}/cosign.pub"
    assert not [each for each in pod["containers"][0]["env"] if "digits-key" in json.dumps(each)]


def test_without_signing_nothing_is_mounted_and_the_documents_stay_as_they_were() -> None:
    (job, trainer), (config, server) = training(signed=False), serving(signed=False)
    assert keys_in(trainer) == keys_in(server) == {}
    assert "signing" not in job.to_json()
    assert "publicKeyPath" not in config.to_json()  # another document would restart every server at an upgrade


def test_signing_is_part_of_this_release() -> None:
    assert not errors(validate(Subject.of_spec(spec_of(signed=True))))


def test_the_operator_has_no_right_to_any_secret() -> None:
    assert not [rule for rule in OPERATOR if "secrets" in rule.resources or "*" in rule.resources]


# --- a Secret that is not there ------------------------------------------------------------------------------------------
JOB = {"metadata": {"name": "digits-v4-a1", "namespace": "vision", "uid": "j1", "labels": {}}}


def stuck(pod: dict[str, Any], seconds: float, sandbox: str | None = "False", phase: str = "Pending") -> dict[str, Any]:
    """As the API server has a pod whose volume cannot be mounted (as recorded on kind): no word of the Secret."""
    since = (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": since}]
    if sandbox is not None:
        conditions.append({"type": "PodReadyToStartContainers", "status": sandbox, "lastTransitionTime": since})
    waiting = [{"name": "trainer", "state": {"waiting": {"reason": "ContainerCreating"}}}]
    return {**pod_of(JOB, phase, conditions=conditions, containerStatuses=waiting), "spec": pod}


def test_a_missing_secret_is_named_with_its_keys() -> None:
    attempt = observe_attempt(JOB, [stuck(training(signed=True)[1], 21)], NOW)
    assert (attempt.state, attempt.reason) == (AttemptState.WAITING, c.CREATE_CONTAINER_ERROR)
    assert "FailedMount" in attempt.message
    assert "Secret digits-key with cosign.key and cosign.pub" in attempt.message
    assert "kubectl describe pod digits-v4-a1-x" in attempt.message


@pytest.mark.parametrize(
    "seconds,sandbox,phase",
    [(19, "False", "Pending"), (600, "True", "Pending"), (600, None, "Pending"), (600, "False", "Running")],
)
def test_a_pod_that_only_starts_slowly_is_not_accused(seconds: float, sandbox: str | None, phase: str) -> None:
    attempt = observe_attempt(JOB, [stuck(training(signed=True)[1], seconds, sandbox, phase)], NOW)
    assert attempt.reason == c.TRAINING


def test_a_serving_pod_names_it_too() -> None:
    pod = stuck(serving(signed=True)[1], 30)
    pod["metadata"] |= {"uid": "p1", "creationTimestamp": "2026-11-22T11:00:00Z"}
    (seen,) = observe_pods([pod], {}, NOW)
    assert "Secret digits-key with cosign.pub" in seen.mounting


# --- a version that is refused ------------------------------------------------------------------------------------------
def refused(detail: str, code: int = 44, **fields: Any) -> Pod:
    return Pod("p", "v4", ready=False, created=NOW, changed=NOW, crash=Crash("Error", code, NOW, detail), **fields)


def test_refused_pods_are_counted_by_the_servers_error() -> None:
    pods = [
        refused("SignatureError: model.sig: signed by key 0123"),
        refused("SignatureError: s3://models/v4/model.sig does not exist"),
        refused("ArtifactError: model.onnx: sha256"),
        refused("no words at all"),
        refused("Segmentation: fault", code=139),
        Pod("ready", "v4", ready=True, created=NOW, changed=NOW, crash=Crash("Error", 44, NOW, "SignatureError: old")),
    ]
    assert refusals(pods) == {("v4", "SignatureError"): 2, ("v4", "ArtifactError"): 1, ("v4", "Unknown"): 1}
