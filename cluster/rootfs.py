"""The root file system of a node: Debian packages and kind's own files."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import gobuild, lock, packages, prune
from cluster.errors import ClusterError
from cluster.paths import NODE_FILES, cache_root

if TYPE_CHECKING:
    from collections.abc import Iterable

SUITE = "bookworm"  # its systemd 252 still runs on cgroup v1; later ones refuse

# What kind's images/base/Dockerfile installs, without network storage, plus
# runc (there built from source) and socat (port-forward).
NODE_PACKAGES = (
    "bash",
    "ca-certificates",
    "conntrack",
    "curl",
    "ethtool",
    "iproute2",
    "iptables",
    "jq",
    "kmod",
    "libseccomp2",
    "mount",
    "nftables",
    "procps",
    "runc",
    "socat",
    "systemd",
    "util-linux",
)
_UNITS = "lib/systemd/system"
_UNWANTED = (
    f"{_UNITS}/sysinit.target.wants/systemd-tmpfiles-setup.service",
    f"{_UNITS}/multi-user.target.wants/*",
    f"{_UNITS}/local-fs.target.wants/*",
    f"{_UNITS}/basic.target.wants/*",
    f"{_UNITS}/sockets.target.wants/*udev*",
    f"{_UNITS}/sockets.target.wants/*initctl*",
    "etc/systemd/system/*.wants/*",
    # Both would change settings of the machine, not of the node.
    "usr/lib/sysctl.d/50-pid-max.conf",
    "usr/lib/sysctl.d/99-protect-links.conf",
)
# The network configuration; what every kind node gets (gpus.py) is sent to it when it runs.
OWN_FILES = ("cni-conf.sh", "cni-conf.service")
_ENABLED = ("kubelet", "containerd", "undo-mount-hacks", "cni-conf")


def debian() -> Path:
    """A cached folder with the packages installed; made once, with mmdebstrap.

    Raises:
        ClusterError: no mirror, or mmdebstrap failed.

    """
    digest = hashlib.sha256("\n".join((SUITE, *NODE_PACKAGES)).encode()).hexdigest()[:16]
    target = cache_root() / f"rootfs-{digest}"
    with lock.held(target.with_suffix(".lock"), what="the node's root file system", wait=True):
        if not target.is_dir():
            _bootstrap(target)
            prune.older(target, kept=1)  # only a node image is made of it
    return target


def _bootstrap(target: Path) -> None:
    tools = packages.unpacked("bootstrap", packages.BOOTSTRAP_PACKAGES) / "root"
    fresh = target.with_name(f".{target.name}.new")
    if fresh.exists():
        shutil.rmtree(fresh)
    argv = ["unshare", "--mount", "--propagation", "private", str(tools / "usr/bin/mmdebstrap")]
    argv += ["--quiet", "--mode=root", "--variant=essential", '--aptopt=APT::Install-Recommends "false"']
    argv += [f"--include={','.join(NODE_PACKAGES)}", SUITE, str(fresh), *_sources()]
    done = subprocess.run(argv, text=True, capture_output=True, check=False)
    if done.returncode:
        raise ClusterError(
            f"mmdebstrap of Debian {SUITE} ended with {done.returncode}: {done.stderr.strip()[-2000:]}",
            remedy="check that /etc/apt names a reachable Debian mirror (`apt-get update`), then run it again",
        )
    fresh.rename(target)


def _sources() -> list[str]:
    """The machine's own Debian sources: its mirror and proxy are known to work."""
    places = (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*")))
    found = [str(file) for file in places if file.suffix in {".list", ".sources"} and _serves_suite(file)]
    return found or ["deb"]


def _serves_suite(file: Path) -> bool:
    if not file.is_file():
        return False
    lines = [line.split("#")[0] for line in file.read_text().splitlines()]
    return any(SUITE in line.split() and ("deb" in line or "Suites:" in line) for line in lines)


def kind_files() -> Path:
    """Kind's own node image files: entrypoint, units, containerd configuration."""
    return gobuild.module_dir("kind", "sigs.k8s.io/kind") / "images/base/files"


def assemble(root: Path, *, pause: str, lower_oom: bool) -> None:
    """Make ``root`` a node: a copy of :func:`debian` with kind's files and set-up.

    Args:
        root: the folder to make; it must not exist.
        pause: the pause image's name.
        lower_oom: whether this machine lets containers have a lower oom score.

    """
    subprocess.run(["cp", "-a", str(debian()), str(root)], check=True)
    _overlay(kind_files(), root)
    program, unit = OWN_FILES
    install(NODE_FILES / program, root / "kind/bin" / program)
    install(NODE_FILES / unit, root / "etc/systemd/system" / unit, mode=0o644)
    for pattern in _UNWANTED:
        for file in root.glob(pattern):
            file.unlink()
    with (root / "etc/systemd/journald.conf").open("a") as journald:
        journald.write("ReadKMsg=no\n")
    init = root / "sbin/init"
    init.unlink(missing_ok=True)
    init.symlink_to("/usr/lib/systemd/systemd")
    for folder in ("opt/cni/bin", "etc/cni/net.d", "etc/kubernetes/manifests", "kind/manifests"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    _configure_containerd(root / "etc/containerd/config.toml", pause=pause, lower_oom=lower_oom)
    chroot(root, "systemctl", "enable", "--quiet", *_ENABLED)
    # It would register formats with the machine's kernel.
    chroot(root, "systemctl", "mask", "--quiet", "systemd-binfmt.service")


def _overlay(source: Path, root: Path) -> None:
    """Copy kind's files: programs are 0755, the rest 0644, as its Dockerfile says."""
    for file in sorted(source.rglob("*")):
        if file.is_file():
            inside = file.relative_to(source)
            program = inside.parts[:2] == ("kind", "bin") or inside.parts[:3] == ("usr", "local", "bin")
            install(file, root / inside, mode=0o755 if program else 0o644)


def install(source: Path, target: Path, *, mode: int = 0o755) -> None:
    """Copy a file, with its folders and a mode."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def install_programs(sources: Iterable[Path], folder: Path) -> None:
    """Copy programs into a folder."""
    for source in sources:
        install(source, folder / source.name)


def _configure_containerd(file: Path, *, pause: str, lower_oom: bool) -> None:
    lines = []
    for line in file.read_text().splitlines():
        key = line.split("=")[0].strip()
        indent = line[: len(line) - len(line.lstrip())]
        if key == "sandbox_image":
            lines.append(f'{indent}sandbox_image = "{pause}"')
        elif key == "restrict_oom_score_adj" and not lower_oom:
            # Else every sandbox fails where CAP_SYS_RESOURCE is missing.
            lines.append(f"{indent}restrict_oom_score_adj = true")
        else:
            lines.append(line)
    file.write_text("\n".join(lines) + "\n")


def base_spec(ctr: Path) -> str:
    """The OCI spec that kind's containerd starts from, made as kind's Dockerfile makes it."""
    done = subprocess.run([str(ctr), "oci", "spec"], text=True, capture_output=True, check=True)
    spec = json.loads(done.stdout)
    hooks = spec.setdefault("hooks", {}).setdefault("createContainer", [])
    hooks.append({"path": "/kind/bin/mount-product-files.sh"})
    spec["process"].pop("rlimits", None)
    return json.dumps(spec)


def chroot(root: Path, *argv: str) -> str:
    """Run a program of ``root`` in it.

    Raises:
        ClusterError: it failed.

    """
    done = subprocess.run(["chroot", str(root), *argv], text=True, capture_output=True, check=False)
    if done.returncode:
        raise ClusterError(
            f"`{' '.join(argv)}` in the node's root ended with {done.returncode}: {done.stderr.strip()}",
            remedy=f"remove {cache_root()}/rootfs-* and run it again",
        )
    return done.stdout
