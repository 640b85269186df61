"""The one shape of the cluster, and what a bare host needs on top of it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from cluster.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Mapping

IMAGE_REPOSITORY = "local.test/k8s"
POD_SUBNET = "10.244.0.0/16"
SERVICE_SUBNET = "10.96.0.0/16"


def merged(base: str, additions: Mapping[str, object]) -> str:
    """Append top-level keys to kind's configuration.

    Every JSON value is a YAML value, so the standard library is enough, as
    long as no key is in both.

    Raises:
        ClusterError: ``base`` already has one of the keys.

    """
    present = set(re.findall(r"^([A-Za-z]\w*):", base, re.MULTILINE))
    for key in additions:
        if key in present:
            raise ClusterError(
                f"kind-config.yaml sets {key!r}, which a private engine has to set too",
                remedy=f"remove {key!r} from kind-config.yaml, or use docker or podman (--engine docker)",
            )
    lines = [f"{key}: {json.dumps(value)}" for key, value in additions.items()]
    return "\n".join([base.rstrip("\n"), *lines]) + "\n"


def private_additions(*, etcd_tag: str, coredns_tag: str, cgroup_v1: bool) -> dict[str, object]:
    """What a private engine adds to ``kind-config.yaml``.

    Args:
        etcd_tag: tag of our etcd image; kubeadm would ask for its own.
        coredns_tag: tag of our CoreDNS image.
        cgroup_v1: whether the kernel runs cgroup v1, which kubelet refuses unless told.

    """
    patches: list[dict[str, object]] = [
        {
            "kind": "ClusterConfiguration",
            "imageRepository": IMAGE_REPOSITORY,
            "etcd": {"local": {"imageTag": etcd_tag}},
            "dns": {"imageTag": coredns_tag},
        }
    ]
    if cgroup_v1:
        patches.append({"kind": "KubeletConfiguration", "failCgroupV1": False})
    return {
        # kind's own network plug-in is an image that can't be built from Go modules.
        "networking": {
            "disableDefaultCNI": True,
            "podSubnet": POD_SUBNET,
            "serviceSubnet": SERVICE_SUBNET,
        },
        "kubeadmConfigPatches": [json.dumps(patch) for patch in patches],
    }
