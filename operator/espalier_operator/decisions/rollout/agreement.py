"""Does traffic follow the route? Declared weight against what the versions' own counters say. Pure; asked when the gateway has accepted
the route and its known lag has passed, because acceptance was seen ahead of traffic and even with a dead proxy (design/rollout.md).

A share is refuted when it lies outside the exact interval (`binomial`) at ALPHA. Gateways draw at random or interleave: draws are the
worst case, a fixed schedule only has less spread. What the counters cannot know is the path: callers of the Service `<model>` inside the
cluster go to stable without asking the route. So the canary may have *less* than its weight by what an earlier weight already showed
(`reach`), and never more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from espalier_operator.decisions.rollout.binomial import interval
from espalier_operator.decisions.rollout.world import FULL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, timedelta

    from espalier_operator.decisions.rollout.world import BlockCount, Counted

ALPHA: Final = 1e-6
"""Of one look. A day of 30 s blocks is 2,880 looks at up to 20 windows each: fewer than 6 % of days would have one false alarm, if windows
were independent, and a disagreement acts only when the blocks after it repeat it (LASTS). Only a gateway that is wrong repeats it."""
TOLERANCE: Final = 0.2
"""Of the smaller arm's share: 20-30 % of requests are as good as a weight of 25. Retries, throttled and invalid requests are not spread by
weight, and with enough requests any such trifle would be significant."""
MIN_REQUESTS: Final = 20
"""Below it nothing is said from counters, whatever the interval."""
LASTS: Final = 3
"""Blocks that a disagreement must last before it acts: requests under way, a gateway that is late, and a missed scrape (which
takes from one block and gives to the next) are none."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The weight is what traffic follows. `how`: `counters`, or `lag` where they cannot tell."""

    how: str
    said: str
    canary: int = 0
    total: int = 0
    interval: tuple[float, float] = (0.0, 1.0)
    """Shares (0-1) of the canary that the counts do not refute."""

    @property
    def share(self) -> float | None:
        """The canary's share (0-1) of the counted requests."""
        return self.canary / self.total if self.total else None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not enough was counted yet."""

    why: str


@dataclass(frozen=True, slots=True)
class Disagrees:
    """The counters refute the declared weight. `said` has the counts and the remedy."""

    said: str
    share: float = 0.0


Agreement = Observed | Waiting | Disagrees


@dataclass(frozen=True, slots=True)
class Declared:
    """The canary's weight (percent) on the route, and what is known from the weight before it."""

    version: str
    weight: int
    before: int | None = None
    """The weight before, in percent; None when unknown."""
    baseline: float | None = None
    """The canary's share (0-1) if traffic had not moved: as counted at the weight before, else that weight."""
    reach: float | None = None
    """Share (0-1) of all requests that pass the route at least, as an earlier weight showed; None when no weight has shown it yet."""
    per_request: bool = True
    """False where connections follow the weight, not requests: then only a weight of 0 can be counted."""


@dataclass(frozen=True, slots=True)
class _Window:
    canary: int
    total: int
    interval: tuple[float, float]


def agreement(declared: Declared, counted: Counted | None, since: datetime, now: datetime) -> Agreement:
    """What the counters of the blocks after `since` say; the lag's word where they say nothing for `counted.patience`."""
    if not declared.weight and not declared.before:
        return Observed("lag", f"{declared.version} had no traffic to lose")
    if declared.weight and not declared.per_request:
        return Observed("lag", "pods take connections, not requests: counters cannot tell their share")
    if counted is None:
        return Observed("lag", "nothing counts requests of two versions: the router's known lag has passed")
    blocks = counted.blocks
    if blocks and now > blocks[-1].end + counted.patience:
        blocks = ()  # what was counted before an outage, or of pods that are gone, says nothing about now
    found = _counters(declared, blocks)
    if not isinstance(found, Waiting):
        return found
    if now < since + counted.patience:
        return Waiting(counted.down or found.why)
    reason = f"the metrics source is down ({counted.down})" if counted.down else found.why
    return Observed("lag", f"the router's known lag has passed; not counted: {reason}")


def _counters(declared: Declared, blocks: tuple[BlockCount, ...]) -> Agreement:
    """The shortest stretch up to now that decides; later movement is not blurred by what was before."""
    few = Waiting("no requests were counted yet")
    if declared.weight == 0 and blocks and blocks[-1].canary:
        return _leak(declared, blocks[-1])
    for window in _windows(blocks):
        if declared.weight == 0 and window.canary:
            break  # its counter has stopped since
        few = Waiting(f"low traffic: {_counts(declared, window)} do not tell yet")
        if window.total >= MIN_REQUESTS and (found := _decide(declared, window)) is not None:
            return found
    return few


def _windows(blocks: tuple[BlockCount, ...]) -> Iterator[_Window]:
    """The newest block, the newest two, and so on."""
    canary = total = 0
    for block in reversed(blocks):
        canary, total = canary + block.canary, total + block.total
        if total:
            yield _Window(canary, total, interval(canary, total, ALPHA))


def _decide(declared: Declared, window: _Window) -> Agreement | None:
    low, high = window.interval
    share = declared.weight / FULL
    if low > share + TOLERANCE * min(share, 1 - share):
        return Disagrees(f"{_counts(declared, window)}: more than its weight. {_remedy(declared)}", _share(window))
    if _falls_short(declared, window):
        said = (
            f"{_counts(declared, window)}: less than its weight. {_remedy(declared)}; "
            "or are requests sent past the route, to a Service?"
        )
        return Disagrees(said, _share(window))
    base = declared.baseline
    unmoved = base is not None and base != share and low <= base <= high
    if unmoved:
        return None
    return Observed("counters", f"counted: {_counts(declared, window)}", window.canary, window.total, window.interval)


def _falls_short(declared: Declared, window: _Window) -> bool:
    """Less than the weight, by more than what goes past the route; nothing at all, while that is not known yet."""
    high, share = window.interval[1], declared.weight / FULL
    if declared.reach is None:
        return window.canary == 0 and high < share
    slack = TOLERANCE if declared.weight < FULL else 0.0  # all traffic is all traffic
    return high < share * declared.reach * (1 - slack)


def _leak(declared: Declared, block: BlockCount) -> Disagrees:
    window = _Window(block.canary, block.total, (0.0, 1.0))
    said = (
        f"{_counts(declared, window)} until {block.end:%H:%M:%S} UTC, after weight 0 was accepted. {_remedy(declared)}; "
        f"who calls the Service of {declared.version} directly must stop, too"
    )
    return Disagrees(said, _share(window))


def _remedy(declared: Declared) -> str:
    if not declared.per_request:
        return "Old connections stay with their pods: its pods are taken away"
    return "The gateway accepted the route but does not follow it: look at its proxies (restart those that serve an old configuration)"


def _share(window: _Window) -> float:
    return window.canary / window.total if window.total else 0.0


def _counts(declared: Declared, window: _Window) -> str:
    return (
        f"{declared.version} had {window.canary} of {window.total} requests"
        f" ({100 * _share(window):.1f} %) at weight {declared.weight}"
    )


def lasting(since: datetime | None, block: timedelta, now: datetime) -> bool:
    """True when a disagreement that began at `since` has outlasted LASTS blocks."""
    return since is not None and now >= since + LASTS * block
