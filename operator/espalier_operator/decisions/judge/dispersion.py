"""Dispersion (phi): how much burstier than independent events stable's bad events were before the canary.

    phi = max(1, mean_j (r_j - r_{j-1})^2 / (p * (1/n_j + 1/n_{j-1}))),   r_j = k_j/n_j,   p the pooled ratio, clamped
    to 10

Successive differences, so that a slow drift of the baseline cancels. Independent events give about 1.1 on 60 blocks;
one user's retries or one failing batch give more, and the evidence is divided by it. Without it, bursts of three
errors abort 19 % of good canaries; with it 0.5-1 % (docs/analysis.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from espalier_operator.decisions.judge.counts import ArmCounts

__all__ = ["HISTORY_BLOCKS", "Dispersion", "measure_dispersion", "variance_ratio"]

HISTORY_BLOCKS: Final = 60
"""Blocks of stable's past that are read, 30 minutes at the default interval."""
MIN_PAIRS: Final = 10
"""Fewer neighbouring blocks with traffic say nothing about bursts."""
MAX_PHI: Final = 10.0


@dataclass(frozen=True, slots=True)
class Dispersion:
    """phi and, when it could not be measured, why it is 1."""

    phi: float = 1.0
    note: str = ""


def measure_dispersion(history: Sequence[ArmCounts]) -> Dispersion:
    """Phi of one arm's consecutive blocks, oldest first."""
    pairs = len(_usable(history))
    if pairs < MIN_PAIRS:
        return Dispersion(note=f"no history: {pairs} usable blocks of stable before the canary, {MIN_PAIRS} needed")
    if not any(block.bad for block in history):
        return Dispersion(note="no bad event in stable's history")
    return Dispersion(min(MAX_PHI, max(1.0, variance_ratio(history))))


def variance_ratio(history: Sequence[ArmCounts]) -> float:
    """The formula without its clamps; needs two neighbouring blocks with traffic and one bad event."""
    pooled = sum(block.bad for block in history) / sum(block.total for block in history)
    squares = [
        (right.ratio - left.ratio) ** 2 / (pooled * (1 / left.total + 1 / right.total))
        for left, right in _usable(history)
    ]
    return sum(squares) / len(squares)


def _usable(history: Sequence[ArmCounts]) -> list[tuple[ArmCounts, ArmCounts]]:
    return [(left, right) for left, right in pairwise(history) if left.total > 0 and right.total > 0]
