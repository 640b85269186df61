"""From answers to counts, for every preset: what is missing, broken or misconfigured never becomes evidence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from espalier_operator.decisions.judge import ArmCounts, Arms, Block, BlockCounts, DownReason, NoData, SourceDown
from espalier_operator.decisions.judge.presets import (
    CountPreset,
    Drift,
    Errors,
    Latency,
    Quality,
    UserCounts,
    UserQuery,
)
from espalier_operator.decisions.judge.read import read_block, read_history
from espalier_operator.decisions.judge.series import Matrix, Sample, Vector

ARMS = Arms("vision", "digits", "v4", "v3")
MINUTE = timedelta(minutes=1)
BLOCK = Block(datetime(2026, 11, 1, 12, tzinfo=UTC), timedelta(seconds=30))
DOWN = SourceDown(DownReason.TIMEOUT, "late")


def series(version: str, value: float, pod: str = "p", model: str = "digits", **more: str) -> Sample:
    pod = f"{pod}-{version}"
    return Sample(
        {"namespace": "vision", "model": model, "version": version, "pod": pod, "instance": pod, **more}, value
    )


def vector(*samples: Sample) -> list[Vector]:
    return [Vector(samples)]


def read(preset: CountPreset, before: list[Vector], after: list[Vector], arms: Arms = ARMS) -> object:
    return read_block(preset, BLOCK, arms, (before, after), {})


def outcomes(ok_4: float, error_4: float, ok_3: float, error_3: float, rejected_4: float = 0) -> list[Vector]:
    return vector(
        series("v4", ok_4, outcome="ok"),
        series("v4", error_4, outcome="error"),
        series("v4", rejected_4, outcome="rejected"),
        series("v3", ok_3, outcome="ok"),
        series("v3", error_3, outcome="error"),
        series("v2", 999, outcome="ok"),
        series("v4", 777, model="other", outcome="error"),
    )


def test_errors() -> None:
    seen = read(Errors(MINUTE), outcomes(100, 1, 1000, 5), outcomes(190, 4, 1880, 12, rejected_4=7))
    assert seen == BlockCounts(BLOCK.end, ArmCounts(100, 3), ArmCounts(887, 7))


def buckets(edge: str, *rows: tuple[str, float, float]) -> list[Vector]:
    samples = []
    for version, fast, everything in rows:
        samples += [series(version, fast, le=edge), series(version, everything, le="+Inf")]
    return vector(*samples)


@pytest.mark.parametrize("edge", ["0.2", "0.20"])
def test_latency_counts_what_is_beyond_the_edge(edge: str) -> None:
    before = buckets(edge, ("v4", 10, 12), ("v3", 100, 100))
    after = buckets(edge, ("v4", 50, 72), ("v3", 900, 905))
    assert read(Latency(0.2, MINUTE), before, after) == BlockCounts(BLOCK.end, ArmCounts(60, 20), ArmCounts(805, 5))


def test_a_missing_bucket_edge_is_a_configuration_error() -> None:
    after = vector(series("v4", 60, le="+Inf"), series("v3", 60, le="+Inf"), series("v3", 50, le="0.2"))
    seen = read(Latency(0.2, MINUTE), [Vector(())], after)
    assert isinstance(seen, SourceDown)
    assert seen.reason is DownReason.MISCONFIGURED
    assert "no bucket with le=0.2" in seen.message
    assert "p-v4" in seen.message


def test_quality_counts_what_feedback_found_wrong() -> None:
    before = vector(*(series(version, 0, result=result) for version in ("v4", "v3") for result in ("correct", "wrong")))
    after = vector(
        series("v4", 8, result="correct"),
        series("v4", 2, result="wrong"),
        series("v3", 95, result="correct"),
        series("v3", 5, result="wrong"),
    )
    assert read(Quality(MINUTE), before, after) == BlockCounts(BLOCK.end, ArmCounts(10, 2), ArmCounts(100, 5))


def test_users_counts_by_label() -> None:
    preset = UserCounts("all", "bad", MINUTE)
    before = [Vector([Sample({"version": "v4"}, 10), Sample({"version": "v3"}, 10)]), Vector([])]
    after = [
        Vector([Sample({"version": "v4"}, 40), Sample({"version": "v3"}, 310)]),
        Vector([Sample({"version": "v4"}, 2)]),
    ]
    # The bad counter of v4 is new and its process unknown: its past is not guessed.
    assert read(preset, before, after) == BlockCounts(BLOCK.end, ArmCounts(30, 0), ArmCounts(300, 0))


def test_users_counts_by_text() -> None:
    preset = UserCounts("all{v='$version'}", "bad{v='$version'}", MINUTE)
    before = [Vector([Sample({}, value)]) for value in (10, 0, 100, 5)]
    after = [Vector([Sample({}, value)]) for value in (40, 3, 400, 8)]
    assert read(preset, before, after) == BlockCounts(BLOCK.end, ArmCounts(30, 3), ArmCounts(300, 3))


def test_counters_a_scrape_apart_lose_no_bad_event() -> None:
    """Five bad ones of three: the total has not caught up yet, so it is at least five."""
    preset = UserCounts("all{v='$version'}", "bad{v='$version'}", MINUTE)
    before = [Vector([Sample({}, value)]) for value in (10, 0, 100, 5)]
    after = [Vector([Sample({}, value)]) for value in (13, 5, 400, 8)]
    assert read(preset, before, after) == BlockCounts(BLOCK.end, ArmCounts(5, 5), ArmCounts(300, 3))


def test_buckets_a_scrape_apart_have_no_negative_slow_ones() -> None:
    before = buckets("0.2", ("v4", 10, 10), ("v3", 100, 100))
    after = buckets("0.2", ("v4", 15, 14), ("v3", 200, 200))
    assert read(Latency(0.2, MINUTE), before, after) == BlockCounts(BLOCK.end, ArmCounts(4, 0), ArmCounts(100, 0))


def test_users_counts_without_a_version_are_a_configuration_error() -> None:
    answers = [Vector([Sample({"pod": "a"}, 1)]), Vector([])]
    seen = read(UserCounts("all", "bad", MINUTE), answers, answers)
    assert isinstance(seen, SourceDown)
    assert "no label version" in seen.message


@pytest.mark.parametrize("missing,role", [("v4", "canary"), ("v3", "stable")])
def test_an_arm_without_series_is_no_data(missing: str, role: str) -> None:
    both = outcomes(1, 0, 1, 0)
    after = vector(*(sample for sample in both[0].samples if sample.labels["version"] != missing))
    seen = read(Errors(MINUTE), both, after)
    assert isinstance(seen, NoData)
    assert f"{role} {missing}" in seen.message


def test_after_promotion_no_stable_is_expected() -> None:
    seen = read(
        Errors(MINUTE),
        vector(series("v4", 1, outcome="ok")),
        vector(series("v4", 9, outcome="ok")),
        Arms("vision", "digits", "v4", ""),
    )
    assert seen == BlockCounts(BLOCK.end, ArmCounts(8, 0), ArmCounts(0, 0))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_counter_that_is_no_number_is_no_evidence(value: float) -> None:
    seen = read(Errors(MINUTE), outcomes(1, 0, 1, 0), outcomes(1, value, 1, 0))
    assert isinstance(seen, SourceDown)
    assert seen.reason is DownReason.NOT_A_NUMBER


def test_a_broken_series_of_another_model_is_not_ours() -> None:
    after = vector(*outcomes(2, 0, 2, 0)[0].samples, series("v4", float("nan"), model="other", outcome="ok"))
    assert isinstance(read(Errors(MINUTE), outcomes(1, 0, 1, 0), after), BlockCounts)


@pytest.mark.parametrize("side", [0, 1])
def test_one_end_down_is_down(side: int) -> None:
    sides: list[list[Vector | SourceDown]] = [[*outcomes(1, 0, 1, 0)], [*outcomes(1, 0, 1, 0)]]
    sides[side] = [DOWN]
    assert read_block(Errors(MINUTE), BLOCK, ARMS, (sides[0], sides[1]), {}) is DOWN


def test_a_pod_started_in_the_block_counts_from_zero() -> None:
    before = vector(series("v4", 10, outcome="ok"), series("v3", 10, outcome="ok"))
    after = vector(*before[0].samples, series("v4", 6, pod="new", outcome="ok"))
    started = {"new-v4": BLOCK.start + timedelta(seconds=1)}
    seen = read_block(Errors(MINUTE), BLOCK, ARMS, (before, after), started)
    assert isinstance(seen, BlockCounts)
    assert seen.canary.total == 6


def test_history_is_stables_own_blocks() -> None:
    times = [BLOCK.end + index * BLOCK.interval for index in range(4)]
    grown = [(0, 0), (100, 1), (250, 1), (300, 4)]
    steps = tuple(
        (time, Vector([series("v3", total, outcome="ok"), series("v3", bad, outcome="error")]))
        for time, (total, bad) in zip(times, grown, strict=True)
    )
    assert read_history(Errors(MINUTE), ARMS, [Matrix(steps)]) == (
        ArmCounts(101, 1),
        ArmCounts(150, 0),
        ArmCounts(53, 3),
    )
    assert read_history(Errors(MINUTE), ARMS, [Matrix(())]) == ()


# --- one number ----------------------------------------------------------------------------------------------------


def test_a_users_query_gives_one_number() -> None:
    query = UserQuery('sum(x{version="$canary"})', MINUTE)
    assert query.value(Vector([Sample({}, 0.25)]), ARMS) == 0.25
    assert isinstance(query.value(Vector([]), ARMS), NoData)
    several = query.value(Vector([Sample({"a": "1"}, 1), Sample({"a": "2"}, 2)]), ARMS)
    assert isinstance(several, SourceDown)
    assert several.reason is DownReason.MISCONFIGURED


def test_drift_is_the_canarys() -> None:
    samples = [series("v4", 0.31), series("v3", 0.01), series("v4", 0.9, model="other")]
    assert Drift(MINUTE).value(Vector(samples), ARMS) == 0.31
    assert isinstance(Drift(MINUTE).value(Vector(samples[1:]), ARMS), NoData)
    assert isinstance(Drift(MINUTE).value(Vector([*samples, samples[0]]), ARMS), SourceDown)
