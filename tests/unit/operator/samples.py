"""Objects as users and the cluster write them, for tests of the operator."""

from __future__ import annotations

from typing import Any

from espalier_api.artifact import Manifest, MetricValue
from espalier_api.hashing import sha256
from espalier_api.training import TrainingResult

SNAPSHOT = "s3://datasets/digits/2026-11-01/"
DIGEST = "sha256:" + "ab" * 32


def model(name: str = "digits", namespace: str = "vision", **spec: Any) -> dict[str, Any]:
    """A RegularizedModel; keyword arguments replace top-level spec fields."""
    return {
        "apiVersion": "espalier.dev/v1alpha1",
        "kind": "RegularizedModel",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "task": {"type": "classification"},
            "data": {"snapshot": {"uri": SNAPSHOT}, "target": "label", "split": {"seed": 7}},
            "engine": {"sklearn": {"estimator": "logisticRegression"}},
            "regularizers": {"l2": {"strength": 0.01}},
            "evaluation": {"gates": [{"metric": "accuracy", "min": 0.9}]},
            "training": {"retries": 2, "resources": {"limits": {"nvidia.com/gpu": 1}}},
            "artifacts": {"uri": "s3://models/", "secretRef": {"name": "s3"}},
            **spec,
        },
    }


def manifest(version: str, spec_hash: str, accuracy: float = 0.93, **changes: Any) -> bytes:
    """manifest.json of a complete version."""
    task = {"type": "classification", "classes": ["0", "1"], "features": ["a"], "inputs": [], "outputs": []}
    return (
        Manifest.model_validate(
            {
                "namespace": "vision",
                "model": "digits",
                "version": version,
                "specHash": spec_hash,
                "snapshotDigest": DIGEST,
                "contentSha256": "00" * 32,
                "createdAt": "2026-11-22T12:00:00Z",
                "seed": 7,
                "task": task,
                "framework": "scikit-learn 1.7",
                "files": {},
                "metrics": {"accuracy": MetricValue(value=accuracy, n=700).dump()},
                **changes,
            }
        )
        .to_json()
        .encode()
    )


def result(outcome: str = "Succeeded", code: int = 0, **fields: Any) -> str:
    """A termination message."""
    return TrainingResult.model_validate({"outcome": outcome, "exitCode": code, **fields}).to_termination_message()


def finished_job(job: dict[str, Any], type_: str, reason: str = "", message: str = "") -> dict[str, Any]:
    """`job` with a terminal condition."""
    condition = {"type": type_, "status": "True", "reason": reason, "message": message}
    return {**job, "status": {**job.get("status", {}), "conditions": [condition]}}


def pod_of(job: dict[str, Any], phase: str = "Running", **status: Any) -> dict[str, Any]:
    """A pod of `job`; keyword arguments become its status."""
    metadata = job["metadata"]
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{metadata['name']}-x",
            "namespace": metadata["namespace"],
            "labels": metadata["labels"],
            "ownerReferences": [owner],
        },
        "status": {"phase": phase, **status},
    }


def terminated(code: int, message: str = "", reason: str = "Error", at: str = "") -> dict[str, Any]:
    """containerStatuses of a trainer that ended, at a time (RFC 3339) where it matters."""
    state = {
        "terminated": {"exitCode": code, "reason": reason, "message": message, **({"finishedAt": at} if at else {})}
    }
    return {"containerStatuses": [{"name": "trainer", "state": state}]}


def version_digest(content: bytes) -> str:
    """Digest of a manifest's bytes."""
    return sha256(content)
