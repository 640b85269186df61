"""What the operator may and may not do, asked of the real API server; and a planted secret that must appear nowhere."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import SYSTEM, model_manifest

if TYPE_CHECKING:
    from tests.e2e.harness import World

pytestmark = pytest.mark.e2e
OPERATOR = f"system:serviceaccount:{SYSTEM}:espalier"
PLANTED = "planted-c0ffee-must-not-leak"


@pytest.mark.parametrize(
    "verb,resource",
    [
        ("get", "secrets"),
        ("list", "secrets"),
        ("watch", "secrets"),
        ("create", "secrets"),
        ("create", "pods/exec"),
        ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
        ("escalate", "clusterroles.rbac.authorization.k8s.io"),
        ("impersonate", "users"),
        ("delete", "nodes"),
        ("update", "regularizedmodels.espalier.dev"),
        ("create", "serviceaccounts/token"),
        ("*", "*"),
    ],
)
def test_operator_may_not(world: World, verb: str, resource: str) -> None:
    """Cluster-wide and in any namespace."""
    for scope in (["--all-namespaces"], ["--namespace", "kube-system"], ["--namespace", world.kube.namespace]):
        answer = world.kube.run("auth", "can-i", verb, resource, "--as", OPERATOR, *scope, check=False)
        assert answer.strip() == "no", f"{verb} {resource} {scope}: {answer}"


@pytest.mark.parametrize(
    "verb,resource",
    [
        ("create", "jobs.batch"),
        ("patch", "regularizedmodels.espalier.dev/status"),
        ("patch", "httproutes.gateway.networking.k8s.io"),
        ("list", "pods"),
    ],
)
def test_operator_may(world: World, verb: str, resource: str) -> None:
    """The check above can fail: what it needs, it has."""
    answer = world.kube.run(
        "auth", "can-i", verb, resource, "--as", OPERATOR, "--namespace", world.kube.namespace, check=False
    )
    assert answer.strip() == "yes"


def test_planted_secret_is_nowhere(world: World) -> None:
    """The tenant's own key, in a Secret and in the pods' environment, is in no log, status, event, argv or object.

    Nor is a value beside it that nobody asked for: pods get the keys they need, not the whole Secret.
    """
    secret = world.kube.get("secret", "s3")
    assert secret
    planted = {**_decoded(secret), "UNRELATED_PASSWORD": PLANTED}
    world.kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": planted})
    world.apply_rollout()
    world.apply(model_manifest())
    world.await_("training pods", world.job_pods)
    logs = [""]
    environment = json.dumps([pod["spec"]["containers"] for pod in world.job_pods()])
    assert "UNRELATED_PASSWORD" not in environment
    world.await_(
        "an end",
        lambda: _collect(world, logs) or world.champion() or world.version("v1").get("state") == "Failed",
        240,
    )
    seen = {
        "trainer logs": logs[0],
        "operator logs": world.system.run("logs", "deployment/espalier", "--tail=-1"),
        "objects": world.kube.run(
            "get",
            "espalier,jobs,pods,configmaps,deployments,services,events,httproutes",
            "--output",
            "json",
            check=False,
        ),
        "server logs": world.kube.run("logs", "--selector", "espalier.dev/component=server", "--tail=-1", check=False),
        "argv": _argvs(),
    }
    for where, text in seen.items():
        assert text, f"nothing was read from {where}"
        for value in (PLANTED, _decoded(secret)["AWS_SECRET_ACCESS_KEY"]):
            assert value not in text, f"a secret stands in {where}"


def test_pods_are_restricted(world: World) -> None:
    """The namespace enforces the restricted profile (a pod that is not would be refused), and no pod carries an API token."""
    world.apply_rollout()
    world.apply(model_manifest())
    world.await_("v1 champion", lambda: world.champion() == "v1")
    pods = world.kube.items("pods", "app.kubernetes.io/managed-by=espalier")
    assert pods
    for pod in pods:
        assert pod["spec"]["automountServiceAccountToken"] is False
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert not any("serviceaccount" in mount["mountPath"] for mount in container.get("volumeMounts", []))


def _collect(world: World, logs: list[str]) -> bool:
    """Keep the longest trainer log seen: the Job is deleted once harvested."""
    text = world.kube.run("logs", "--selector", "espalier.dev/component=trainer", "--tail=-1", check=False)
    logs[0] = max(logs[0], text, key=len)
    return False


def _decoded(secret: dict[str, dict[str, str]]) -> dict[str, str]:
    import base64  # noqa: PLC0415 - used here only

    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def _argvs() -> str:
    """Every process's command line on this machine: the kind nodes' containers are among them."""
    return subprocess.run(["ps", "-eo", "args", "-ww"], check=True, capture_output=True, text=True).stdout


def test_argv_check_sees_pods() -> None:
    """The check above can fail: the operator's own process is in the list."""
    assert "espalier_operator" in _argvs(), json.dumps(_argvs()[:2000])
