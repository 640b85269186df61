"""Children of a RegularizedModel as manifests: the training Job, the ConfigMap with its job.json, and the Service by which pods that
train together find each other. Pure.

A Job is created once and never changed (its template is immutable, and Kueue rewrites the mutable parts). Its pod
meets the restricted profile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from espalier_api import names
from espalier_api.exit_codes import ExitCode
from espalier_api.hashing import sha256
from espalier_api.job import training_job
from espalier_api.kubernetes import EnvVar, ObjectMeta, owner_reference
from espalier_operator.decisions.attempts import CONTAINER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from espalier_api.model import ReferenceStatus, RegularizedModelSpec, VersionStatus
    from espalier_api.model_spec import Signing, Tracking, Training

KUEUE_QUEUE: Final = "kueue.x-k8s.io/queue-name"
USER: Final = 65532
GRACE_SECONDS: Final = 60
"""From SIGTERM to SIGKILL: time for a checkpoint to reach the store."""
TMP: Final = "/tmp"  # noqa: S108 - an emptyDir of the pod's own
SHM: Final = "/dev/shm"  # noqa: S108 - an emptyDir of the pod's own
SIGNING_VOLUME: Final = "signing"
TMP_SIZE: Final = "8Gi"
SHM_SIZE: Final = "1Gi"
"""torch's workers share tensors through it; the default of 64 MiB makes them die with a bus error."""


def job_children(
    meta: ObjectMeta,
    spec: RegularizedModelSpec,
    version: VersionStatus,
    attempt: int,
    image: str,
    references: tuple[ReferenceStatus, ...] = (),
) -> tuple[Mapping[str, Any], ...]:
    """The ConfigMap first, so that the pod never waits for it, the Service where there are ranks, then the Job."""
    image = spec.training.image or image
    document = training_job(meta, spec, version, attempt, image, references).to_json()
    services = (_service(meta, version, attempt),) if spec.training.nodes > 1 else ()
    job = _job(meta, spec, version, attempt, image, sha256(document.encode()))
    return _config_map(meta, version, attempt, document), *services, job


def peers(spec: RegularizedModelSpec) -> int:
    """Pods of the Job: those that train together, else workers of a search."""
    return spec.training.nodes if spec.training.nodes > 1 or spec.search is None else spec.search.workers


def job_labels(model: str, version: str, attempt: int) -> dict[str, str]:
    """Labels of a Job, its pod and its ConfigMap."""
    return {
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_MODEL: model,
        names.LABEL_VERSION: version,
        names.LABEL_ATTEMPT: str(attempt),
        names.LABEL_COMPONENT: names.COMPONENT_TRAINER,
    }


def _metadata(meta: ObjectMeta, version: VersionStatus, attempt: int) -> dict[str, Any]:
    return {
        "name": names.job_name(meta.name, version.version, attempt),
        "namespace": meta.namespace,
        "labels": job_labels(meta.name, version.version, attempt),
        "ownerReferences": [owner_reference(names.KIND_MODEL, names.API_VERSION, meta)],
    }


def _config_map(meta: ObjectMeta, version: VersionStatus, attempt: int, document: str) -> dict[str, Any]:
    metadata = _metadata(meta, version, attempt)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {names.JOB_KEY: document}}


def _job(
    meta: ObjectMeta, spec: RegularizedModelSpec, version: VersionStatus, attempt: int, image: str, digest: str
) -> dict[str, Any]:
    metadata = _metadata(meta, version, attempt)
    metadata["annotations"] = {names.ANNOTATION_SPEC_DIGEST: digest}
    queue, count = spec.training.queue_name, peers(spec)
    if queue is not None:
        metadata["labels"] |= {KUEUE_QUEUE: queue}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            **({"suspend": True} if queue is not None else {}),
            "parallelism": count,
            "completions": count,
            **({"completionMode": "Indexed"} if count > 1 else {}),
            "backoffLimit": 0,  # the operator decides on attempts
            "podReplacementPolicy": "Failed",  # never two pods that write the same version
            "activeDeadlineSeconds": max(1, int(spec.training.deadline.total_seconds())),
            "podFailurePolicy": {"rules": _policy(workers=count > 1 and spec.training.nodes == 1)},
            "template": {
                "metadata": {"labels": job_labels(meta.name, version.version, attempt), "annotations": _scraped()},
                "spec": _pod(metadata["name"], spec, image),
            },
        },
    }


def _service(meta: ObjectMeta, version: VersionStatus, attempt: int) -> dict[str, Any]:
    """Gives each pod of the Job a name. Pods count before they are ready: they meet in order to become so."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(meta, version, attempt),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": job_labels(meta.name, version.version, attempt),
            "ports": [{"name": "rendezvous", "port": names.PORT_RENDEZVOUS}],
        },
    }


def _policy(*, workers: bool) -> list[dict[str, Any]]:
    """What a pod's end means for the Job. Ranks need each other: whatever ends one of them fails the Job, and the operator starts all
    again. A worker of a search that is sent away comes back and goes on; only an end of its own fails the Job.

    The exit code comes first: it is then in the Job's condition, also when the pod is gone.
    """
    disrupted = [{"type": "DisruptionTarget"}]
    fail = {
        "action": "FailJob",
        "onExitCodes": {"containerName": CONTAINER, "operator": "NotIn", "values": [0]},
    }
    if not workers:
        return [fail, {"action": "FailJob", "onPodConditions": disrupted}]
    preempted = {"containerName": CONTAINER, "operator": "In", "values": [int(ExitCode.PREEMPTED)]}
    return [
        {"action": "Ignore", "onExitCodes": preempted},
        {"action": "Ignore", "onPodConditions": disrupted},
        fail,
    ]


def _scraped() -> dict[str, str]:
    return {
        names.ANNOTATION_SCRAPE: "true",
        names.ANNOTATION_SCRAPE_PORT: str(names.PORT_TRAINER),
        names.ANNOTATION_SCRAPE_PATH: "/metrics",
    }


def _pod(job: str, spec: RegularizedModelSpec, image: str) -> dict[str, Any]:
    training = spec.training
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(spec, image)],
        "volumes": [
            {"name": "job", "configMap": {"name": job, "defaultMode": 0o444}},
            {"name": "tmp", "emptyDir": {"sizeLimit": TMP_SIZE}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": SHM_SIZE}},
            *signing_volumes(spec.artifacts.signing, names.SIGNING_KEY, names.SIGNING_PUBLIC_KEY),
        ],
    }
    if training.nodes > 1:
        pod["subdomain"] = job  # with the host name `<job>-<index>` that an Indexed Job gives: the Service's names
    return pod | _placement(training)


def _placement(training: Training) -> dict[str, Any]:
    """What the spec says about where the pod runs; absent fields stay absent."""
    wanted = {
        "nodeSelector": dict(training.node_selector),
        "tolerations": [toleration.dump() for toleration in training.tolerations],
        "priorityClassName": training.priority_class_name,
        "serviceAccountName": training.service_account_name,
    }
    return {field: value for field, value in wanted.items() if value}


def _container(spec: RegularizedModelSpec, image: str) -> dict[str, Any]:
    training = spec.training
    return {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["--job", names.JOB_PATH],
        "env": _environment(spec),
        "ports": [{"name": "http", "containerPort": names.PORT_TRAINER}],
        "resources": training.resources.dump(),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": names.TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            {"name": "job", "mountPath": names.JOB_PATH.rpartition("/")[0], "readOnly": True},
            {"name": "tmp", "mountPath": TMP},
            {"name": "shm", "mountPath": SHM},
            *signing_mounts(spec.artifacts.signing),
        ],
    }


def _environment(spec: RegularizedModelSpec) -> list[dict[str, Any]]:
    """HOME first, then the store's credentials key by key, then the user's own: nothing of the Secret comes along unasked."""
    secret = spec.artifacts.secret_ref
    return [
        {"name": "HOME", "value": TMP},
        *(s3_environment(secret.name) if secret is not None else ()),
        *_tracking_environment(spec.training.tracking),
        *(_variable(variable) for variable in spec.training.env),
    ]


def s3_environment(secret: str) -> list[dict[str, Any]]:
    """The tenant's S3 keys as environment, by explicit reference; the kubelet reads the Secret, the operator never does."""
    return [
        *(_from_secret(secret, key) for key in names.S3_REQUIRED_KEYS),
        *(_from_secret(secret, key, optional=True) for key in names.S3_OPTIONAL_KEYS),
    ]


def _tracking_environment(tracking: Tracking | None) -> list[dict[str, Any]]:
    """Keys of trackers, each by name. W&B needs its key; which of MLflow's three a server wants, it says itself (exit 42)."""
    found: list[dict[str, Any]] = []
    if tracking is not None and tracking.wandb is not None:
        found += [_from_secret(tracking.wandb.secret_ref.name, key) for key in names.WANDB_KEYS]
    if tracking is not None and tracking.mlflow is not None and tracking.mlflow.secret_ref is not None:
        found += [_from_secret(tracking.mlflow.secret_ref.name, key, optional=True) for key in names.MLFLOW_KEYS]
    return found


def _from_secret(secret: str, key: str, *, optional: bool = False) -> dict[str, Any]:
    """A variable with the name of its key."""
    reference = {"name": secret, "key": key, **({"optional": True} if optional else {})}
    return {"name": key, "valueFrom": {"secretKeyRef": reference}}


def signing_volumes(signing: Signing | None, *keys: str) -> list[dict[str, Any]]:
    """The named keys of the signing Secret and no others: the private one must never reach a pod that serves.

    Not optional: without its key a pod must not start, and it starts by itself once the Secret is there.
    """
    if signing is None:
        return []
    secret = {
        "secretName": signing.key_secret_ref.name,
        "items": [{"key": key, "path": key} for key in keys],
        "defaultMode": 0o440,
    }
    return [{"name": SIGNING_VOLUME, "secret": secret}]


def signing_mounts(signing: Signing | None) -> list[dict[str, Any]]:
    """Where a container finds them."""
    return [{"name": SIGNING_VOLUME, "mountPath": names.SIGNING_FOLDER, "readOnly": True}] if signing else []


def _variable(variable: EnvVar) -> dict[str, Any]:
    if variable.secret_key_ref is None:
        return {"name": variable.name, "value": variable.value}
    return {"name": variable.name, "valueFrom": {"secretKeyRef": variable.secret_key_ref.dump()}}
