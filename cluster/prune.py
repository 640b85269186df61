"""What nothing asks for any more goes from the cache: results are kept by content, and content changes."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from cluster import lock
from cluster.errors import ClusterError

if TYPE_CHECKING:
    from pathlib import Path

# The one in use, and the one to go back to: another branch's, or that of a cluster that is still up.
KEPT = 2


def older(current: Path, kept: int = KEPT) -> list[Path]:
    """Remove the folders beside ``current`` that older content of the same thing left; returns them.

    Args:
        current: ``<folder>/<name>-<hash>``, the one that is asked for now; it stays.
        kept: how many stay in all, the most recently used ones.

    A folder whose lock is held stays: another process is building it. Its lock file stays always: one who waits for it
    must not find another file under its name.

    """
    name = current.name.rpartition("-")[0]
    found = [
        path
        for path in current.parent.iterdir()
        if path.is_dir() and path != current and path.name.rpartition("-")[0] == name
    ]
    removed = []
    for old in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[max(kept - 1, 0) :]:
        try:
            with lock.held(old.with_suffix(".lock"), what=old.name):
                # Renamed first: a folder that is half removed must not look like a result.
                going = old.rename(old.with_name(f".{old.name}.old"))
                shutil.rmtree(going)
        except ClusterError:
            continue
        removed.append(old)
    return removed
