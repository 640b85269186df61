"""Numbers worked out by hand (design, section 1.3): if one moves, the judge is another judge."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from espalier_operator.decisions.judge import (
    ArmCounts,
    BlockCounts,
    EvidenceState,
    SequentialParams,
    VerdictKind,
    advance,
    judge,
    split_alpha,
)
from espalier_operator.decisions.judge.eprocess import CAP, log_mean_exp
from espalier_operator.decisions.judge.evidence import HARMS

START = datetime(2026, 11, 1, tzinfo=UTC)
EXAMPLE = ((100, 1, 900, 4), (100, 4, 900, 5), (100, 6, 900, 3))  # n_c, k_c, n_s, k_s
STRICT = SequentialParams("errors", ratio=1.0, floor=0.0, cap=math.inf)
MARGIN = SequentialParams("errors", cap=math.inf)
DEFAULT = SequentialParams("errors")


def block(index: int, n_c: float, k_c: float, n_s: float, k_s: float) -> BlockCounts:
    return BlockCounts(START + timedelta(seconds=30 * index), ArmCounts(n_c, k_c), ArmCounts(n_s, k_s))


def run(params: SequentialParams, *counts: tuple[float, float, float, float]) -> EvidenceState:
    state = EvidenceState()
    for index, numbers in enumerate(counts):
        state = advance(state, block(index, *numbers), params)
    return state


@pytest.mark.parametrize(
    "params,log_e,evidence",
    [
        (STRICT, (-0.144934, 2.371878, 9.008169), (0.8651, 10.7175, 8169.5461)),
        (MARGIN, (-0.267723, 1.911182, 7.785711), (0.7651, 6.7611, 2405.9771)),
        (DEFAULT, (-0.267723, 1.608537, 3.859095), (0.7651, 4.9955, 47.4224)),
    ],
    ids=["strict", "margin", "margin and cap"],
)
def test_worked_example(params: SequentialParams, log_e: tuple[float, ...], evidence: tuple[float, ...]) -> None:
    for blocks in (1, 2, 3):
        state = run(params, *EXAMPLE[:blocks])
        assert log_mean_exp(state.log_e) == pytest.approx(log_e[blocks - 1], abs=5e-7)
        assert judge(state, params).evidence == pytest.approx(evidence[blocks - 1], abs=5e-5)


def test_the_worked_example_fails_at_the_third_block_and_says_why() -> None:
    assert judge(run(DEFAULT, *EXAMPLE[:2]), DEFAULT).kind is VerdictKind.CONTINUE
    verdict = judge(run(DEFAULT, *EXAMPLE), DEFAULT)
    assert verdict.kind is VerdictKind.FAIL
    assert verdict.at_least == 2
    assert verdict.sentence == (
        "errors: canary 11/300 (3.67 %) vs stable 12/2700 (0.44 %), at least 2x worse, evidence 47 ≥ 20"
    )


def test_one_hypothesis_alone() -> None:
    """G = 2: 4 ln(20/11) + 5 ln(10/11)."""
    state = run(STRICT, EXAMPLE[1])
    assert state.log_e[HARMS.index(2.0)] == pytest.approx(1.914797, abs=5e-7)
    assert state.log_e[HARMS.index(2.0)] == pytest.approx(4 * math.log(20 / 11) + 5 * math.log(10 / 11), abs=2e-9)


def test_evidence_for_the_canary() -> None:
    params = SequentialParams("errors", beta=0.05)
    state = run(params, *[(600, 3, 5400, 27)] * 10)
    assert log_mean_exp(state.pass_log_e) == pytest.approx(6.563006, abs=5e-7)
    assert judge(state, params).kind is VerdictKind.PASS
    assert judge(state, DEFAULT).kind is VerdictKind.CONTINUE  # nobody asked for it


def test_without_stable_errors_two_blocks_are_needed() -> None:
    strict = judge(run(STRICT, (60, 3, 540, 0)), STRICT)
    assert strict.evidence == pytest.approx(110.51, abs=5e-3)
    capped = judge(run(DEFAULT, (60, 3, 540, 0)), DEFAULT)
    assert capped.evidence < 10
    assert capped.kind is VerdictKind.CONTINUE


def test_no_block_adds_more_than_the_cap() -> None:
    state = run(DEFAULT, (1000, 1000, 9000, 0))
    assert max(state.log_e) <= CAP


def test_without_stable_traffic_there_is_no_evidence() -> None:
    assert run(STRICT, (100, 50, 0, 0)).log_e == (0.0,) * len(HARMS)


def test_without_canary_traffic_there_is_no_evidence() -> None:
    state = run(DEFAULT, (0, 0, 900, 30))
    assert state.log_e == (0.0,) * len(HARMS)
    assert state.idle_blocks == 1


def test_dispersion_divides_the_evidence() -> None:
    calm, bursty = (advance(EvidenceState(dispersion=phi), block(0, *EXAMPLE[1]), MARGIN) for phi in (1.0, 2.0))
    assert bursty.log_e == pytest.approx([value / 2 for value in calm.log_e], abs=2e-9)


@pytest.mark.parametrize("counts,reason", [((19, 19, 900, 0), "requests"), ((1000, 2, 90_000, 0), "bad events")])
def test_few_events_prove_nothing(counts: tuple[int, int, int, int], reason: str) -> None:
    params = SequentialParams("errors", alpha=0.5, floor=0.0)
    verdict = judge(run(params, counts), params)
    assert verdict.evidence >= verdict.abort_at, reason
    assert verdict.kind is VerdictKind.CONTINUE


def test_one_block_never_convicts_a_calm_canary() -> None:
    """Half-way to 20 is 4.47: E was 1.0 before the last block, however bad that one is."""
    calm = run(MARGIN, (100, 0, 900, 9))
    shocked = advance(calm, block(1, 100, 60, 900, 9), MARGIN)
    assert judge(shocked, MARGIN).evidence > 1000
    assert judge(shocked, MARGIN).kind is VerdictKind.CONTINUE
    assert judge(advance(shocked, block(2, 100, 60, 900, 9), MARGIN), MARGIN).kind is VerdictKind.FAIL


def test_the_worked_example_was_suspected_before() -> None:
    assert run(DEFAULT, *EXAMPLE).before == pytest.approx(1.608537, abs=5e-7)  # E = 5.0 after two blocks


def test_alpha_is_shared_by_weight() -> None:
    assert split_alpha(0.05, [1, 1, 1]) == pytest.approx((0.05 / 3,) * 3)
    assert split_alpha(0.06, [2, 1]) == pytest.approx((0.04, 0.02))


def test_after_promotion_the_record_stands_in_for_stable() -> None:
    """One arm: k ln g - n (ratio*p + floor)(g - 1)."""
    params = SequentialParams("errors", baseline=0.005, ratio=2.0, floor=0.0, cap=math.inf)
    state = run(params, (1000, 50, 0, 0))
    assert state.log_e[HARMS.index(4.0)] == pytest.approx(50 * math.log(4) - 1000 * 0.01 * 3, abs=2e-9)
    state = run(params, (1000, 50, 0, 0), (1000, 50, 0, 0))
    assert judge(state, params).kind is VerdictKind.FAIL
    assert "vs the recorded 0.50 %" in judge(state, params).sentence


def test_the_bound_climbs_rung_by_rung() -> None:
    """Only all ratios up to one, rejected together, bound the harm with one alpha: a rung is never jumped."""
    low, high = (-9.0,) * len(HARMS), (9.0,) * len(HARMS)
    nothing = block(0, 0, 0, 0, 0)
    rungs = len(EvidenceState().ladder)
    jumped = EvidenceState(ladder=(low, *[high] * (rungs - 1)))
    assert advance(jumped, nothing, DEFAULT).at_least is None
    climbed = EvidenceState(ladder=(high, high, high, low, *[high] * (rungs - 4)))
    assert advance(climbed, nothing, DEFAULT).at_least == 1.25


def test_a_very_old_harm_does_not_overflow() -> None:
    state = run(SequentialParams("errors", cap=math.inf), *[(10_000, 9000, 90_000, 0)] * 3)
    verdict = judge(state, DEFAULT)
    assert math.isfinite(verdict.evidence)
    assert "evidence >10000 ≥ 20" in verdict.sentence
    assert verdict.at_least == 10
