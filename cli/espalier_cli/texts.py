"""Small pieces of text that several views share: ages, times left, bars, numbers."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from espalier_api.durations import format_duration

BAR = 20


def age(then: str | datetime | None, now: datetime) -> str:
    """`4m`, `3h`, `2d`: the largest unit, as kubectl prints it."""
    if then is None:
        return "-"
    if isinstance(then, str):
        then = datetime.fromisoformat(then)
    seconds = max(0, int((now - then).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length or (unit != "m" and seconds >= length):
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def left(value: timedelta | None) -> str:
    """`7m20s left`, or nothing."""
    return "" if value is None else f"{format_duration(timedelta(seconds=round(value.total_seconds())))} left"


def evidence_bar(evidence: float | None, abort_at: float | None) -> str:
    """Evidence on a logarithmic scale from 1 to the limit: `####----` and the numbers."""
    if evidence is None or not abort_at or abort_at <= 1:
        return ""
    part = math.log(max(evidence, 1.0)) / math.log(abort_at)
    full = min(BAR, round(BAR * part))
    return f"{'█' * full}{'·' * (BAR - full)} {number(evidence)}/{number(abort_at)}"


def share_bar(share: float) -> str:
    """A part of a whole."""
    full = round(BAR * min(max(share, 0.0), 1.0))
    return f"{'█' * full}{'·' * (BAR - full)} {share:.0%}"


def number(value: float | None) -> str:
    """Four significant digits, without noise."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10_000 and math.isfinite(value) else f"{value:.4g}"  # noqa: PLR2004 - four digits and more
