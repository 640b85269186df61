"""What a CanaryRollout's machine must remember across restarts: `status.machine`.

Written and read by the rollout controller only (single writer). People read the other fields of the status, which are
derived from it; nobody needs this one to understand a rollout, and nobody may edit it.
"""

from __future__ import annotations

from pydantic import Field

from espalier_api.base import StatusModel
from espalier_api.durations import Timestamp


class MachineVersion(StatusModel):
    """A version by name, with the digest its pods must serve."""

    name: str = Field(max_length=32)
    digest: str = Field(default="", max_length=128)


class MachineClock(StatusModel):
    """Active time: judged stretches with the stage's weight; paused and blind time is not in it."""

    active: float = 0
    """Seconds in the present stage."""
    total: float = 0
    """Seconds in the stages before."""
    counts_from: Timestamp | None = None
    """Nothing before this counts; absent while the clock stands."""
    held: float = 0
    """Seconds of the present stage that did not count, without the present hold."""


class MachineObservation(StatusModel):
    """Whether traffic follows the route's present state."""

    route: str = Field(default="", max_length=512)
    """Which state of the route it is about."""
    weight: int = Field(default=0, ge=0, le=100)
    since: Timestamp
    """When it was first seen accepted, with the router's known lag passed."""
    before: int | None = None
    """The weight before it (percent)."""
    baseline: float | None = None
    """The canary's share (0-1) if nothing had moved."""
    reach: float | None = None
    """Share (0-1) of all requests that pass the route at least."""
    how: str = Field(default="", max_length=16)
    """counters or lag; empty while it waits or disagrees."""
    share: float | None = None
    """The canary's counted share (0-1)."""
    said: str = Field(default="", max_length=1024)
    disagrees_since: Timestamp | None = None
    told: bool = False


class MachinePause(StatusModel):
    """A wait for a person, or for spec.paused to be taken back."""

    reason: str = Field(max_length=64)
    since: Timestamp
    message: str = Field(default="", max_length=2048)


class MachineHold(StatusModel):
    """Blindness: to which SLI, since when."""

    reason: str = Field(max_length=64)
    since: Timestamp
    sli: str = Field(default="", max_length=128)
    message: str = Field(default="", max_length=2048)
    expired: bool = False
    """The policy's deadline has passed and its `then` was applied."""


class MachineFailure(StatusModel):
    """The verdict on the present attempt."""

    outcome: str = Field(max_length=32)
    reason: str = Field(max_length=64)
    message: str = Field(default="", max_length=2048)
    at: Timestamp
    """When the verdict fell."""
    sli: str = Field(default="", max_length=128)
    evidence: float | None = None
    weight: int = 0
    """Canary weight (percent) when it fell."""
    weight_zero_at: Timestamp | None = None
    """When weight 0 was observed at the route."""


class MachineStatus(StatusModel):
    """The machine's whole memory besides history, quarantine and the last request, which have fields of their own."""

    state: str = Field(max_length=32)
    """Initial, Idle, Deploying, Shadowing, Matching, Stepping, Promoting, Baking, RollingBack or RolledBack."""
    since: Timestamp
    stable: MachineVersion | None = None
    canary: MachineVersion | None = None
    previous: MachineVersion | None = None
    started: Timestamp | None = None
    """When this attempt began; names the attempt in the mark on the route."""
    stage: int = Field(default=0, ge=0)
    """Index of the step; completed steps stay completed when the spec is edited."""
    weight: int = Field(default=0, ge=0, le=100)
    """The stage's weight as it was when it began."""
    observed_at: Timestamp | None = None
    """When the stage's weight was first observed."""
    evidence_from: Timestamp | None = None
    """Requests before this are warm-up, not evidence."""
    observation: MachineObservation | None = None
    clock: MachineClock = MachineClock()
    pause: MachinePause | None = None
    hold: MachineHold | None = None
    failure: MachineFailure | None = None
    keep_until: Timestamp | None = None
    """RolledBack: the canary's pods stay until then."""
    previous_until: Timestamp | None = None
    """After a promotion: the previous version's pods stay warm until then."""
