"""Situation 1: a cluster that exists.

It is only ever the one that was named, and it is looked at before anything is installed.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from cluster import kindcluster, tools
from cluster.errors import ClusterError

if TYPE_CHECKING:
    from cluster.handle import Cluster
    from cluster.progress import Progress

# What the stack and Espalier's chart are made of; verb and resource.
NEEDED = (
    ("create", "namespaces"),
    ("create", "customresourcedefinitions.apiextensions.k8s.io"),
    ("patch", "customresourcedefinitions.apiextensions.k8s.io"),
    ("create", "clusterroles.rbac.authorization.k8s.io"),
    ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
    ("create", "deployments.apps"),
    ("create", "secrets"),
)


def use(cluster: Cluster, progress: Progress) -> None:
    """Keep a kubeconfig with only the context that was named.

    A context that is refused leaves nothing of its credentials behind.

    Raises:
        ClusterError: there is no such context, its API does not answer, or its user may not install what is needed.

    """
    tools.provide(cluster.state, ("kubectl", "helm"), private=False, progress=progress)
    text = _kubeconfig(cluster)
    cluster.state.kubeconfig.touch(mode=0o600)
    cluster.state.kubeconfig.write_text(text)
    try:
        _require_answer(cluster)
        _require_rights(cluster)
    except ClusterError:
        if not cluster.state.facts.exists():
            cluster.state.kubeconfig.unlink()
        raise
    cluster.save()


def _kubeconfig(cluster: Cluster) -> str:
    argv = [str(cluster.state.bin / "kubectl"), "config", "view", "--raw", "--minify", "--flatten"]
    done = subprocess.run([*argv, f"--context={cluster.context}"], text=True, capture_output=True, check=False)
    if done.returncode:
        raise ClusterError(
            f"kube context {cluster.context!r} can't be read: {done.stderr.strip()}",
            remedy="choose one of `kubectl config get-contexts`",
        )
    return done.stdout


def _require_answer(cluster: Cluster) -> None:
    if not kindcluster.answers(cluster):
        raise ClusterError(
            f"the API of context {cluster.context!r} does not answer",
            remedy=f"check it: kubectl --context {cluster.context} get --raw /readyz",
        )


def _require_rights(cluster: Cluster) -> None:
    """Ask before anything is made: a stack that is half installed is worse than none."""
    lacking = []
    for verb, resource in NEEDED:
        done = cluster.kubectl("auth", "can-i", verb, resource, "--all-namespaces", check=False)
        if done.stdout.strip() == "yes":
            continue
        if not done.stdout.startswith("no"):  # neither answer: not who is asked, but who asks, is the problem
            raise ClusterError(
                f"the API of context {cluster.context!r} does not say what its user may do: "
                f"{done.stderr.strip()[-500:]}",
                remedy=f"check its credentials: kubectl --context {cluster.context} auth whoami",
            )
        lacking.append(f"{verb} {resource}")
    if lacking:
        raise ClusterError(
            f"the user of context {cluster.context!r} may not: {', '.join(lacking)}",
            remedy="use a context of a cluster administrator, or ask one to install (docs/cluster.md)",
        )
