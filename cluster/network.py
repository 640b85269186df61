"""Routes: between the nodes' pod networks, and from the namespace into them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster import images
from cluster.config import SERVICE_SUBNET

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cluster.handle import Cluster
    from cluster.kindcluster import Node


def node_routes(nodes: Sequence[Node]) -> Iterator[tuple[str, list[str]]]:
    """For each node the command that adds a route to another node's pods."""
    for here in nodes:
        for there in nodes:
            if here != there and there.pods and there.address:
                yield here.name, ["ip", "route", "replace", there.pods, "via", there.address]


def namespace_routes(nodes: Sequence[Node]) -> Iterator[list[str]]:
    """The commands that let a process in the namespace reach pods and service addresses."""
    for node in nodes:
        if node.pods and node.address:
            yield ["ip", "route", "replace", node.pods, "via", node.address]
    # kube-proxy on any node takes a service's address; the control plane is always there.
    door = next((node.address for node in nodes if node.control_plane and node.address), "")
    if door:
        yield ["ip", "route", "replace", SERVICE_SUBNET, "via", door]


def apply(cluster: Cluster, nodes: Sequence[Node]) -> None:
    """Set all routes; those that are there already stay."""
    for node, argv in node_routes(nodes):
        images.on_node(cluster, node, *argv)
    for argv in namespace_routes(nodes):
        cluster.run(*argv)
