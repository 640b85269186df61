"""The programs that are built from Go modules: what each part is and how it is linked.

Versions live in ``cluster/go/<part>/go.mod``; this table only names packages
and flags. Everything that changes a binary is in :meth:`Part.key`.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.errors import ClusterError
from cluster.paths import GO_PARTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

KUBERNETES = "k8s.io/kubernetes"


@dataclass(frozen=True)
class Part:
    """One Go module of ours and the programs in it.

    Attributes:
        name: its folder under ``cluster/go``.
        programs: binary name -> package to build.
        main: the program that :func:`cluster.gobuild.build` returns.
        module: the module whose version the part is known by.
        tags: Go build tags.
        stamps: linker variables; ``{v}`` is the module's version, with its ``v``.

    """

    name: str
    programs: Mapping[str, str]
    main: str
    module: str = ""
    tags: tuple[str, ...] = ()
    stamps: Mapping[str, str] | None = None

    @property
    def folder(self) -> Path:
        """The folder of its go.mod and go.sum."""
        return GO_PARTS / self.name

    def version(self) -> str:
        """The version of :attr:`module` in go.mod, such as ``v1.36.4``."""
        return required_version(self.name, self.module)

    def ldflags(self) -> str:
        """The linker flags: no symbol table, and the version stamps."""
        stamps = self.stamps or {}
        version = self.version() if stamps else ""
        return " ".join(["-s -w", *(f"-X {var}={value.format(v=version)}" for var, value in stamps.items())])

    def key(self, toolchain: str) -> str:
        """Content hash of everything that the binaries depend on.

        Args:
            toolchain: what ``go version`` answers.

        """
        digest = hashlib.sha256()
        for file in sorted(self.folder.iterdir()):
            if file.suffix in {".mod", ".sum", ".go"}:
                digest.update(f"{file.name}\0".encode() + file.read_bytes() + b"\0")
        recipe = [toolchain, sorted(self.programs.items()), self.tags, self.ldflags()]
        digest.update(json.dumps(recipe).encode())
        return digest.hexdigest()[:16]


def required_version(part: str, module: str) -> str:
    """The version that ``cluster/go/<part>/go.mod`` requires of ``module``."""
    file = GO_PARTS / part / "go.mod"
    found = re.search(rf"^\s*(?:require\s+)?{re.escape(module)}\s+(v\S+)", file.read_text(), re.MULTILINE)
    if not found:
        raise ClusterError(
            f"cluster/go/{part}/go.mod requires no {module}",
            remedy=f"add it: cd cluster/go/{part} && go get {module}@VERSION && go mod tidy",
        )
    return found[1]


def _kube_stamps() -> dict[str, str]:
    # Without these the binaries call themselves v0.0.0 and kubeadm's skew check refuses them.
    values = {
        "gitVersion": "{v}",
        "gitMajor": "1",
        "gitMinor": "36",
        "gitTreeState": "clean",
        "gitCommit": "0" * 40,
    }
    return {
        f"{package}.{key}": value
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        for key, value in values.items()
    }


# The parts compile the same libraries: with the same versions and the same tags, Go's build
# cache has them from whichever comes first (tests/unit/cluster/test_parts.py).
_SHARED_TAGS = ("notest", "grpcnotrace")
_CONTAINERD = "github.com/containerd/containerd/v2"
_CNI = "github.com/containernetworking/plugins/plugins"

PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part(
            "kube",
            {
                name: f"{KUBERNETES}/cmd/{name}"
                for name in (
                    "kube-apiserver",
                    "kube-controller-manager",
                    "kube-proxy",
                    "kube-scheduler",
                    "kubeadm",
                    "kubectl",
                    "kubelet",
                )
            },
            main="kubectl",
            module=KUBERNETES,
            tags=("selinux", *_SHARED_TAGS),
            stamps=_kube_stamps(),
        ),
        Part(
            "etcd",
            {"etcd": "go.etcd.io/etcd/server/v3"},
            main="etcd",
            module="go.etcd.io/etcd/server/v3",
            tags=_SHARED_TAGS,
        ),
        Part(
            "containerd",
            {
                "containerd": f"{_CONTAINERD}/cmd/containerd",
                "containerd-shim-runc-v2": f"{_CONTAINERD}/cmd/containerd-shim-runc-v2",
                "ctr": f"{_CONTAINERD}/cmd/ctr",
                "bridge": f"{_CNI}/main/bridge",
                "host-local": f"{_CNI}/ipam/host-local",
                "loopback": f"{_CNI}/main/loopback",
                "portmap": f"{_CNI}/meta/portmap",
            },
            main="containerd",
            module=_CONTAINERD,
            tags=("no_aufs", "no_btrfs", "no_devmapper", "no_zfs", *_SHARED_TAGS),
            stamps={f"{_CONTAINERD}/version.Version": "{v}"},
        ),
        Part(
            "coredns",
            {"coredns": "espalier.dev/cluster/coredns"},
            main="coredns",
            tags=_SHARED_TAGS,
            module="github.com/coredns/coredns",
        ),
        Part("pause", {"pause": "espalier.dev/cluster/pause"}, main="pause"),
        Part("kind", {"kind": "sigs.k8s.io/kind"}, main="kind", module="sigs.k8s.io/kind"),
        Part(
            "contour",
            {"contour": "github.com/projectcontour/contour/cmd/contour"},
            main="contour",
            module="github.com/projectcontour/contour",
            tags=_SHARED_TAGS,
            stamps={"github.com/projectcontour/contour/internal/build.Version": "{v}"},
        ),
        Part(
            "helm",
            {"helm": "helm.sh/helm/v3/cmd/helm"},
            main="helm",
            tags=_SHARED_TAGS,
            module="helm.sh/helm/v3",
            stamps={"helm.sh/helm/v3/internal/version.version": "{v}"},
        ),
        Part(
            "helm4",
            {"helm": "helm.sh/helm/v4/cmd/helm"},
            main="helm",
            module="helm.sh/helm/v4",
            tags=_SHARED_TAGS,
            stamps={"helm.sh/helm/v4/internal/version.version": "{v}"},
        ),
    )
}
