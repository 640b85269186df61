"""PromQL that a fleet shares: one text per metric and instant for all rollouts of a source, split by labels afterwards.

The text must not mention a model, or the cost would grow with the number of rollouts. `max by` drops labels nobody
needs and counts a target once that two scrape jobs or two Prometheus replicas found. `last_over_time` keeps the last
value of a pod that is gone and bridges a missed scrape; the window is at least four scrapes long.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Arms", "Query", "RangeQuery", "counter_text", "edge_pattern", "escape", "is_edge", "promql_duration"]

SCRAPES_PER_WINDOW: Final = 4
SERIES_LABELS: Final = ("namespace", "model", "version", "pod", "instance")
"""What every counter is kept by: whose it is, and which process counted it."""

_VARIABLE = re.compile(r"\$(namespace|model|canary|stable|version|window)\b")


@dataclass(frozen=True, slots=True)
class Arms:
    """Which versions of which model are compared."""

    namespace: str
    model: str
    canary: str
    stable: str


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL at one instant. Equal queries have equal answers, so a fleet asks once."""

    text: str
    time: datetime


@dataclass(frozen=True, slots=True)
class RangeQuery:
    """PromQL at every `step` from `start` to `end`, both included."""

    text: str
    start: datetime
    end: datetime
    step: timedelta


def counter_text(metric: str, label: str, matchers: Mapping[str, str], window: timedelta) -> str:
    """Raw values of a counter by series and `label`; `matchers` are regular expressions that the caller has written."""
    selector = ",".join(f'{name}=~"{escape(pattern)}"' for name, pattern in sorted(matchers.items()))
    by = ",".join((*SERIES_LABELS, label))
    return f"max by ({by}) (last_over_time({metric}{{{selector}}}[{promql_duration(window)}]))"


def lookback(interval: timedelta, scrape_interval: timedelta) -> timedelta:
    """Window of `last_over_time`: a block, and never less than four scrapes."""
    return max(interval, SCRAPES_PER_WINDOW * scrape_interval)


def one_model(arms: Arms) -> dict[str, str]:
    """Matchers that narrow a text to stable's own past; only for reads that happen once per canary."""
    return {
        "namespace": re.escape(arms.namespace),
        "model": re.escape(arms.model),
        "version": re.escape(arms.stable),
    }


def edge_pattern(seconds: float) -> str:
    """Regular expression for a bucket edge however it is written: `0.2` and `0.20`; `1`, `1.0` and `1.`."""
    text = f"{seconds:.15g}"
    if "e" in text:
        return f"{re.escape(text)}|{re.escape(repr(seconds))}"
    whole, _, fraction = text.partition(".")
    return rf"{whole}\.{fraction}0*" if fraction else rf"{whole}(\.0*)?"


def is_edge(le: str, seconds: float) -> bool:
    """True when the bucket's `le` is this number of seconds."""
    try:
        return float(le) == seconds
    except ValueError:
        return False


def escape(text: str) -> str:
    """Quote for a PromQL string between double quotes."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def promql_duration(value: timedelta) -> str:
    """`30s`, `1500ms`: PromQL takes no fractions."""
    milliseconds = round(value / timedelta(milliseconds=1))
    return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"


def render(text: str, arms: Arms, window: timedelta, version: str | None = None) -> str:
    """Fill `$namespace`, `$model`, `$canary`, `$stable`, `$version`, `$window` into a user's text, quoted."""
    values = {
        "namespace": escape(arms.namespace),
        "model": escape(arms.model),
        "canary": escape(arms.canary),
        "stable": escape(arms.stable),
        "version": escape(version or arms.canary),
        "window": promql_duration(window),
    }
    return _VARIABLE.sub(lambda match: values[match.group(1)], text)
