"""What images stand on: the public image that a Dockerfile names, one's own, or a local Debian where no registry is.

The local one is Debian 13 with its Python 3.13, made by mmdebstrap from the machine's default mirror.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster import lock
from images import command, packages, store

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.progress import Progress
    from images.engines import Engine

VARIABLE = "ESPALIER_IMAGES_BASE"
SUITE = "trixie"
PACKAGES = ("ca-certificates", "python3", "python3-venv")
# Licences stay; texts that nobody reads in a container go. dpkg obeys this in later installations, too.
SLIM = """path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/info/*
"""


@dataclass(frozen=True)
class Base:
    """A choice of base.

    Attributes:
        kind: ``public`` (each Dockerfile's own default), ``local`` or ``given``.
        ref: the image to build on; empty for ``public``.
        identity: goes into the tags of the images.

    """

    kind: str
    ref: str
    identity: str

    def arguments(self, default: str) -> dict[str, str]:
        """The build arguments for a Dockerfile whose default base is ``default``."""
        return {} if self.kind == "public" or default == "scratch" else {"BASE_IMAGE": self.ref}


def recipe_digest() -> str:
    """The hash of the local base's recipe. Newer packages don't change it: `python -m images clean` renews them."""
    return hashlib.sha256(json.dumps([SUITE, PACKAGES, SLIM]).encode()).hexdigest()[:12]


def choose(wanted: str | None, engine: str) -> Base:
    """The base to use.

    Args:
        wanted: ``public``, ``local``, a reference, or None for the environment's ``ESPALIER_IMAGES_BASE``; without
            that, ``local`` for buildah and ``public`` for an engine that runs.
        engine: the engine's name.

    """
    choice = wanted or os.environ.get(VARIABLE) or ("local" if engine == "buildah" else "public")
    if choice == "public":
        return Base("public", "", "public")
    if choice == "local":
        digest = recipe_digest()
        return Base("local", f"localhost/espalier-base:{digest}", f"local {digest}")
    return Base("given", choice, f"given {choice}")


def ensure(base: Base, engine: Engine, progress: Progress) -> None:
    """Make the local base unless the engine has it; other bases are the engine's to pull.

    Raises:
        ImageError: mmdebstrap is missing or failed.

    """
    if base.kind != "local" or engine.has(base.ref):
        return
    log = store.folder() / "logs" / "base.log"
    root = store.folder() / "base" / f"{SUITE}-{recipe_digest()}.tar"
    with lock.held(root.with_suffix(".lock"), what="the local base", wait=True):
        if not root.exists():
            _bootstrap(root, log, progress)
        with progress.step("import the local base"):
            engine.import_root(root, base.ref, log)


def _bootstrap(root: Path, log: Path, progress: Progress) -> None:
    packages.need("mmdebstrap", progress)
    options = root.with_suffix(".conf")
    options.parent.mkdir(parents=True, exist_ok=True)
    options.write_text(SLIM)
    fresh = root.with_name(f"new-{root.name}")
    argv = [
        "mmdebstrap", "--quiet", "--variant=minbase", f"--dpkgopt={options}", f"--include={','.join(PACKAGES)}",
        SUITE, str(fresh),
    ]  # fmt: skip
    with progress.step(f"make the local base: Debian {SUITE} with Python (once)"):
        command.run(argv, log=log, what="mmdebstrap", remedy="see the log; is a Debian mirror in reach? As root?")
    fresh.rename(root)
