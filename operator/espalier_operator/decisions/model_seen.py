"""What a decision about a RegularizedModel is made from, which I/O it needs, and what fits the spec. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from espalier_api import conditions as c
from espalier_api.hashing import spec_hash
from espalier_api.names import version_number
from espalier_operator.decisions import versions as v
from espalier_operator.decisions.attempts import Attempt, AttemptState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from espalier_api.kubernetes import ObjectMeta
    from espalier_api.model import RegularizedModelSpec, RegularizedModelStatus, TrainingStatus, VersionStatus
    from espalier_api.training import TrainingProgress
    from espalier_operator.decisions.plan import ObjectRef
    from espalier_operator.decisions.references import Other


@dataclass(frozen=True, slots=True)
class StoreTrouble:
    """The store did not answer a question; `reason` is a reason of espalier_api.conditions."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies below the snapshot's prefix."""

    digest: str
    objects: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the store holds of this model from former lives: complete versions, and every number ever begun."""

    versions: tuple[v.Stored, ...] = ()
    numbers: frozenset[int] = frozenset()


class Absent:
    """The store answered: there is no manifest."""


@dataclass(frozen=True, slots=True)
class SpecVerdict:
    """What validation says about the spec."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    reason: str = c.VALID
    """A reason of SpecValid."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything observed before a decision. Answers of the store are None when they were not asked for (see
    `questions`).
    """

    meta: ObjectMeta
    status: RegularizedModelStatus
    spec: RegularizedModelSpec | None
    verdict: SpecVerdict
    attempt: Attempt = field(default_factory=lambda: Attempt(AttemptState.MISSING))
    """Of status.training."""
    rollout: v.Rollout = field(default_factory=v.Rollout)
    request: str | None = None
    """Id of a retrain request that was made of this model; acted on once, when nothing trains."""
    strays: tuple[ObjectRef, ...] = ()
    """Jobs of this model, their ConfigMaps and Services, that belong to no current attempt."""
    has_service: bool = False
    """The current attempt has a Service by which its pods find each other."""
    listing: Listing | StoreTrouble | None = None
    holdings: Holdings | StoreTrouble | None = None
    manifest: v.Stored | StoreTrouble | Absent | None = None
    progress: TrainingProgress | None = None
    others: Mapping[str, Other] = field(default_factory=dict)
    """Models of this namespace that the spec refers to, by name; one that does not exist is missing."""

    @property
    def valid_spec(self) -> RegularizedModelSpec:
        """The spec, for code that is only reached with one; ValueError is a bug in the order of rules."""
        if self.spec is None:
            raise ValueError(f"RegularizedModel {self.meta.namespace}/{self.meta.name}: a valid spec is needed here")
        return self.spec


class Question(Enum):
    """I/O that a decision needs and that is too dear for every pass."""

    LISTING = auto()
    HOLDINGS = auto()
    MANIFEST = auto()
    PROGRESS = auto()


def questions(seen: Seen) -> frozenset[Question]:
    """What must be asked before `next_step` can decide; empty in a settled model, so that idle passes cost no
    request.
    """
    training = seen.status.training
    asked = set()
    if training is not None and seen.attempt.state is AttemptState.RUNNING:
        asked.add(Question.PROGRESS)
    if training is not None and may_be_published(training, seen.attempt):
        asked.add(Question.MANIFEST)
    if training is None and seen.spec is not None and not seen.verdict.errors:
        if _is_untouched(seen.status):
            asked.add(Question.HOLDINGS)
        if fitting_version(seen) is None or is_asked_for(seen):
            asked.add(Question.LISTING)
    return frozenset(asked)


# --- what fits
# ---------------------------------------------------------------------------------------------------------
def recorded_digest(seen: Seen) -> str | None:
    """The digest that the spec's data is known by: just listed, pinned, or recorded for the same prefix."""
    if isinstance(seen.listing, Listing):
        return seen.listing.digest
    if seen.spec is None:
        return None
    snapshot = seen.spec.data.snapshot
    if snapshot.digest is not None:
        return snapshot.digest
    recorded = seen.status.snapshot
    return recorded.digest if recorded is not None and recorded.uri == snapshot.uri else None


def fitting_version(seen: Seen) -> VersionStatus | None:
    """The newest version that was trained for this spec and its data, also by request."""
    digest = recorded_digest(seen)
    if seen.spec is None or digest is None:
        return None
    hashes = [spec_hash(seen.spec, digest, request) for request in (None, seen.status.handled_request)]
    found = [version for each in hashes if (version := v.of_spec(seen.status.versions, each)) is not None]
    return max(found, key=lambda version: version_number(version.version), default=None)


def _is_untouched(status: RegularizedModelStatus) -> bool:
    """True for an object that never trained: only then the store may know more than status does."""
    return not status.versions and status.training is None and status.next_version == 1


def is_asked_for(seen: Seen) -> bool:
    """True when there is a retrain request that was not acted on yet."""
    return seen.request is not None and seen.request != seen.status.handled_request


def may_be_published(training: TrainingStatus, attempt: Attempt) -> bool:
    """True when the artifact may be complete: the Job succeeded, or vanished after it had started."""
    vanished = attempt.state is AttemptState.MISSING and training.job is not None and training.started_at is not None
    return attempt.state is AttemptState.SUCCEEDED or vanished


def is_still_wanted(seen: Seen, training: TrainingStatus) -> bool:
    """False when the spec asks for something else than what is being trained. Decided without the store."""
    version = v.find(seen.status.versions, training.version)
    snapshot, recorded = seen.valid_spec.data.snapshot, seen.status.snapshot
    if version is None or version.snapshot_digest is None or recorded is None or recorded.uri != snapshot.uri:
        return False
    if snapshot.digest not in (None, version.snapshot_digest):
        return False
    requests = (None, seen.status.handled_request)
    return training.spec_hash in {spec_hash(seen.valid_spec, version.snapshot_digest, request) for request in requests}
