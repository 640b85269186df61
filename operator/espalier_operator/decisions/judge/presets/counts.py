"""Counts from a user's own PromQL: raw counters of all events and of the bad ones, per version."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from espalier_operator.decisions.judge.presets.base import Weight
from espalier_operator.decisions.judge.queries import Arms, render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from espalier_operator.decisions.judge.series import Sample

__all__ = ["UserCounts", "refuse_rates"]

_RATES: Final = re.compile(r"\b(rate|irate|increase|delta|idelta|deriv)\s*\(")


@dataclass(frozen=True, slots=True)
class UserCounts:
    """`total` and `bad`: PromQL that yields raw counters; `$namespace`, `$model`, `$version`, `$window` are filled in.

    With `$version` each text is asked once per arm; without it once, and the result's label `version` tells the arms
    apart. Differences between the ends of a block are ours to take.
    """

    total: str
    bad: str
    window: timedelta
    fleet: bool = False

    def texts(self, arms: Arms, matchers: Mapping[str, str]) -> tuple[str, ...]:
        """Totals then bad ones; of the canary and then of stable where they are asked for apart."""
        versions = (arms.canary, arms.stable) if self._per_version else (None,)
        return tuple(
            render(text, arms, self.window, version) for version in versions for text in (self.total, self.bad)
        )

    def version(self, index: int, labels: Mapping[str, str], arms: Arms) -> str | None:
        """By the text that gave it, or by its label."""
        if self._per_version:
            return arms.canary if index < len((self.total, self.bad)) else arms.stable
        return labels.get("version")

    def weigh(self, index: int, labels: Mapping[str, str]) -> Weight:
        """Even texts count all events, odd ones the bad."""
        return Weight(0, 1) if index % 2 else Weight(1, 0)

    def problem(self, answers: Sequence[Sequence[Sample]]) -> str | None:
        """Without a version nobody can tell the arms apart."""
        if self._per_version or all("version" in sample.labels for samples in answers for sample in samples):
            return None
        return "counts: a series has no label version; keep it in the expression, or select one version with $version"

    @property
    def _per_version(self) -> bool:
        return "$version" in self.total or "$version" in self.bad


def refuse_rates(text: str) -> str | None:
    """Why a text for `counts` is refused, or None: a rate has lost its first events and must not be differenced."""
    if (match := _RATES.search(text)) is None:
        return None
    return f"uses {match.group(1)}(); give the raw counter, the judge takes differences itself (docs/analysis.md)"
