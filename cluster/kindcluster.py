"""kind: create, find and delete the cluster; the same for every engine."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster import config, host, nodeimage
from cluster.engine import wait_for
from cluster.errors import ClusterError
from cluster.paths import KIND_CONFIG

if TYPE_CHECKING:
    from cluster.handle import Cluster

CREATE_SECONDS = 300
READY_SECONDS = 180


def exists(cluster: Cluster) -> bool:
    """Whether kind knows the cluster."""
    return cluster.name in cluster.run("kind", "get", "clusters").stdout.split()


def answers(cluster: Cluster) -> bool:
    """Whether the API answers that it is ready."""
    # By the status code, not by a word: while it starts, the body of a 500 has "ok" in it too.
    return cluster.kubectl("get", "--raw", "/readyz", "--request-timeout=5s", check=False).returncode == 0


def create_argv(cluster: Cluster) -> list[str]:
    """The command that creates the cluster."""
    argv = ["kind", "create", "cluster", "--name", cluster.name]
    argv += ["--kubeconfig", str(cluster.state.kubeconfig), "--wait", f"{READY_SECONDS}s"]
    if cluster.private:
        return [*argv, "--config", "-", "--image", nodeimage.reference()]
    return [*argv, "--config", str(KIND_CONFIG)]


def configuration(cluster: Cluster) -> str:
    """Kind's configuration: the one shape, and on a private engine what that needs on top."""
    base = KIND_CONFIG.read_text()
    if not cluster.private:
        return base
    versions = nodeimage.Versions.pinned()
    return config.merged(
        base,
        config.private_additions(etcd_tag=versions.etcd, coredns_tag=versions.coredns, cgroup_v1=host.cgroup_v1()),
    )


def create(cluster: Cluster) -> None:
    """Create the cluster.

    Raises:
        ClusterError: kind failed; the whole output is in the state's logs.

    """
    cluster.state.logs.mkdir(parents=True, exist_ok=True)
    log = cluster.state.logs / "kind-create.log"
    with log.open("w") as output:
        done = subprocess.run(
            cluster.exec_argv(create_argv(cluster)),
            input=configuration(cluster),
            env=cluster.env(),
            text=True,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=CREATE_SECONDS + READY_SECONDS,
            check=False,
        )
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise ClusterError(
            f"kind could not create cluster {cluster.name!r}:\n{tail}",
            remedy=f"read {log}; then `python -m cluster down --name {cluster.name}` and `up` again",
        )


def delete(cluster: Cluster) -> None:
    """Delete the cluster's nodes; none is fine."""
    cluster.run("kind", "delete", "cluster", "--name", cluster.name, "--kubeconfig", str(cluster.state.kubeconfig))


def wait_ready(cluster: Cluster) -> None:
    """Wait until all nodes are Ready and DNS answers; kind itself waits for the control plane only."""
    cluster.kubectl("wait", "--for=condition=Ready", "nodes", "--all", f"--timeout={READY_SECONDS}s")
    cluster.kubectl("--namespace=kube-system", "rollout", "status", "deployment/coredns", f"--timeout={READY_SECONDS}s")


def ensure(cluster: Cluster) -> bool:
    """Make the cluster if there is none that answers; returns whether it was made.

    What kind knows and what does not answer for half a minute is the rest of a
    crash, and is made anew.
    """
    if exists(cluster):
        if not cluster.state.kubeconfig.exists():
            cluster.run(
                "kind", "export", "kubeconfig", "--name", cluster.name, "--kubeconfig", str(cluster.state.kubeconfig)
            )
        if wait_for(lambda: answers(cluster), 30, pause=1):
            return False
        delete(cluster)
    create(cluster)
    return True


def node_list(cluster: Cluster) -> list[Node]:
    """The nodes and what the rest of this room needs of them."""
    found = json.loads(cluster.kubectl("get", "nodes", "-o", "json").stdout)
    return [Node.of(item) for item in found["items"]]


@dataclass(frozen=True)
class Node:
    """A node as the API shows it; ``pods`` is its pods' address range."""

    name: str
    pods: str
    address: str
    control_plane: bool
    ready: bool
    gpus: int

    @classmethod
    def of(cls, item: dict[str, Any]) -> Node:
        """From the JSON of a Node."""
        status, labels = item["status"], item["metadata"].get("labels", {})
        conditions = {each["type"]: each["status"] for each in status.get("conditions", ())}
        addresses = {each["type"]: each["address"] for each in status.get("addresses", ())}
        return cls(
            name=item["metadata"]["name"],
            pods=item["spec"].get("podCIDR", ""),
            address=addresses.get("InternalIP", ""),
            control_plane="node-role.kubernetes.io/control-plane" in labels,
            ready=conditions.get("Ready") == "True",
            gpus=int(status.get("capacity", {}).get("nvidia.com/gpu", 0)),
        )
