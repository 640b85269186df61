"""Trackers: keys by name from the named Secret and nothing else of it; one place per version; links from manifest to status."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from espalier_api.artifact import Manifest
from espalier_api.hashing import spec_hash
from espalier_api.kubernetes import ObjectMeta
from espalier_api.model import RegularizedModelSpec, VersionStatus
from espalier_api.model_spec import Mlflow
from espalier_api.rules import Subject, errors, not_in_this_release, validate
from espalier_api.training import TrainingJob
from espalier_operator.controllers.model.manifests import job_children
from espalier_operator.decisions.versions import MAX_TRACKERS, Stored, published
from tests.unit.operator.samples import DIGEST, manifest, model

META = ObjectMeta(name="digits", namespace="vision", uid="u1", generation=3)
ALL: dict[str, Any] = {
    "tensorboard": {},
    "wandb": {"secretRef": {"name": "wandb"}, "project": "digits"},
    "mlflow": {"uri": "https://mlflow.example.com/", "secretRef": {"name": "mlflow"}},
    "evidently": {},
}


def spec_of(tracking: dict[str, Any] | None) -> RegularizedModelSpec:
    training = {} if tracking is None else {"tracking": tracking}
    return RegularizedModelSpec.model_validate(model(training=training)["spec"])


def told(tracking: dict[str, Any] | None) -> tuple[TrainingJob, dict[str, dict[str, Any]]]:
    """job.json and the trainer's environment by name."""
    version = VersionStatus(version="v4", state="Training", spec_hash="sha256:h", snapshot_digest=DIGEST)
    config_map, job = job_children(META, spec_of(tracking), version, 1, "trainer:default")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert "envFrom" not in container
    return (
        TrainingJob.model_validate_json(config_map["data"]["job.json"]),
        {variable["name"]: variable for variable in container["env"]},
    )


def test_keys_come_by_name_from_the_named_secret() -> None:
    job, environment = told(ALL)
    found = {
        name: variable["valueFrom"]["secretKeyRef"]
        for name, variable in environment.items()
        if name.startswith(("WANDB", "MLFLOW"))
    }
    assert found == {
        "WANDB_API_KEY": {"name": "wandb", "key": "WANDB_API_KEY"},
        "MLFLOW_TRACKING_USERNAME": {"name": "mlflow", "key": "MLFLOW_TRACKING_USERNAME", "optional": True},
        "MLFLOW_TRACKING_PASSWORD": {"name": "mlflow", "key": "MLFLOW_TRACKING_PASSWORD", "optional": True},
        "MLFLOW_TRACKING_TOKEN": {"name": "mlflow", "key": "MLFLOW_TRACKING_TOKEN", "optional": True},
    }
    assert job.tracking is not None
    assert job.tracking.uri == "s3://models/vision/digits/.tracking/v4/"
    assert job.tracking.wandb is not None
    assert job.tracking.wandb.project == "digits"


@pytest.mark.parametrize("tracking", [None, {}])
def test_without_trackers_the_documents_stay_as_they_were(tracking: dict[str, Any] | None) -> None:
    job, environment = told(tracking)
    assert "tracking" not in job.to_json()  # another document would be another digest
    assert not [name for name in environment if name.startswith(("WANDB", "MLFLOW"))]


def test_a_server_without_a_secret_gets_no_keys() -> None:
    _, environment = told({"mlflow": {"uri": "http://mlflow:5000"}})
    assert not [name for name in environment if name.startswith("MLFLOW")]


def test_tracking_makes_no_new_version() -> None:
    assert spec_hash(spec_of(ALL), DIGEST) == spec_hash(spec_of(None), DIGEST)


def test_every_tracker_is_part_of_this_release() -> None:
    spec = spec_of(ALL)
    assert not errors(validate(Subject.of_spec(spec)))
    assert not not_in_this_release(spec)


@pytest.mark.parametrize(
    "uri",
    ["mlflow:5000", "ftp://mlflow/", "https://user:pw@mlflow/", "https://mlflow/?token=x", "https://", "https://m/#x"],
)
def test_an_address_holds_no_credentials(uri: str) -> None:
    with pytest.raises(ValidationError):
        Mlflow.model_validate({"uri": uri})


@pytest.mark.parametrize(
    "uri", ["http://mlflow.ml.svc:5000", "https://mlflow.example.com/tracking/", "http://[::1]:5000/"]
)
def test_addresses_of_servers(uri: str) -> None:
    assert Mlflow.model_validate({"uri": uri}).uri == uri


def test_where_to_read_reaches_status_and_is_bounded() -> None:
    links = {"tensorboard": "s3://models/vision/digits/.tracking/v1/tensorboard/", "evidently": "evidently.html"}
    assert published(stored(links), ()).tracking == links
    assert len(published(stored({f"t{i}": "x" for i in range(20)}), ()).tracking) == MAX_TRACKERS
    assert published(stored({}), ()).tracking == {}


def stored(links: dict[str, str]) -> Stored:
    content = json.loads(manifest("v1", "sha256:h")) | {"tracking": links}
    return Stored(Manifest.model_validate(content), DIGEST)
