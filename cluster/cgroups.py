"""The cgroups that a private engine owns: who is in them, and how they go away."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
# Any one hierarchy of cgroup v1 would do to keep track of processes; every process is in all.
_TRACKING = ("pids", "systemd", "memory", "cpu")
KILL_SECONDS = 20


def hierarchies(root: Path = ROOT) -> list[Path]:
    """The mounted cgroup trees: one on cgroup v2, one per controller on v1."""
    if (root / "cgroup.controllers").exists():
        return [root]
    return sorted(
        folder
        for folder in root.iterdir()
        if folder.is_dir() and not folder.is_symlink() and (folder / "cgroup.procs").exists()
    )


def join_files(group: str, root: Path = ROOT) -> list[Path]:
    """Make ``group`` in one tree and return the file that a process writes its id to."""
    trees = {tree.name: tree for tree in hierarchies(root)}
    tree = next((trees[name] for name in _TRACKING if name in trees), next(iter(trees.values())))
    folder = tree / group.strip("/")
    folder.mkdir(parents=True, exist_ok=True)
    return [folder / "cgroup.procs"]


def folders(group: str, root: Path = ROOT) -> list[Path]:
    """All cgroups at and below ``group`` in all trees, the deepest first."""
    found: list[Path] = []
    for tree in hierarchies(root):
        top = tree / group.strip("/")
        found += [Path(path) for path, _, _ in os.walk(top, topdown=False)]
    return found


def processes(group: str, root: Path = ROOT) -> set[int]:
    """The ids of all processes at and below ``group``."""
    found: set[int] = set()
    for folder in folders(group, root):
        try:
            found.update(map(int, (folder / "cgroup.procs").read_text().split()))
        except OSError:  # It went away while we looked.
            continue
    return found


def kill(group: str, root: Path = ROOT) -> set[int]:
    """End all processes at and below ``group``; returns those still there after a while."""
    deadline = time.monotonic() + KILL_SECONDS
    while (left := processes(group, root)) and time.monotonic() < deadline:
        _thaw(group, root)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)
    return left


def _thaw(group: str, root: Path) -> None:
    """A frozen process on cgroup v1 does not take its signal."""
    for folder in folders(group, root):
        freezer = folder / "freezer.state"
        if freezer.exists() and freezer.read_text().strip() != "THAWED":
            freezer.write_text("THAWED")


def remove(group: str, root: Path = ROOT) -> list[Path]:
    """Remove the empty cgroups at and below ``group``; returns those that could not go."""
    left: list[Path] = []
    # The kernel lets a cgroup go a moment after its last process has.
    for _ in range(50):
        left = []
        for folder in folders(group, root):
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                left.append(folder)
        if not left:
            break
        time.sleep(0.1)
    return left
