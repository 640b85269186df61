"""Import image archives into a node's containerd store, before the node exists.

Runs in its own mount, process and network namespaces (``unshare``), which take
the mounts and containerd with them however it ends. Standalone: ``preload.py
ROOT ARCHIVE...``.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

MOUNTS = (("proc", "proc"), ("tmpfs", "run"), ("tmpfs", "tmp"), ("devtmpfs", "dev"), ("sysfs", "sys"))
# Only the content store is wanted; the CRI plug-in would look for a network.
CONFIG = """version = 3
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
"""
START_SECONDS = 30


def main(argv: list[str]) -> None:
    """Mount what containerd needs, start it, import, stop it."""
    root, archives = Path(argv[0]), argv[1:]
    for kind, place in MOUNTS:
        subprocess.run(["mount", "-t", kind, kind, str(root / place)], check=True)
    (root / "run/preload.toml").write_text(CONFIG)
    log = Path(root / "tmp/containerd.log").open("wb")  # noqa: SIM115 - closed with the process
    daemon = subprocess.Popen(
        ["chroot", str(root), "/usr/local/bin/containerd", "-c", "/run/preload.toml"], stdout=log, stderr=log
    )
    socket = root / "run/containerd/containerd.sock"
    deadline = time.monotonic() + START_SECONDS
    while not socket.is_socket():
        if daemon.poll() is not None or time.monotonic() > deadline:
            sys.exit("containerd did not start: " + (root / "tmp/containerd.log").read_text()[-2000:])
        time.sleep(0.1)
    for archive in archives:
        _import(root, archive)
    daemon.terminate()
    daemon.wait()


def _import(root: Path, archive: str) -> None:
    argv = ["chroot", str(root), "/usr/local/bin/ctr", "--namespace=k8s.io", "images", "import", "--no-unpack", "-"]
    with Path(archive).open("rb") as data:
        done = subprocess.run(argv, stdin=data, text=True, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"ctr did not import {archive}: {done.stderr}")


if __name__ == "__main__":
    main(sys.argv[1:])
