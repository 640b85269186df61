"""Put images onto the nodes that need them, and only what isn't there yet."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from cluster import archive, thin
from cluster.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from cluster.handle import Cluster

# As kind itself does it.
_IMPORT = (
    "ctr",
    "--namespace=k8s.io",
    "images",
    "import",
    "--all-platforms",
    "--digests",
    "--snapshotter=overlayfs",
    "-",
)


def load(cluster: Cluster, archives: Sequence[Path], *, all_nodes: bool = False) -> list[Path]:
    """Load docker-archive files and return those that had to be sent.

    The control plane keeps its NoSchedule taint, so nothing of ours runs
    there: by default only workers get images.

    Raises:
        ClusterError: a file is no docker-archive, the cluster is not kind's, or a node refused.

    """
    wanted = {file: archive.read(file) for file in archives}
    targets = nodes(cluster, all_nodes=all_nodes)
    sent: list[Path] = []
    for node in targets:
        held = _held(cluster, node)
        for file, images in wanted.items():
            if not all(_is_held(cluster, node, held, image) for image in images):
                _send(cluster, node, file)
                sent.append(file)
    return sent


def nodes(cluster: Cluster, *, all_nodes: bool = False) -> list[str]:
    """The names of kind's nodes: workers, or all; a cluster without workers answers its only node."""
    done = cluster.run("kind", "get", "nodes", "--name", kind_name(cluster))
    names = sorted(done.stdout.split())
    workers = [name for name in names if "control-plane" not in name]
    return names if all_nodes or not workers else workers


def kind_name(cluster: Cluster) -> str:
    """The cluster's name for kind.

    Raises:
        ClusterError: a named kube context that isn't kind's.

    """
    if not cluster.context.startswith("kind-"):
        raise ClusterError(
            f"context {cluster.context!r} is not a kind cluster, so images can't be put on its nodes",
            remedy="push the image where that cluster pulls from, or use a kind cluster",
        )
    return cluster.context.removeprefix("kind-")


def engine_argv(cluster: Cluster, node: str, *argv: str, stdin: bool = False) -> list[str]:
    """A command inside a node's container."""
    return [cluster.engine or "docker", "exec", *(["-i"] if stdin else []), node, *argv]


def on_node(cluster: Cluster, node: str, *argv: str, stdin: str | None = None) -> str:
    """Run a command inside a node and return what it printed.

    Raises:
        ClusterError: it failed.

    """
    return cluster.run(*engine_argv(cluster, node, *argv, stdin=stdin is not None), stdin=stdin).stdout


def _held(cluster: Cluster, node: str) -> dict[str, str]:
    """Image name -> digest of its manifest, on a node."""
    return parse_image_list(on_node(cluster, node, "ctr", "--namespace=k8s.io", "images", "ls"))


def parse_image_list(table: str) -> dict[str, str]:
    """Read the table of ``ctr images ls``: REF, TYPE, DIGEST, ..."""
    rows = (line.split() for line in table.splitlines()[1:])
    return {name: digest for name, _, digest, *_ in rows if digest.startswith("sha256:")}


def stored_names(ref: str, names: Iterable[str]) -> list[str]:
    """The names under which a node keeps ``ref``; a short name gets a host in front there."""
    return [name for name in names if name == ref or name.endswith(f"/{ref}")]


def _is_held(cluster: Cluster, node: str, held: dict[str, str], image: archive.Image) -> bool:
    for ref in image.refs:
        digests = {held[name] for name in stored_names(ref, held)}
        if not any(_config_of(cluster, node, each) == image.config_digest for each in digests):
            return False
    return bool(image.refs)


def _config_of(cluster: Cluster, node: str, digest: str) -> str:
    """The configuration's digest in a stored manifest; empty where it has none (an index)."""
    text = on_node(cluster, node, "ctr", "--namespace=k8s.io", "content", "get", digest)
    return str(json.loads(text).get("config", {}).get("digest", ""))


def _send(cluster: Cluster, node: str, file: Path) -> None:
    """Only the layers that the node lacks, where that is possible; else the whole archive, by kind."""
    bundle = thin.read(file)
    if bundle is not None:
        held = set(on_node(cluster, node, "ctr", "--namespace=k8s.io", "content", "ls", "--quiet").split())
        argv = engine_argv(cluster, node, *_IMPORT, stdin=True)
        if not thin.send(bundle, file, held, cluster.exec_argv(argv), cluster.env()):
            return
    _send_whole(cluster, node, file)


def _send_whole(cluster: Cluster, node: str, file: Path) -> None:
    argv = ["kind", "load", "image-archive", str(file)]
    argv += ["--name", kind_name(cluster), "--nodes", node]
    done = subprocess.run(cluster.exec_argv(argv), env=cluster.env(), text=True, capture_output=True, check=False)
    if done.returncode:
        raise ClusterError(
            f"node {node} did not take {file}: {done.stderr.strip()[-1000:]}",
            remedy="check that the file is whole (`tar tf FILE`) and that the disk has room",
        )
