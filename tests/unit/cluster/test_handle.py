"""What a command run against a cluster sees."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from cluster.errors import ClusterError
from cluster.handle import Cluster
from cluster.paths import State

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESPALIER_STATE", str(tmp_path))
    return tmp_path


def test_a_private_cluster_is_reached_through_its_namespace_only() -> None:
    cluster = Cluster("demo", "private", "docker", "kind-demo")
    assert cluster.exec_argv(["kubectl", "get", "pods"]) == [
        "nsenter",
        "--net=/run/espalier/demo/netns",
        "--",
        "kubectl",
        "get",
        "pods",
    ]


@pytest.mark.parametrize("situation", ["context", "engine"])
def test_other_clusters_are_reached_from_here(situation: str) -> None:
    assert Cluster("demo", situation, "docker", "kind-demo").exec_argv(["true"]) == ["true"]


def test_environment_of_a_private_cluster(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("KUBECONFIG", "/somebody/elses")
    env = Cluster("demo", "private", "docker", "kind-demo").env()
    assert env["KUBECONFIG"] == str(state / "demo/kubeconfig")
    assert env["PATH"].split(os.pathsep)[0] == str(state / "demo/bin")
    assert env["DOCKER_HOST"] == f"unix://{state}/demo/docker-run/docker.sock"
    assert "https_proxy" not in env


def test_environment_on_podman_tells_kind_so() -> None:
    env = Cluster("demo", "engine", "podman", "kind-demo").env()
    assert env["KIND_EXPERIMENTAL_PROVIDER"] == "podman"
    assert "DOCKER_HOST" not in env or env["DOCKER_HOST"] == os.environ.get("DOCKER_HOST")


def test_saved_and_loaded() -> None:
    cluster = Cluster("demo", "private", "docker", "kind-demo")
    cluster.save()
    assert Cluster.load("demo") == cluster


def test_a_cluster_that_is_not_up_says_how_to_start_it() -> None:
    with pytest.raises(ClusterError, match="python -m cluster up --name demo"):
        Cluster.load("demo")


@pytest.mark.parametrize("name", ["", "A", "-x", "x-", "a" * 40, "a/b", "a.b"])
def test_a_name_that_is_no_host_name_is_refused(name: str) -> None:
    with pytest.raises(ClusterError, match="not usable"):
        State.of(name)


def test_a_failing_command_names_itself_the_cluster_and_its_output() -> None:
    cluster = Cluster("demo", "engine", "docker", "kind-demo")
    with pytest.raises(ClusterError, match=r"(?s)`sh -c .*` on cluster 'demo' ended with 7: broken pipe dream"):
        cluster.run("sh", "-c", "echo broken pipe dream >&2; exit 7")
    assert cluster.run("sh", "-c", "exit 7", check=False).returncode == 7
    assert cluster.run("cat", stdin="hello").stdout == "hello"
