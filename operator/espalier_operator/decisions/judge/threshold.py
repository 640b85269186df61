"""Threshold mode: one number against a bound, with the counting rules that Argo Rollouts and Flagger users know.

Failed measurements add up over the whole canary (not only in a row); more than `failure_limit` of them fail it. Argo's
`failureLimit` is ours; Flagger's `threshold` is `failure_limit + 1` with `on_no_data: Fail`. Other than both, an answer
that never came is no failed measurement: up to `consecutive_error_limit` errors in a row are shrugged off, more of
them are ``SourceDown``, which holds the rollout. There is no guarantee on false aborts here; the sequential judge has
one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from espalier_api.durations import format_time
from espalier_operator.decisions.judge.evidence import read_time
from espalier_operator.decisions.judge.readings import NoData, SourceDown
from espalier_operator.decisions.judge.verdict import DownReason, SampleState, Verdict, VerdictKind

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

__all__ = ["OnNoData", "ThresholdParams", "ThresholdState", "judge_threshold", "measure"]


class OnNoData(StrEnum):
    """What an empty answer is: unknown (we wait), a failed measurement (Flagger's way), or fine."""

    INCONCLUSIVE = "Inconclusive"
    FAIL = "Fail"
    PASS = "Pass"  # noqa: S105 - a policy, no password


@dataclass(frozen=True, slots=True)
class ThresholdParams:
    """Bounds are inclusive: a value equal to `maximum` or `minimum` is within."""

    name: str
    minimum: float | None = None
    maximum: float | None = None
    failure_limit: int = 0
    consecutive_error_limit: int = 4
    on_no_data: OnNoData = OnNoData.INCONCLUSIVE

    def __post_init__(self) -> None:
        """Raises ValueError without a bound: a gate with no condition is never a pass."""
        if self.minimum is None and self.maximum is None:
            raise ValueError(f"SLI {self.name}: a query needs min or max; without a bound it can never fail")

    def within(self, value: float) -> bool:
        """True when the value is inside every bound."""
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        return low <= value <= high

    @property
    def bounds(self) -> str:
        """`min 0.9`, `max 0.02` or both."""
        named = (("min", self.minimum), ("max", self.maximum))
        return " and ".join(f"{word} {bound:g}" for word, bound in named if bound is not None)


@dataclass(frozen=True, slots=True)
class ThresholdState:
    """Everything seen of one threshold SLI since the canary's first look. `sample` is what the latest look saw."""

    failures: int = 0
    blocks: int = 0
    consecutive_errors: int = 0
    value: float | None = None
    last_block_end: datetime | None = None
    sample: SampleState = SampleState.INCONCLUSIVE

    def to_status(self) -> dict[str, Any]:
        """The part of an SLI's status that a restart needs, as JSON."""
        status: dict[str, Any] = {
            "blocks": self.blocks,
            "failures": self.failures,
            "errorsInARow": self.consecutive_errors,
        }
        if self.value is not None:
            status["value"] = self.value
        if self.last_block_end is not None:
            status["lastBlockEnd"] = format_time(self.last_block_end)
        return status

    @classmethod
    def from_status(cls, status: Mapping[str, Any]) -> ThresholdState:
        """The state that `to_status` wrote."""
        value = status.get("value")
        return cls(
            failures=int(status.get("failures", 0)),
            blocks=int(status.get("blocks", 0)),
            consecutive_errors=int(status.get("errorsInARow", 0)),
            value=None if value is None else float(value),
            last_block_end=read_time(status.get("lastBlockEnd")),
            sample=SampleState(status.get("state") or SampleState.INCONCLUSIVE),
        )


def measure(
    state: ThresholdState, end: datetime, seen: float | NoData | SourceDown, params: ThresholdParams
) -> ThresholdState:
    """State after one look. A look that is not newer than the last one changes nothing."""
    if state.last_block_end is not None and end <= state.last_block_end:
        return state
    if isinstance(seen, float) and not math.isfinite(seen):
        seen = SourceDown(DownReason.NOT_A_NUMBER, f"the query gives {seen}")
    if isinstance(seen, SourceDown):
        errors = state.consecutive_errors + 1
        down = errors > params.consecutive_error_limit or seen.reason is DownReason.MISCONFIGURED
        sample = SampleState.SOURCE_DOWN if down else SampleState.INCONCLUSIVE
        return replace(state, consecutive_errors=errors, value=None, last_block_end=end, sample=sample)
    sample = _sample(seen, params)
    return replace(
        state,
        failures=state.failures + (sample is SampleState.BREACH),
        blocks=state.blocks + 1,
        consecutive_errors=0,
        value=None if isinstance(seen, NoData) else seen,
        last_block_end=end,
        sample=sample,
    )


def judge_threshold(state: ThresholdState, params: ThresholdParams) -> Verdict:
    """Verdict so far; `evidence` counts failed measurements and `abort_at` is the number that fails the canary."""
    abort_at = params.failure_limit + 1
    kind = VerdictKind.FAIL if state.failures >= abort_at else VerdictKind.CONTINUE
    value = "no value" if state.value is None else f"{state.value:.6g}"
    relation = "≥" if state.failures >= abort_at else "of"
    sentence = f"{params.name}: {value} ({params.bounds}), failed measurements {state.failures} {relation} {abort_at}"
    return Verdict(kind, float(state.failures), float(abort_at), None, sentence)


def _sample(seen: float | NoData, params: ThresholdParams) -> SampleState:
    if not isinstance(seen, NoData):
        return SampleState.PASS if params.within(seen) else SampleState.BREACH
    return {
        OnNoData.INCONCLUSIVE: SampleState.NO_DATA,
        OnNoData.FAIL: SampleState.BREACH,
        OnNoData.PASS: SampleState.PASS,
    }[params.on_no_data]
