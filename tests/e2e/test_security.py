"""What the operator may and may not do, asked of the real API server; and a planted secret that must appear nowhere."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.harness import SYSTEM, model_manifest

if TYPE_CHECKING:
    from tests.e2e.harness import World

pytestmark = pytest.mark.e2e
OPERATOR = f"system:serviceaccount:{SYSTEM}:espalier"
PLANTED = "planted-c0ffee-must-not-leak"  # a region's name has to be a host label
UNASKED = "unasked-c0ffee-must-not-leak"


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
    """What the tenant's Secret gives the pods, and what it does not, is in no log, status, event, argv or object.

    Three values are looked for. The random AWS_SECRET_ACCESS_KEY, which every request is signed with. A planted
    AWS_REGION: a pod mounts it as it mounts the keys, and SeaweedFS checks a signature in whatever region the request
    names. (A planted AWS_SESSION_TOKEN would end every pod: SeaweedFS answers 403 to a token that it did not issue;
    that those refusals do not repeat it is tested in tests/contract.) And a value that no pod asked for: pods get
    keys, not whole Secrets.
    """
    secret = world.kube.get("secret", "s3")
    assert secret
    planted = {**_decoded(secret), "AWS_REGION": PLANTED, "UNRELATED_PASSWORD": UNASKED}
    world.kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": planted})
    world.apply_rollout()
    world.apply(model_manifest())
    world.await_("training pods", world.job_pods)
    logs = [""]
    asked = _secret_keys(world.job_pods())
    assert asked >= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"}
    assert "UNRELATED_PASSWORD" not in asked
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
        for value in (PLANTED, UNASKED, _decoded(secret)["AWS_SECRET_ACCESS_KEY"]):
            assert value not in text, f"a secret stands in {where}"


def test_pods_are_restricted(world: World) -> None:
    """The namespace enforces the restricted profile (it refuses a pod that is not), and no pod carries an API token."""
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


def _secret_keys(pods: list[dict[str, Any]]) -> set[str]:
    """The keys of the Secret `s3` that containers get as environment variables.

    None may get it whole, as a volume or `envFrom`.
    """
    containers = [container for pod in pods for container in pod["spec"]["containers"]]
    assert containers
    assert not any(container.get("envFrom") for container in containers)
    assert not any("secret" in volume for pod in pods for volume in pod["spec"].get("volumes", []))
    references = [
        entry["valueFrom"]["secretKeyRef"]
        for container in containers
        for entry in container.get("env", [])
        if "secretKeyRef" in entry.get("valueFrom", {})
    ]
    return {reference["key"] for reference in references if reference["name"] == "s3"}


def _decoded(secret: dict[str, dict[str, str]]) -> dict[str, str]:
    import base64  # noqa: PLC0415 - used here only

    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def _argvs() -> str:
    """Every process's command line on this machine: the kind nodes' containers are among them."""
    return subprocess.run(["ps", "-eo", "args", "-ww"], check=True, capture_output=True, text=True).stdout


def test_argv_check_sees_pods() -> None:
    """The check above can fail: the operator's own process is in the list."""
    assert "espalier_operator" in _argvs(), json.dumps(_argvs()[:2000])
