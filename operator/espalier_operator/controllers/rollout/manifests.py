"""Children of a CanaryRollout as manifests: per version a ConfigMap, a Deployment and a Service; the stable Service. Pure.

They carry no ownerReference to the rollout: serving must survive the object (deletionPolicy Retain), also when somebody
removes its finalizer by force; the controller deletes what it no longer wants by label (docs/adr/0020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from espalier_api import names
from espalier_api.hashing import sha256
from espalier_api.metrics import LATENCY_BUCKETS
from espalier_api.serving import FeedbackSettings, ServingConfig
from espalier_operator.controllers.model.manifests import USER, s3_environment, signing_mounts, signing_volumes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from espalier_api.kubernetes import ObjectMeta
    from espalier_api.model import RegularizedModelSpec
    from espalier_api.rollout import CanaryRolloutSpec
    from espalier_operator.decisions.rollout.plan import Serve

CONTAINER: Final = "server"
DRAIN_SECONDS: Final = 15
"""After SIGTERM a pod goes on answering this long, unready, until every proxy has noticed."""
GRACE_SECONDS: Final = DRAIN_SECONDS + 15
"""From SIGTERM to SIGKILL: the drain, and the longest answers."""
TMP: Final = "/tmp"  # noqa: S108 - an emptyDir of the pod's own
TMP_SIZE: Final = "4Gi"


@dataclass(frozen=True, slots=True)
class Serving:
    """What all versions of a model share."""

    meta: ObjectMeta
    """Of the RegularizedModel: its uid is the key of feedback ids."""
    spec: RegularizedModelSpec
    rollout: CanaryRolloutSpec
    image: str

    @property
    def model(self) -> str:
        """Name of the model, and so of its children."""
        return self.meta.name


def version_children(serving: Serving, serve: Serve) -> tuple[dict[str, Any], ...]:
    """ConfigMap first, so that the pod never waits for it; Service before any weight names it; Deployment last."""
    document = serving_config(serving, serve).to_json()
    version = serve.version.name
    return (
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _metadata(serving, version),
            "data": {names.SERVING_KEY: document},
        },
        _version_service(serving, version),
        _deployment(serving, serve, sha256(document.encode())),
    )


def serving_config(serving: Serving, serve: Serve) -> ServingConfig:
    """What the server is told: the whole contract in one document."""
    spec, meta = serving.spec, serving.meta
    return ServingConfig(
        namespace=meta.namespace,
        model=meta.name,
        version=serve.version.name,
        artifact_uri=names.artifact_prefix(spec.artifacts.uri, meta.namespace, meta.name, serve.version.name),
        digest=serve.version.digest,
        public_key_path=f"{names.SIGNING_FOLDER}/{names.SIGNING_PUBLIC_KEY}" if spec.artifacts.signing else None,
        output_guards=spec.serving.output_guards,
        latency_buckets=latency_buckets(spec, serving.rollout),
        feedback=FeedbackSettings(key=meta.uid),
        drain_seconds=DRAIN_SECONDS,
    )


def latency_buckets(spec: RegularizedModelSpec, rollout: CanaryRolloutSpec) -> tuple[float, ...]:
    """The usual edges and every threshold that anybody judges by, in seconds: a threshold between edges cannot be judged."""
    slos = [slo.latency.threshold for slo in spec.slos if slo.latency is not None]
    slis = [sli.latency.threshold for sli in rollout.analysis.slis if sli.latency is not None]
    return tuple(sorted({*LATENCY_BUCKETS, *(threshold.total_seconds() for threshold in (*slos, *slis))}))


def stable_service(serving: Serving, version: str) -> dict[str, Any]:
    """The Service `<model>` where a gateway divides traffic: it always selects the stable version only."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": serving.model,
            "namespace": serving.meta.namespace,
            "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY, names.LABEL_MODEL: serving.model},
        },
        "spec": {"selector": labels(serving.model, version), "ports": _service_ports(serving)},
    }


def labels(model: str, version: str) -> dict[str, str]:
    """Labels of a version's children and pods; also the selector."""
    return {
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_MODEL: model,
        names.LABEL_VERSION: version,
        names.LABEL_COMPONENT: names.COMPONENT_SERVER,
    }


def _metadata(serving: Serving, version: str) -> dict[str, Any]:
    return {
        "name": names.workload_name(serving.model, version),
        "namespace": serving.meta.namespace,
        "labels": labels(serving.model, version),
    }


def _service_ports(serving: Serving) -> list[dict[str, Any]]:
    return [{"name": "http", "port": serving.rollout.service.port, "targetPort": names.PORT_SERVER}]


def _version_service(serving: Serving, version: str) -> dict[str, Any]:
    """One Service per version, so that a gateway's per-Service counters are per arm."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(serving, version),
        "spec": {"selector": labels(serving.model, version), "ports": _service_ports(serving)},
    }


def _deployment(serving: Serving, serve: Serve, config_digest: str) -> dict[str, Any]:
    version = serve.version.name
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(serving, version),
        "spec": {
            "replicas": serve.replicas,
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": labels(serving.model, version)},
            # A change of image or resources replaces pods one by one and never lowers what serves.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {
                    "labels": labels(serving.model, version),
                    "annotations": {
                        names.ANNOTATION_SPEC_DIGEST: config_digest,
                        names.ANNOTATION_SCRAPE: "true",
                        names.ANNOTATION_SCRAPE_PORT: str(names.PORT_SERVER),
                        names.ANNOTATION_SCRAPE_PATH: "/metrics",
                    },
                },
                "spec": _pod(serving, version),
            },
        },
    }


def _pod(serving: Serving, version: str) -> dict[str, Any]:
    return {
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
        "containers": [_container(serving)],
        "volumes": [
            {
                "name": "serving",
                "configMap": {"name": names.workload_name(serving.model, version), "defaultMode": 0o444},
            },
            {"name": "tmp", "emptyDir": {"sizeLimit": TMP_SIZE}},
            *signing_volumes(serving.spec.artifacts.signing, names.SIGNING_PUBLIC_KEY),
        ],
    }


def _container(serving: Serving) -> dict[str, Any]:
    spec = serving.spec
    secret = spec.artifacts.secret_ref
    return {
        "name": CONTAINER,
        "image": spec.serving.image or serving.image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["--config", names.SERVING_PATH],
        "env": [{"name": "HOME", "value": TMP}, *(s3_environment(secret.name) if secret is not None else ())],
        "ports": [{"name": "http", "containerPort": names.PORT_SERVER}],
        "resources": _resources(spec.serving.resources.dump()),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # The artifact is downloaded and verified before the server is ready; until then it is alive.
        "startupProbe": _probe("/v2/health/live", period=1, failures=60),
        "readinessProbe": _probe("/v2/health/ready", period=2, failures=3),
        "livenessProbe": _probe("/v2/health/live", period=10, failures=6),
        "terminationMessagePath": names.TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            {"name": "serving", "mountPath": names.SERVING_PATH.rpartition("/")[0], "readOnly": True},
            {"name": "tmp", "mountPath": TMP},
            *signing_mounts(spec.artifacts.signing),
        ],
    }


def _resources(wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {kind: dict(amounts) for kind, amounts in wanted.items() if amounts}


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 5,  # a busy node is not a broken model
        "failureThreshold": failures,
    }
