"""Numbers are never used twice, retention never drops what is in use, states follow aliases and gates."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from espalier_api.artifact import Manifest, MetricValue, version_digest
from espalier_api.evaluation import Gate
from espalier_api.gates import judge_gates
from espalier_api.model import VersionState, VersionStatus
from espalier_operator.decisions import versions as v
from tests.unit.operator.samples import manifest

GATES = (Gate(metric="accuracy", min=0.9),)
STATES: tuple[VersionState, ...] = (
    "Training", "Candidate", "Rejected", "Failed", "Canary", "Champion", "Previous", "Retired", "Quarantined",
)  # fmt: skip


def version(
    number: int, state: VersionState = "Candidate", accuracy: float | None = 0.95, **fields: object
) -> VersionStatus:
    metrics = {"accuracy": MetricValue(value=accuracy)} if accuracy is not None else {}
    return VersionStatus.model_validate({"version": f"v{number}", "state": state, "metrics": metrics, **fields})


histories = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from(STATES)), unique_by=lambda each: each[0], max_size=20
).map(lambda drawn: [version(number, state) for number, state in drawn])


@given(histories, st.integers(1, 50), st.frozensets(st.integers(1, 60), max_size=5))
def test_the_next_number_was_never_used(history: list[VersionStatus], recorded: int, stored: frozenset[int]) -> None:
    number = v.next_number(recorded, history, stored)
    assert number >= recorded
    assert all(number > int(each.version[1:]) for each in history)
    assert all(number > each for each in stored)


@given(histories, st.integers(1, 10))
def test_retention_keeps_what_is_in_use(history: list[VersionStatus], keep: int) -> None:
    kept, dropped = v.retain(history, keep)
    assert sorted(each.version for each in (*kept, *dropped)) == sorted(each.version for each in history)
    assert not [each for each in dropped if each.state in v.IN_USE]
    candidates = [each for each in v.newest_first(history) if each.state == "Candidate"]
    assert not candidates or candidates[0] in kept
    finished = [each for each in v.newest_first(history) if each.state != "Training"]
    assert all(each in kept for each in finished[:keep])


def test_what_a_search_came_to_is_a_fact_of_the_manifest() -> None:
    """So it is told also when the pod and its message are gone, and of versions that a former object left."""
    search = {
        "method": "random", "trials": 9, "failed": 1, "metric": "valLoss", "best": 0.25, "number": 4, "second": 640,
        "params": {"regularizers.l2.strength": 0.001, "regularizers.calibration": "true"}, "secondMetric": "parameters",
        "pareto": [{"number": 4, "value": 0.25, "second": 640}, {"number": 7, "value": 0.5, "second": 64}],
    }  # fmt: skip
    content = manifest("v3", "sha256:" + "c" * 64, search=search)
    status = v.published(v.Stored(Manifest.model_validate_json(content), version_digest(content)), GATES)
    assert status.dump()["search"] == search
    plain = manifest("v3", "sha256:" + "c" * 64)
    assert (
        "search" not in v.published(v.Stored(Manifest.model_validate_json(plain), version_digest(plain)), GATES).dump()
    )


@given(histories, st.integers(1, 10))
def test_retention_is_idempotent(history: list[VersionStatus], keep: int) -> None:
    kept, _ = v.retain(history, keep)
    assert v.retain(kept, keep) == (kept, ())


@given(histories, st.sampled_from([None, "v1", "v2", "v3"]), st.sampled_from([None, "v3", "v4", "v5"]))
def test_settling_is_idempotent_and_never_offers_a_quarantined_version(
    history: list[VersionStatus], champion: str | None, canary: str | None
) -> None:
    rollout = v.Rollout(champion=champion, canary=canary, quarantined={"v4": "errors"})
    settled = v.settle(history, rollout, GATES)
    assert v.settle(settled, rollout, GATES) == settled
    assert all(each.state in {"Quarantined", "Training", "Failed"} for each in settled if each.version == "v4")
    assert sum(each.state == "Champion" for each in settled) <= 1


def test_gates_move_between_rejected_and_candidate() -> None:
    low = version(1, "Candidate", 0.8)
    (rejected,) = v.settle([low], v.Rollout(), GATES)
    assert (rejected.state, rejected.reason) == ("Rejected", "GatesFailed")
    assert "accuracy is 0.8, not >= 0.9" in (rejected.message or "")
    (accepted,) = v.settle([rejected], v.Rollout(), (Gate(metric="accuracy", min=0.7),))
    assert accepted.state == "Candidate"


def test_a_gate_on_something_unrecorded_is_unknown_never_passed() -> None:
    (judged,) = v.settle([version(1, accuracy=None)], v.Rollout(), GATES)
    assert (judged.state, judged.reason) == ("Rejected", "GateUnknown")


def test_roles_come_from_the_rollout() -> None:
    rollout = v.Rollout(champion="v3", previous="v2", canary="v4", quarantined={"v1": "drift"})
    states = {each.version: each.state for each in v.settle([version(n) for n in (1, 2, 3, 4, 5)], rollout, GATES)}
    assert states == {"v1": "Quarantined", "v2": "Previous", "v3": "Champion", "v4": "Canary", "v5": "Candidate"}


def test_what_is_older_than_the_champion_is_retired() -> None:
    states = {each.version: each.state for each in v.settle([version(1), version(3)], v.Rollout(champion="v3"), GATES)}
    assert states == {"v1": "Retired", "v3": "Champion"}


def test_a_changed_gate_does_not_touch_the_champion() -> None:
    (champion,) = v.settle([version(1, "Champion", 0.8)], v.Rollout(champion="v1"), GATES)
    assert champion.state == "Champion"


def test_a_superseded_version_does_not_count_as_trained() -> None:
    stopped = version(1, "Failed", spec_hash="h", reason="SpecChanged")
    assert v.of_spec([stopped], "h") is None
    assert v.of_spec([stopped, version(2, spec_hash="h")], "h") == version(2, spec_hash="h")


# --- gates -------------------------------------------------------------------------------------------------------------
def value(number: float, n: int | None = None) -> MetricValue:
    return MetricValue(value=number, n=n)


def test_bounds() -> None:
    gates = (
        Gate(metric="accuracy", min=0.9),
        Gate(metric="validationGap", max=0.3),
        Gate(metric="r2", min=0.1, max=0.9),
    )
    results = judge_gates(gates, {"accuracy": value(0.9), "validationGap": value(0.31), "r2": value(0.5)}, None)
    assert [each.passed for each in results] == [True, False, True]
    assert [each.bound for each in results] == [">= 0.9", "<= 0.3", ">= 0.1 and <= 0.9"]


def test_against_the_champion_in_both_directions() -> None:
    accuracy = Gate(metric="accuracy", vs="champion", max_drop=0.01)
    loss = Gate(metric="logLoss", vs="champion", max_drop=0.1)
    champion = {"accuracy": value(0.95), "logLoss": value(0.2)}
    good = judge_gates((accuracy, loss), {"accuracy": value(0.941), "logLoss": value(0.29)}, champion)
    bad = judge_gates((accuracy, loss), {"accuracy": value(0.93), "logLoss": value(0.31)}, champion)
    assert [each.passed for each in good] == [True, True]
    assert [each.passed for each in bad] == [False, False]


def test_without_a_champion_there_is_nothing_to_fall_behind() -> None:
    (result,) = judge_gates((Gate(metric="accuracy", vs="champion", max_drop=0.01),), {"accuracy": value(0.1)}, None)
    assert result.passed
    assert "no champion" in result.bound


def test_groups_worst_and_mean() -> None:
    metrics = {
        "accuracy/region=a": value(0.9, 100),
        "accuracy/region=b": value(0.7, 100),
        "accuracy/region=c": value(0.1, 49),
    }
    worst, mean = judge_gates(
        (
            Gate(metric="accuracy", group="region", worst=True, min=0.65),
            Gate(metric="accuracy", group="region", min=0.65),
        ),
        metrics,
        None,
    )
    assert (worst.passed, worst.value) == (True, 0.7)  # c is too small to say anything
    assert (mean.passed, mean.value) == (True, 0.8)  # nor about the mean
    few = {"accuracy/region=c": value(0.9, 49)}
    (nothing,) = judge_gates((Gate(metric="accuracy", group="region", min=0.65),), few, None)
    assert (nothing.passed, nothing.value) == (False, None)


def test_metrics_that_gates_need_survive_the_bound() -> None:
    many = {f"accuracy/id={n}": value(0.5) for n in range(100)} | {"accuracy/region=a": value(0.9)}
    kept = v.bounded(many, (Gate(metric="accuracy", group="region", min=0.5),))
    assert len(kept) == v.MAX_METRICS
    assert "accuracy/region=a" in kept
