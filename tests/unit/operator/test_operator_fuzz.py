"""Whatever stands in a spec, a Job, a pod, a request or a termination message: a clear answer, never a crash."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espalier_operator.controllers.model.reference import parse
from espalier_operator.decisions.attempts import observe_attempt
from espalier_operator.decisions.validation import judge_spec
from tests.unit.operator.samples import model

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
SPEC: dict[str, Any] = model()["spec"]
PATHS = [
    ("task",), ("task", "type"), ("data",), ("data", "snapshot"), ("data", "snapshot", "uri"), ("data", "split"), ("engine",),
    ("engine", "sklearn"), ("regularizers",), ("regularizers", "l2"), ("regularizers", "l2", "strength"), ("evaluation", "gates"),
    ("training",), ("training", "resources"), ("training", "deadline"), ("artifacts",), ("artifacts", "uri"), ("serving",), ("search",),
    ("slos",),
]  # fmt: skip


def replaced(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The sample spec with `value` at `path`."""
    spec = {key: dict(part) for key, part in SPEC.items()}
    place: Any = spec
    for key in path[:-1]:
        place[key] = dict(place[key]) if isinstance(place.get(key), dict) else {}
        place = place[key]
    place[path[-1]] = value
    return spec


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(PATHS), JSON)
def test_any_spec_is_judged(path: tuple[str, ...], value: Any) -> None:
    """It is accepted, or an error names a field of it."""
    spec, verdict = judge_spec(replaced(path, value))
    assert spec is not None or verdict.errors
    assert all(error.strip() for error in verdict.errors)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=4))
def test_any_mapping_is_judged(raw: dict[str, Any]) -> None:
    _, verdict = judge_spec(raw)
    assert verdict.errors


names = st.sampled_from(["trainer", "other", ""])
states = st.fixed_dictionaries(
    {},
    optional={
        "terminated": st.fixed_dictionaries(
            {},
            optional={"exitCode": st.integers(0, 255), "reason": st.text(max_size=9), "message": st.text(max_size=40)},
        )
        | st.none(),
        "waiting": st.fixed_dictionaries({}, optional={"reason": st.sampled_from(["ImagePullBackOff", "X"])})
        | st.none(),
    },
)
conditions = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["Failed", "Complete", "DisruptionTarget", "PodScheduled", "Suspended"])},
        optional={
            "status": st.sampled_from(["True", "False", "Unknown"]),
            "reason": st.sampled_from(["DeadlineExceeded", "Unschedulable", "PodFailurePolicy", ""]),
            "message": st.text(max_size=60) | st.just("failed with exit code 43"),
        },
    ),
    max_size=3,
)
statuses = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "conditions": conditions | st.none(),
        "phase": st.sampled_from(["Running", "Failed", "Pending"]),
        "containerStatuses": st.none()
        | st.lists(st.fixed_dictionaries({"name": names}, optional={"state": states | st.none()}), max_size=2),
        "reason": st.sampled_from(["Evicted", "NodeLost"]),
        "startTime": st.just("2026-11-22T12:00:00Z"),
    },
)
owners = st.none() | st.lists(
    st.fixed_dictionaries({"uid": st.just("j1")}, optional={"controller": st.booleans()}), max_size=2
)


@settings(max_examples=300)
@given(statuses, statuses, owners, st.booleans())
def test_any_job_and_pod_are_understood(job: Any, pod: Any, owned: Any, suspended: bool) -> None:
    """The API server leaves out whatever is empty."""
    attempt = observe_attempt(
        {"metadata": {"uid": "j1"}, "spec": {"suspend": suspended}, "status": job},
        [{"metadata": {"ownerReferences": owned}, "status": pod}],
    )
    assert attempt.reason
    assert not (attempt.final and not attempt.charged)


@given(st.binary(max_size=64))
def test_any_reference_is_refused_or_read(content: bytes) -> None:
    try:
        bins = parse(content)
    except ValueError:
        return
    assert all(isinstance(ratio, float) for ratio in bins.values())
