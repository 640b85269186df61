"""One process at a time for a named thing."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cluster.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def held(file: Path, *, what: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock ``file``. The kernel frees it when the process ends, however it ends.

    Raises:
        ClusterError: another process holds it and ``wait`` is not set.

    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # Close-on-exec is Python's default: an engine started here must not inherit the lock.
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            owner = os.pread(descriptor, 64, 0).decode(errors="replace").strip() or "unknown"
            raise ClusterError(
                f"{what} is already being worked on by process {owner}",
                remedy="wait for it to end, or stop that process; the lock goes with it",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
