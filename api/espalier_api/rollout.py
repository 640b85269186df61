"""CanaryRollout: a standing object per model that says how a passing version takes over traffic, what decides, and how it is undone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from espalier_api.analysis import Analysis
from espalier_api.base import ApiModel, Cel, ListMap, Resource, StatusModel, exactly_one
from espalier_api.conditions import Condition
from espalier_api.durations import Duration, Timestamp, parse_duration
from espalier_api.kubernetes import LocalReference, ObjectMeta
from espalier_api.names import API_VERSION
from espalier_api.rollout_machine import MachineStatus
from espalier_api.traffic import Traffic

HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_|~-]+$", max_length=256)]
HeaderValue = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class Service(ApiModel):
    """The stable Service `<model>`."""

    port: int = Field(default=8080, ge=1, le=65_535)
    """Its port; pods always listen on 8080."""


class Shadow(ApiModel):
    """Copies of requests go to the canary; its answers are discarded. Judged like a step."""

    percent: int = Field(default=100, ge=1, le=100)
    """Share of requests that is copied."""
    hold: Duration = parse_duration("10m")
    """How long."""


class Match(ApiModel):
    """Requests with these headers go to the canary (A/B). Judged like a step."""

    headers: dict[HeaderName, HeaderValue] = Field(min_length=1, max_length=8)
    """Exact values; all must match."""
    hold: Duration = parse_duration("1h")
    """How long."""


class Pause(ApiModel):
    """Wait for a person: `promote` or `resume` goes on."""


class Step(ApiModel):
    """One weight, held for a time or until a person goes on."""

    weight: int = Field(ge=1, le=99)
    """Percent of traffic; 100 is the promotion itself."""
    hold: Duration | None = None
    """Active time at this weight; held time does not count."""
    pause: Pause | None = None
    """Wait for a person instead."""

    cel = (exactly_one("hold", "pause", what="step"),)


class Bake(ApiModel):
    """After 100 %: the old version stays warm and a breach reverts."""

    hold: Duration = parse_duration("30m")
    """How long."""


DEFAULT_STEPS = tuple(Step(weight=weight, hold=parse_duration("10m")) for weight in (5, 25, 50))


class Strategy(ApiModel):
    """The way to 100 %."""

    shadow: Shadow | None = None
    """First, if declared."""
    match: Match | None = None
    """Second, if declared."""
    steps: tuple[Step, ...] = Field(default=DEFAULT_STEPS, min_length=1, max_length=20)
    """Then these weights, each larger than the one before."""
    bake: Bake | None = None
    """Then all traffic, if declared; otherwise the last step's end is the promotion."""
    warm_up: Duration = parse_duration("60s")
    """Requests in the first moments of a canary are not evidence."""
    start_deadline: Duration = parse_duration("10m")
    """Time for the canary's pods to be scheduled, ready and verified."""
    unready_grace: Duration = parse_duration("30s")
    """How long a canary pod may be unready before that is a failure."""
    deadline: Duration = parse_duration("24h")
    """Longest active time of a canary."""
    on_deadline: Literal["Pause", "Rollback"] = "Pause"
    """After it."""
    promotion: Literal["Automatic", "Manual"] = "Automatic"
    """Whether a person must say `promote` after the last step."""
    require_evidence: bool = False
    """Promote only when every SLI has proven the canary not worse; slow at little traffic."""
    supersede: bool = False
    """Let a newer candidate take over between two steps."""

    cel = (
        Cel(
            rule="!has(self.steps) || (self.steps.map(s, s.weight).isSorted()"
            " && self.steps.all(a, self.steps.exists_one(b, b.weight == a.weight)))",
            message="strategy: the weights of steps must increase",
            holds=lambda strategy: all(
                a.weight < b.weight for a, b in zip(strategy.steps, strategy.steps[1:], strict=False)
            ),
        ),
    )


class RetrainOnRollback(ApiModel):
    """Ask a policy for a new version."""

    policy_ref: LocalReference
    """A RetrainPolicy with a rollback trigger."""


class Rollback(ApiModel):
    """What happens after a Fail."""

    quarantine: bool = True
    """Never offer the version again (a person may retry it). Without it the version is only passed over until the next candidate."""
    keep_canary: Duration = parse_duration("10m")
    """How long the failed pods stay, without traffic, for a look."""
    keep_previous: Duration = parse_duration("30m")
    """How long the old version stays warm after a promotion."""
    retrain: RetrainOnRollback | None = None
    """Who is asked for a new version."""


class CanaryRolloutSpec(ApiModel):
    """How a version takes over, what decides, how it is undone."""

    model_ref: LocalReference
    """The RegularizedModel."""
    service: Service = Service()
    """The stable Service."""
    traffic: Traffic
    """The router."""
    strategy: Strategy = Strategy()
    """The way to 100 %."""
    analysis: Analysis = Analysis()
    """What decides."""
    rollback: Rollback = Rollback()
    """How it is undone."""
    paused: bool = False
    """Stand still; a Fail still rolls back."""
    deletion_policy: Literal["Retain", "Delete"] = "Retain"
    """Whether the stable version goes on serving when this object is deleted."""

    cel = (
        Cel(
            rule="!has(self.strategy) || (!has(self.strategy.shadow) && !has(self.strategy.match)) || !has(self.traffic.replicas)",
            message="strategy: shadow and match need a router; traffic.replicas can only divide by weight",
            holds=lambda spec: (
                spec.traffic.replicas is None or (spec.strategy.shadow is None and spec.strategy.match is None)
            ),
        ),
        Cel(
            rule="!has(self.analysis) || !has(self.analysis.slis) || !self.analysis.slis.exists(s, has(s.disagreement))"
            " || (has(self.strategy) && has(self.strategy.shadow))",
            message="analysis: the sli disagreement compares mirrored requests; declare strategy.shadow or remove it",
            holds=lambda spec: (
                spec.strategy.shadow is not None or all(sli.disagreement is None for sli in spec.analysis.slis)
            ),
        ),
        Cel(
            rule="self.modelRef.name == oldSelf.modelRef.name",
            message="modelRef cannot change, because the evidence and aliases in status belong to its model; create another rollout",
            holds=lambda _: True,
            judged_by="server",
        ),
    )


class ArmStatus(StatusModel):
    """One version that takes part."""

    version: str = Field(max_length=16)
    digest: str | None = Field(default=None, max_length=71)
    ready: int = 0
    """Ready pods."""
    replicas: int = 0
    """Wanted pods."""
    since: Timestamp | None = None
    """When it took this role."""
    verified: bool = False
    """Its pods serve the intended digest and answer the golden inputs."""


class StepStatus(StatusModel):
    """Where the canary is."""

    index: int = 0
    of: int = 0
    weight: int = 0
    """Wanted percent."""
    observed_weight: int | None = None
    """Percent that traffic follows; absent until it was observed."""
    observed_by: Literal["counters", "lag"] | None = None
    """How: by the versions' request counters; or, where they cannot tell, because the router's known lag has passed."""
    since: Timestamp | None = None
    """When the weight was observed."""
    held_since: Timestamp | None = None
    """Since when the clock stands still."""
    held_seconds: float = 0.0
    """Time of this step that did not count because data or traffic were missing, without the current hold."""
    remaining: Duration | None = None
    """Active time left, as of the last write."""
    waiting: str | None = Field(default=None, max_length=256)
    """For whom or what, when it waits."""


class SliStatus(StatusModel):
    """One indicator: what a person checks and what a restart needs."""

    name: str = Field(max_length=63)
    state: Literal["Pass", "Breach", "Inconclusive", "NoData", "SourceDown"] | None = None
    verdict: Literal["Continue", "Fail", "Pass"] = "Continue"
    evidence: float | None = None
    """E, compared with abortAt."""
    abort_at: float | None = None
    canary: str | None = Field(default=None, max_length=128)
    """In words: `4/1020 (0.39 %)`."""
    stable: str | None = Field(default=None, max_length=128)
    allowed: str | None = Field(default=None, max_length=128)
    at_least: float | None = None
    """The harm is at least this ratio, at the verdict's confidence."""
    dispersion: float | None = None
    blocks: int = 0
    last_block_end: Timestamp | None = None
    log_e: tuple[float, ...] = Field(default=(), max_length=32, alias="logE")
    sums: dict[str, float] = Field(default_factory=dict, max_length=32)
    """Counts so far, by arm: canaryTotal, canaryBad, stableTotal, stableBad."""
    extra: dict[str, float] = Field(default_factory=dict, max_length=64)
    """Further numbers of the judge: evidence one block ago, blocks without traffic, evidence for the canary."""
    bounds: str | None = Field(default=None, max_length=2048)
    """Evidence behind `atLeast`, packed: one row per ratio, one number per hypothesised harm."""
    dispersion_note: str | None = Field(default=None, max_length=256)
    """Why dispersion is 1 where it could not be measured."""
    failures: int = 0
    """Breaches of a threshold."""
    errors_in_a_row: int = 0
    value: float | None = None
    """Last value of a threshold."""
    message: str | None = Field(default=None, max_length=1024)


class HistoryEntry(StatusModel):
    """How one canary ended. Bounded here, complete in the store."""

    version: str = Field(max_length=16)
    outcome: Literal["Promoted", "RolledBack", "Aborted", "Superseded", "Initial"]
    reason: str | None = Field(default=None, max_length=256)
    message: str | None = Field(default=None, max_length=2048)
    sli: str | None = Field(default=None, max_length=63)
    evidence: float | None = None
    from_: str | None = Field(default=None, max_length=16, alias="from")
    to: str | None = Field(default=None, max_length=16)
    """Champion before and after."""
    at: Timestamp
    duration: Duration | None = None
    digest: str | None = Field(default=None, max_length=71)
    weight: int = 0
    """Canary's percent when it ended; of a promotion 100."""
    verdict_at: Timestamp | None = None
    """When the verdict fell."""
    weight_zero_at: Timestamp | None = None
    """When weight 0 was observed at the route."""


class Aliases(StatusModel):
    """The truth about roles. Exactly one champion; `previous` has an artifact."""

    champion: str | None = Field(default=None, max_length=16)
    challenger: str | None = Field(default=None, max_length=16)
    previous: str | None = Field(default=None, max_length=16)


class QuarantinedVersion(StatusModel):
    """A version that is never offered again."""

    version: str = Field(max_length=16)
    reason: str | None = Field(default=None, max_length=256)
    message: str | None = Field(default=None, max_length=2048)
    at: Timestamp


class LastRequest(StatusModel):
    """The last thing a person asked for; each id is done once."""

    id: str = Field(max_length=63)
    verb: str = Field(max_length=32)
    by: str | None = Field(default=None, max_length=253)
    """The field manager that wrote the request, e.g. `kubectl-annotate`. Kubernetes keeps no user there; its audit log does."""
    at: Timestamp
    result: str | None = Field(default=None, max_length=1024)


class Columns(StatusModel):
    """Texts for the columns of `kubectl get canary`; for people only."""

    weight: str | None = Field(default=None, max_length=32)
    """Wanted and observed, e.g. `25/25%`."""
    step: str | None = Field(default=None, max_length=32)
    """E.g. `2/3`."""
    sli: str | None = Field(default=None, max_length=128)
    """The SLI nearest to its limit, e.g. `errors 1.8/60`."""


class CanaryRolloutStatus(StatusModel):
    """What was observed and what a restart continues from. `phase` is for people only."""

    observed_generation: int = 0
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16), ListMap("type")] = ()
    phase: str | None = Field(default=None, max_length=64)
    machine: MachineStatus | None = None
    """The machine's memory; conditions and the fields below tell it in words."""
    stable: ArmStatus | None = None
    canary: ArmStatus | None = None
    step: StepStatus | None = None
    slis: Annotated[tuple[SliStatus, ...], Field(max_length=16), ListMap("name")] = ()
    history: tuple[HistoryEntry, ...] = Field(default=(), max_length=20)
    """Newest first."""
    aliases: Aliases = Aliases()
    quarantined: Annotated[tuple[QuarantinedVersion, ...], Field(max_length=64), ListMap("version")] = ()
    last_request: LastRequest | None = None
    router: str | None = Field(default=None, max_length=1024)
    """What the router can do and how it rounds, in words."""
    columns: Columns = Columns()
    """What `kubectl get` prints."""


class CanaryRollout(Resource):
    """The whole object."""

    api_version: Literal["espalier.dev/v1alpha1"] = API_VERSION
    kind: Literal["CanaryRollout"] = "CanaryRollout"
    metadata: ObjectMeta
    spec: CanaryRolloutSpec
    status: CanaryRolloutStatus = CanaryRolloutStatus()
