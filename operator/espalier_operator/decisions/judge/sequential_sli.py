"""An SLI on counts, from end to end: which PromQL a block needs, what the answers mean, what a person is told."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from espalier_operator.decisions.judge.counts import BlockCounts
from espalier_operator.decisions.judge.dispersion import HISTORY_BLOCKS, measure_dispersion
from espalier_operator.decisions.judge.eprocess import MAX_COVERAGE_GAP, SUSPICION, advance, coverage_gap, judge, skip
from espalier_operator.decisions.judge.evidence import BOUND_UNITS, EvidenceState, floor_to
from espalier_operator.decisions.judge.look import Look, waiting
from espalier_operator.decisions.judge.queries import Arms, Query, RangeQuery, one_model
from espalier_operator.decisions.judge.read import read_block, read_history
from espalier_operator.decisions.judge.readings import NoData, SourceDown
from espalier_operator.decisions.judge.verdict import SampleState, Verdict, VerdictKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from espalier_operator.decisions.judge.blocks import Block, Schedule
    from espalier_operator.decisions.judge.eprocess import SequentialParams
    from espalier_operator.decisions.judge.presets.base import CountPreset
    from espalier_operator.decisions.judge.presets.quality import Served
    from espalier_operator.decisions.judge.read import Answer
    from espalier_operator.decisions.judge.readings import Reading
    from espalier_operator.decisions.judge.series import Matrix

__all__ = ["SequentialSli"]

IDLE_BLOCKS: Final = 10
"""So many blocks in a row without one canary request are silence, not a good sign."""
_SHOWN_EVIDENCE: Final = 1e6
_NOW: Final = timedelta(0)


@dataclass(frozen=True, slots=True)
class SequentialSli:
    """An SLI on counts, judged by the e-process. `served` compares label coverage where labels are delayed."""

    params: SequentialParams
    preset: CountPreset
    schedule: Schedule
    served: Served | None = None
    dry_run: bool = False

    @property
    def name(self) -> str:
        """The SLI's name in the spec."""
        return self.params.name

    def restore(self, status: Mapping[str, Any]) -> EvidenceState:
        """State from the SLI's status entry."""
        return EvidenceState.from_status(status)

    def history_queries(self, arms: Arms, started: datetime) -> tuple[RangeQuery, ...]:
        """What stable's dispersion is measured on: one range query per text, once per canary."""
        start, end = self.schedule.history(started, HISTORY_BLOCKS)
        texts = self.preset.texts(arms, one_model(arms))
        return tuple(RangeQuery(text, start, end, self.schedule.interval) for text in texts)

    def begin(self, arms: Arms, history: Sequence[Matrix]) -> EvidenceState:
        """A fresh state that knows how bursty stable was."""
        measured = measure_dispersion(read_history(self.preset, arms, history))
        return EvidenceState(dispersion=measured.phi, dispersion_note=measured.note)

    def queries(self, block: Block, arms: Arms, *, sharded: bool = False) -> tuple[Query, ...]:
        """Everything a block needs, boundary by boundary; the end of one block is the start of the next."""
        return tuple(query for pair in self._boundaries(block, arms, sharded=sharded) for query in pair)

    def take(
        self,
        state: EvidenceState,
        block: Block,
        arms: Arms,
        answers: Mapping[Query, Answer],
        pods: Mapping[str, datetime],
        *,
        sharded: bool = False,
    ) -> tuple[EvidenceState, Look]:
        """State and look after a block. A source that is down moves nothing: the block is read again later."""
        seen = self._read(block, arms, answers, pods, sharded=sharded)
        if isinstance(seen, BlockCounts):
            state = advance(state, seen, self.params)
        elif isinstance(seen, NoData):
            state = skip(state, BlockCounts(block.end))
        return state, self.look(state, seen if not isinstance(seen, BlockCounts) else None)

    def wait(self, why: str | SourceDown) -> Look:
        """What to tell before the first block."""
        return waiting(
            self.name, self.params.abort_at, why, min_requests=self.params.min_requests, dry_run=self.dry_run
        )

    def look(self, state: EvidenceState, trouble: NoData | SourceDown | None = None) -> Look:
        """What to tell about a state, and about the trouble with the latest block if there was any."""
        verdict = judge(state, self.params)
        sample, reason = self._sample(state, verdict, trouble)
        status = {
            "name": self.name,
            "state": sample.value,
            "verdict": verdict.kind.value,
            "evidence": floor_to(min(verdict.evidence, _SHOWN_EVIDENCE), BOUND_UNITS),
            "abortAt": floor_to(verdict.abort_at, BOUND_UNITS),
            "canary": str(state.canary),
            "stable": str(state.stable),
            "allowed": self.allowed,
            **state.to_status(),
        }
        if reason:
            status["message"] = reason
        return Look(
            self.name,
            sample,
            verdict,
            state.canary.total,
            self.params.min_requests,
            self.dry_run,
            state.last_block_end,
            status,
            reason,
            trouble.reason if isinstance(trouble, SourceDown) else None,
        )

    @property
    def allowed(self) -> str:
        """`1.1 x stable + 0.05 pp`."""
        of = "stable" if self.params.baseline is None else f"{100 * self.params.baseline:.2f} %"
        return f"{self.params.ratio:g} x {of} + {100 * self.params.floor:g} pp"

    def _boundaries(self, block: Block, arms: Arms, *, sharded: bool) -> tuple[tuple[Query, ...], tuple[Query, ...]]:
        shard = {"namespace": re.escape(arms.namespace)} if sharded else {}
        plan = [(text, _NOW) for text in self.preset.texts(arms, shard)]
        if self.served is not None:
            plan += [(text, self.schedule.label_delay) for text in self.served.texts(arms, shard)]
        start, end = (
            tuple(Query(text, boundary - delay) for text, delay in plan) for boundary in (block.start, block.end)
        )
        return start, end

    def _read(
        self,
        block: Block,
        arms: Arms,
        answers: Mapping[Query, Answer],
        pods: Mapping[str, datetime],
        *,
        sharded: bool,
    ) -> Reading:
        sides = [[answers[query] for query in side] for side in self._boundaries(block, arms, sharded=sharded)]
        own = len(sides[0]) - (self.served is not None)
        seen = read_block(self.preset, block, arms, (sides[0][:own], sides[1][:own]), pods)
        if self.served is None or not isinstance(seen, BlockCounts):
            return seen
        then = replace(block, end=block.end - self.schedule.label_delay)
        given = read_block(self.served, then, arms, (sides[0][own:], sides[1][own:]), pods)
        if not isinstance(given, BlockCounts):
            return given
        return replace(seen, served=(given.canary.total, given.stable.total))

    def _sample(
        self, state: EvidenceState, verdict: Verdict, trouble: NoData | SourceDown | None
    ) -> tuple[SampleState, str]:
        """What this look saw, and why where it is not plain. A breach that was proven stays proven."""
        if verdict.kind is VerdictKind.FAIL:
            return SampleState.BREACH, ""
        if isinstance(trouble, SourceDown):
            return SampleState.SOURCE_DOWN, f"{trouble.reason.value}: {trouble.message}"
        if isinstance(trouble, NoData):
            return SampleState.NO_DATA, trouble.message
        if state.canary.total < self.params.min_requests:
            need = f"{state.canary.total:g} of {self.params.min_requests:g} requests"
            return SampleState.NO_DATA, f"the canary has had {need}"
        if state.idle_blocks >= IDLE_BLOCKS:
            return SampleState.NO_DATA, f"no request reached the canary for {state.idle_blocks} blocks"
        return self._weighed(state, verdict)

    def _weighed(self, state: EvidenceState, verdict: Verdict) -> tuple[SampleState, str]:
        """Pass or Inconclusive: more than half-way (on the log scale) to a Fail is not a Pass."""
        if (gap := coverage_gap(state)) > MAX_COVERAGE_GAP:
            return (
                SampleState.INCONCLUSIVE,
                f"label coverage of the arms differs by {gap:.0%}; {MAX_COVERAGE_GAP:.0%} at most",
            )
        if verdict.evidence >= verdict.abort_at**SUSPICION:
            return SampleState.INCONCLUSIVE, "evidence against the canary, not enough for a verdict"
        if self.params.beta is not None and verdict.kind is not VerdictKind.PASS:
            return SampleState.INCONCLUSIVE, "not enough evidence for the canary yet"
        return SampleState.PASS, ""
