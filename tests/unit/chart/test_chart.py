"""The chart as Helm renders it, and the table of rights behind it. Rendered by Helm 3 and Helm 4."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import gobuild
from espalier_operator import rbac
from espalier_operator.adapters.resources import CHILDREN, EVENTS, OWN

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "espalier"


# --- rights --------------------------------------------------------------------------------------------------------------
def allowed(verb: str, group: str, resource: str) -> bool:
    return any(verb in rule.verbs and group in rule.apiGroups and resource in rule.resources for rule in rbac.OPERATOR)


def test_the_charts_rules_are_the_tables() -> None:
    assert rbac.main(["--check"]) == 0


def test_no_wildcards_no_secrets_no_escalation() -> None:
    for rule in (*rbac.OPERATOR, *rbac.VIEW, *rbac.EDIT):
        assert not {"*"} & {*rule.apiGroups, *rule.resources, *rule.verbs}
        assert not {"secrets", "serviceaccounts/token", "pods/exec", "nodes"} & set(rule.resources)
        assert "rbac.authorization.k8s.io" not in rule.apiGroups
    for rule in rbac.OPERATOR:
        assert not {"update", "deletecollection", "impersonate", "escalate", "bind"} & set(rule.verbs)


def test_specs_of_retrain_policies_cannot_be_written_at_all() -> None:
    assert not allowed("patch", "espalier.dev", "retrainpolicies")


@pytest.mark.parametrize("resource", [*OWN, *CHILDREN], ids=lambda resource: resource.plural)
def test_everything_that_is_watched_may_be_watched(resource: Any) -> None:
    assert all(allowed(verb, resource.group, resource.plural) for verb in ("list", "watch"))


def test_everything_that_is_applied_may_be_applied() -> None:
    for resource in CHILDREN:
        if resource.plural != "pods":
            assert all(allowed(verb, resource.group, resource.plural) for verb in ("create", "patch", "delete"))
    assert allowed("create", EVENTS.group, EVENTS.plural)
    assert all(allowed("patch", resource.group, f"{resource.plural}/status") for resource in OWN)


# --- rendering -------------------------------------------------------------------------------------------------------------
def render(helm: str, **values: Any) -> list[dict[str, Any]]:
    command = [
        helm,
        "template",
        "espalier",
        str(CHART),
        "--namespace",
        "espalier-system",
        "--kube-version",
        "1.36.4",
        "--values",
        "-",
    ]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(done.stderr)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(params=["helm", "helm4"], scope="module")
def helm(request: pytest.FixtureRequest) -> str:
    """Helm 3 and Helm 4, from the cache; built first where they are not there yet (minutes, once)."""
    return str(gobuild.build(request.param))


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in objects if each["kind"] == kind]


def test_the_operator_meets_its_own_standard(helm: str) -> None:
    (deployment,) = of_kind(render(helm), "Deployment")
    assert deployment["metadata"]["name"] == "espalier"
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (1, {"type": "Recreate"})
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["memory"]
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()


def test_settings_arrive_and_restart_the_pod(helm: str) -> None:
    source = {"default": {"url": "http://p:9090", "lag": "4s"}}
    objects = render(helm, prometheus=source, s3={"endpointUrl": "http://s3:8333", "secretName": "espalier-s3"})
    (config_map,) = of_kind(objects, "ConfigMap")
    assert json.loads(config_map["data"]["settings.json"]) == {
        "prometheus": source,
        "s3": {"endpointUrl": "http://s3:8333"},
    }
    template = of_kind(objects, "Deployment")[0]["spec"]["template"]
    assert template["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": "espalier-s3"}}]
    other = of_kind(render(helm), "Deployment")[0]["spec"]["template"]
    assert (
        template["metadata"]["annotations"]["checksum/settings"]
        != other["metadata"]["annotations"]["checksum/settings"]
    )


def test_namespaces_mean_roles_and_nothing_cluster_wide(helm: str) -> None:
    objects = render(helm, namespaces=["a", "b"], rbac={"aggregate": False})
    assert sorted(role["metadata"]["namespace"] for role in of_kind(objects, "Role")) == ["a", "b"]
    assert of_kind(objects, "ClusterRole") == of_kind(objects, "ClusterRoleBinding") == []
    env = of_kind(objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "ESPALIER_NAMESPACES", "value": "a,b"} in env


def test_the_cluster_role_is_the_table(helm: str) -> None:
    role = next(each for each in of_kind(render(helm), "ClusterRole") if each["metadata"]["name"] == "espalier")
    assert role["rules"] == json.loads(rbac.rendered())["operator"]


def test_crds_are_kept_unless_told_otherwise(helm: str) -> None:
    kept, dropped = render(helm), render(helm, crds={"keep": False})
    assert len(of_kind(kept, "CustomResourceDefinition")) == 3
    for crd in of_kind(kept, "CustomResourceDefinition"):
        assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert not any("annotations" in crd["metadata"] for crd in of_kind(dropped, "CustomResourceDefinition"))
    assert of_kind(render(helm, crds={"enabled": False}), "CustomResourceDefinition") == []


@pytest.mark.parametrize(
    "values", [{"bogus": 1}, {"image": ""}, {"namespaces": ["Not_A_Name"]}, {"prometheus": {"a": {}}}]
)
def test_wrong_values_are_refused(helm: str, values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="schema"):
        render(helm, **values)


def test_every_value_is_explained() -> None:
    """Each top-level key of values.yaml has a comment in the lines above it or inside it."""
    lines = (CHART / "values.yaml").read_text().splitlines()
    schema = json.loads((CHART / "values.schema.json").read_text())
    keys = set(yaml.safe_load("\n".join(lines)))
    assert keys <= set(schema["properties"])
    commented = {number for number, line in enumerate(lines) if line.lstrip().startswith("#")}
    for number, line in enumerate(lines):
        if line and not line.startswith((" ", "#", "-")):
            assert commented & set(range(max(0, number - 3), number + 3)), f"values.yaml: {line} has no comment"
