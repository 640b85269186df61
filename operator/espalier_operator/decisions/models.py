"""What a RegularizedModel does next. Pure: no clock, no I/O; every input is observed before, every effect is in the
Decision.

One pass takes one step: the first rule of `RULES` that applies says what happens to training; `settle` then gives
every version its state and writes the summary. Steps that open the way for another ask for the next pass at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from espalier_api import conditions as c
from espalier_api.hashing import spec_hash
from espalier_api.model import (
    ReferenceStatus,
    RegularizedModelStatus,
    SnapshotStatus,
    TrainingStatus,
    VersionStatus,
)
from espalier_api.names import artifact_prefix, checkpoint_prefix, job_name, version_name
from espalier_operator.decisions import versions as v
from espalier_operator.decisions.attempts import Attempt, AttemptState, retry_delay
from espalier_operator.decisions.diagnosis import diagnose
from espalier_operator.decisions.model_seen import (
    Absent,
    Holdings,
    Listing,
    Seen,
    StoreTrouble,
    fitting_version,
    is_asked_for,
    is_still_wanted,
    may_be_published,
)
from espalier_operator.decisions.plan import Event, ObjectRef, shorten
from espalier_operator.decisions.references import Unresolved, resolve

AT_ONCE: Final = timedelta(0)
ASK_STORE_AGAIN: Final = timedelta(seconds=15)
"""How often missing data or a silent store is looked at: soon enough for a person who just uploaded, rare enough for
a fleet."""
FOLLOW: Final = timedelta(seconds=5)
"""How often a running attempt is asked for its progress."""


@dataclass(frozen=True, slots=True)
class Start:
    """A Job to be created for `status.training` of the decision."""

    version: VersionStatus
    attempt: int
    references: tuple[ReferenceStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """What a rule decided about training."""

    status: RegularizedModelStatus
    start: Start | None = None
    delete: tuple[ObjectRef, ...] = ()
    purge: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: timedelta | None = None


Rule = Callable[[Seen, datetime], Step | None]


def next_step(seen: Seen, now: datetime) -> Step:
    """The first rule that applies decides."""
    return next(step for rule in RULES if (step := rule(seen, now)) is not None)


# --- rules
# ---------------------------------------------------------------------------------------------------------------
def adopt_what_the_store_holds(seen: Seen, _: datetime) -> Step | None:
    """An object that never trained takes over the versions that a former object of its name left in the store."""
    if not isinstance(seen.holdings, Holdings) or not seen.holdings.versions or seen.spec is None:
        return None
    gates = seen.spec.evaluation.gates
    adopted = v.newest_first(v.published(stored, gates) for stored in seen.holdings.versions)
    names = ", ".join(version.version for version in adopted)
    status = seen.status.model_copy(
        update={"versions": adopted[: v.MAX_VERSIONS], "next_version": v.next_number(1, adopted, seen.holdings.numbers)}
    )
    event = Event.normal(c.ADOPTED, f"took over {names} from {seen.spec.artifacts.uri}")
    return Step(status, events=(event,), requeue_after=AT_ONCE)


def latch_a_published_version(seen: Seen, _: datetime) -> Step | None:
    """The artifact is complete: its facts go into status before the Job goes away."""
    training = seen.status.training
    if training is None or not may_be_published(training, seen.attempt) or seen.manifest is None:
        return None
    if isinstance(seen.manifest, StoreTrouble):  # nothing is decided while the store is silent; the Job waits
        return Step(seen.status, requeue_after=ASK_STORE_AGAIN)
    if isinstance(seen.manifest, Absent):
        return None  # the failure rules judge it
    gates = seen.spec.evaluation.gates if seen.spec is not None else ()
    version = v.published(seen.manifest, gates, v.find(seen.status.versions, training.version))
    version = version.model_copy(update={"diagnosis": diagnose(seen.attempt)})
    took = f" after {training.attempt} attempts" if training.attempt > 1 else ""
    event = Event.normal(c.TRAINING_SUCCEEDED, f"{version.version} is trained and published{took}: {version.digest}")
    return _ended(seen, version, event)


def latch_a_failure(seen: Seen, now: datetime) -> Step | None:
    """The attempt failed: for good, or until the next one."""
    training, attempt = seen.status.training, seen.attempt
    if training is None:
        return None
    if attempt.state is AttemptState.SUCCEEDED:
        words = (
            "the trainer ended with 0 but its manifest.json is not in the store; see the trainer's log for the upload"
        )
        attempt = Attempt(AttemptState.FAILED, c.RESULT_MISSING, words)
    if attempt.state is not AttemptState.FAILED:
        return None
    retries = seen.spec.training.retries if seen.spec is not None else 0
    failures = training.failures + attempt.charged
    if attempt.final or failures > retries:
        return _failed_for_good(seen, training, attempt, retries)
    preemptions = training.preemptions + (not attempt.charged)
    delay = retry_delay(failures, preemptions, charged=attempt.charged)
    return _try_again(seen, training, attempt, now, delay, failures, preemptions)


def look_after_a_vanished_job(seen: Seen, now: datetime) -> Step | None:
    """Somebody deleted a Job that had started: the attempt is repeated under a new name, at nobody's cost."""
    training = seen.status.training
    if training is None or not isinstance(seen.manifest, Absent) or seen.attempt.state is not AttemptState.MISSING:
        return None
    gone = Attempt(AttemptState.FAILED, c.JOB_DELETED, "the Job was deleted before its result was read", charged=False)
    preemptions = training.preemptions + 1
    delay = retry_delay(0, preemptions, charged=False)
    return _try_again(seen, training, gone, now, delay, training.failures, preemptions)


def refuse_an_invalid_spec(seen: Seen, _: datetime) -> Step | None:
    """Nothing new starts; what runs was valid when it started and goes on until its end."""
    if seen.spec is not None and not seen.verdict.errors:
        return None
    return Step(_followed(seen), requeue_after=FOLLOW if seen.status.training is not None else None)


def stop_what_the_spec_no_longer_wants(seen: Seen, _: datetime) -> Step | None:
    """The spec changed while training: that version ends here, the next pass starts the new one."""
    training = seen.status.training
    if training is None or is_still_wanted(seen, training):
        return None
    version = _version_of(seen, training)
    words = f"{version.version} was stopped because the spec or its data changed"
    version = version.model_copy(update={"state": "Failed", "reason": str(c.SPEC_CHANGED), "message": words})
    return _ended(seen, version, Event.normal(c.SPEC_CHANGED, words))


def follow_the_attempt(seen: Seen, _: datetime) -> Step | None:
    """The Job is there: its progress goes into status."""
    if seen.status.training is None or seen.attempt.state is AttemptState.MISSING:
        return None
    return Step(_followed(seen), requeue_after=FOLLOW)


def begin_the_attempt(seen: Seen, now: datetime) -> Step | None:
    """No Job: create it when its time has come. Idempotent by name, so a crash between status and Job repairs
    itself.
    """
    training = seen.status.training
    if training is None:
        return None
    if training.retry_at is not None and training.retry_at > now:
        return Step(seen.status, requeue_after=training.retry_at - now)
    version = _version_of(seen, training)
    job = job_name(seen.meta.name, training.version, training.attempt)
    running = training.model_copy(update={"job": job, "retry_at": None, "started_at": None})
    status = seen.status.model_copy(update={"training": running})
    return Step(status, start=Start(version, training.attempt, training.references), requeue_after=FOLLOW)


def wait_for_the_store(seen: Seen, _: datetime) -> Step | None:
    """Neither data nor numbers can be known now; nothing is guessed."""
    silent = isinstance(seen.listing, StoreTrouble) or isinstance(seen.holdings, StoreTrouble) or _is_unpinned(seen)
    return Step(seen.status, requeue_after=ASK_STORE_AGAIN) if silent else None


def wait_for_references(seen: Seen, _: datetime) -> Step | None:
    """A version is due, but a model that it refers to has none to give. Their events wake this model."""
    due = isinstance(seen.listing, Listing) and (is_asked_for(seen) or fitting_version(seen) is None)
    return Step(seen.status, requeue_after=ASK_STORE_AGAIN) if due and isinstance(resolve(seen), Unresolved) else None


def do_as_a_request_asks(seen: Seen, now: datetime) -> Step | None:
    """A retrain request starts one version, once per id; both are in one write, so neither can happen without the
    other.
    """
    if not is_asked_for(seen) or not isinstance(seen.listing, Listing) or seen.request is None:
        return None
    status = seen.status.model_copy(update={"handled_request": seen.request})
    return _begin_version(seen, status, seen.listing, now, seen.request)


def start_a_version(seen: Seen, now: datetime) -> Step | None:
    """Nothing that exists fits spec and data."""
    if fitting_version(seen) is not None or not isinstance(seen.listing, Listing):
        return None
    return _begin_version(seen, seen.status, seen.listing, now, None)


def be_content(seen: Seen, now: datetime) -> Step:
    """The spec has its version."""
    status = seen.status
    if isinstance(seen.listing, Listing):
        status = status.model_copy(update={"snapshot": _snapshot(seen, seen.listing, now)})
    return Step(status)


RULES: Final[tuple[Rule, ...]] = (
    adopt_what_the_store_holds,  # numbers and versions survive the object
    latch_a_published_version,  # a result is never lost, whatever else happened
    latch_a_failure,  # exit codes decide about retries
    look_after_a_vanished_job,  # its artifact was looked for by the rules above
    refuse_an_invalid_spec,  # nothing starts from a spec that rules object to
    stop_what_the_spec_no_longer_wants,  # a GPU trains what the spec says now
    follow_the_attempt,  # the Job is there
    begin_the_attempt,  # the Job is not there yet
    wait_for_the_store,  # data and numbers first
    wait_for_references,  # a teacher first
    do_as_a_request_asks,  # once per request id
    start_a_version,  # level-triggered: whenever nothing fits
    be_content,  # always applies
)


# --- steps
# -----------------------------------------------------------------------------------------------------------------
def _is_unpinned(seen: Seen) -> bool:
    """True when the listing is not what the spec pins."""
    pinned = seen.spec.data.snapshot.digest if seen.spec is not None else None
    return isinstance(seen.listing, Listing) and pinned not in (None, seen.listing.digest)


def _version_of(seen: Seen, training: TrainingStatus) -> VersionStatus:
    found = v.find(seen.status.versions, training.version)
    return found or VersionStatus(version=training.version, state="Training", spec_hash=training.spec_hash)


def _snapshot(seen: Seen, listing: Listing, now: datetime) -> SnapshotStatus:
    uri, known = seen.valid_spec.data.snapshot.uri, seen.status.snapshot
    if known is not None and (known.uri, known.digest) == (uri, listing.digest):
        return known
    return SnapshotStatus(uri=uri, digest=listing.digest, objects=listing.objects, bytes=listing.bytes, resolved_at=now)


def _begin_version(
    seen: Seen, status: RegularizedModelStatus, listing: Listing, now: datetime, request: str | None
) -> Step:
    """Record the version and its first attempt; the Job follows in the same plan."""
    stored = seen.holdings.numbers if isinstance(seen.holdings, Holdings) else frozenset[int]()
    number = v.next_number(status.next_version, status.versions, stored)
    version = VersionStatus(
        version=version_name(number),
        state="Training",
        spec_hash=spec_hash(seen.valid_spec, listing.digest, request),
        snapshot_digest=listing.digest,
        seed=seen.valid_spec.data.split.seed,
        created_at=now,
        parent=seen.rollout.champion,
        requested_by=f"request/{request}" if request else "spec",
    )
    job = job_name(seen.meta.name, version.version, 1)
    references = resolve(seen)
    assert not isinstance(references, Unresolved)  # noqa: S101 - wait_for_references comes before
    attempt = TrainingStatus(
        version=version.version, job=job, attempt=1, spec_hash=version.spec_hash, references=references
    )
    changes: dict[str, Any] = {
        "versions": v.replace(status.versions, version),
        "next_version": number + 1,
        "snapshot": _snapshot(seen, listing, now),
        "training": attempt,
    }
    told = "".join(f", with {each.model}@{each.version} as {each.name}" for each in references)
    words = f"training {version.version} on {listing.objects} objects, {listing.digest}{told}"
    event = Event.normal(c.TRAINING, words)
    return Step(
        status.model_copy(update=changes), start=Start(version, 1, references), events=(event,), requeue_after=FOLLOW
    )


def _followed(seen: Seen) -> RegularizedModelStatus:
    """Status with what the attempt tells of itself; equal when nothing moved."""
    training, attempt, progress = seen.status.training, seen.attempt, seen.progress
    if training is None or attempt.state is AttemptState.MISSING:
        return seen.status
    moved: dict[str, Any] = {"phase": _phase(attempt)}
    if training.started_at is None and attempt.started_at is not None:
        moved["started_at"] = datetime.fromisoformat(attempt.started_at)
    if progress is not None:
        moved |= {
            "phase": progress.phase,
            "progress": round(progress.progress, 2),
            "epoch": progress.epoch,
            "epochs": progress.epochs,
            "train_loss": progress.loss.train,
            "validation_loss": progress.loss.validation,
            "trials": progress.trials,
        }
    return seen.status.model_copy(update={"training": training.model_copy(update=moved)})


def _phase(attempt: Attempt) -> str:
    return {AttemptState.RUNNING: "Starting", AttemptState.LEAVING: "Stopping"}.get(attempt.state, str(attempt.reason))


def _ended(seen: Seen, version: VersionStatus, event: Event) -> Step:
    """Training of `version` is over: latch it, remove Job and checkpoints, look again at once."""
    training = seen.status.training
    assert training is not None  # noqa: S101 - only called while training
    versions = v.replace(seen.status.versions, version)
    status = seen.status.model_copy(update={"versions": versions, "training": None})
    return Step(
        status,
        delete=job_refs(seen, training.job),
        purge=_leftovers(seen, version),
        events=(event,),
        requeue_after=AT_ONCE,
    )


def _leftovers(seen: Seen, version: VersionStatus) -> tuple[str, ...]:
    """Prefixes that nobody needs any more: checkpoints always, the half-written artifact when the version failed."""
    if seen.spec is None:
        return ()
    place = (seen.spec.artifacts.uri, seen.meta.namespace, seen.meta.name, version.version)
    half_written = (artifact_prefix(*place),) if version.state == "Failed" else ()
    return (checkpoint_prefix(*place), *half_written)


def _failed_for_good(seen: Seen, training: TrainingStatus, attempt: Attempt, retries: int) -> Step:
    reason, message = str(attempt.reason), attempt.message
    if not attempt.final and retries > 0:
        count = training.failures + 1
        reason, message = str(c.RETRIES_EXHAUSTED), f"{count} attempts failed, the last one with {reason}: {message}"
    version = _version_of(seen, training).model_copy(
        update={"state": "Failed", "reason": reason, "message": shorten(message, 4096), "diagnosis": diagnose(attempt)}
    )
    return _ended(seen, version, Event.warning(reason, f"{version.version} failed: {message}"))


def _try_again(
    seen: Seen,
    training: TrainingStatus,
    attempt: Attempt,
    now: datetime,
    delay: timedelta,
    failures: int,
    preemptions: int,
) -> Step:
    words = shorten(f"{attempt.reason}: {attempt.message}", 1024)
    again = TrainingStatus(
        version=training.version,
        attempt=training.attempt + 1,
        failures=failures,
        preemptions=preemptions,
        spec_hash=training.spec_hash,
        retry_at=now + delay,
        last_failure=words,
        references=training.references,
    )
    event = Event.warning(
        str(attempt.reason), f"attempt {training.attempt} of {training.version}: {words}; again in {delay}"
    )
    return Step(
        seen.status.model_copy(update={"training": again}),
        delete=job_refs(seen, training.job),
        events=(event,),
        requeue_after=delay,
    )


def job_refs(seen: Seen, job: str | None) -> tuple[ObjectRef, ...]:
    """The Job of an attempt, its ConfigMap and the Service by which its pods find each other, where it has one."""
    if job is None:
        return ()
    namespace = seen.meta.namespace
    service = (ObjectRef("v1", "Service", namespace, job),) if seen.has_service else ()
    return (ObjectRef("batch/v1", "Job", namespace, job), ObjectRef("v1", "ConfigMap", namespace, job), *service)
