"""What the demo puts into the cluster before its story starts: a namespace, credentials, two snapshots, and the traffic pod."""

from __future__ import annotations

import base64
import json
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from espalier_cli.demo.digits import RESCALE, Digits, live_rows, snapshot_parquet
from espalier_cli.demo.kubectl import DemoError, Kubectl

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

STACK = "espalier-stack"
HOST = "digits.example.com"
TRAFFIC_POD = "traffic"
SNAPSHOTS = {"digits/2026-11-01/part-0.parquet": 1.0, "digits/2026-11-15/part-0.parquet": RESCALE}


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests per second, how long at most, the share and delay of the feedback that follows, and the route's host name."""

    rps: int = 60
    seconds: int = 1200
    feedback_delay: float = 2.0
    feedback_share: float = 0.8
    host: str = HOST


def prepare(kube: Kubectl, digits: Digits) -> None:
    """Make the namespace, the tenant's S3 secret and both snapshots. Idempotent."""
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": kube.namespace, "labels": _RESTRICTED}})
    credentials = kube.secret("s3-tenant", STACK)
    kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": credentials})
    upload_snapshots(kube, digits)


def upload_snapshots(kube: Kubectl, digits: Digits) -> None:
    """Put both snapshots into the bucket `datasets`. A snapshot is immutable: one that is there already is left alone."""
    with _store(kube) as client:
        for key, scale in SNAPSHOTS.items():
            if "Contents" not in client.list_objects_v2(Bucket="datasets", Prefix=key):
                client.put_object(Bucket="datasets", Key=key, Body=snapshot_parquet(digits, scale=scale))


def forget_versions(kube: Kubectl, model: str) -> None:
    """Delete the artifacts of an earlier run: otherwise the re-created model adopts them, as it should, and has nothing to train."""
    with _store(kube) as client:
        for page in client.get_paginator("list_objects_v2").paginate(
            Bucket="models", Prefix=f"{kube.namespace}/{model}/"
        ):
            for entry in page.get("Contents", []):
                client.delete_object(Bucket="models", Key=entry["Key"])


@contextmanager
def _store(kube: Kubectl) -> Iterator[Any]:
    """A boto3 S3 client of the stack's object store, through a port-forward, with the stack's admin identity."""
    import boto3
    from botocore.config import Config

    admin = kube.secret("s3-admin", STACK)
    with Kubectl(STACK, kube.context).forward("svc/s3", 8333) as url:
        client = boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id=admin["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=admin["AWS_SECRET_ACCESS_KEY"],
            region_name=admin.get("AWS_REGION", "us-east-1"),
            config=Config(s3={"addressing_style": "path"}, connect_timeout=5, read_timeout=30),
        )
        with closing(client):
            yield client


def start_traffic(kube: Kubectl, digits: Digits, image: str, traffic: Traffic) -> None:
    """Start the load generator: labelled requests through the gateway, feedback after a delay, bounded in time."""
    stop_traffic(kube)
    rows = base64.b64encode(live_rows(digits)).decode()
    kube.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": TRAFFIC_POD}, "binaryData": {"rows.npz": rows}}
    )
    kube.apply(_traffic_pod(image, traffic))


def stop_traffic(kube: Kubectl) -> None:
    """End the load generator, if one runs."""
    kube.run("delete", "pod", TRAFFIC_POD, "--ignore-not-found", "--wait=true", "--grace-period=5")


def traffic_report(kube: Kubectl) -> dict[str, Any]:
    """The load generator's newest report (one JSON line per interval, totals since its start)."""
    lines = [
        line for line in kube.run("logs", TRAFFIC_POD, "--tail", "20", check=False).splitlines() if line.startswith("{")
    ]
    report: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return report


def _traffic_pod(image: str, traffic: Traffic) -> Mapping[str, Any]:
    arguments = [
        "--url", f"http://envoy.{STACK}", "--host", traffic.host, "--model", "digits", "--rows", "/rows/rows.npz",
        "--rps", str(traffic.rps), "--duration", str(traffic.seconds), "--feedback-delay", str(traffic.feedback_delay),
        "--feedback-share", str(traffic.feedback_share),
    ]  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": TRAFFIC_POD, "labels": {"app.kubernetes.io/name": TRAFFIC_POD}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "traffic",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "args": arguments,
                    "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": "rows", "mountPath": "/rows"}],
                }
            ],
            "volumes": [{"name": "rows", "configMap": {"name": TRAFFIC_POD}}],
        },
    }


def require_installed(kube: Kubectl) -> None:
    """Fail early, with the remedy, when the cluster lacks Espalier or the demo's stack."""
    crd = kube.run("get", "crd", "regularizedmodels.espalier.dev", "--ignore-not-found", "--output", "name")
    if not crd.strip():
        raise DemoError(
            "This cluster has no Espalier: install the chart first (README, 'Install'), or run `make demo`."
        )
    if not kube.run("get", "namespace", STACK, "--ignore-not-found", "--output", "name").strip():
        raise DemoError(
            f"This cluster has no namespace {STACK} (gateway, Prometheus, S3 of the demo): run `make cluster-up`, or `make demo`."
        )


_RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
