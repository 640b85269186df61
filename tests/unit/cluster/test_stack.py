"""The stack's manifests and keys, and that no key is ever in a command line."""

from __future__ import annotations

import base64
import json
import subprocess
from dataclasses import dataclass, field
from io import StringIO
from typing import TYPE_CHECKING, Any, cast

import pytest
import yaml

from cluster import stack
from cluster.errors import ClusterError
from cluster.progress import Progress

if TYPE_CHECKING:
    from cluster.handle import Cluster

IMAGES = {name: f"local.test/espalier/{name}:0" for name in stack.IMAGES}
FILES = ("namespace", "gateway", "prometheus", "s3")
RESTRICTED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


@dataclass
class Kubectl:
    """A cluster that remembers what it was told, and whose Secrets are a dict."""

    name: str = "demo"
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    calls: list[tuple[tuple[str, ...], str]] = field(default_factory=list)
    failing: str = ""

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        self.calls.append((args, stdin or ""))
        if self.failing and self.failing in args:
            return subprocess.CompletedProcess(args, 1, "", "timed out")
        if "get" in args and "secret" in args:
            data = self.secrets.get(args[args.index("secret") + 1])
            encoded = {key: base64.b64encode(value.encode()).decode() for key, value in (data or {}).items()}
            return subprocess.CompletedProcess(args, 0, json.dumps({"data": encoded}) if data else "", "")
        if "apply" in args and stdin and stdin.startswith("{"):
            for item in json.loads(stdin)["items"]:
                self.secrets[item["metadata"]["name"]] = item["stringData"]
        return subprocess.CompletedProcess(args, 0, "  datasets\tsize:0\n  models\tsize:0\n", "")


def cluster(fake: Kubectl) -> Cluster:
    return cast("Cluster", fake)


def documents() -> list[dict[str, Any]]:
    return [each for name in FILES for each in yaml.safe_load_all(stack.render(name, IMAGES))]


def test_every_manifest_is_whole_and_in_the_stacks_namespace() -> None:
    for each in documents():
        assert each["kind"]
        if each["kind"] not in {"Namespace", "GatewayClass", "ClusterRole", "ClusterRoleBinding"}:
            assert each["metadata"]["namespace"] == stack.NAMESPACE
    names = {each["metadata"]["name"] for each in documents() if each["kind"] == "Deployment"}
    assert names == set(stack.DEPLOYMENTS)


def test_long_running_containers_are_restricted_modest_and_never_pulled_anew() -> None:
    for each in documents():
        if each["kind"] != "Deployment":
            continue
        spec = each["spec"]["template"]["spec"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            security = {**spec["securityContext"], **container["securityContext"]}
            assert security.items() >= {"runAsNonRoot": True, "runAsUser": 65532, **RESTRICTED}.items()
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["image"].startswith("local.test/espalier/")
            assert container["imagePullPolicy"] == "IfNotPresent"
            assert container["resources"]["requests"]["cpu"].removesuffix("m").isdigit()
            assert container["resources"]["limits"]["memory"]


def test_parts_with_a_volume_never_run_twice() -> None:
    for each in documents():
        if each["kind"] == "Deployment" and "persistentVolumeClaim" in json.dumps(each):
            assert each["spec"]["strategy"] == {"type": "Recreate"}
            assert each["spec"]["replicas"] == 1


def test_prometheus_scrapes_what_the_contract_says() -> None:
    maps = [each for each in documents() if each["kind"] == "ConfigMap" and each["metadata"]["name"] == "prometheus"]
    config = yaml.safe_load(maps[0]["data"]["prometheus.yml"])
    assert config["global"]["scrape_interval"] == "2s"
    pods = next(job for job in config["scrape_configs"] if job["job_name"] == "pods")
    assert pods["honor_labels"] is True
    assert {rule.get("target_label") for rule in pods["relabel_configs"]} >= {"namespace", "pod", "node", "__address__"}
    address = next(rule for rule in pods["relabel_configs"] if rule.get("target_label") == "__address__")
    assert address["replacement"] == "$1:$2"


def test_a_changed_configuration_restarts_the_pods_that_read_it() -> None:
    assert stack.render("s3", IMAGES, extra="a") != stack.render("s3", IMAGES, extra="b")
    assert stack.render("s3", IMAGES, extra="a") == stack.render("s3", IMAGES, extra="a")


def test_keys_are_random_once_and_then_kept() -> None:
    fake = Kubectl()
    first = stack._keys(cluster(fake), "tenant")
    assert first != stack._keys(cluster(fake), "tenant")
    fake.kubectl("apply", "-f", "-", stdin=json.dumps(stack.secret_list({"tenant": first})))
    assert stack._keys(cluster(fake), "tenant") == first
    assert stack.tenant_secret(cluster(fake)) == {
        "AWS_ACCESS_KEY_ID": first[0],
        "AWS_SECRET_ACCESS_KEY": first[1],
        "AWS_ENDPOINT_URL": stack.ENDPOINT,
        "AWS_REGION": stack.REGION,
    }


def test_no_key_is_ever_in_a_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Kubectl()
    monkeypatch.setattr(stack, "_images", lambda *_: IMAGES)
    monkeypatch.setattr(stack, "_install_crds", lambda _: None)
    told = StringIO()
    stack.install(cluster(fake), Progress(stream=told))
    secret_values = {
        value
        for name, data in fake.secrets.items()
        for key, value in data.items()
        if key in {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} and name != "s3-config"
    }
    assert len(secret_values) == 2 * len(stack.ACTIONS)
    assert set(fake.secrets) == {"s3-admin", "s3-operator", "s3-tenant", "s3-config"}
    seen = " ".join(" ".join(args) for args, _ in fake.calls) + told.getvalue()
    assert not any(value in seen for value in secret_values)


def test_identities_do_what_their_role_needs_and_no_more() -> None:
    config = json.loads(stack.s3_config(dict.fromkeys(stack.ACTIONS, ("a", "s"))))
    actions = {each["name"]: set(each["actions"]) for each in config["identities"]}
    for name in ("operator", "tenant"):
        assert actions[name] == {"Read:datasets", "List:datasets", "Read:models", "List:models", "Write:models"}
    assert "Admin" in actions["admin"]


def test_a_pod_that_does_not_come_up_is_shown_with_a_remedy() -> None:
    with pytest.raises(ClusterError, match=r"(?s)espalier-stack/s3 is not ready.*timed out.*remedy:.*describe pods"):
        stack.wait_ready(cluster(Kubectl(failing="rollout")), "s3")


@pytest.mark.parametrize("name, replicas", [("nginx", 0), ("s3", 2)])
def test_only_parts_of_the_stack_are_scaled_to_0_or_1(name: str, replicas: int) -> None:
    with pytest.raises(ClusterError, match="use 0 or 1 of"):
        stack.scale(cluster(Kubectl()), name, replicas)


def test_keys_of_a_stack_that_is_not_installed_are_not_invented() -> None:
    with pytest.raises(ClusterError, match="no Secret espalier-stack/s3-tenant"):
        stack.tenant_secret(cluster(Kubectl()))
