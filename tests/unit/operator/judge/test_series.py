"""Raw counters to increments: resets, births, deaths (design, section 5, pitfalls)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from espalier_operator.decisions.judge.series import Sample, Vector, increments

SINCE = datetime(2026, 11, 1, 12, tzinfo=UTC)


def sample(value: float, pod: str = "a", outcome: str = "ok", version: str = "v2") -> Sample:
    labels = {"namespace": "ns", "model": "m", "version": version, "pod": pod, "instance": "i", "outcome": outcome}
    return Sample(labels, value)


def total(before: list[Sample], after: list[Sample], pods: dict[str, datetime] | None = None) -> float:
    return sum(increase for _, increase in increments(before, after, since=SINCE, pods=pods or {}))


def test_a_counter_that_grew() -> None:
    assert total([sample(10)], [sample(17)]) == 7


def test_a_reset_counts_what_it_shows_now() -> None:
    assert total([sample(1000)], [sample(4)]) == 4


def test_a_reset_is_handled_before_summing() -> None:
    """rate(sum()) would see 1010 -> 1004 and call it a reset of everything."""
    assert total([sample(1000, "a"), sample(10, "b")], [sample(4, "a"), sample(1000, "b")]) == 994


def test_a_series_born_with_its_pod_counts_from_zero() -> None:
    assert total([], [sample(5, "new")], {"new": SINCE + timedelta(seconds=3)}) == 5


def test_a_series_of_an_older_pod_has_an_unknown_past() -> None:
    assert total([], [sample(5000, "old")], {"old": SINCE - timedelta(seconds=3)}) == 0
    assert total([], [sample(5000, "unknown")]) == 0


def test_a_label_seen_first_on_a_pod_that_was_there_counts_from_zero() -> None:
    before = [sample(100, outcome="ok")]
    after = [sample(130, outcome="ok"), sample(4, outcome="error")]
    assert total(before, after) == 34


def test_an_ended_series_adds_nothing() -> None:
    assert total([sample(100, "gone"), sample(5, "here")], [sample(6, "here")]) == 1


def test_a_vector_is_split_by_model() -> None:
    other = Sample({"namespace": "ns", "model": "other", "version": "v1"}, 1.0)
    vector = Vector([sample(1), other, sample(2, "b")])
    assert vector.of("ns", "m") == (sample(1), sample(2, "b"))
    assert vector.of("ns", "none") == ()
    assert len(vector) == 3


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1000)), max_size=30))
def test_increments_are_never_negative_and_never_lost(looks: list[tuple[int, int]]) -> None:
    """Over any chain of looks without births, what is counted is at least the final value minus the first."""
    counted, values = 0.0, dict.fromkeys(range(6), 0)
    previous = [sample(0, str(pod)) for pod in values]
    for pod, grown in looks:
        values[pod] += grown
        current = [sample(value, str(each)) for each, value in values.items()]
        increase = total(previous, current)
        assert increase >= 0
        counted += increase
        previous = current
    assert counted == sum(values.values())
