"""What one block of traffic says about the two arms: requests, and how many of them were bad.

Counts are differences of raw Prometheus counters, never `rate()` or `increase()`, so they are whole numbers unless each
event carries a score in [0, 1]. A block is the half-open interval ``(end - interval, end]``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["NO_COUNTS", "ArmCounts", "BlockCounts"]


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """Requests of one arm and the bad ones among them (or the sum of their badness scores in [0, 1])."""

    total: float = 0.0
    bad: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for counts that cannot be: evidence from them would be nonsense with a number on it."""
        if not 0 <= self.bad <= self.total < math.inf:
            raise ValueError(f"counts need 0 <= bad <= total < inf, got bad={self.bad} of total={self.total}")

    def __add__(self, other: ArmCounts) -> ArmCounts:
        return ArmCounts(self.total + other.total, self.bad + other.bad)

    @property
    def ratio(self) -> float:
        """Bad share, 0-1; 0 without traffic."""
        return self.bad / self.total if self.total > 0 else 0.0

    def __str__(self) -> str:
        """`11/300 (3.67 %)`, the form of status lines and events."""
        return f"{self.bad:.15g}/{self.total:.15g} ({100 * self.ratio:.2f} %)"


NO_COUNTS: Final = ArmCounts()


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """One block, both arms, the same interval.

    `served` is (canary, stable) predictions served one `labelDelay` earlier; only SLIs with delayed labels have it,
    to compare how much of each arm got its label.
    """

    end: datetime
    canary: ArmCounts = NO_COUNTS
    stable: ArmCounts = NO_COUNTS
    served: tuple[float, float] | None = None
