"""Pretended GPUs: an extended resource of the worker, so that GPU requests are scheduled and queued for real."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster import images
from cluster.engine import wait_for
from cluster.errors import ClusterError
from cluster.kindcluster import node_list
from cluster.paths import NODE_FILES

if TYPE_CHECKING:
    from cluster.handle import Cluster

COUNT = 4
_FILES = {
    "fake-gpus.sh": ("/kind/bin/fake-gpus.sh", "0755"),
    "fake-gpus.service": ("/etc/systemd/system/fake-gpus.service", "0644"),
}


def apply(cluster: Cluster) -> None:
    """Run a service on each worker that keeps the resource there, also after a restart of the kubelet.

    The files are sent, not only baked into our own image: kind's image has to work as well.

    Raises:
        ClusterError: the resource did not appear.

    """
    for node in images.nodes(cluster):
        for name, (path, mode) in _FILES.items():
            text = (NODE_FILES / name).read_text()
            images.on_node(cluster, node, "sh", "-c", f"cat >{path} && chmod {mode} {path}", stdin=text)
        images.on_node(cluster, node, "systemctl", "daemon-reload")
        images.on_node(cluster, node, "systemctl", "enable", "--quiet", "fake-gpus")
        images.on_node(cluster, node, "systemctl", "restart", "fake-gpus")
    if not wait_for(lambda: _total(cluster) >= COUNT, 30, pause=0.5):
        raise ClusterError(
            f"no node of {cluster.name!r} shows nvidia.com/gpu",
            remedy="python -m cluster exec -- docker exec NODE journalctl -u fake-gpus",
        )


def _total(cluster: Cluster) -> int:
    return sum(node.gpus for node in node_list(cluster))
