"""kind-config.yaml is the one shape; a private engine only appends to it."""

from __future__ import annotations

import json

import pytest
import yaml

from cluster import config
from cluster.errors import ClusterError
from cluster.handle import Cluster
from cluster.kindcluster import configuration, create_argv
from cluster.paths import KIND_CONFIG


def additions(*, cgroup_v1: bool) -> dict[str, object]:
    return config.private_additions(etcd_tag="3.6.14", coredns_tag="v1.14.7", cgroup_v1=cgroup_v1)


def test_the_merge_is_yaml_with_the_shape_unchanged() -> None:
    base = KIND_CONFIG.read_text()
    merged = yaml.safe_load(config.merged(base, additions(cgroup_v1=True)))
    shape = yaml.safe_load(base)
    assert {key: merged[key] for key in shape} == shape
    assert merged["networking"]["disableDefaultCNI"] is True
    patches = [json.loads(patch) for patch in merged["kubeadmConfigPatches"]]
    assert patches[0]["etcd"] == {"local": {"imageTag": "3.6.14"}}
    assert patches[0]["dns"] == {"imageTag": "v1.14.7"}
    assert patches[1] == {"kind": "KubeletConfiguration", "failCgroupV1": False}


def test_cgroup_v2_needs_no_kubelet_patch() -> None:
    assert len(additions(cgroup_v1=False)["kubeadmConfigPatches"]) == 1  # type: ignore[arg-type]


def test_a_key_in_both_is_refused_with_a_remedy() -> None:
    with pytest.raises(ClusterError, match=r"(?s)'networking'.*remedy: remove"):
        config.merged("kind: Cluster\nnetworking: {ipFamily: ipv4}\n", additions(cgroup_v1=True))


def test_a_nested_or_commented_key_is_not_a_top_level_one() -> None:
    base = "kind: Cluster\n# networking: {}\nnodes:\n  - role: worker\n    networking: {}\n"
    assert "disableDefaultCNI" in config.merged(base, additions(cgroup_v1=True))


def test_two_nodes_and_the_gateway_port_on_the_worker() -> None:
    nodes = yaml.safe_load(KIND_CONFIG.read_text())["nodes"]
    assert [node["role"] for node in nodes] == ["control-plane", "worker"]
    assert nodes[1]["extraPortMappings"][0]["containerPort"] == 30080


def test_an_engine_gets_kinds_own_image_and_the_shape_as_it_is() -> None:
    cluster = Cluster("espalier", "engine", "podman", "kind-espalier")
    argv = create_argv(cluster)
    assert "--image" not in argv
    assert argv[argv.index("--config") + 1] == str(KIND_CONFIG)
    assert configuration(cluster) == KIND_CONFIG.read_text()
