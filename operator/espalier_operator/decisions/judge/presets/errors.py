"""Errors: requests the server failed, among those that reached the model (not the invalid and throttled ones)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from espalier_api import metrics
from espalier_operator.decisions.judge.presets.base import Weight
from espalier_operator.decisions.judge.queries import Arms, counter_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from espalier_operator.decisions.judge.series import Sample

__all__ = ["JUDGED_OUTCOMES", "Errors"]

JUDGED_OUTCOMES = ("ok", "rejected", *metrics.BAD_OUTCOMES)


@dataclass(frozen=True, slots=True)
class Errors:
    """`inference_requests_total{outcome}`; bad: `error`."""

    window: timedelta
    fleet: bool = True

    def texts(self, arms: Arms, matchers: Mapping[str, str]) -> tuple[str, ...]:
        """One text for the fleet."""
        outcomes = {"outcome": "|".join(JUDGED_OUTCOMES)}
        return (counter_text(metrics.INFERENCE_REQUESTS.name, "outcome", {**matchers, **outcomes}, self.window),)

    def version(self, index: int, labels: Mapping[str, str], arms: Arms) -> str | None:
        """The server labels its series."""
        return labels.get("version")

    def weigh(self, index: int, labels: Mapping[str, str]) -> Weight:
        """Every judged outcome is a request."""
        return Weight(1, 1 if labels.get("outcome") in metrics.BAD_OUTCOMES else 0)

    def problem(self, answers: Sequence[Sequence[Sample]]) -> str | None:
        """Nothing can be wrong with it: outcomes without a series have not happened."""
        return None
