"""Counts requests by version beside a rollout's passes, from the answers that its fleet shares. No pass ever waits for it.

What was read is kept in memory only: a restart reads the newest blocks again, with times in the past.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from espalier_operator.decisions.judge.compile import SourceTiming
from espalier_operator.decisions.judge.readings import SourceDown
from espalier_operator.decisions.judge.shares import KEPT, boundaries, count_query, count_requests, first_due
from espalier_operator.decisions.rollout.world import BlockCount, Counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from espalier_operator.adapters.prometheus import MetricSource
    from espalier_operator.controllers.loop import Key
    from espalier_operator.decisions.judge.queries import Arms
    from espalier_operator.decisions.judge.series import Vector

SOON = timedelta(milliseconds=200)
"""While an answer is on its way."""
AGAIN = timedelta(seconds=1)
"""After a source that did not answer."""
BLOCKS = 3
"""Patience: so many blocks, beside a scrape and the source's lag. The second one is certainly whole."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Whose requests are counted, since when (a route that was accepted and its lag), in which blocks."""

    arms: Arms
    route: str
    since: datetime
    interval: timedelta
    pods: Mapping[str, datetime]


@dataclass(slots=True)
class _Watch:
    route: str = ""
    answers: dict[datetime, Vector] = field(default_factory=dict)
    """The fleet's vectors at the newest boundaries; shared with everybody else who asked."""
    blocks: tuple[BlockCount, ...] = ()
    down: str = ""
    task: asyncio.Task[None] | None = None
    due: datetime | None = None


@dataclass(slots=True)
class Counting:
    """The counts of all rollouts that want to know whether traffic follows."""

    watches: dict[Key, _Watch] = field(default_factory=dict)

    async def counted(self, key: Key, ask: Ask, source: MetricSource, now: datetime) -> Counted:
        """What was counted by now; starts another reading when one is due."""
        watch = self.watches.get(key)
        if watch is None or watch.route != ask.route:
            self.forget(key)
            watch = self.watches[key] = _Watch(ask.route)
        timing = SourceTiming(source.scrape_interval, source.lag)
        if watch.task is not None and watch.task.done():
            task, watch.task = watch.task, None
            task.result()
        if watch.task is None and (watch.due is None or now >= watch.due):
            watch.task = asyncio.create_task(_read(watch, ask, source, timing, now), name=f"count {key.name}")
            await asyncio.sleep(0)  # an answer that is there already is taken in this pass
        return Counted(watch.blocks, watch.down, patience_of(source, ask.interval))

    def next_look(self, key: Key, now: datetime) -> timedelta | None:
        """When there may be news; None when nothing is counted."""
        watch = self.watches.get(key)
        if watch is None:
            return None
        if watch.task is not None:
            return SOON
        return max(timedelta(0), watch.due - now) if watch.due is not None else timedelta(0)

    def forget(self, key: Key) -> None:
        """Stop counting."""
        watch = self.watches.pop(key, None)
        if watch is not None and watch.task is not None:
            watch.task.cancel()


def patience_of(source: MetricSource, interval: timedelta) -> timedelta:
    """How long counters are waited for."""
    return BLOCKS * interval + source.scrape_interval + source.lag


async def _read(watch: _Watch, ask: Ask, source: MetricSource, timing: SourceTiming, now: datetime) -> None:
    """Every boundary that can be read and was not yet; stops at the first that the source cannot answer."""
    times = boundaries(ask.since, ask.interval, timing, now)
    watch.down = ""
    for at in times:
        if watch.answers and at <= max(watch.answers):
            continue
        answer = await source.instant(count_query(at, ask.interval, timing, ask.arms, sharded=source.sharded))
        if isinstance(answer, SourceDown):
            watch.down = f"{answer.reason.value}: {answer.message}"
            break
        watch.answers[at] = answer
    _count(watch, ask)
    last = max(watch.answers, default=None)
    following = first_due(ask.since, ask.interval, timing) if last is None else last + ask.interval + timing.lag
    watch.due = max(now + AGAIN, following)


def _count(watch: _Watch, ask: Ask) -> None:
    """Whole blocks out of neighbouring boundaries; the vectors behind them are not needed any more."""
    for start, end in pairwise(sorted(watch.answers)):
        if end - start != ask.interval:
            continue
        found = count_requests((watch.answers[start], watch.answers[end]), (start, end), ask.arms, ask.pods)
        if found is not None:
            canary = round(found.canary)
            watch.blocks = (*watch.blocks, BlockCount(end, canary, canary + round(found.stable)))[-KEPT:]
    for at in sorted(watch.answers)[:-1]:
        del watch.answers[at]
