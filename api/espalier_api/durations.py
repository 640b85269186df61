"""Units of the API as types: durations are Go-style strings outside and `timedelta` inside, times are RFC 3339 UTC.

A duration is compared by value: `60s` and `1m` are the same spec and never make a new version.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$"
"""Go's units without ns and us, plus `d` = 24h, which SLO windows are written in."""

_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_duration(text: str) -> timedelta:
    """`1h30m`, `90s`, `250ms`, `3d` as a timedelta, exact to the millisecond. Raises ValueError that tells the form."""
    if not re.fullmatch(DURATION_PATTERN, text):
        raise ValueError(
            f"{text!r} is not a duration; write numbers with units ms, s, m, h or d, for example 90s or 1h30m"
        )
    return timedelta(milliseconds=sum(float(number) * _MILLISECONDS[unit] for number, unit in _PART.findall(text)))


def format_duration(value: timedelta) -> str:
    """The shortest canonical form: `1h30m`, `250ms`, `0s`. Days are written as hours, as Go does."""
    left = round(value / timedelta(milliseconds=1))
    if left < 0:
        raise ValueError(f"a duration cannot be negative: {value}")
    text = ""
    for unit in ("h", "m", "s", "ms"):
        count, left = divmod(left, _MILLISECONDS[unit])
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def _to_timedelta(value: Any) -> Any:  # noqa: ANN401 - validators see anything
    return parse_duration(value) if isinstance(value, str) else value


def _to_utc(value: Any) -> Any:  # noqa: ANN401 - validators see anything
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("a time needs its zone; write it in RFC 3339 with Z, for example 2026-11-01T03:00:00Z")
        return value.astimezone(UTC)
    return value


def format_time(value: datetime) -> str:
    """RFC 3339 in UTC with Z; fractions of a second only when there are any."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


Duration = Annotated[
    timedelta,
    BeforeValidator(_to_timedelta),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "maxLength": 32}),
]
"""A length of time: a Go-style string in manifests, a `timedelta` in Python."""

Timestamp = Annotated[
    datetime,
    BeforeValidator(_to_utc),
    PlainSerializer(format_time, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A point in time: RFC 3339 in JSON, an aware UTC `datetime` in Python."""
