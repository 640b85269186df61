"""What this container may use."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

_CPU_MAX: Final = Path("/sys/fs/cgroup/cpu.max")


def cpu_limit(cpu_max: Path = _CPU_MAX) -> int:
    """Whole CPUs of the cgroup's limit, at least 1; the affinity mask where there is no limit. More threads would only wait."""
    available = len(os.sched_getaffinity(0))
    if not cpu_max.is_file():
        return available
    quota, period = cpu_max.read_text(encoding="ascii").split()
    return available if quota == "max" else max(1, min(available, math.ceil(int(quota) / int(period))))


def threads_for(work: int, limit: int) -> int:
    """Threads worth having for `work` multiply-adds per step: below some ten million, waiting for each other costs more than it saves."""
    return max(1, min(limit, work // 20_000_000))
