"""A user's PromQL that gives one number, held against a bound: the form Argo Rollouts and Flagger users know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from espalier_operator.decisions.judge.queries import Arms, render
from espalier_operator.decisions.judge.readings import NoData, SourceDown
from espalier_operator.decisions.judge.verdict import DownReason

if TYPE_CHECKING:
    from datetime import timedelta

    from espalier_operator.decisions.judge.series import Vector

__all__ = ["UserQuery"]


@dataclass(frozen=True, slots=True)
class UserQuery:
    """PromQL with `$namespace`, `$model`, `$canary`, `$stable` `$window` filled in; one series, one number."""

    text: str
    window: timedelta

    def render(self, arms: Arms) -> str:
        """The text to send."""
        return render(self.text, arms, self.window)

    def value(self, vector: Vector, arms: Arms) -> float | NoData | SourceDown:
        """The number. Several series are a configuration error, not a reason to pick one."""
        if len(vector) == 0:
            return NoData("the query gives no series")
        if len(vector) > 1:
            message = (
                f"the query gives {len(vector)} series where one is expected; aggregate it, for example with sum()"
            )
            return SourceDown(DownReason.MISCONFIGURED, message)
        return vector.samples[0].value
