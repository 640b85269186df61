"""Quality: predictions that feedback found wrong. Labels come late and not for all, so coverage is compared as well."""

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

__all__ = ["Quality", "Served"]

WRONG = "wrong"
ANSWERED = "ok"


@dataclass(frozen=True, slots=True)
class Quality:
    """`model_feedback_total{result}` of the version that predicted; bad: `wrong`."""

    window: timedelta
    fleet: bool = True

    def texts(self, arms: Arms, matchers: Mapping[str, str]) -> tuple[str, ...]:
        """One text for the fleet."""
        return (counter_text(metrics.FEEDBACK.name, "result", matchers, self.window),)

    def version(self, index: int, labels: Mapping[str, str], arms: Arms) -> str | None:
        """The server labels its series."""
        return labels.get("version")

    def weigh(self, index: int, labels: Mapping[str, str]) -> Weight:
        """Every label is one prediction judged."""
        return Weight(1, 1 if labels.get("result") == WRONG else 0)

    def problem(self, answers: Sequence[Sequence[Sample]]) -> str | None:
        """Nothing can be wrong with it."""
        return None


@dataclass(frozen=True, slots=True)
class Served:
    """Predictions given, whether or not a label ever comes: the denominator of coverage."""

    window: timedelta
    fleet: bool = True

    def texts(self, arms: Arms, matchers: Mapping[str, str]) -> tuple[str, ...]:
        """One text for the fleet."""
        return (
            counter_text(metrics.INFERENCE_REQUESTS.name, "outcome", {**matchers, "outcome": ANSWERED}, self.window),
        )

    def version(self, index: int, labels: Mapping[str, str], arms: Arms) -> str | None:
        """The server labels its series."""
        return labels.get("version")

    def weigh(self, index: int, labels: Mapping[str, str]) -> Weight:
        """Only answered requests can get a label."""
        return Weight(1, 0)

    def problem(self, answers: Sequence[Sequence[Sample]]) -> str | None:
        """Nothing can be wrong with it."""
        return None
