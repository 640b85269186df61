"""The two Debian programs that a machine without an engine needs: buildah and mmdebstrap."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from cluster import lock
from images import command, store
from images.errors import ImageError

if TYPE_CHECKING:
    from cluster.progress import Progress


def need(program: str, progress: Progress) -> None:
    """Install a program's package of the same name from apt, saying so, unless it is there.

    Raises:
        ImageError: it can't be installed: not root, no apt, or apt failed.

    """
    if shutil.which(program):
        return
    remedy = f"install it: apt-get install --no-install-recommends {program}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ImageError(f"{program} is not on the PATH", remedy=f"{remedy} (as root), or start docker or podman")
    log = store.folder() / "logs" / "apt.log"
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
    with (
        lock.held(store.folder() / "locks" / "apt", what="apt", wait=True),
        progress.step(f"install {program} from apt (once)"),
    ):
        command.run([*apt, "update"], log=log, what="apt-get update", remedy=remedy)
        install = [*apt, "install", "-y", "--no-install-recommends", program]
        command.run(install, log=log, what=f"installation of {program}", remedy=remedy)
