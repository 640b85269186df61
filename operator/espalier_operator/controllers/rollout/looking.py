"""Looks at a rollout's SLIs beside its passes: a slow Prometheus never delays the pass that sees a pod crash.

At most one look per rollout is under way; its result is kept until the next pass takes it. What was judged is only
real when that pass has written it to status; a crash before that loses nothing, the blocks are asked for again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from espalier_operator.adapters.analysis import Analysis, Canary, analyse
from espalier_operator.decisions.judge.verdict import SampleState, VerdictKind
from espalier_operator.decisions.rollout.world import Reading, Span

if TYPE_CHECKING:
    from espalier_operator.adapters.prometheus import MetricSource
    from espalier_operator.controllers.loop import Key
    from espalier_operator.decisions.judge.sli import Look, Sli

AGAIN = timedelta(seconds=1)
"""After a look that could not read everything that is due; the source's own memory of failures bounds what is asked."""
PATIENCE = 0.2
"""Seconds that a pass waits for a look that it started: an answer of a healthy source is then acted on in this pass."""

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """One finished look at all SLIs of one attempt."""

    attempt: str
    analyses: tuple[tuple[Sli, Analysis], ...]

    @property
    def backlog(self) -> bool:
        """More is due than was read, for an SLI that acts."""
        return any(analysis.backlog for sli, analysis in self.analyses if not sli.dry_run)

    def next_due(self, now: datetime) -> datetime:
        """When there may be something new to read."""
        moments = [now + AGAIN if a.backlog else a.next_due for _, a in self.analyses]
        return min(moments, default=now + AGAIN)

    def readings(self) -> tuple[Reading, ...]:
        """What each SLI looks like now."""
        return tuple(reading_of(analysis.look) for _, analysis in self.analyses)

    def entries(self) -> dict[str, Entry]:
        """Status entries by SLI."""
        return {analysis.look.name: analysis.look.status for _, analysis in self.analyses}

    def spans(self) -> tuple[Span, ...]:
        """Newly judged stretches: those that the slowest SLI has passed, too. Blind for one is blind for all."""
        acting = [analysis for sli, analysis in self.analyses if not sli.dry_run]
        ends = [a.look.last_block_end for a in acting if a.look.last_block_end is not None]
        behind = any(a.look.last_block_end is None and a.backlog for a in acting)
        if not ends or behind:
            return ()
        seen: dict[datetime, tuple[datetime, bool]] = {}
        for analysis in acting:
            for block, had_data in analysis.blocks:
                if block.end <= min(ends):
                    seen[block.end] = (block.start, had_data and seen.get(block.end, (block.start, True))[1])
        return tuple(Span(start, end, counts) for end, (start, counts) in sorted(seen.items()))


def reading_of(look: Look) -> Reading:
    """A look in the words of the decision."""
    return Reading(
        name=look.name,
        state=look.state,
        verdict=look.verdict.kind,
        requests=look.requests,
        min_requests=int(look.min_requests),
        dry_run=look.dry_run,
        evidence=min(look.verdict.evidence, 1e6) if look.verdict.kind is VerdictKind.FAIL else None,
        sentence=look.verdict.sentence if look.verdict.kind is VerdictKind.FAIL else look.reason,
        last_block_end=look.last_block_end,
    )


def remembered(slis: Sequence[Sli], entries: Mapping[str, Entry]) -> tuple[Reading, ...]:
    """Readings as status has them: what a pass without a new look decides on."""
    readings = []
    for sli in slis:
        entry = entries.get(sli.name, {})
        judged = "blocks" in entry
        look = sli.look(sli.restore(entry)) if judged else sli.wait(str(entry.get("message", "not looked at yet")))
        reading = reading_of(look)
        state = SampleState(entry["state"]) if entry.get("state") else reading.state
        readings.append(
            Reading(
                reading.name,
                state,
                reading.verdict,
                reading.requests,
                reading.min_requests,
                reading.dry_run,
                reading.evidence,
                reading.sentence or str(entry.get("message", "")),
                reading.last_block_end,
            )
        )
    return tuple(readings)


@dataclass(slots=True)
class _Watch:
    """One rollout's look under way, and when the next one is worth it."""

    attempt: str = ""
    task: asyncio.Task[Result] | None = None
    due: datetime | None = None


@dataclass(slots=True)
class Looking:
    """The looks of all rollouts."""

    watches: dict[Key, _Watch] = field(default_factory=dict)

    async def look(
        self,
        key: Key,
        attempt: str,
        slis: Sequence[Sli],
        entries: Mapping[str, Entry],
        source: MetricSource,
        canary: Canary,
        now: datetime,
    ) -> Result | None:
        """The result of a finished look, once; None while there is none. Starts one when it is due and waits for it a little."""
        watch = self.watches.setdefault(key, _Watch())
        if watch.attempt != attempt:
            self.forget(key)
            watch = self.watches[key] = _Watch(attempt)
        if watch.task is None and (watch.due is None or now >= watch.due):
            watch.task = asyncio.create_task(
                _look(attempt, slis, entries, source, canary, now), name=f"look {key.name}"
            )
        if watch.task is None:
            return None
        await asyncio.wait({watch.task}, timeout=PATIENCE)
        if not watch.task.done():
            return None
        task, watch.task = watch.task, None
        watch.due = now + AGAIN  # also when the look failed: the exception is the pass's, the next look is not at once
        result = task.result()
        watch.due = result.next_due(now)
        return result

    def next_look(self, key: Key, now: datetime) -> timedelta | None:
        """When the next pass has something to do here; None when nothing is looked at."""
        watch = self.watches.get(key)
        if watch is None:
            return None
        if watch.task is not None:
            return timedelta(seconds=PATIENCE)
        return max(timedelta(0), watch.due - now) if watch.due is not None else timedelta(0)

    def forget(self, key: Key) -> None:
        """Stop looking."""
        watch = self.watches.pop(key, None)
        if watch is not None and watch.task is not None:
            watch.task.cancel()


async def _look(
    attempt: str,
    slis: Sequence[Sli],
    entries: Mapping[str, Entry],
    source: MetricSource,
    canary: Canary,
    now: datetime,
) -> Result:
    found = await asyncio.gather(*(analyse(sli, entries.get(sli.name, {}), source, canary, now) for sli in slis))
    return Result(attempt, tuple(zip(slis, found, strict=True)))
