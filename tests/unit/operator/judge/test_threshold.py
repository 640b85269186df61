"""Argo Rollouts' and Flagger's counting rules (design, section 1.4), and where we differ from both."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta

import pytest

from espalier_operator.decisions.judge import DownReason, NoData, SampleState, SourceDown, VerdictKind
from espalier_operator.decisions.judge.threshold import (
    OnNoData,
    ThresholdParams,
    ThresholdState,
    judge_threshold,
    measure,
)

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
EMPTY = NoData("the query gives no series")
DOWN = SourceDown(DownReason.TIMEOUT, "late")
Seen = float | NoData | SourceDown


def run(params: ThresholdParams, *looks: Seen) -> ThresholdState:
    state = ThresholdState()
    for index, seen in enumerate(looks):
        state = measure(state, NOON + timedelta(seconds=30 * index), seen, params)
    return state


def test_argo_fails_at_more_failures_than_the_limit_counted_over_all() -> None:
    argo = ThresholdParams("q", maximum=0.05, failure_limit=3)
    assert judge_threshold(run(argo, 0.1, 0.01, 0.1, 0.01, 0.1), argo).kind is VerdictKind.CONTINUE
    assert judge_threshold(run(argo, 0.1, 0.01, 0.1, 0.01, 0.1, 0.01, 0.1), argo).kind is VerdictKind.FAIL


def test_flagger_fails_at_its_threshold_and_takes_silence_for_failure() -> None:
    """Flagger's threshold 5 is failureLimit 4 with onNoData Fail."""
    flagger = ThresholdParams("q", minimum=0.99, failure_limit=4, on_no_data=OnNoData.FAIL)
    assert judge_threshold(run(flagger, *[EMPTY] * 4), flagger).kind is VerdictKind.CONTINUE
    assert judge_threshold(run(flagger, *[EMPTY] * 5), flagger).kind is VerdictKind.FAIL


def test_our_default_takes_silence_for_silence() -> None:
    params = ThresholdParams("q", maximum=0.05)
    state = run(params, *[EMPTY] * 50)
    assert state.sample is SampleState.NO_DATA
    assert judge_threshold(state, params).kind is VerdictKind.CONTINUE


@pytest.mark.parametrize("seen", [DOWN, math.nan, math.inf, -math.inf])
def test_an_outage_or_not_a_number_never_fails(seen: Seen) -> None:
    params = ThresholdParams("q", maximum=0.05)
    state = run(params, *[seen] * 100)
    assert state.sample is SampleState.SOURCE_DOWN
    assert state.failures == 0
    assert judge_threshold(state, params).kind is VerdictKind.CONTINUE


def test_a_few_errors_in_a_row_are_shrugged_off() -> None:
    params = ThresholdParams("q", maximum=0.05, consecutive_error_limit=4)
    assert run(params, *[DOWN] * 4).sample is SampleState.INCONCLUSIVE
    assert run(params, *[DOWN] * 5).sample is SampleState.SOURCE_DOWN
    assert run(params, *[DOWN] * 4, 0.01, *[DOWN] * 4).sample is SampleState.INCONCLUSIVE


def test_a_wrong_configuration_is_said_at_once() -> None:
    several = SourceDown(DownReason.MISCONFIGURED, "2 series")
    assert run(ThresholdParams("q", maximum=1), several).sample is SampleState.SOURCE_DOWN


@pytest.mark.parametrize(
    "value,state",
    [
        (0.5, SampleState.PASS),
        (0.4, SampleState.PASS),
        (0.6, SampleState.PASS),
        (0.39, SampleState.BREACH),
        (1.0, SampleState.BREACH),
    ],
)
def test_bounds_are_inclusive(value: float, state: SampleState) -> None:
    assert run(ThresholdParams("q", 0.4, 0.6), value).sample is state


def test_a_gate_without_a_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="needs min or max"):
        ThresholdParams("q")


def test_replay_and_restart_change_nothing() -> None:
    params = ThresholdParams("q", maximum=0.05, failure_limit=9)
    state = run(params, 0.1, EMPTY, DOWN, 0.2)
    assert measure(state, NOON, 0.9, params) == state
    status = {**state.to_status(), "state": state.sample.value}
    assert ThresholdState.from_status(json.loads(json.dumps(status))) == state


def test_the_sentence() -> None:
    params = ThresholdParams("p99", maximum=0.02, failure_limit=1)
    assert judge_threshold(run(params, 0.03), params).sentence == "p99: 0.03 (max 0.02), failed measurements 1 of 2"
    assert (
        judge_threshold(run(params, 0.03, 0.04), params).sentence == "p99: 0.04 (max 0.02), failed measurements 2 ≥ 2"
    )
