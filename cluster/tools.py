"""The programs that ``exec`` puts on the PATH: kubectl, kind and helm."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import gobuild
from cluster.engine import link

if TYPE_CHECKING:
    from cluster.paths import State
    from cluster.progress import Progress

_PARTS = {"kubectl": "kube", "kind": "kind", "helm": "helm"}


def provide(state: State, names: tuple[str, ...], *, private: bool, progress: Progress) -> None:
    """Link programs into the cluster's bin folder.

    On a private engine they are built from the pinned modules, whatever is on
    the PATH; else the user's own are taken and only missing ones are built.
    """
    state.bin.mkdir(parents=True, exist_ok=True)
    for name in names:
        own = None if private else _on_path(name, state)
        link(state.bin / name, own or gobuild.build(_PARTS[name], progress=progress))


def _on_path(name: str, state: State) -> Path | None:
    found = shutil.which(name)
    # Our own link may be on the PATH, as under `python -m cluster exec`.
    return Path(found) if found and Path(found).parent != state.bin else None
