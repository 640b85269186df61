"""Names inside the cluster: on a private engine there are no others."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.handle import Cluster

_FORWARD = re.compile(r"^[ \t]*forward [^\n{]*(?:\{[^}]*\})?[ \t]*\n", re.MULTILINE)
_CONFIG = ("--namespace=kube-system", "get", "configmap", "coredns", "-o", "json")


def without_forward(corefile: str) -> str:
    """A Corefile that sends no question elsewhere; unknown names are refused at once."""
    return _FORWARD.sub("", corefile)


def keep_inside(cluster: Cluster) -> bool:
    """Stop CoreDNS from asking resolvers that nothing can reach.

    A look-up of a name outside took 8 s to fail; a client that reports home
    would hang for as long. CoreDNS reloads its configuration by itself within
    a minute. Returns whether it was changed.
    """
    found = json.loads(cluster.kubectl(*_CONFIG).stdout)
    corefile = found["data"]["Corefile"]
    inside = without_forward(corefile)
    if inside == corefile:
        return False
    patch = json.dumps({"data": {"Corefile": inside}})
    cluster.kubectl("--namespace=kube-system", "patch", "configmap", "coredns", "--patch", patch)
    return True
