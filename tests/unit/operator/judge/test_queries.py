from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from espalier_operator.decisions.judge import Arms
from espalier_operator.decisions.judge.presets import Drift, Errors, Latency, Quality, UserCounts
from espalier_operator.decisions.judge.presets.counts import refuse_rates
from espalier_operator.decisions.judge.queries import (
    edge_pattern,
    is_edge,
    lookback,
    one_model,
    promql_duration,
    render,
)

ARMS = Arms("vision", "digits", "v4", "v3")
MINUTE = timedelta(minutes=1)
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def test_the_text_of_a_preset() -> None:
    (text,) = Errors(MINUTE).texts(ARMS, {})
    assert text == (
        "max by (namespace,model,version,pod,instance,outcome) "
        '(last_over_time(inference_requests_total{outcome=~"ok|rejected|error"}[60s]))'
    )


@pytest.mark.parametrize("preset", [Errors(MINUTE), Latency(0.2, MINUTE), Quality(MINUTE)])
def test_a_fleet_shares_one_text(preset: Errors | Latency | Quality) -> None:
    """O(1): no text names a model."""
    other = Arms("speech", "words", "v9", "v8")
    assert preset.texts(ARMS, {}) == preset.texts(other, {})
    assert Drift(MINUTE).render(ARMS) == Drift(MINUTE).render(other)


def test_a_shard_and_one_models_past_are_narrowed() -> None:
    (text,) = Errors(MINUTE).texts(ARMS, one_model(ARMS))
    assert 'model=~"digits",namespace=~"vision"' in text
    assert 'version=~"v3"' in text


@pytest.mark.parametrize(
    "seconds,written",
    [
        (0.2, ["0.2", "0.20", "0.200"]),
        (1.0, ["1", "1.0", "1.00"]),
        (0.25, ["0.25", "0.250"]),
        (2.5, ["2.5"]),
        (10.0, ["10", "10.0"]),
        (0.00005, ["5e-05"]),
    ],
)
def test_a_bucket_edge_is_found_however_it_is_written(seconds: float, written: list[str]) -> None:
    pattern = re.compile(f"^(?:{edge_pattern(seconds)})$")
    for text in written:
        assert pattern.match(text), text
        assert is_edge(text, seconds)


@pytest.mark.parametrize("other", ["0.21", "0x2", "10.2", "0.02", "2"])
def test_another_edge_is_not(other: str) -> None:
    assert not re.fullmatch(edge_pattern(0.2), other)
    assert not is_edge(other, 0.2)


def test_names_are_quoted_for_promql() -> None:
    evil = Arms('a"b', "m\\n", "v1", "v0")
    assert render('x{namespace="$namespace",model="$model"}', evil, MINUTE) == 'x{namespace="a\\"b",model="m\\\\n"}'


def test_variables_of_a_users_text() -> None:
    text = 'sum(x{version="$canary"}) / sum(x{version="$stable"}) + $window + $versions'
    assert render(text, ARMS, MINUTE) == 'sum(x{version="v4"}) / sum(x{version="v3"}) + 60s + $versions'


def test_counts_by_version_are_asked_per_arm() -> None:
    preset = UserCounts('all{version="$version"}', 'bad{version="$version"}', MINUTE)
    assert preset.texts(ARMS, {}) == (
        'all{version="v4"}',
        'bad{version="v4"}',
        'all{version="v3"}',
        'bad{version="v3"}',
    )
    assert [preset.version(index, {}, ARMS) for index in range(4)] == ["v4", "v4", "v3", "v3"]
    assert [preset.weigh(index, {}) for index in range(2)] == [(1, 0), (0, 1)]


def test_counts_by_label_are_asked_once() -> None:
    preset = UserCounts("all", "bad", MINUTE)
    assert preset.texts(ARMS, {}) == ("all", "bad")
    assert preset.version(0, {"version": "v3"}, ARMS) == "v3"


@pytest.mark.parametrize("text", ["rate(x[1m])", "sum(increase (x[5m]))", "irate(x[1m])"])
def test_rates_are_refused_for_counts(text: str) -> None:
    assert refuse_rates(text) is not None
    assert refuse_rates("sum by (version) (my_rate_total)") is None


def test_durations_have_no_fractions() -> None:
    assert promql_duration(MINUTE) == "60s"
    assert promql_duration(timedelta(milliseconds=1500)) == "1500ms"


def test_the_window_holds_four_scrapes() -> None:
    assert lookback(timedelta(seconds=30), timedelta(seconds=15)) == MINUTE
    assert lookback(timedelta(minutes=5), timedelta(seconds=15)) == timedelta(minutes=5)
