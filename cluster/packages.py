"""Debian packages, unpacked into the cache and never installed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from typing import TYPE_CHECKING

from cluster import lock
from cluster.errors import ClusterError
from cluster.paths import cache_root

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# The engine and what it needs beyond the libraries that every Debian has. The
# libraries are unpacked, not installed: no postinst, no service, no rule on
# the machine.
ENGINE_PACKAGES = (
    "docker.io",  # the name of a Debian package
    "containerd",
    "runc",
    "tini",
    "libdevmapper1.02.1",
    "iptables",
    "libip4tc2",
    "libip6tc2",
    "libxtables12",
    "libmnl0",
    "libnetfilter-conntrack3",
    "libnfnetlink0",
    "libnftnl11",
)
BOOTSTRAP_PACKAGES = ("mmdebstrap",)


def unpacked(name: str, packages: Sequence[str]) -> Path:
    """A cached folder in which ``packages`` are unpacked side by side.

    Raises:
        ClusterError: apt can't provide one of them.

    """
    digest = hashlib.sha256("\n".join(packages).encode()).hexdigest()[:16]
    target = cache_root() / "deb" / f"{name}-{digest}"
    with lock.held(target.with_suffix(".lock"), what=f"packages of {name}", wait=True):
        if not target.is_dir():
            _unpack(packages, target)
    return target


def _unpack(packages: Sequence[str], target: Path) -> None:
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    files = fresh / "deb"
    files.mkdir(parents=True)
    _download(packages, files)
    for file in sorted(files.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(file), str(fresh / "root")], fresh)
    shutil.rmtree(files)
    fresh.rename(target)


def _download(packages: Sequence[str], folder: Path) -> None:
    # As root apt would try to switch to a user who can't write here, and say so for each package.
    argv = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages]
    try:
        _run(argv, folder)
    except ClusterError:
        # The package lists may be missing or name versions that are gone.
        _run(["apt-get", "-q", "update"], folder)
        _run(argv, folder)


def _run(argv: Sequence[str], folder: Path) -> None:
    done = subprocess.run(argv, cwd=folder, text=True, capture_output=True, check=False)
    if done.returncode:
        raise ClusterError(
            f"`{' '.join(argv[:4])} ...` ended with {done.returncode}: {done.stderr.strip()[-1500:]}",
            remedy="check that /etc/apt/sources.list.d names a reachable Debian mirror "
            "(`apt-get update`), then run it again",
        )
