"""When evidence is taken: blocks of one interval, aligned to the epoch, so that a whole fleet asks at the same
instants.

A block may be read once `lag` has passed after its end (the last scrapes have then arrived). Blocks missed while the
operator or the source was down are read later, in order, with a time in the past: nothing is lost and nothing counts
twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["REPLAY_LIMIT", "Block", "Schedule"]

REPLAY_LIMIT: Final = 20
"""Most blocks that one pass reads: a long outage is caught up in several passes and starves no other rollout."""

_EPOCH: Final = datetime.fromtimestamp(0, tz=UTC)


@dataclass(frozen=True, slots=True)
class Block:
    """The stretch ``(start, end]``; counters are read at both ends."""

    end: datetime
    interval: timedelta

    @property
    def start(self) -> datetime:
        """Where it begins; the end of the block before."""
        return self.end - self.interval


@dataclass(frozen=True, slots=True)
class Schedule:
    """Blocks of one SLI. `warm_up` passes after the canary's first request, then `label_delay` for late labels."""

    interval: timedelta = timedelta(seconds=30)
    lag: timedelta = timedelta(seconds=30)
    warm_up: timedelta = timedelta(seconds=60)
    label_delay: timedelta = timedelta(0)

    def first_end(self, started: datetime) -> datetime:
        """End of the first block that lies wholly after the warm-up of a canary that got traffic at `started`."""
        evidence_from = started + self.warm_up + self.label_delay
        return _EPOCH + math.ceil((evidence_from - _EPOCH) / self.interval) * self.interval + self.interval

    def due(
        self, started: datetime, last_end: datetime | None, now: datetime, limit: int = REPLAY_LIMIT
    ) -> tuple[Block, ...]:
        """Blocks that can be read now and were not yet, oldest first, at most `limit`."""
        end = self._next_end(started, last_end)
        blocks: list[Block] = []
        while end + self.lag <= now and len(blocks) < limit:
            blocks.append(Block(end, self.interval))
            end += self.interval
        return tuple(blocks)

    def next_due(self, started: datetime, last_end: datetime | None) -> datetime:
        """When the next block can be read."""
        return self._next_end(started, last_end) + self.lag

    def history(self, started: datetime, blocks: int) -> tuple[datetime, datetime]:
        """First and last boundary of the `blocks` blocks that end before the canary got traffic."""
        end = _EPOCH + math.floor((started - _EPOCH) / self.interval) * self.interval
        return end - blocks * self.interval, end

    def _next_end(self, started: datetime, last_end: datetime | None) -> datetime:
        first = self.first_end(started)
        return first if last_end is None else max(first, last_end + self.interval)
