"""The machine: what a private engine needs of it, and what it must find unchanged afterwards."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError
from cluster.paths import cache_root, state_root

# Machine-wide facts live where a reboot clears them, as it resets what they record.
RUN = Path("/run/espalier")
_RECORD = RUN / "machine.json"
_PROC_SYS = Path("/proc/sys")
_MODULES = Path("/lib/modules")
# Docker and containerd keep sockets at these places whatever their configuration says.
_MADE = (_MODULES, Path("/run/docker"), Path("/run/containerd"))

# What is known to be set outside a network namespace: by kubelet (kernel.*, vm.*),
# by systemd in the node (fs.file-max, fs.nr_open) and by ourselves (fs.inotify.*).
SYSCTLS = (
    "fs.file-max",
    "fs.nr_open",
    "fs.inotify.max_user_instances",
    "fs.inotify.max_user_watches",
    "kernel.keys.root_maxbytes",
    "kernel.keys.root_maxkeys",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.pid_max",
    "vm.max_map_count",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
)
INOTIFY_INSTANCES = 1024
# From nothing: modules 3 GB, Go's build cache 3 GB, the rest in our own folders, and room for images.
DISK_COLD = 15 * 1000**3
DISK_WARM = 4 * 1000**3
MEMORY_BYTES = 4 * 1000**3


@dataclass(frozen=True)
class Lack:
    """A missing prerequisite and its remedy."""

    what: str
    remedy: str


def lacks(disk: int) -> list[Lack]:
    """What this machine lacks for a private engine that will take ``disk`` bytes."""
    found = []
    if os.geteuid():
        found.append(Lack("not root", "run it as root (network and mount namespaces), or install docker"))
    for tool, package in (
        ("ip", "iproute2"),
        ("nsenter", "util-linux"),
        ("unshare", "util-linux"),
        ("apt-get", ""),
        ("dpkg-deb", ""),
        ("perl", "perl"),
        ("go", ""),
    ):
        if not shutil.which(tool):
            found.append(Lack(f"no `{tool}` on the PATH", _tool_remedy(tool, package)))
    return found + _room(disk)


def _tool_remedy(tool: str, package: str) -> str:
    if package:
        return f"apt-get install --no-install-recommends {package}"
    if tool == "go":
        return "install Go 1.26 or newer and put it on the PATH"
    return "a private engine is made of Debian packages: use Debian 12, or install docker or podman"


def _room(disk: int) -> list[Lack]:
    found = []
    for folder in {cache_root(), state_root()}:
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free
        if free < disk:
            found.append(
                Lack(
                    f"{free / 1e9:.1f} GB free under {there}, {disk / 1e9:.0f} GB needed",
                    "free some, or point ESPALIER_CACHE and ESPALIER_STATE to a larger disk",
                )
            )
    memory = memory_available()
    if memory < MEMORY_BYTES:
        found.append(Lack(f"{memory / 1e9:.1f} GB of memory available, 4 GB needed", "stop something large"))
    return found


def memory_available() -> int:
    """Bytes of memory that can be had without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def require(disk: int) -> None:
    """Check the prerequisites.

    Args:
        disk: bytes that have to be free; see :data:`DISK_COLD` and :data:`DISK_WARM`.

    Raises:
        ClusterError: some are missing; it names all of them at once.

    """
    found = lacks(disk)
    if found:
        raise ClusterError(
            "this machine can't run a private engine: " + "; ".join(lack.what for lack in found),
            remedy="; ".join(dict.fromkeys(lack.remedy for lack in found)),
        )


def cgroup_v1() -> bool:
    """Whether the kernel's cgroups are mounted the old way."""
    return not Path("/sys/fs/cgroup/cgroup.controllers").exists()


def may_lower_oom_score() -> bool:
    """Whether CAP_SYS_RESOURCE is in our bounding set."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            cap_sys_resource = 24
            return bool(int(line.split()[1], 16) >> cap_sys_resource & 1)
    return True


def sysctl_file(name: str) -> Path:
    """The file of a kernel setting."""
    return _PROC_SYS / name.replace(".", "/")


def read_sysctls() -> dict[str, str]:
    """The present values of :data:`SYSCTLS`; those that this kernel has."""
    return {name: sysctl_file(name).read_text().strip() for name in SYSCTLS if sysctl_file(name).is_file()}


def changed(before: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    """The settings to write back: name -> value before."""
    return {name: value for name, value in before.items() if now.get(name, value) != value}


def prepare() -> None:
    """Record the machine's settings, once for all clusters, then set what the nodes need."""
    RUN.mkdir(mode=0o755, exist_ok=True)
    if not _RECORD.exists():
        record = {"sysctls": read_sysctls(), "absent": [str(folder) for folder in _MADE if not folder.exists()]}
        fresh = _RECORD.with_suffix(".new")
        fresh.write_text(json.dumps(record, indent=1))
        fresh.rename(_RECORD)
    # kind mounts it into its nodes.
    _MODULES.mkdir(exist_ok=True)
    instances = sysctl_file("fs.inotify.max_user_instances")
    if int(instances.read_text()) < INOTIFY_INSTANCES:
        instances.write_text(str(INOTIFY_INSTANCES))


def restore() -> list[str]:
    """Write back what was recorded, unless another cluster still runs. Returns what it set."""
    if not _RECORD.exists() or any(entry.is_dir() for entry in RUN.iterdir()):
        return []
    record = json.loads(_RECORD.read_text())
    differing = changed(record["sysctls"], read_sysctls())
    for name, value in differing.items():
        sysctl_file(name).write_text(value)
    for folder in record["absent"]:
        remove_hollow(Path(folder))
    _RECORD.unlink()
    RUN.rmdir()
    return sorted(differing)


def remove_hollow(top: Path) -> None:
    """Remove a folder that holds only folders and dead sockets; anything else in it is not ours and stays."""
    for folder, _, names in os.walk(top, topdown=False):
        for name in names:
            if (Path(folder) / name).is_socket():
                (Path(folder) / name).unlink()
        if not any(Path(folder).iterdir()):
            Path(folder).rmdir()
