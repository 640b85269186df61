"""Take a cluster away so that the machine is as it was."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from cluster import cgroups, host, kindcluster, lock
from cluster.engine import Engine
from cluster.errors import ClusterError
from cluster.handle import Cluster
from cluster.paths import State

if TYPE_CHECKING:
    from cluster.progress import Progress

# What survives `down`: images and layers that the next `up` would make again.
_KEPT = ("docker-data",)


def down(name: str, *, purge: bool, progress: Progress) -> None:
    """Take the cluster ``name`` away; what is already gone is no error.

    A named context is only forgotten: its cluster was there before.

    Args:
        name: the cluster's name.
        purge: remove the private engine's images too; the next ``up`` imports the node image again.
        progress: where to print.

    Raises:
        ClusterError: something of it could not be ended or removed.

    """
    state = State.of(name)
    with lock.held(state.lock, what=f"cluster {name!r}"):
        known = Cluster.load(name) if state.facts.exists() else None
        if known is None or known.private:
            purge = not _down_private(state, known, progress) or purge
        elif known.situation == "engine":
            with progress.step("kind delete cluster"):
                kindcluster.delete(known)
        _remove_state(state, purge=purge)
    state.lock.unlink(missing_ok=True)
    progress.say(f"cluster {name!r} is down")


def _down_private(state: State, known: Cluster | None, progress: Progress) -> bool:
    """End the private engine; returns whether its containers are gone from its data.

    Where kind could not delete them, as after a crash of the engine, the data
    has to go: the next engine would start those containers again.
    """
    engine = Engine(state)
    if not (engine.run_dir.exists() or cgroups.folders(state.cgroup_parent) or known):
        return True
    if os.geteuid():
        raise ClusterError(
            f"cluster {state.name!r} runs on a private engine, and only root can end it", remedy="run it as root"
        )
    deleted = False
    if known and engine.alive():
        with progress.step("kind delete cluster"):
            deleted = _delete_or_say(known, progress)
    with progress.step("private engine down"):
        engine.stop()
        restored = host.restore()
    if restored:
        progress.say(f"restored {', '.join(restored)}")
    _verify_gone(state)
    return deleted


def _delete_or_say(cluster: Cluster, progress: Progress) -> bool:
    try:
        kindcluster.delete(cluster)
    except ClusterError as error:
        progress.say(f"kind delete cluster failed, ending its processes instead: {error}")
        return False
    return True


def _verify_gone(state: State) -> None:
    left = cgroups.processes(state.cgroup_parent)
    if left:
        raise ClusterError(
            f"processes {sorted(left)} of cluster {state.name!r} do not end",
            remedy="they wait in the kernel (state D); run `down` again in a while",
        )
    folders = cgroups.folders(state.cgroup_parent)
    if folders:
        raise ClusterError(
            f"cgroup {folders[-1]} of cluster {state.name!r} can't be removed",
            remedy="run `down` again in a while; the kernel lets go of it with its last memory page",
        )


def _remove_state(state: State, *, purge: bool) -> None:
    if not state.root.is_dir():
        return
    for entry in state.root.iterdir():
        if entry.name in _KEPT and not purge:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    if not any(state.root.iterdir()):
        state.root.rmdir()
