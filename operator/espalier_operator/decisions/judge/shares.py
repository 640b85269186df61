"""Requests of two versions in a block, from the counters that the errors preset already asks a whole fleet for.

This is no evidence about a version: it tells where traffic goes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from espalier_operator.decisions.judge.presets.errors import Errors
from espalier_operator.decisions.judge.queries import Query, lookback
from espalier_operator.decisions.judge.series import increments, not_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from espalier_operator.decisions.judge.compile import SourceTiming
    from espalier_operator.decisions.judge.queries import Arms
    from espalier_operator.decisions.judge.series import Sample, Vector

__all__ = ["KEPT", "RequestCounts", "boundaries", "count_query", "count_requests", "first_due"]

KEPT: Final = 20
"""Newest blocks that are looked at."""
_EPOCH: Final = datetime.fromtimestamp(0, tz=UTC)


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """Requests by version in the block that ends at `end`."""

    end: datetime
    canary: float
    stable: float


def boundaries(since: datetime, interval: timedelta, timing: SourceTiming, now: datetime) -> tuple[datetime, ...]:
    """Instants at which counters are read, oldest first, on the fleet's grid.

    The first one lies a scrape after `since`: what is read at an instant was scraped up to one scrape before it.
    """
    first = _first(since, interval, timing)
    last = math.floor((now - timing.lag - _EPOCH) / interval)
    return tuple(_EPOCH + index * interval for index in range(max(first, last - KEPT), last + 1))


def first_due(since: datetime, interval: timedelta, timing: SourceTiming) -> datetime:
    """When the first of them can be read."""
    return _EPOCH + _first(since, interval, timing) * interval + timing.lag


def _first(since: datetime, interval: timedelta, timing: SourceTiming) -> int:
    return math.ceil((since + timing.scrape_interval - _EPOCH) / interval)


def count_query(at: datetime, interval: timedelta, timing: SourceTiming, arms: Arms, *, sharded: bool) -> Query:
    """The errors preset's own query, so that a fleet's cached answer serves both."""
    preset = Errors(lookback(interval, timing.scrape_interval))
    return Query(preset.texts(arms, {"namespace": re.escape(arms.namespace)} if sharded else {})[0], at)


def count_requests(
    ends: tuple[Vector, Vector], times: tuple[datetime, datetime], arms: Arms, pods: Mapping[str, datetime]
) -> RequestCounts | None:
    """Requests between two instants; None when a version has no series at the end: then its requests are unknown, not 0."""
    before, after = (_of(vector, arms) for vector in ends)
    shown = {sample.labels.get("version") for sample in after}
    if not {arms.canary, arms.stable} <= shown or not_numbers((*before, *after)):
        return None
    sums = {arms.canary: 0.0, arms.stable: 0.0}
    for labels, increase in increments(before, after, since=times[0], pods=pods):
        sums[labels["version"]] += increase
    return RequestCounts(times[1], sums[arms.canary], sums[arms.stable])


def _of(vector: Vector, arms: Arms) -> list[Sample]:
    mine = vector.of(arms.namespace, arms.model)
    return [sample for sample in mine if sample.labels.get("version") in {arms.canary, arms.stable}]
