"""An SLI that is one number against a bound, from end to end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from espalier_operator.decisions.judge.look import Look, waiting
from espalier_operator.decisions.judge.queries import Arms, Query, RangeQuery
from espalier_operator.decisions.judge.readings import NoData, SourceDown
from espalier_operator.decisions.judge.threshold import ThresholdState, judge_threshold, measure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from espalier_operator.decisions.judge.blocks import Block, Schedule
    from espalier_operator.decisions.judge.presets.drift import Drift
    from espalier_operator.decisions.judge.presets.query import UserQuery
    from espalier_operator.decisions.judge.read import Answer
    from espalier_operator.decisions.judge.series import Matrix
    from espalier_operator.decisions.judge.threshold import ThresholdParams

__all__ = ["ThresholdSli"]


@dataclass(frozen=True, slots=True)
class ThresholdSli:
    """An SLI that is one number against a bound."""

    params: ThresholdParams
    preset: UserQuery | Drift
    schedule: Schedule
    dry_run: bool = False

    @property
    def name(self) -> str:
        """The SLI's name in the spec."""
        return self.params.name

    def restore(self, status: Mapping[str, Any]) -> ThresholdState:
        """State from the SLI's status entry."""
        return ThresholdState.from_status(status)

    def history_queries(self, arms: Arms, started: datetime) -> tuple[RangeQuery, ...]:
        """A bound needs no past."""
        return ()

    def begin(self, arms: Arms, history: Sequence[Matrix]) -> ThresholdState:
        """A fresh state."""
        return ThresholdState()

    def queries(self, block: Block, arms: Arms, *, sharded: bool = False) -> tuple[Query, ...]:
        """One text at the block's end."""
        return (Query(self.preset.render(arms), block.end),)

    def take(
        self,
        state: ThresholdState,
        block: Block,
        arms: Arms,
        answers: Mapping[Query, Answer],
        pods: Mapping[str, datetime],
        *,
        sharded: bool = False,
    ) -> tuple[ThresholdState, Look]:
        """State and look after a block."""
        answer = answers[self.queries(block, arms)[0]]
        seen = answer if isinstance(answer, SourceDown) else self.preset.value(answer, arms)
        state = measure(state, block.end, seen, self.params)
        return state, self.look(state, seen if isinstance(seen, NoData | SourceDown) else None)

    def wait(self, why: str | SourceDown) -> Look:
        """What to tell before the first block."""
        return waiting(self.name, self.params.failure_limit + 1, why, min_requests=0, dry_run=self.dry_run)

    def look(self, state: ThresholdState, trouble: NoData | SourceDown | None = None) -> Look:
        """What to tell about a state, and about the trouble with the latest look if there was any."""
        verdict = judge_threshold(state, self.params)
        reason = trouble.message if trouble is not None else ""
        status = {
            "name": self.name,
            "state": state.sample.value,
            "verdict": verdict.kind.value,
            "evidence": verdict.evidence,
            "abortAt": verdict.abort_at,
            "allowed": self.params.bounds,
            **state.to_status(),
        }
        if reason:
            status["message"] = reason
        down = trouble.reason if isinstance(trouble, SourceDown) else None
        return Look(
            self.name, state.sample, verdict, 0.0, 0.0, self.dry_run, state.last_block_end, status, reason, down
        )
