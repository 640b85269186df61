"""Conditions and merge patches: nothing is written without news."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from espalier_operator.controllers.execute import difference
from espalier_operator.decisions.plan import Condition, ObjectRef, find, parse_time, rfc3339, shorten, upsert

NOW = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)


def test_equal_status_keeps_the_transition_time() -> None:
    first = upsert([], [Condition("Ready", "False", "Training", "a")], generation=1, now=NOW)
    again = upsert(first, [Condition("Ready", "False", "Queued", "b")], generation=2, now=LATER)
    assert again[0]["lastTransitionTime"] == first[0]["lastTransitionTime"] == "2026-11-22T12:00:00Z"
    assert (again[0]["reason"], again[0]["observedGeneration"]) == ("Queued", 2)


def test_changed_status_moves_the_transition_time() -> None:
    first = upsert([], [Condition("Ready", "False", "Training")], generation=1, now=NOW)
    again = upsert(first, [Condition("Ready", "True", "Serving")], generation=1, now=LATER)
    assert again[0]["lastTransitionTime"] == "2026-11-22T12:05:00Z"


def test_other_conditions_stay() -> None:
    foreign = {"type": "Foreign", "status": "True", "reason": "X", "message": "", "lastTransitionTime": "x"}
    merged = upsert([foreign], [Condition("Ready", "True", "Serving")], generation=1, now=NOW)
    assert find(merged, "Foreign") == foreign
    assert find(merged, "Missing") is None


def test_times_are_utc_and_whole() -> None:
    assert rfc3339(NOW.astimezone(timezone(timedelta(hours=2)))) == "2026-11-22T12:00:00Z"
    assert parse_time("2026-11-22T12:00:00Z") == NOW.replace(microsecond=0)


def test_shorten() -> None:
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("abc", 4) == "abc"


def test_refs_name_their_object() -> None:
    assert str(ObjectRef("v1", "Service", "vision", "digits")) == "Service vision/digits"
    assert str(ObjectRef("v1", "Namespace", "", "vision")) == "Namespace vision"


json_values = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)
statuses = st.dictionaries(st.text(max_size=2), json_values, max_size=4)


@given(statuses, statuses)
def test_difference_leads_from_one_status_to_the_other(current: dict[str, object], wanted: dict[str, object]) -> None:
    """RFC 7386: applying the patch gives what was wanted."""
    assert _patched(current, difference(current, wanted)) == wanted


@given(statuses)
def test_no_difference_means_no_request(status: dict[str, object]) -> None:
    assert difference(status, status) == {}


def _patched(target: object, patch: dict[str, object]) -> dict[str, object]:
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _patched(merged.get(key), value) if isinstance(value, dict) else value
    return merged
