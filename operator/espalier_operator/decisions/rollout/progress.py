"""What a rollout remembers between passes. All of it lives in `status`; a restarted operator reads it back and goes on.

`state` is where the rollout is; `pause` and `hold` are overlays on it (a person's or the spec's wait, and blindness): both stop the
step's clock and every rise of weight, neither stops a rollback.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from espalier_operator.decisions.rollout.world import Step, VersionRef

if TYPE_CHECKING:
    from espalier_operator.decisions.rollout.world import RolloutSpec

HISTORY = 20
"""Attempts kept in status; S3 keeps all."""
QUARANTINE = 50
"""Quarantined versions kept in status; the model's own version states keep the rest."""
ZERO = timedelta(0)
EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class State(StrEnum):
    """Where a rollout is. Shadowing, Matching and Baking are stages like Stepping: the table needs no change for them."""

    INITIAL = "Initial"
    IDLE = "Idle"
    DEPLOYING = "Deploying"
    SHADOWING = "Shadowing"
    MATCHING = "Matching"
    STEPPING = "Stepping"
    PROMOTING = "Promoting"
    BAKING = "Baking"
    ROLLING_BACK = "RollingBack"
    ROLLED_BACK = "RolledBack"


STAGED = frozenset({State.SHADOWING, State.MATCHING, State.STEPPING})
"""States with a stage, a hold and a clock."""
ANALYSING = STAGED | {State.BAKING}
"""States in which SLIs are looked at."""
LIVE = ANALYSING | {State.INITIAL, State.DEPLOYING, State.PROMOTING}
"""States in which a canary is on its way and may fail."""
RESTING = frozenset({State.IDLE, State.ROLLED_BACK})
"""States from which a candidate may start."""


class Outcome(StrEnum):
    """How an attempt ended."""

    PROMOTED = "Promoted"
    ROLLED_BACK = "RolledBack"
    ABORTED = "Aborted"
    SUPERSEDED = "Superseded"


class PauseReason(StrEnum):
    """Why a rollout waits for somebody."""

    SPEC = "SpecPaused"
    REQUESTED = "Requested"
    STEP = "StepPause"
    PROMOTION = "AwaitingPromotion"
    NO_DATA = "NoData"
    SOURCE_DOWN = "SourceDown"
    INCONCLUSIVE = "Inconclusive"
    DEADLINE = "DeadlineExceeded"


STAGE_IS_OVER = frozenset({PauseReason.STEP, PauseReason.PROMOTION, PauseReason.INCONCLUSIVE})
"""Pauses at the end of a stage: whoever ends them sends the rollout on, instead of continuing the stage."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait for a person (or for spec.paused to be taken back)."""

    reason: PauseReason
    since: datetime
    message: str = ""


@dataclass(frozen=True, slots=True)
class Hold:
    """Blindness: since when, to what, and in whose words."""

    reason: str
    since: datetime
    sli: str = ""
    message: str = ""
    expired: bool = False
    """Its deadline has passed and `then` was done."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The verdict on the present attempt: final, until a person asks for a retry."""

    outcome: Outcome
    reason: str
    message: str
    at: datetime
    sli: str = ""
    evidence: float | None = None
    weight: int = 0
    """Canary weight when the verdict fell."""
    weight_zero_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Clock:
    """Active time: stretches in which the canary had its weight and was seen. Held and paused time is not in it."""

    active: timedelta = ZERO
    """In the present stage."""
    total: timedelta = ZERO
    """In the whole rollout, up to the end of the previous stage."""
    counts_from: datetime | None = None
    """Nothing before this counts: the weight was not observed yet, or a pause just ended. None: the clock stands."""
    held: timedelta = ZERO
    """Time of this stage that did not count because nothing was seen or traffic did not follow; without the present hold."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known of one state of the route: whether traffic follows it (`agreement`)."""

    route: str
    weight: int
    """The canary's percent on it."""
    since: datetime
    """When it was first seen accepted with the router's lag passed."""
    before: int | None = None
    baseline: float | None = None
    reach: float | None = None
    how: str = ""
    """`counters` or `lag`; empty while it waits or disagrees."""
    share: float | None = None
    """The canary's counted share (0-1)."""
    said: str = ""
    disagrees_since: datetime | None = None
    told: bool = False
    """The disagreement has lasted, and was told."""


@dataclass(frozen=True, slots=True)
class Ended:
    """One entry of the history."""

    version: str
    outcome: Outcome
    at: datetime
    digest: str = ""
    reason: str = ""
    message: str = ""
    sli: str = ""
    evidence: float | None = None
    from_: str = ""
    to: str = ""
    weight: int = 0
    verdict_at: datetime | None = None
    weight_zero_at: datetime | None = None

    @property
    def ref(self) -> VersionRef:
        """The version it was about."""
        return VersionRef(self.version, self.digest)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A version that must not be offered again unless a person retries it."""

    version: str
    reason: str
    at: datetime
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a person's request; its id is never acted on again."""

    id: str
    verb: str
    by: str
    at: datetime
    result: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Everything the machine remembers."""

    state: State = State.IDLE
    since: datetime = EPOCH
    stable: VersionRef | None = None
    canary: VersionRef | None = None
    previous: VersionRef | None = None
    started: datetime | None = None
    """When this canary's attempt began: the attempt's name in a mark on the route."""
    stage: int = 0
    weight: int = 0
    """The stage's weight as it was when it began, so that an edit is noticed."""
    observed_at: datetime | None = None
    """When the stage's weight was first observed; the clock starts then."""
    evidence_from: datetime | None = None
    """Requests before this are warm-up and no evidence."""
    observation: Observation | None = None
    """Of the route's present state, while there is a canary."""
    clock: Clock = Clock()
    pause: Pause | None = None
    hold: Hold | None = None
    failure: Failure | None = None
    keep_until: datetime | None = None
    """RolledBack: the canary's pods stay until then, for a look."""
    previous_until: datetime | None = None
    """After a promotion: the old version's pods stay warm until then."""
    history: tuple[Ended, ...] = ()
    """Newest first."""
    quarantined: tuple[Quarantined, ...] = ()
    answer: Answer | None = None

    @property
    def attempt(self) -> str:
        """Names this attempt of this version, across restarts."""
        return self.started.isoformat() if self.started else ""

    def enter(self, state: State, now: datetime, **changes: object) -> Progress:
        """The same rollout in another state; a stage's clock and observation never leak into the next state."""
        fresh = replace(
            self, state=state, since=now, observed_at=None, clock=Clock(total=self.clock.total + self.clock.active)
        )
        return replace(fresh, **changes)  # type: ignore[arg-type]

    def tried(self) -> int:
        """Largest version number that was ever champion, canary, ended or quarantined here. Versions only move forward."""
        refs = [ref.name for ref in (self.stable, self.canary, self.previous) if ref]
        names = refs + [e.version for e in self.history] + [q.version for q in self.quarantined]
        return max((VersionRef(name).number for name in names), default=0)

    def remember(self, ended: Ended) -> Progress:
        """With one more entry of history, bounded; the entry of the newest version is never dropped (see `tried`)."""
        entries = (ended, *self.history)
        newest = max(entries, key=lambda e: e.ref.number)
        kept = entries[:HISTORY]
        return replace(self, history=kept if newest in kept else (*kept[: HISTORY - 1], newest))

    def condemn(self, quarantined: Quarantined) -> Progress:
        """With one more version in quarantine (once), bounded."""
        others = tuple(q for q in self.quarantined if q.version != quarantined.version)
        return replace(self, quarantined=(quarantined, *others)[:QUARANTINE])

    def pardon(self, version: str) -> Progress:
        """Without this version in quarantine: a person's retry."""
        return replace(self, quarantined=tuple(q for q in self.quarantined if q.version != version))


def stage_of(spec: RolloutSpec, progress: Progress) -> Step:
    """The stage the rollout is in under the present spec.

    Steps cut away below a live rollout leave it in the last one left; with none left it stays where it is, for a person.
    """
    if not spec.steps:
        return Step(progress.weight, pause=True)
    return spec.steps[min(progress.stage, len(spec.steps) - 1)]
