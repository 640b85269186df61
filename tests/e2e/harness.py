"""What the e2e tests do to the cluster and read back from it.

Everything is real: kubectl, pods, Prometheus, S3, the gateway.

A test gets a `World`: one namespace of its own with the tenant's credentials, builders for small manifests, and verbs
for faults.
Waiting is by looking at the objects until a condition holds; a time-out reports both statuses and the newest events.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from espalier_cli.demo.digits import load_digits
from espalier_cli.demo.kubectl import Kubectl
from espalier_cli.demo.story import canary_weight
from espalier_cli.demo.world import STACK, Traffic, forget_versions, prepare, start_traffic, stop_traffic
from tools.stage import refs as stage_refs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SYSTEM = "espalier-system"
MODEL = "regularizedmodels.espalier.dev"
ROLLOUT = "canaryrollouts.espalier.dev"
ROUTE = "httproutes.gateway.networking.k8s.io"
GOOD = "s3://datasets/digits/2026-11-01/"
RESCALED = "s3://datasets/digits/2026-11-15/"
CLASSES = [str(digit) for digit in range(10)]
LOOK_EVERY = 0.3

Status = dict[str, Any]


def model_manifest(name: str = "digits", **spec: Any) -> dict[str, Any]:
    """A small RegularizedModel: logistic regression on the digits, trained in seconds.

    Keyword arguments replace top-level spec fields.
    """
    base: dict[str, Any] = {
        "task": {"type": "classification", "classes": CLASSES},
        "data": {
            "snapshot": {"uri": GOOD},
            "target": "label",
            "features": {"include": ["px*"]},
            "timeColumn": "collected",
            "split": {"strategy": "time", "validation": 0.1, "calibration": 0.1, "test": 0.5, "seed": 7},
        },
        "engine": {"sklearn": {"estimator": "logisticRegression"}},
        "regularizers": {"l2": {"strength": 0.01}},
        "evaluation": {"gates": [{"metric": "accuracy", "min": 0.5}]},
        "training": {
            "resources": {
                "requests": {"cpu": "100m", "memory": "256Mi"},
                "limits": {"cpu": "1", "memory": "2Gi", "nvidia.com/gpu": 1},
            },
            "deadline": "10m",
        },
        "artifacts": {"uri": "s3://models/", "secretRef": {"name": "s3"}},
        "serving": {
            "replicas": 1,
            "resources": {"requests": {"cpu": "20m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}},
        },
    }
    return {
        "apiVersion": "espalier.dev/v1alpha1",
        "kind": "RegularizedModel",
        "metadata": {"name": name},
        "spec": {**base, **spec},
    }


def torch_engine(**engine: Any) -> dict[str, Any]:
    """A torch engine that trains for a while: the tests of preemption need something to interrupt."""
    return {
        "torch": {
            "architecture": {"mlp": {"hidden": [256, 256]}},
            "optimizer": {"adamw": {"learningRate": 1.0e-3}},
            "batchSize": 16,
            "epochs": 400,
            **engine,
        }
    }


def rollout_manifest(name: str = "digits", host: str = "digits.example.com", **spec: Any) -> dict[str, Any]:
    """A CanaryRollout through the gateway with two short steps. Keyword arguments replace top-level spec fields."""
    base: dict[str, Any] = {
        "modelRef": {"name": name},
        "service": {"port": 8080},
        "traffic": {"gatewayAPI": {"parentRefs": [{"name": "public", "namespace": STACK}], "hostnames": [host]}},
        "strategy": {
            "warmUp": "4s",
            "steps": [{"weight": 20, "hold": "12s"}, {"weight": 50, "hold": "8s"}],
            "deadline": "30m",
        },
        "analysis": {
            "interval": "4s",
            "sequential": {"alpha": 0.05, "minRequests": 20, "minBad": 3},
            "slis": [{"name": "errors", "errorRatio": {}}, {"name": "quality", "quality": {}, "labelDelay": "3s"}],
        },
        "rollback": {"quarantine": True, "keepCanary": "5s", "keepPrevious": "5s"},
    }
    return {
        "apiVersion": "espalier.dev/v1alpha1",
        "kind": "CanaryRollout",
        "metadata": {"name": name},
        "spec": {**base, **spec},
    }


def data_from(uri: str) -> dict[str, Any]:
    """The `data` block of `model_manifest` for another snapshot."""
    data: dict[str, Any] = model_manifest()["spec"]["data"]
    return {**data, "snapshot": {"uri": uri}}


@dataclass(slots=True)
class World:
    """One test's namespace and what it may do there."""

    kube: Kubectl
    loadgen_image: str
    system: Kubectl = field(default_factory=lambda: Kubectl(SYSTEM))
    stack: Kubectl = field(default_factory=lambda: Kubectl(STACK))
    names: set[str] = field(default_factory=lambda: {"digits"})
    """Of the models that ever were applied."""

    @property
    def host(self) -> str:
        """The route's host name: one per namespace, so that tests and a demo left running never share a route."""
        return f"{self.kube.namespace}.example.com"

    # --- doing ---------------------------------------------------------------------------------------------------
    def apply_rollout(self, **spec: Any) -> None:
        """Apply `rollout_manifest` under this namespace's host name."""
        self.apply(rollout_manifest(host=self.host, **spec))

    def apply(self, manifest: Mapping[str, Any]) -> None:
        """Kubectl apply; a refusal raises DemoError with the API server's words."""
        self.names |= {manifest["metadata"]["name"]} if manifest["kind"] == "RegularizedModel" else set()
        self.kube.run("apply", "-f", "-", stdin=json.dumps(manifest))

    def request(self, verb: str, name: str = "digits") -> str:
        """Annotate the rollout with an imperative request; returns its id."""
        identity = f"e2e-{time.monotonic_ns()}"
        self.kube.run("annotate", ROLLOUT, name, f"espalier.dev/request={verb}@{identity}", "--overwrite")
        return identity

    def prepare(self) -> None:
        """Namespace (restricted pod security), the tenant's secret, the snapshots."""
        prepare(self.kube, load_digits())

    def forget_versions(self) -> None:
        """Delete the artifacts of the namespace's models from S3."""
        for name in sorted(self.names):
            forget_versions(self.kube, name)

    @contextmanager
    def traffic(self, rps: int = 40, seconds: int = 900) -> Iterator[None]:
        """Labelled requests through the gateway for as long as the block runs, at most `seconds`."""
        start_traffic(self.kube, load_digits(), self.loadgen_image, Traffic(rps, seconds, 1.0, 1.0, self.host))
        try:
            yield
        finally:
            stop_traffic(self.kube)

    def kill_operator(self) -> None:
        """SIGKILL: the pod goes without a grace period; its Deployment starts another."""
        self.system.run(
            "delete",
            "pod",
            "--selector",
            "app.kubernetes.io/name=espalier",
            "--grace-period=0",
            "--force",
            "--wait=false",
        )

    def await_operator(self) -> None:
        """Until the operator's Deployment is available again."""
        self.system.run("rollout", "status", "deployment/espalier", "--timeout=120s")

    @contextmanager
    def stopped(self, workload: str) -> Iterator[None]:
        """Scale a workload of the stack (`deployment/prometheus`) to 0 while the block runs, then back and wait."""
        self.stack.run("scale", workload, "--replicas=0")
        self.stack.run(
            "wait",
            "pod",
            "--selector",
            f"app.kubernetes.io/name={workload.split('/')[1]}",
            "--for=delete",
            "--timeout=60s",
            check=False,
        )
        try:
            yield
        finally:
            self.stack.run("scale", workload, "--replicas=1")
            self.stack.run("rollout", "status", workload, "--timeout=120s")

    # --- seeing --------------------------------------------------------------------------------------------------
    def model(self, name: str = "digits") -> dict[str, Any]:
        """The model, {} when there is none."""
        return self.kube.get(MODEL, name) or {}

    def rollout(self, name: str = "digits") -> dict[str, Any]:
        """The rollout, {} when there is none."""
        return self.kube.get(ROLLOUT, name) or {}

    def status(self, name: str = "digits") -> Status:
        """The rollout's status."""
        found: Status = self.rollout(name).get("status") or {}
        return found

    def version(self, version: str, name: str = "digits") -> dict[str, Any]:
        """A version of the model's status, {} when unknown."""
        for entry in (self.model(name).get("status") or {}).get("versions") or []:
            if entry["version"] == version:
                found: dict[str, Any] = entry
                return found
        return {}

    def champion(self, name: str = "digits") -> str | None:
        """The champion alias."""
        alias: str | None = (self.status(name).get("aliases") or {}).get("champion")
        return alias

    def outcome(self, version: str, name: str = "digits") -> dict[str, Any]:
        """The newest history entry of a version, {} while undecided."""
        entries = [entry for entry in self.status(name).get("history") or [] if entry["version"] == version]
        return entries[0] if entries else {}

    def weight(self, version: str, name: str = "digits") -> int:
        """What the HTTPRoute itself gives the version, in percent."""
        return canary_weight(self.kube.get(ROUTE, name) or {}, name, version)

    def condition(self, kind: str, type_: str, name: str = "digits") -> dict[str, Any]:
        """A condition of a model or rollout, {} when it is not there."""
        found = self.kube.get(kind, name) or {}
        for condition in (found.get("status") or {}).get("conditions") or []:
            if condition["type"] == type_:
                result: dict[str, Any] = condition
                return result
        return {}

    def job_pods(self) -> list[dict[str, Any]]:
        """Training pods of the namespace."""
        return self.kube.items("pods", "espalier.dev/component=trainer")

    def await_(self, what: str, done: Callable[[], Any], timeout: float = 180.0) -> Any:
        """Look until `done()` is truthy and return it; AssertionError with the whole picture when time is over."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if found := done():
                return found
            time.sleep(LOOK_EVERY)
        raise AssertionError(f"{what}: not within {timeout:.0f} s\n{self.picture()}")

    def await_version(self, version: str, *states: str, timeout: float = 180.0) -> dict[str, Any]:
        """Until the model's version is in one of `states`; returns it."""
        found: dict[str, Any] = self.await_(
            f"{version} in {states}", lambda: (entry := self.version(version)).get("state") in states and entry, timeout
        )
        return found

    def picture(self) -> str:
        """Statuses, pods and the newest events, for a failure's message."""
        parts = [
            json.dumps({"model": self.model().get("status"), "rollout": self.status()}, indent=1)[-6000:],
            self.kube.run("get", "pods,jobs,deployments", "--output", "wide", check=False),
            "\n".join(
                self.kube.run("get", "events", "--sort-by=.metadata.creationTimestamp", check=False).splitlines()[-25:]
            ),
            "\n".join(self.system.run("logs", "deployment/espalier", "--tail=30", check=False).splitlines()),
        ]
        return "\n---\n".join(parts)


def image_refs() -> dict[str, str]:
    """References of this checkout's images."""
    return stage_refs()
