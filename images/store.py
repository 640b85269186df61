"""The archives in the cache: where they are, what they weigh, which ones may go."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.paths import cache_root
from images.catalog import reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

# Three of each: the one in use, the one to go back to, and one that a slower process may be about to load.
KEPT = 3


@dataclass(frozen=True)
class Archive:
    """One docker-archive file, ``<name>-<digest>.tar``."""

    path: Path
    name: str
    digest: str

    @property
    def ref(self) -> str:
        """The image in it."""
        return reference(self.name, self.digest)

    @property
    def size(self) -> int:
        """Bytes; layers are not compressed, so it is also the image's size."""
        return self.path.stat().st_size


def folder() -> Path:
    """Where this room keeps everything: archives, the builder's storage, logs."""
    return cache_root() / "images"


def archive(name: str, digest: str) -> Archive:
    """The place of an image's archive, which need not exist."""
    return Archive(folder() / f"{name}-{digest}.tar", name, digest)


def archives(root: Path | None = None) -> Iterator[Archive]:
    """All archives, the most recently used first."""
    files = (root or folder()).glob("*-*.tar")
    for path in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        name, _, digest = path.stem.rpartition("-")
        yield Archive(path, name, digest)


def touch(found: Archive) -> None:
    """Note that an archive was used, for :func:`superfluous`."""
    os.utime(found.path)


def superfluous(found: Iterable[Archive], kept: int = KEPT) -> list[Archive]:
    """Those to delete: per image all but the ``kept`` most recently used, which come first in ``found``."""
    seen: dict[str, int] = {}
    result = []
    for each in found:
        seen[each.name] = seen.get(each.name, 0) + 1
        if seen[each.name] > kept:
            result.append(each)
    return result
