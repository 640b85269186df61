"""The last part of every pass about a RegularizedModel: states of versions, retention, conditions, phase; and the Plan.

Conditions are about the version that fits the spec now, computed from what was seen and decided, never stored
transitions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from espalier_api import conditions as c
from espalier_api.model import ChampionRef, RegularizedModelStatus, VersionStatus
from espalier_api.names import artifact_prefix, tracking_prefix
from espalier_operator.decisions import versions as v
from espalier_operator.decisions.model_seen import Listing, Seen, StoreTrouble, fitting_version
from espalier_operator.decisions.models import Start, Step, next_step
from espalier_operator.decisions.plan import Condition, ConditionStatus, Event, Plan, upsert
from espalier_operator.decisions.references import Unresolved, resolve

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Decision:
    """A plan, and the Job that belongs to it (its manifest needs the operator's settings, which decisions do not
    know).
    """

    plan: Plan
    start: Start | None = None


def decide(seen: Seen, now: datetime) -> Decision:
    """The whole pass: one step of training, then the settled status. `now` has no fractions of a second in what is
    written.
    """
    now = now.replace(microsecond=0)
    step = next_step(seen, now)
    status, dropped = _settled(seen, step.status)
    status = status.model_copy(update=_summary(replace(seen, status=status), step, now))
    plan = Plan(
        delete=(*step.delete, *(ref for ref in seen.strays if ref not in step.delete)),
        status=status.dump(),
        events=(*step.events, *_news(seen.status.versions, status.versions)),
        requeue_after=step.requeue_after,
        purge=(*step.purge, *_purged(seen, dropped)),
    )
    return Decision(plan, step.start)


def _settled(seen: Seen, status: RegularizedModelStatus) -> tuple[RegularizedModelStatus, tuple[VersionStatus, ...]]:
    """Versions in their states, champion copied, what is beyond the retention dropped."""
    if seen.spec is None:  # gates and retention are unknown: leave states as they are
        return status, ()
    settled = v.settle(status.versions, seen.rollout, seen.spec.evaluation.gates)
    kept, dropped = v.retain(settled, seen.spec.artifacts.retention.keep)
    champion = v.find(kept, seen.rollout.champion)
    reference = ChampionRef(version=champion.version, digest=champion.digest) if champion is not None else None
    return status.model_copy(update={"versions": kept, "champion": reference}), dropped


def _purged(seen: Seen, dropped: tuple[VersionStatus, ...]) -> tuple[str, ...]:
    """Artifacts beyond the retention go only when the spec says so."""
    if seen.spec is None or seen.spec.artifacts.deletion_policy != "Delete":
        return ()
    place = (seen.spec.artifacts.uri, seen.meta.namespace, seen.meta.name)
    return tuple(of(*place, version.version) for version in dropped for of in (artifact_prefix, tracking_prefix))


def _news(before: tuple[VersionStatus, ...], after: tuple[VersionStatus, ...]) -> tuple[Event, ...]:
    """One event per version whose gates were judged differently than before."""
    known = {version.version: version.state for version in before}
    events = []
    for version in after:
        if version.state == known.get(version.version):
            continue
        if version.state == "Rejected":
            events.append(Event.warning(str(version.reason), f"{version.version} is rejected: {version.message}"))
        if version.state == "Candidate":
            events.append(Event.normal(c.GATES_MET, f"{version.version} meets every gate and is a candidate"))
    return tuple(events)


def _summary(seen: Seen, step: Step, now: datetime) -> dict[str, object]:
    """`seen.status` is the settled one."""
    current = _current(seen)
    wanted = (
        _spec_valid(seen),
        _data_resolved(seen),
        _trained(seen, current, step),
        _gates_passed(current),
        _published(current),
    )
    existing = [condition.dump() for condition in seen.status.conditions]
    ready = _ready(wanted, current)
    merged = upsert(existing, (*wanted, ready), generation=seen.meta.generation, now=now)
    return {
        "observed_generation": seen.meta.generation,
        "conditions": tuple(c.Condition.model_validate(condition) for condition in merged),
        "phase": _phase(wanted, current),
    }


def _current(seen: Seen) -> VersionStatus | None:
    """The version that training works on, else the one that fits the spec."""
    if seen.status.training is not None:
        return v.find(seen.status.versions, seen.status.training.version)
    return fitting_version(seen)


def _spec_valid(seen: Seen) -> Condition:
    if seen.verdict.errors:
        return Condition(c.SPEC_VALID, "False", str(seen.verdict.reason), "\n".join(seen.verdict.errors))
    if seen.verdict.warnings:
        return Condition(c.SPEC_VALID, "True", c.VALID_WITH_WARNINGS, "\n".join(seen.verdict.warnings))
    return Condition(c.SPEC_VALID, "True", c.VALID)


def _data_resolved(seen: Seen) -> Condition:
    if seen.spec is None:
        return Condition(c.DATA_RESOLVED, "Unknown", c.WAITING_FOR_SPEC)
    snapshot = seen.spec.data.snapshot
    for answer in (seen.listing, seen.holdings):
        if isinstance(answer, StoreTrouble):
            status: ConditionStatus = "Unknown" if answer.reason == c.STORE_UNAVAILABLE else "False"
            return Condition(c.DATA_RESOLVED, status, str(answer.reason), answer.message)
    if isinstance(seen.listing, Listing) and snapshot.digest not in (None, seen.listing.digest):
        words = (
            f"spec.data.snapshot.digest pins {snapshot.digest}, but {snapshot.uri} now lists as {seen.listing.digest}"
            f" ({seen.listing.objects} objects); pin the new digest or restore the data"
        )
        return Condition(c.DATA_RESOLVED, "False", c.SNAPSHOT_CHANGED, words)
    known = seen.status.snapshot
    if known is not None and known.uri == snapshot.uri:
        return Condition(
            c.DATA_RESOLVED, "True", c.RESOLVED, f"{known.digest}, {known.objects} objects, {known.bytes} bytes"
        )
    return Condition(c.DATA_RESOLVED, "Unknown", c.RESOLVING, f"{snapshot.uri} is being listed")


def _trained(seen: Seen, current: VersionStatus | None, step: Step) -> Condition:
    if current is None:
        return _not_begun(seen)
    if current.state == "Failed":
        return Condition(c.TRAINED, "False", str(current.reason), f"{current.version}: {current.message}")
    training = seen.status.training
    if training is None:
        return Condition(c.TRAINED, "True", c.TRAINING_SUCCEEDED, f"{current.version} {current.digest}")
    if training.retry_at is not None:
        begin = f"{training.retry_at:%H:%M:%S} UTC"
        words = f"attempt {training.attempt} of {training.version} starts at {begin}; {training.last_failure}"
        return Condition(c.TRAINED, "False", c.WAITING_FOR_RETRY, words)
    if step.start is not None:
        return Condition(c.TRAINED, "False", c.TRAINING, f"attempt {training.attempt} of {training.version}")
    words = f"attempt {training.attempt} of {training.version}"
    detail = f": {seen.attempt.message}" if seen.attempt.message else ""
    return Condition(c.TRAINED, "False", str(seen.attempt.reason), words + detail)


def _not_begun(seen: Seen) -> Condition:
    """What the first attempt waits for: the spec, the data, or a model that a block refers to."""
    if seen.verdict.errors or seen.spec is None:
        return Condition(c.TRAINED, "False", c.WAITING_FOR_SPEC)
    if isinstance(seen.listing, Listing) and isinstance(lacks := resolve(seen), Unresolved):
        return Condition(c.TRAINED, "False", lacks.reason, lacks.message)
    return Condition(c.TRAINED, "False", c.WAITING_FOR_DATA)


def _gates_passed(current: VersionStatus | None) -> Condition:
    if current is None or current.state in v.UNFINISHED:
        return Condition(c.GATES_PASSED, "Unknown", c.WAITING_FOR_TRAINING)
    failed = [gate for gate in current.gates if not gate.passed]
    if not failed:
        return Condition(c.GATES_PASSED, "True", c.GATES_MET, f"{current.version} meets {len(current.gates)} gates")
    reason = c.GATE_UNKNOWN if any(gate.value is None for gate in failed) else c.GATES_FAILED
    return Condition(c.GATES_PASSED, "False", reason, f"{current.version}: " + "; ".join(map(v.sentence, failed)))


def _published(current: VersionStatus | None) -> Condition:
    if current is None or current.digest is None:
        return Condition(c.PUBLISHED, "False", c.WAITING_FOR_TRAINING)
    return Condition(c.PUBLISHED, "True", c.ARTIFACT_PUBLISHED, f"{current.version} {current.digest}")


def _ready(wanted: tuple[Condition, ...], current: VersionStatus | None) -> Condition:
    """True when the version for this spec is trained, passed its gates and nothing stands against it."""
    blocking = next((each for each in wanted if each.status != "True"), None)
    if blocking is not None:
        reason = c.VERSION_REJECTED if blocking.type == c.GATES_PASSED else blocking.reason
        return Condition(c.READY, "False", str(reason), blocking.message)
    if current is not None and current.state == "Quarantined":
        return Condition(c.READY, "False", c.VERSION_QUARANTINED, f"{current.version}: {current.message}")
    reason = c.CANDIDATE_AVAILABLE if current is not None and current.state in {"Candidate", "Canary"} else c.SERVING
    return Condition(c.READY, "True", reason, f"{current.version} is {current.state}" if current is not None else "")


def _phase(wanted: tuple[Condition, ...], current: VersionStatus | None) -> str:
    """One word for people."""
    if current is not None and current.state != "Training":
        return current.state
    return str(next((each.reason for each in wanted if each.status != "True"), "Ready"))
