"""Laws of the judge that hold for all counts, not only for those we thought of."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from espalier_operator.decisions.judge import (
    ArmCounts,
    BlockCounts,
    EvidenceState,
    SequentialParams,
    VerdictKind,
    advance,
    judge,
    skip,
)
from espalier_operator.decisions.judge.eprocess import log_mean_exp

if TYPE_CHECKING:
    from random import Random

START = datetime(2026, 11, 1, tzinfo=UTC)
DEFAULT = SequentialParams("errors", beta=0.05)
UNCAPPED = replace(DEFAULT, cap=math.inf)


def at(index: int) -> datetime:
    return START + timedelta(seconds=30 * index)


@st.composite
def arms(draw: st.DrawFn, largest: int = 5000) -> ArmCounts:
    total = draw(st.integers(0, largest))
    return ArmCounts(total, draw(st.integers(0, total)))


def blocks(most: int = 12) -> st.SearchStrategy[list[BlockCounts]]:
    pairs = st.lists(st.tuples(arms(), arms()), max_size=most)
    return pairs.map(lambda each: [BlockCounts(at(i), canary, stable) for i, (canary, stable) in enumerate(each)])


def run(history: list[BlockCounts], params: SequentialParams = DEFAULT, phi: float = 1.0) -> EvidenceState:
    state = EvidenceState(dispersion=phi)
    for block in history:
        state = advance(state, block, params)
    return state


@given(blocks(), st.sampled_from([1.0, 1.7]))
def test_a_restart_after_every_block_changes_nothing(history: list[BlockCounts], phi: float) -> None:
    state = EvidenceState(dispersion=phi)
    for block in history:
        state = EvidenceState.from_status(json.loads(json.dumps(advance(state, block, DEFAULT).to_status())))
    assert state == run(history, phi=phi)


@given(blocks(), st.data())
def test_replay_is_idempotent(history: list[BlockCounts], data: st.DataObject) -> None:
    """Any earlier block may come again at any time."""
    state = EvidenceState()
    for index, block in enumerate(history):
        state = advance(state, block, DEFAULT)
        again = history[data.draw(st.integers(0, index))]
        assert advance(state, again, DEFAULT) == state
        assert skip(state, again) == state


@given(blocks(), st.randoms(use_true_random=False))
def test_the_order_of_blocks_does_not_matter(history: list[BlockCounts], random: Random) -> None:
    shuffled = list(history)
    random.shuffle(shuffled)
    shuffled = [replace(block, end=at(index)) for index, block in enumerate(shuffled)]
    assert run(shuffled).log_e == pytest.approx(run(history).log_e, abs=1e-7)


@given(arms(), arms(), st.integers(2, 5))
def test_splitting_a_block_at_equal_shares_changes_nothing(canary: ArmCounts, stable: ArmCounts, parts: int) -> None:
    """C depends on the shares only, so without a cap evidence adds up over any cut that keeps them."""
    whole = BlockCounts(
        at(0), ArmCounts(canary.total * parts, canary.bad * parts), ArmCounts(stable.total * parts, stable.bad * parts)
    )
    cut = [BlockCounts(at(index), canary, stable) for index in range(parts)]
    assert run(cut, UNCAPPED).log_e == pytest.approx(run([whole], UNCAPPED).log_e, rel=1e-9, abs=1e-7)


@given(arms(), arms(), st.integers(1, 50))
def test_more_bad_canary_events_are_never_less_evidence(canary: ArmCounts, stable: ArmCounts, more: int) -> None:
    worse = ArmCounts(canary.total, min(canary.bad + more, canary.total))
    before, after = (run([BlockCounts(at(0), arm, stable)]) for arm in (canary, worse))
    assert log_mean_exp(after.log_e) >= log_mean_exp(before.log_e) - 1e-9


@given(arms(), arms(), st.integers(1, 50))
def test_more_bad_stable_events_are_never_more_evidence(canary: ArmCounts, stable: ArmCounts, more: int) -> None:
    worse = ArmCounts(stable.total, min(stable.bad + more, stable.total))
    before, after = (run([BlockCounts(at(0), canary, arm)]) for arm in (stable, worse))
    assert log_mean_exp(after.log_e) <= log_mean_exp(before.log_e) + 1e-9


@given(blocks())
def test_a_proven_bound_is_never_taken_back(history: list[BlockCounts]) -> None:
    state, proven = EvidenceState(), 0.0
    for block in history:
        state = advance(state, block, DEFAULT)
        assert (state.at_least or 0.0) >= proven
        proven = state.at_least or 0.0


@given(blocks())
def test_a_verdict_can_always_be_told(history: list[BlockCounts]) -> None:
    verdict = judge(run(history), DEFAULT)
    assert math.isfinite(verdict.evidence)
    assert verdict.sentence.startswith("errors: canary ")
    if verdict.kind is VerdictKind.FAIL:
        assert "≥" in verdict.sentence


# --- the guarantee -------------------------------------------------------------------------------------------------


def expectation(params: SequentialParams, n_c: int, n_s: int, p_c: float, p_s: float, row: str) -> float:
    """Exact mean of one block's factor over all outcomes of two binomials (scipy's, not ours)."""
    weights_c = stats.binom.pmf(range(n_c + 1), n_c, p_c)
    weights_s = stats.binom.pmf(range(n_s + 1), n_s, p_s)
    total = 0.0
    for k_c, weight_c in enumerate(weights_c):
        for k_s, weight_s in enumerate(weights_s):
            state = advance(EvidenceState(), BlockCounts(at(0), ArmCounts(n_c, k_c), ArmCounts(n_s, k_s)), params)
            total += weight_c * weight_s * math.exp(log_mean_exp(getattr(state, row)))
    return total


@pytest.mark.parametrize("p_s", [0.0, 0.01, 0.2, 0.6])
@pytest.mark.parametrize("n_c,n_s", [(1, 9), (6, 20), (12, 3)])
def test_a_block_is_an_e_value_at_the_edge_of_the_null(n_c: int, n_s: int, p_s: float) -> None:
    """p_c exactly at the allowance: the expectation of the factor must not exceed 1, cap or no cap."""
    for params in (DEFAULT, UNCAPPED, replace(DEFAULT, ratio=1.0, floor=0.0), replace(DEFAULT, floor=0.05)):
        allowed = min(1.0, params.ratio * p_s + params.floor)
        assert expectation(params, n_c, n_s, allowed, p_s, "log_e") <= 1 + 1e-9


@pytest.mark.parametrize("p_s", [0.01, 0.2, 0.45])
def test_a_block_for_the_canary_is_an_e_value_too(p_s: float) -> None:
    """Null turned round: p_c at least twice p_s."""
    assert expectation(DEFAULT, 8, 20, 2 * p_s, p_s, "pass_log_e") <= 1 + 1e-9


@pytest.mark.parametrize("baseline", [0.0, 0.02, 0.3])
def test_a_block_against_the_record_is_an_e_value(baseline: float) -> None:
    params = replace(DEFAULT, baseline=baseline, ratio=2.0)
    assert expectation(params, 25, 0, 2.0 * baseline + params.floor, 0.0, "log_e") <= 1 + 1e-9


def test_ville_under_the_null_with_a_look_after_every_block() -> None:
    """250 canaries exactly at a strict margin, 30 looks each: at most alpha of them may ever fail."""
    rng = np.random.default_rng(20261122)
    params = SequentialParams("errors", alpha=0.1, ratio=1.0, floor=0.0, min_requests=0, min_bad=0)
    failed = 0
    for _ in range(250):
        share, rate = rng.uniform(0.05, 0.5), rng.uniform(0.005, 0.1)
        state = EvidenceState()
        for index in range(30):
            rate = min(0.2, max(0.002, rate * rng.lognormal(0, 0.2)))  # the baseline drifts as it likes
            n_c, n_s = rng.poisson(600 * share), rng.poisson(600 * (1 - share))
            canary, stable = (ArmCounts(int(n), int(rng.binomial(n, rate))) for n in (n_c, n_s))
            state = advance(state, BlockCounts(at(index), canary, stable), params)
            if judge(state, params).kind is VerdictKind.FAIL:
                failed += 1
                break
    upper = stats.binom.ppf(0.999, 250, params.alpha)
    assert failed <= upper
    assert failed > 0  # it is a test, not a shrug
