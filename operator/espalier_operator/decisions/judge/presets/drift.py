"""Drift: the population stability index of the canary's inputs against its training data, worst feature, held against
a bound.

    PSI = sum over bins of (P - Q) * ln(P / Q),   P: share of served inputs, Q: share of training inputs

Without drift PSI is noise of about (bins - 1) / inputs, so fewer than `MIN_OBSERVATIONS` inputs are no data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from espalier_api import metrics
from espalier_operator.decisions.judge.queries import Arms, promql_duration
from espalier_operator.decisions.judge.readings import NoData, SourceDown
from espalier_operator.decisions.judge.verdict import DownReason

if TYPE_CHECKING:
    from datetime import timedelta

    from espalier_operator.decisions.judge.series import Vector

__all__ = ["MIN_OBSERVATIONS", "Drift"]

MIN_OBSERVATIONS: Final = 1000
_SMALLEST_SHARE: Final = "1e-4"
_FEATURE = "namespace,model,version,feature"


@dataclass(frozen=True, slots=True)
class Drift:
    """Largest PSI over features within the last `window`."""

    window: timedelta

    def render(self, arms: Arms) -> str:
        """One text for the fleet; it does not depend on the model."""
        seen = f"increase({metrics.FEATURE_OBSERVATIONS.name}[{promql_duration(self.window)}])"
        total = f"sum by ({_FEATURE}) ({seen})"
        share = f"sum by ({_FEATURE},bin) ({seen}) / ignoring(bin) group_left() ({total} >= {MIN_OBSERVATIONS})"
        p = f"clamp_min({share}, {_SMALLEST_SHARE})"
        q = f"clamp_min(max by ({_FEATURE},bin) ({metrics.FEATURE_REFERENCE.name}), {_SMALLEST_SHARE})"
        return f"max by (namespace,model,version) (sum by ({_FEATURE}) (({p} - {q}) * ln({p} / {q})))"

    def value(self, vector: Vector, arms: Arms) -> float | NoData | SourceDown:
        """The canary's PSI."""
        mine = [s.value for s in vector.of(arms.namespace, arms.model) if s.labels.get("version") == arms.canary]
        if not mine:
            return NoData(
                f"no PSI of {arms.canary} yet: it needs {MIN_OBSERVATIONS} inputs per feature and a reference"
            )
        if len(mine) > 1:
            return SourceDown(DownReason.MALFORMED, f"{len(mine)} PSI values of {arms.canary} where one is expected")
        return mine[0]
