"""Carry one SLI of one canary forward to now: its past once, then every block that is due, oldest first.

All judgement is in `decisions.judge`; here is only the asking. A source that is down stops the catching up where it
is, so no block is ever lost; queries of one block run side by side and are shared with every other rollout that asks
the same.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from espalier_operator.decisions.judge.blocks import REPLAY_LIMIT
from espalier_operator.decisions.judge.readings import SourceDown
from espalier_operator.decisions.judge.verdict import SampleState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from espalier_operator.adapters.prometheus import MetricSource
    from espalier_operator.decisions.judge.blocks import Block
    from espalier_operator.decisions.judge.queries import Arms
    from espalier_operator.decisions.judge.series import Matrix
    from espalier_operator.decisions.judge.sli import Look, Sli

__all__ = ["Analysis", "Canary", "analyse"]


@dataclass(frozen=True, slots=True)
class Canary:
    """Whom to look at: the two versions, since when the canary has had traffic, and when each pod's process started."""

    arms: Arms
    started: datetime
    pods: Mapping[str, datetime]


@dataclass(frozen=True, slots=True)
class Analysis:
    """What looking gave.

    `blocks` are the newly passed ones and whether something was seen in them; `backlog` says that more are due than
    were read (a long outage, or the source is down); nothing new can be read before `next_due`.
    """

    look: Look
    blocks: tuple[tuple[Block, bool], ...]
    backlog: bool
    next_due: datetime


async def analyse(sli: Sli, entry: Mapping[str, Any], source: MetricSource, canary: Canary, now: datetime) -> Analysis:
    """Look at `sli`. `entry` is its status of the last pass (empty for a new canary): a block is never judged twice."""
    state = sli.restore(entry) if entry.get("lastBlockEnd") else None
    last_end = None if state is None else state.last_block_end
    due = sli.schedule.due(canary.started, last_end, now, REPLAY_LIMIT + 1)
    first = sli.schedule.first_end(canary.started)
    look = sli.wait(f"first block ends at {first:%H:%M:%S} UTC") if state is None else sli.look(state)
    passed: list[tuple[Block, bool]] = []
    for block in due[:REPLAY_LIMIT]:
        state = await _begin(sli, source, canary) if state is None else state
        if isinstance(state, SourceDown):
            look = sli.wait(state)
            break
        state, look = await _take(sli, state, block, source, canary)
        if look.down is not None:
            break
        passed.append((block, look.state is not SampleState.NO_DATA))
    reached = passed[-1][0].end if passed else last_end
    return Analysis(look, tuple(passed), len(due) > len(passed), sli.schedule.next_due(canary.started, reached))


async def _begin(sli: Sli, source: MetricSource, canary: Canary) -> Any:  # noqa: ANN401 - the SLI's own state
    """A fresh state that knows stable's past, or SourceDown."""
    queries = sli.history_queries(canary.arms, canary.started)
    matrices: list[Matrix] = []
    for answer in await asyncio.gather(*map(source.range, queries)):
        if isinstance(answer, SourceDown):
            return answer
        matrices.append(answer)
    return sli.begin(canary.arms, matrices)


async def _take(
    sli: Sli,
    state: Any,  # noqa: ANN401
    block: Block,
    source: MetricSource,
    canary: Canary,
) -> tuple[Any, Look]:
    """Ask for one block and take the answers."""
    sharded = source.sharded
    queries = sli.queries(block, canary.arms, sharded=sharded)
    answers = dict(zip(queries, await asyncio.gather(*map(source.instant, queries)), strict=True))
    return sli.take(state, block, canary.arms, answers, canary.pods, sharded=sharded)
