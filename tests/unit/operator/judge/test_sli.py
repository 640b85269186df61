"""An SLI from end to end on made-up answers: sample states, messages, restarts."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from espalier_operator.decisions.judge import (
    ArmCounts,
    Arms,
    Block,
    DownReason,
    EvidenceState,
    Query,
    SampleState,
    Schedule,
    SequentialParams,
    SequentialSli,
    SourceDown,
    ThresholdSli,
    VerdictKind,
)
from espalier_operator.decisions.judge.presets import Errors, Quality, Served, UserQuery
from espalier_operator.decisions.judge.sequential_sli import IDLE_BLOCKS
from espalier_operator.decisions.judge.series import Matrix, Sample, Vector
from espalier_operator.decisions.judge.threshold import ThresholdParams, ThresholdState

if TYPE_CHECKING:
    from collections.abc import Mapping

ARMS = Arms("vision", "digits", "v4", "v3")
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
STEP = timedelta(seconds=30)
MINUTE = timedelta(minutes=1)
ERRORS = SequentialSli(SequentialParams("errors"), Errors(MINUTE), Schedule())
QUALITY = SequentialSli(
    SequentialParams("quality", floor=0.0),
    Quality(MINUTE),
    Schedule(label_delay=timedelta(minutes=30)),
    Served(MINUTE),
)
DOWN = SourceDown(DownReason.REFUSED, "connection refused")


def block(index: int) -> Block:
    return Block(NOON + index * STEP, STEP)


def counter(version: str, value: float, **label: str) -> Sample:
    return Sample(
        {"namespace": "vision", "model": "digits", "version": version, "pod": version, "instance": "i", **label}, value
    )


class World:
    """Counters that a test pushes forward, answered at the ends of blocks."""

    def __init__(self, sli: SequentialSli) -> None:
        self.sli = sli
        self.state: Any = EvidenceState()
        self.index = 0
        self.values: dict[tuple[str, str, str], float] = {}

    def pass_block(self, **grown: float) -> Any:
        """`v4_error=3` lets that counter grow in the block; returns the look."""
        before = self._vectors()
        for name, amount in grown.items():
            version, value = name.split("_")
            label = "result" if value in {"correct", "wrong"} else "outcome"
            key = (version, label, value)
            self.values[key] = self.values.get(key, 0) + amount
        self.index += 1
        here = block(self.index)
        after = self._vectors()
        answers: dict[Query, Vector | SourceDown] = {}
        for query in self.sli.queries(here, ARMS):
            early = query.time in {here.start, here.start - self.sli.schedule.label_delay}
            answers[query] = self._pick(query, before if early else after)
        self.state, look = self.sli.take(self.state, here, ARMS, answers, {})
        return look

    def fail_block(self) -> Any:
        self.index += 1
        answers: Mapping[Query, SourceDown] = dict.fromkeys(self.sli.queries(block(self.index), ARMS), DOWN)
        self.state, look = self.sli.take(self.state, block(self.index), ARMS, answers, {})
        self.index -= 1
        return look

    def _vectors(self) -> list[tuple[str, Sample]]:
        defaults = {(version, "outcome", "ok"): 0.0 for version in ("v4", "v3")}
        defaults |= {(version, "result", "correct"): 0.0 for version in ("v4", "v3")}
        return [
            (label, counter(version, amount, **{label: value}))
            for (version, label, value), amount in {**defaults, **self.values}.items()
        ]

    @staticmethod
    def _pick(query: Query, samples: list[tuple[str, Sample]]) -> Vector:
        label = "result" if "feedback" in query.text else "outcome"
        return Vector([sample for each, sample in samples if each == label])


def test_a_healthy_canary_passes_once_it_has_requests() -> None:
    world = World(ERRORS)
    early = world.pass_block(v4_ok=10, v3_ok=90)
    assert early.state is SampleState.NO_DATA
    assert early.reason == "the canary has had 10 of 20 requests"
    look = world.pass_block(v4_ok=100, v3_ok=900, v3_error=3)
    assert (look.state, look.verdict.kind) == (SampleState.PASS, VerdictKind.CONTINUE)
    assert look.status["canary"] == "0/110 (0.00 %)"
    assert look.status["allowed"] == "1.1 x stable + 0.05 pp"


def test_a_bad_canary_is_suspected_then_fails() -> None:
    world = World(ERRORS)
    world.pass_block(v4_ok=99, v4_error=1, v3_ok=896, v3_error=4)
    suspected = world.pass_block(v4_ok=96, v4_error=4, v3_ok=895, v3_error=5)
    assert suspected.state is SampleState.INCONCLUSIVE  # E = 5.0, half-way to 20 is 4.5
    failed = world.pass_block(v4_ok=94, v4_error=6, v3_ok=897, v3_error=3)
    assert (failed.state, failed.verdict.kind) == (SampleState.BREACH, VerdictKind.FAIL)
    assert failed.status["evidence"] == 47.4224
    assert failed.verdict.sentence == failed.verdict.sentence.strip()


def test_an_outage_moves_nothing_and_is_told() -> None:
    world = World(ERRORS)
    world.pass_block(v4_ok=100, v3_ok=900)
    before = world.state
    look = world.fail_block()
    assert (look.state, look.down) == (SampleState.SOURCE_DOWN, DownReason.REFUSED)
    assert look.reason == "Refused: connection refused"
    assert look.status["message"] == look.reason
    assert world.state == before
    assert world.pass_block(v4_ok=100, v3_ok=900).state is SampleState.PASS  # the same block, later


def test_a_proven_breach_stays_one_through_an_outage() -> None:
    world = World(ERRORS)
    for _ in range(4):
        world.pass_block(v4_ok=50, v4_error=50, v3_ok=900, v3_error=4)
    assert world.fail_block().state is SampleState.BREACH


def test_missing_series_are_passed_by() -> None:
    world = World(ERRORS)
    world.pass_block(v4_ok=100, v3_ok=900)
    here = block(2)
    answers = {query: Vector([]) for query in ERRORS.queries(here, ARMS)}
    state, look = ERRORS.take(world.state, here, ARMS, answers, {})
    assert look.state is SampleState.NO_DATA
    assert state.last_block_end == here.end
    assert state.log_e == world.state.log_e


def test_silence_is_no_good_sign() -> None:
    world = World(ERRORS)
    assert world.pass_block(v4_ok=100, v3_ok=900).state is SampleState.PASS
    looks = [world.pass_block(v3_ok=900) for _ in range(IDLE_BLOCKS)]
    assert looks[-2].state is SampleState.PASS
    assert looks[-1].state is SampleState.NO_DATA
    assert "no request reached the canary for 10 blocks" in looks[-1].reason


def test_strict_promotion_needs_evidence_for_the_canary() -> None:
    strict = replace(ERRORS, params=replace(ERRORS.params, beta=0.05))
    world = World(strict)
    assert world.pass_block(v4_ok=600, v4_error=3, v3_ok=5373, v3_error=27).state is SampleState.INCONCLUSIVE
    for _ in range(9):
        look = world.pass_block(v4_ok=597, v4_error=3, v3_ok=5373, v3_error=27)
    assert (look.state, look.verdict.kind) == (SampleState.PASS, VerdictKind.PASS)
    assert "not 2x worse at 95% confidence" in look.verdict.sentence


def test_late_labels_look_back_for_what_was_served() -> None:
    here = block(1)
    times = {query.time for query in QUALITY.queries(here, ARMS) if "inference_requests_total" in query.text}
    assert times == {here.start - timedelta(minutes=30), here.end - timedelta(minutes=30)}


def test_unequal_label_coverage_refuses_a_verdict() -> None:
    world = World(QUALITY)
    for _ in range(5):  # of stable 90 % get a label, of the canary 30 %, mostly the wrong ones
        look = world.pass_block(v4_ok=100, v4_wrong=25, v4_correct=5, v3_ok=900, v3_wrong=10, v3_correct=800)
    assert look.verdict.evidence > look.verdict.abort_at
    assert (look.state, look.verdict.kind) == (SampleState.INCONCLUSIVE, VerdictKind.CONTINUE)
    assert look.reason == "label coverage of the arms differs by 67%; 20% at most"


def test_equal_label_coverage_judges() -> None:
    world = World(QUALITY)
    for _ in range(5):
        look = world.pass_block(v4_ok=100, v4_wrong=25, v4_correct=60, v3_ok=900, v3_wrong=10, v3_correct=800)
    assert (look.state, look.verdict.kind) == (SampleState.BREACH, VerdictKind.FAIL)


def test_a_restart_between_any_two_blocks_changes_no_look() -> None:
    straight, restarted = World(QUALITY), World(QUALITY)
    for index in range(6):
        grown = {"v4_ok": 100 + index, "v4_wrong": 9 + index, "v4_correct": 80, "v3_ok": 900, "v3_correct": 800}
        expected = straight.pass_block(**grown)
        restarted.state = QUALITY.restore(json.loads(json.dumps(restarted.state.to_status())))
        assert restarted.pass_block(**grown) == expected


def test_history_fixes_dispersion_before_the_first_block() -> None:
    (query,) = ERRORS.history_queries(ARMS, NOON)
    assert (query.end - query.start, query.step) == (timedelta(minutes=30), STEP)
    assert 'version=~"v3"' in query.text
    bursts = [0.0]
    for index in range(60):
        bursts.append(bursts[-1] + (30 if index % 10 == 0 else 0))
    steps = tuple(
        (
            query.start + index * STEP,
            Vector([counter("v3", 900 * index, outcome="ok"), counter("v3", bursts[index], outcome="error")]),
        )
        for index in range(61)
    )
    state = ERRORS.begin(ARMS, [Matrix(steps)])
    assert state.dispersion > 3
    assert ERRORS.begin(ARMS, [Matrix(())]).dispersion_note.startswith("no history")


def test_a_shard_names_its_namespace_and_no_model() -> None:
    whole, shard = (ERRORS.queries(block(1), ARMS, sharded=sharded)[0].text for sharded in (False, True))
    assert 'namespace=~"vision"' not in whole
    assert 'namespace=~"vision"' in shard
    assert "digits" not in shard


def test_waiting_claims_nothing() -> None:
    look = ERRORS.wait("first block ends at 12:01:30 UTC")
    assert look.state is SampleState.INCONCLUSIVE
    assert "blocks" not in look.status
    assert ERRORS.wait(DOWN).state is SampleState.SOURCE_DOWN


# --- thresholds ----------------------------------------------------------------------------------------------------

QUERY = ThresholdSli(ThresholdParams("p99", maximum=0.02, failure_limit=1), UserQuery("p99", MINUTE), Schedule())


@pytest.mark.parametrize(
    "answer,state,kind",
    [
        (Vector([Sample({}, 0.01)]), SampleState.PASS, VerdictKind.CONTINUE),
        (Vector([Sample({}, 0.03)]), SampleState.BREACH, VerdictKind.FAIL),
        (Vector([]), SampleState.NO_DATA, VerdictKind.CONTINUE),
        (DOWN, SampleState.INCONCLUSIVE, VerdictKind.CONTINUE),
        (Vector([Sample({"a": "b"}, 1), Sample({}, 2)]), SampleState.SOURCE_DOWN, VerdictKind.CONTINUE),
    ],
)
def test_a_threshold_after_two_looks(answer: Vector | SourceDown, state: SampleState, kind: VerdictKind) -> None:
    current: Any = ThresholdState()
    for index in (1, 2):
        (query,) = QUERY.queries(block(index), ARMS)
        current, look = QUERY.take(current, block(index), ARMS, {query: answer}, {})
        current = QUERY.restore(json.loads(json.dumps(look.status)))
    assert (look.state, look.verdict.kind) == (state, kind)


def test_arm_counts_of_a_look_are_the_sums() -> None:
    world = World(ERRORS)
    for _ in range(3):
        look = world.pass_block(v4_ok=100, v3_ok=900)
    assert look.requests == 300
    assert world.state.stable == ArmCounts(2700, 0)
