"""Traffic for the judge's benchmark: requests and bad events of two arms in blocks of 30 s, with the nuisances of real clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Counts = NDArray[np.int64]

BLOCK_SECONDS = 30
BLOCKS_PER_MINUTE = 60 // BLOCK_SECONDS


@dataclass(frozen=True)
class Traffic:
    """Counts of shape (runs, blocks)."""

    canary_total: Counts
    canary_bad: Counts
    stable_total: Counts
    stable_bad: Counts

    @property
    def runs(self) -> int:
        """How many canaries."""
        return int(self.canary_total.shape[0])

    @property
    def blocks(self) -> int:
        """How many blocks each."""
        return int(self.canary_total.shape[1])


@dataclass(frozen=True)
class Incident:
    """Both arms get `factor` times worse from block `start` on, for `length` blocks."""

    start: int
    length: int
    factor: float


@dataclass(frozen=True)
class Scenario:
    """One kind of traffic. `harm` multiplies the canary's bad ratio from block `onset` on.

    `ahead`: part of a block by which the canary's scrapes see the world before stable's do. `burst`: mean size of the
    geometric clusters that bad events come in; their expected number stays.
    """

    rps: float = 200.0
    share: float = 0.1
    stable_ratio: float = 0.005
    harm: float = 1.0
    onset: int = 0
    incident: Incident | None = None
    ahead: float = 0.0
    burst: float = 1.0
    blocks: int = 120

    def draw(self, rng: np.random.Generator, runs: int) -> Traffic:
        """Poisson requests, binomial (or clustered) bad events."""
        per_block = self.rps * BLOCK_SECONDS
        shape = (runs, self.blocks)
        canary, stable = rng.poisson(per_block * self.share, shape), rng.poisson(per_block * (1 - self.share), shape)
        world = np.full(self.blocks, self.stable_ratio)
        if self.incident is not None:
            world[self.incident.start : self.incident.start + self.incident.length] *= self.incident.factor
        seen_by_stable = (1 - self.ahead) * world + self.ahead * np.concatenate([world[:1], world[:-1]])
        seen_by_canary = np.where(np.arange(self.blocks) >= self.onset, world * self.harm, world)
        canary_bad = self._bad(rng, canary, seen_by_canary)
        stable_bad = self._bad(rng, stable, seen_by_stable)
        return Traffic(np.maximum(canary, canary_bad), canary_bad, np.maximum(stable, stable_bad), stable_bad)

    def _bad(self, rng: np.random.Generator, total: Counts, ratio: NDArray[np.float64]) -> Counts:
        events = rng.binomial(total, np.clip(ratio / self.burst, 0, 1))
        if self.burst <= 1:
            return events
        followers = rng.negative_binomial(np.maximum(events, 1), 1 / self.burst)
        return np.where(events > 0, events + followers, 0)
