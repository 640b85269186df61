"""Techniques that need more of the cluster than one Job: other models' versions, a private fit, a version served in integers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import requests

from espalier_api.artifact import MODEL_INT8, ONNX_INPUT, ONNX_LABEL
from espalier_cli.demo.digits import load_digits
from espalier_cli.demo.world import _store
from tests.e2e.harness import MODEL, model_manifest

if TYPE_CHECKING:
    from tests.e2e.harness import World

pytestmark = pytest.mark.e2e
ROWS = 64
CALIBRATED = {"calibration": {"method": "temperature", "split": "calibration"}}


def network(**engine: Any) -> dict[str, Any]:
    """A small network, trained in seconds."""
    return {
        "torch": {
            "architecture": {"mlp": {"hidden": [64]}},
            "optimizer": {"adamw": {"learningRate": 3.0e-3}},
            "batchSize": 64,
            "epochs": 20,
            **engine,
        }
    }


def published(world: World, version: str, file: str, model: str = "digits") -> Any:
    """A JSON file of a version, as it lies in S3."""
    with _store(world.kube) as client:
        key = f"{world.kube.namespace}/{model}/{version}/{file}"
        return json.loads(client.get_object(Bucket="models", Key=key)["Body"].read())


def candidate(world: World, model: str) -> dict[str, Any]:
    """The first version of another model of the namespace, once it has passed its gates."""
    found: dict[str, Any] = world.await_(
        f"{model} v1",
        lambda: (entry := world.version("v1", model)).get("state") in {"Candidate", "Failed", "Rejected"} and entry,
        240,
    )
    assert found["state"] == "Candidate", found
    return found


def test_a_student_and_a_soup_lean_on_published_versions(world: World) -> None:
    """Versions are resolved to digests by the operator, recorded in the lineage; one that is missing is waited for, in words."""
    leaning = {**CALIBRATED, "distillation": {"teacher": "digits@v1"}}
    world.apply(model_manifest("student", engine=network(), regularizers=leaning))
    world.await_(
        "a wait for the teacher",
        lambda: world.condition(MODEL, "Trained", "student").get("reason") == "ReferenceNotFound",
    )
    world.apply(model_manifest(engine=network()))
    first = world.await_version("v1", "Candidate")
    candidate(world, "student")
    (told,) = published(world, "v1", "lineage.json", "student")["references"].values()
    assert (told["version"], told["digest"]) == ("v1", first["digest"])

    world.apply(model_manifest(engine=network(), regularizers={"weightDecay": {"strength": 0.1}}))
    second = world.await_version("v2", "Candidate")
    candidates = {"modelSoup": {"candidates": ["digits@v1", "digits@v2"], "method": "uniform"}}
    world.apply(model_manifest("soup", engine=network(), regularizers={**candidates, **CALIBRATED}))
    soup = candidate(world, "soup")
    found = published(world, "v1", "lineage.json", "soup")["references"]
    assert {each["digest"] for each in found.values()} == {first["digest"], second["digest"]}
    *members, mean = (each["metrics"]["accuracy"]["value"] for each in (first, second, soup))
    assert mean >= min(members) - 0.02, (members, mean)


def test_a_private_fit_stays_within_its_budget(world: World) -> None:
    """DP-SGD on the cluster: the spent epsilon is in the artifact and within what was declared."""
    world.apply(
        model_manifest(
            engine=network(optimizer={"sgd": {"learningRate": 0.5, "momentum": 0.0}}, epochs=30),
            regularizers={"privacy": {"epsilon": 8.0}},
            evaluation={"gates": [{"metric": "accuracy", "min": 0.3}]},
        )
    )
    world.await_version("v1", "Candidate")
    notes = published(world, "v1", "regularizers.json")["notes"]
    spent = next(value for name, value in notes.items() if name.startswith("privacy.") and "psilon" in name)
    assert 0 < spent <= 8.0


def test_a_quantized_version_answers_in_integers(world: World) -> None:
    """The served graph is the rounded one; through the Service it answers the rows of the data like the metrics say."""
    rounded = {**CALIBRATED, "quantization": {"mode": "static"}}
    world.apply_rollout()
    world.apply(model_manifest(engine=network(), regularizers=rounded))
    world.await_("v1 champion", lambda: world.champion() == "v1", 240)
    manifest = published(world, "v1", "manifest.json")
    assert manifest["task"]["served"] == MODEL_INT8
    digits = load_digits()
    x, y = digits.live_pixels[:ROWS], digits.live_labels[:ROWS]
    tensor = {"name": ONNX_INPUT, "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
    with world.kube.forward("svc/digits", 8080) as url:
        answer = requests.post(f"{url}/v2/models/digits/infer", json={"inputs": [tensor]}, timeout=30).json()
    labels = next(output["data"] for output in answer["outputs"] if output["name"] == ONNX_LABEL)
    right = sum(int(label) == int(truth) for label, truth in zip(labels, y, strict=True)) / ROWS
    assert right >= 0.7, answer
