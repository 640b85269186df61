"""Declared weights against counted requests. The oracle for the interval is scipy's exact binomial."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from espalier_operator.decisions.rollout.agreement import (
    ALPHA,
    MIN_REQUESTS,
    Declared,
    Disagrees,
    Observed,
    Waiting,
    agreement,
    lasting,
)
from espalier_operator.decisions.rollout.binomial import interval
from espalier_operator.decisions.rollout.world import BlockCount, Counted

SINCE = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
BLOCK = timedelta(seconds=30)
PATIENCE = timedelta(seconds=135)
NOW = SINCE + timedelta(seconds=90)
LATE = SINCE + timedelta(seconds=200)


def counted(*blocks: tuple[int, int], down: str = "", ends: datetime = NOW) -> Counted:
    """Blocks as (canary, total), oldest first; the newest one ends at `ends`."""
    times = [ends - BLOCK * index for index in reversed(range(len(blocks)))]
    return Counted(tuple(BlockCount(t, *b) for t, b in zip(times, blocks, strict=True)), down, PATIENCE)


RISE = Declared("v2", 25, before=5, baseline=0.05, reach=0.9)
FIRST = Declared("v2", 5, before=0, baseline=0.0)
BACK = Declared("v2", 0, before=25, baseline=0.25)
ALL = Declared("v2", 100, before=50, baseline=0.5, reach=0.93)


@settings(max_examples=60, deadline=None)
@given(of=st.integers(1, 3000), share=st.floats(0, 1), alpha=st.sampled_from([0.05, 1e-3, ALPHA]))
def test_the_interval_is_clopper_pearsons(of: int, share: float, alpha: float) -> None:
    hits = round(of * share)
    oracle = binomtest(hits, of).proportion_ci(confidence_level=1 - alpha, method="exact")
    assert interval(hits, of, alpha) == pytest.approx((oracle.low, oracle.high), abs=1e-7)


def test_no_draws_refute_nothing() -> None:
    assert interval(0, 0, ALPHA) == (0.0, 1.0)


@pytest.mark.parametrize(
    "declared, blocks, expected",
    [
        (RISE, [(150, 600)], Observed),
        (RISE, [(30, 600)], Disagrees),  # accepted, never moved
        (RISE, [(400, 600)], Disagrees),  # more than its weight
        (RISE, [(30, 600), (150, 600)], Observed),  # moved late: the newest block decides
        (RISE, [(150, 600), (30, 600)], Disagrees),  # moved back
        (RISE, [(1, 10)], Waiting),
        (RISE, [], Waiting),
        (RISE, [(0, 0), (0, 0)], Waiting),
        (RISE, [(14, 60)] * 4, Observed),  # little traffic adds up
        (FIRST, [(30, 600)], Observed),
        (FIRST, [(0, 600)], Disagrees),
        (FIRST, [(0, 100)], Waiting),  # a 5 % canary may miss 100 requests
        (FIRST, [(8, 600)], Observed),  # most callers go past the route: nothing is known of them yet
        (BACK, [(0, 600)], Observed),
        (BACK, [(1, 600)], Disagrees),
        (BACK, [(150, 600), (0, 600)], Observed),
        (BACK, [(150, 600), (0, 30)], Waiting),
        (BACK, [(0, 20)], Waiting),  # 0 of 20 does not refute 25 %
        (ALL, [(600, 600)], Observed),
        (ALL, [(300, 600)], Disagrees),
        (ALL, [(480, 600)], Disagrees),  # one of several proxies is behind
        (replace(ALL, reach=0.7), [(480, 600)], Observed),  # as many went past the route before
        (replace(RISE, per_request=False), [(600, 600)], Observed),
        (replace(BACK, per_request=False), [(5, 600)], Disagrees),
    ],
)
def test_counters_decide(declared: Declared, blocks: list[tuple[int, int]], expected: type) -> None:
    assert isinstance(agreement(declared, counted(*blocks), SINCE, NOW), expected)


def test_observed_by_counters_says_the_counts() -> None:
    found = agreement(RISE, counted((150, 600)), SINCE, NOW)
    assert isinstance(found, Observed)
    assert (found.how, found.share) == ("counters", 0.25)
    assert found.interval[0] < 0.25 < found.interval[1]
    assert "v2 had 150 of 600 requests (25.0 %) at weight 25" in found.said


def test_a_disagreement_names_counts_and_remedy() -> None:
    found = agreement(BACK, counted((7, 600)), SINCE, NOW)
    assert isinstance(found, Disagrees)
    assert "7 of 600" in found.said
    assert "look at its proxies" in found.said


@pytest.mark.parametrize("declared", [RISE, FIRST, BACK, ALL])
@pytest.mark.parametrize("what", [counted(), counted((0, 5)), counted(down="Refused: connection refused")])
def test_silence_ends_with_the_lags_word_after_patience(declared: Declared, what: Counted) -> None:
    assert isinstance(agreement(declared, what, SINCE, SINCE + PATIENCE - timedelta(seconds=1)), Waiting)
    found = agreement(declared, what, SINCE, SINCE + PATIENCE)
    assert isinstance(found, Observed)
    assert found.how == "lag"
    assert ("Refused" if what.down else "requests") in found.said


def test_without_a_source_the_lag_is_all_there_is() -> None:
    found = agreement(BACK, None, SINCE, SINCE)
    assert isinstance(found, Observed)
    assert found.how == "lag"


def test_what_was_counted_before_an_outage_does_not_speak_for_ever() -> None:
    before = counted((9, 600), down="Timeout")
    assert isinstance(agreement(BACK, before, SINCE, LATE), Disagrees)
    later = agreement(BACK, before, SINCE, NOW + PATIENCE + timedelta(seconds=1))
    assert isinstance(later, Observed)
    assert later.how == "lag"


def test_a_canary_that_never_had_traffic_is_gone_at_once() -> None:
    found = agreement(Declared("v2", 0), counted(), SINCE, SINCE)
    assert isinstance(found, Observed)


def test_a_disagreement_must_last() -> None:
    assert not lasting(None, BLOCK, NOW)
    assert not lasting(NOW - 2 * BLOCK, BLOCK, NOW)
    assert lasting(NOW - 3 * BLOCK, BLOCK, NOW)


@pytest.mark.parametrize("weight", [1, 5, 25, 50, 75])
def test_random_draws_and_fixed_interleaves_agree(weight: int) -> None:
    """500 gateways that do what they say: whatever the traffic, none is refuted."""
    dice = np.random.default_rng(weight)
    declared = Declared("v2", weight, before=0, baseline=0.0, reach=0.95)
    for _ in range(500):
        total = int(dice.choice([10, 60, 600, 3000]))
        drawn = int(dice.binomial(total, weight / 100))
        for canary in (drawn, total * weight // 100):
            assert not isinstance(agreement(declared, counted((canary, total)), SINCE, NOW), Disagrees)


def test_few_requests_never_decide() -> None:
    below = counted((MIN_REQUESTS - 1, MIN_REQUESTS - 1))
    assert isinstance(agreement(RISE, below, SINCE, NOW), Waiting)
