"""Counts from a user's own PromQL: raw counters with a label `version`, one text for all events, one for the bad."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from espalier_operator.decisions.judge.presets.base import Weight
from espalier_operator.decisions.judge.queries import Arms, render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from espalier_operator.decisions.judge.series import Sample

__all__ = ["UserCounts", "refuse_rates"]

_RATES = re.compile(r"\b(rate|irate|increase|delta|idelta|deriv)\s*\(")


@dataclass(frozen=True, slots=True)
class UserCounts:
    """`total` and `bad`: PromQL that yields raw counters; `$namespace`, `$model` and `$window` are filled in.

    Arms are told apart by the label `version` of the result. Differences between the ends of a block are ours to take.
    """

    total: str
    bad: str
    window: timedelta
    fleet: bool = False

    def texts(self, arms: Arms, matchers: Mapping[str, str]) -> tuple[str, ...]:
        """The user's texts; narrowing them is not ours."""
        return render(self.total, arms, self.window), render(self.bad, arms, self.window)

    def weigh(self, index: int, labels: Mapping[str, str]) -> Weight:
        """First text: all events; second: bad ones."""
        return Weight(1, 0) if index == 0 else Weight(0, 1)

    def problem(self, answers: Sequence[Sequence[Sample]]) -> str | None:
        """Without a version nobody can tell the arms apart."""
        for field, samples in zip(("total", "bad"), answers, strict=True):
            if any("version" not in sample.labels for sample in samples):
                return f"counts.{field} gives series without the label version; keep it: max by (version, pod) (…)"
        return None


def refuse_rates(text: str) -> str | None:
    """Why a text for `counts` is refused, or None: a rate has lost its first events and must not be differenced."""
    if (match := _RATES.search(text)) is None:
        return None
    return f"uses {match.group(1)}(); give the raw counter, the judge takes differences itself (docs/analysis.md)"
