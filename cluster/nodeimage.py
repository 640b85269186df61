"""The node image of a private engine, made from parts built here.

kind's own systemd set-up and entrypoint, our Kubernetes, etcd, containerd and
CoreDNS; the control plane's images are already in the node's store, as in
kind's own image.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import archive, gobuild, host, lock, rootfs
from cluster.config import IMAGE_REPOSITORY
from cluster.errors import ClusterError
from cluster.parts import PARTS
from cluster.paths import NODE_FILES, cache_root

if TYPE_CHECKING:
    from collections.abc import Iterator

_HERE = Path(__file__).resolve().parent
PARTS_IN_NODE = ("kube", "etcd", "containerd", "coredns", "pause")
PAUSE_TAG = "3.10.2"
PAUSE = f"{IMAGE_REPOSITORY}/pause:{PAUSE_TAG}"
_KUBE_IMAGES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
_CNI = ("bridge", "host-local", "loopback", "portmap")


@dataclass(frozen=True)
class Versions:
    """Versions that image names carry."""

    kubernetes: str
    etcd: str
    coredns: str

    @classmethod
    def pinned(cls) -> Versions:
        """What the go.mod files pin."""
        return cls(
            kubernetes=PARTS["kube"].version(),
            etcd=PARTS["etcd"].version().removeprefix("v"),
            coredns=PARTS["coredns"].version(),
        )


def reference() -> str:
    """The image's name; its tag has the content's hash, so that a changed recipe is a new image."""
    return f"local.test/node:{Versions.pinned().kubernetes}-{key()}"


def key() -> str:
    """Content hash of everything that the image depends on."""
    digest = hashlib.sha256()
    toolchain = gobuild.toolchain()
    for part in (*PARTS_IN_NODE, "kind"):
        digest.update(PARTS[part].key(toolchain).encode())
    recipe = [_HERE / name for name in ("archive.py", "nodeimage.py", "preload.py", "rootfs.py")]
    for file in (*recipe, *(NODE_FILES / name for name in rootfs.OWN_FILES)):
        digest.update(file.read_bytes())
    digest.update(str(host.may_lower_oom_score()).encode())
    return digest.hexdigest()[:12]


def _target() -> Path:
    return cache_root() / "node" / f"{key()}.tar"


def is_cached() -> bool:
    """Whether :func:`tar` has nothing to build."""
    return _target().is_file()


def tar() -> Path:
    """The image's root file system as a cached tar file, for ``docker import``.

    Raises:
        ClusterError: a part could not be built or imported.

    """
    target = _target()
    folder = target.parent
    with lock.held(folder / "node.lock", what="the node image", wait=True):
        if not target.is_file():
            with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as work:
                _build(Path(work), target)
            for other in folder.glob("*.tar"):
                if other != target:  # 0.9 GB each, and nothing asks for an older recipe again
                    other.unlink()
    return target


def _build(work: Path, target: Path) -> None:
    root = work / "root"
    rootfs.assemble(root, pause=PAUSE, lower_oom=host.may_lower_oom_score())
    kube, containerd = gobuild.build_all("kube"), gobuild.build_all("containerd")
    rootfs.install_programs((kube / name for name in ("kubeadm", "kubectl", "kubelet")), root / "usr/bin")
    programs = ("containerd", "containerd-shim-runc-v2", "ctr")
    rootfs.install_programs((containerd / name for name in programs), root / "usr/local/bin")
    rootfs.install_programs((containerd / name for name in _CNI), root / "opt/cni/bin")
    (root / "kind/version").write_text(Versions.pinned().kubernetes)
    (root / "etc/containerd/cri-base.json").write_text(rootfs.base_spec(containerd / "ctr"))
    images = work / "images"
    images.mkdir()
    _preload(root, sorted(_write_images(root, images)))
    fresh = target.with_suffix(".new")
    subprocess.run(["tar", "-C", str(root), "--numeric-owner", "-cf", str(fresh), "."], check=True)
    fresh.rename(target)


def _write_images(root: Path, out: Path) -> Iterator[Path]:
    versions = Versions.pinned()
    kube = gobuild.build_all("kube")
    path = {"Env": [archive.PATH_ENV]}
    for name in _KUBE_IMAGES:
        yield _write(out, f"{name}:{versions.kubernetes}", path, {f"usr/local/bin/{name}": kube / name})
    etcd = gobuild.build("etcd")
    yield _write(out, f"etcd:{versions.etcd}", path, {"usr/local/bin/etcd": etcd})
    yield _write(out, f"pause:{PAUSE_TAG}", {"Entrypoint": ["/pause"]}, {"pause": gobuild.build("pause")})
    coredns = {"coredns": gobuild.build("coredns")}
    yield _write(out, f"coredns:{versions.coredns}", {"Entrypoint": ["/coredns"]}, coredns)
    proxy = _proxy_root(root, out / "proxy")
    rootfs.install(kube / "kube-proxy", proxy / "usr/local/bin/kube-proxy")
    yield _write(out, f"kube-proxy:{versions.kubernetes}", path, {"": proxy})


def _write(out: Path, name: str, config: dict[str, list[str]], files: dict[str, Path]) -> Path:
    target = out / f"{name.partition(':')[0]}.tar"
    archive.write(target, f"{IMAGE_REPOSITORY}/{name}", config, files)
    return target


def _proxy_root(root: Path, proxy: Path) -> Path:
    """kube-proxy's tools: nft, iptables and conntrack with every library that they and all plug-ins need."""
    plugins = next(root.glob("usr/lib/*/xtables")).relative_to(root)
    for folder in ("usr/sbin", "run", "tmp", "etc"):
        (proxy / folder).mkdir(parents=True)
    shutil.copytree(root / plugins, proxy / plugins, symlinks=True)
    tools = [f"usr/sbin/{name}" for name in ("nft", "xtables-nft-multi", "conntrack")]
    for tool in tools:
        rootfs.install(root / tool, proxy / tool)
    needing = [*tools, *(str(plugins / file.name) for file in (root / plugins).glob("*.so"))]
    for library in _libraries(root, needing):
        rootfs.install((root / library).resolve() if (root / library).is_symlink() else root / library, proxy / library)
    for tool in ("iptables", "ip6tables"):
        for way in ("", "-save", "-restore"):
            (proxy / "usr/sbin" / f"{tool}{way}").symlink_to("xtables-nft-multi")
    return proxy


def _libraries(root: Path, files: list[str]) -> list[str]:
    """The libraries that the loader would open for ``files``, as paths in the root."""
    output = rootfs.chroot(root, "sh", "-c", 'for f in "$@"; do ldd "/$f"; done', "sh", *files)
    return sorted({word.lstrip("/") for word in output.split() if word.startswith("/") and not word.endswith(":")})


def _preload(root: Path, images: list[Path]) -> None:
    argv = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"]
    argv += [sys.executable, "-P", str(_HERE / "preload.py"), str(root), *map(str, images)]
    done = subprocess.run(argv, text=True, capture_output=True, check=False)
    if done.returncode:
        raise ClusterError(
            f"the node's images could not be imported: {done.stderr.strip()[-2000:]}",
            remedy="check that the disk has room; remove the cache's node folder and run it again",
        )
