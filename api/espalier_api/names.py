"""Every name that two rooms must spell alike: group, kinds, labels, annotations, children, ports, secret keys."""

from __future__ import annotations

import hashlib
import re
from typing import Final

GROUP: Final = "espalier.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "espalier.dev/v1alpha1"

KIND_MODEL: Final = "RegularizedModel"
KIND_ROLLOUT: Final = "CanaryRollout"
KIND_RETRAIN: Final = "RetrainPolicy"
PLURAL_MODEL: Final = "regularizedmodels"
PLURAL_ROLLOUT: Final = "canaryrollouts"
PLURAL_RETRAIN: Final = "retrainpolicies"
PLURALS: Final = {KIND_MODEL: PLURAL_MODEL, KIND_ROLLOUT: PLURAL_ROLLOUT, KIND_RETRAIN: PLURAL_RETRAIN}

FIELD_MANAGER: Final = "espalier"
FINALIZER: Final = f"{GROUP}/finalizer"

# Labels of children. Selectors use managed-by + model + version; component tells trainer pods from server pods.
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "espalier"
LABEL_MODEL: Final = f"{GROUP}/model"
LABEL_VERSION: Final = f"{GROUP}/version"
LABEL_ATTEMPT: Final = f"{GROUP}/attempt"
LABEL_COMPONENT: Final = f"{GROUP}/component"
COMPONENT_TRAINER: Final = "trainer"
COMPONENT_SERVER: Final = "server"

# Labels and variables that Kubernetes gives the pods of an Indexed Job.
LABEL_JOB_INDEX: Final = "batch.kubernetes.io/job-completion-index"
ENV_JOB_INDEX: Final = "JOB_COMPLETION_INDEX"

# Annotations.
ANNOTATION_REQUEST: Final = f"{GROUP}/request"
ANNOTATION_SPEC_DIGEST: Final = f"{GROUP}/spec-digest"
ANNOTATION_SCRAPE: Final = "prometheus.io/scrape"
ANNOTATION_SCRAPE_PORT: Final = "prometheus.io/port"
ANNOTATION_SCRAPE_PATH: Final = "prometheus.io/path"

VERBS: Final = ("promote", "promote-full", "abort", "retry", "pause", "resume", "skip-step")
"""What a person may ask of a rollout through the request annotation, `<verb>@<unique id>`."""

# Ports.
PORT_SERVER: Final = 8080
PORT_TRAINER: Final = 8081
PORT_RENDEZVOUS: Final = 29400
"""Where the pods of a training Job meet, on its first one."""
PORT_OPERATOR_METRICS: Final = 9100
PORT_OPERATOR_PROBE: Final = 8080

# Mounted configuration.
JOB_KEY: Final = "job.json"
JOB_PATH: Final = "/etc/espalier/job/job.json"
SERVING_KEY: Final = "serving.json"
SERVING_PATH: Final = "/etc/espalier/serving/serving.json"
SIGNING_FOLDER: Final = "/etc/espalier/signing"
"""Where trainer and server find the keys of spec.artifacts.signing; the private one only in the trainer."""
SIGNING_KEY: Final = "cosign.key"
SIGNING_PUBLIC_KEY: Final = "cosign.pub"
SETTINGS_PATH: Final = "/etc/espalier/settings.json"
TERMINATION_LOG: Final = "/dev/termination-log"

# Keys of a tenant's S3 secret; the last three may be missing.
S3_REQUIRED_KEYS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
S3_OPTIONAL_KEYS: Final = ("AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION")

# Keys of the Secrets of spec.training.tracking; MLflow asks for what its server wants.
WANDB_KEYS: Final = ("WANDB_API_KEY",)
MLFLOW_KEYS: Final = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")

MODEL_NAME_MAX: Final = 50
"""Longest name of a RegularizedModel: `<name>-v<N>-a<attempt>` must stay a 63-character label for 10,000 versions and 9,999 attempts."""

JOB_NAME_MAX: Final = 63 - len("-255")
"""Longest name of a training Job: its pods' host names are `<job>-<index>`, and 256 pods are the most."""

_VERSION = re.compile(r"^v([1-9][0-9]*)$")
_REQUEST = re.compile(r"^([a-z][a-z-]*)@([A-Za-z0-9][A-Za-z0-9._:-]{0,62})$")


def version_name(number: int) -> str:
    """4 -> `v4`."""
    return f"v{number}"


def version_number(name: str) -> int:
    """`v4` -> 4. Raises ValueError for anything else."""
    if (match := _VERSION.match(name)) is None:
        raise ValueError(f"{name!r} is not a version; versions are named v1, v2, ...")
    return int(match.group(1))


def job_name(model: str, version: str, attempt: int) -> str:
    """Name of a training Job, of the ConfigMap with its job.json, and of the Service by which its pods find each other.

    Long ones end in a digest, so that a pod's index still fits behind them.
    """
    name = f"{model}-{version}-a{attempt}"
    if len(name) <= JOB_NAME_MAX:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:10]
    return f"{name[: JOB_NAME_MAX - len(digest) - 1].rstrip('-.')}-{digest}"


def rendezvous(job: str, namespace: str) -> str:
    """`host:port` of the first pod of a Job. The cluster's own domain is left to the search list of the pod's resolver."""
    return f"{job}-0.{job}.{namespace}.svc:{PORT_RENDEZVOUS}"


def workload_name(model: str, version: str) -> str:
    """Name of a version's Deployment, Service and ConfigMap."""
    return f"{model}-{version}"


def artifact_prefix(root: str, namespace: str, model: str, version: str) -> str:
    """`s3://models/` -> `s3://models/<namespace>/<model>/<version>/`."""
    return f"{model_prefix(root, namespace, model)}{version}/"


def checkpoint_prefix(root: str, namespace: str, model: str, version: str) -> str:
    """Where a preempted attempt leaves its state for the next one; beside the versions, never inside one."""
    return f"{model_prefix(root, namespace, model)}.checkpoints/{version}/"


def tracking_prefix(root: str, namespace: str, model: str, version: str) -> str:
    """Where curves of a version in training lie; beside the versions: they grow, and those of a failed version stay."""
    return f"{model_prefix(root, namespace, model)}.tracking/{version}/"


def model_prefix(root: str, namespace: str, model: str) -> str:
    """The prefix of all versions of a model; also holds aliases.json and history."""
    return f"{root.rstrip('/')}/{namespace}/{model}/"


def split_s3(uri: str) -> tuple[str, str]:
    """`s3://bucket/some/prefix/` -> (`bucket`, `some/prefix/`). Raises ValueError for other schemes."""
    if not uri.startswith("s3://") or not (rest := uri[len("s3://") :]).split("/", 1)[0]:
        raise ValueError(f"{uri!r} is not an S3 address; write s3://<bucket>/<prefix>/")
    bucket, _, key = rest.partition("/")
    return bucket, key


def parse_request(value: str) -> tuple[str, str]:
    """`promote@4f2a` -> (`promote`, `4f2a`). Raises ValueError that lists the verbs."""
    match = _REQUEST.match(value)
    if match is None or match.group(1) not in VERBS:
        raise ValueError(
            f"{ANNOTATION_REQUEST}={value!r} is not a request; write <verb>@<unique id> with a verb of {', '.join(VERBS)}"
        )
    return match.group(1), match.group(2)
