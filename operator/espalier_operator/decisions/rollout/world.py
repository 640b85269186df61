"""What a rollout's decision may look at, and nothing else: the wish, the pods, the route, the evidence, a person's request.

Everything here is frozen and was observed before the decision; the decision itself asks nobody. Times are aware UTC datetimes,
weights are integer percent, durations are timedeltas.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from espalier_operator.decisions.judge.verdict import SampleState, VerdictKind

if TYPE_CHECKING:
    from collections.abc import Mapping

FULL = 100
"""Percent: all traffic."""


class Then(StrEnum):
    """What follows when a wait has lasted too long or ends without an answer."""

    PAUSE = "Pause"
    ROLLBACK = "Rollback"
    PROCEED = "Proceed"


class BlindPolicy(StrEnum):
    """What a rollout does while it cannot see its canary."""

    HOLD = "Hold"
    ROLLBACK = "Rollback"
    PROCEED = "Proceed"


@dataclass(frozen=True, slots=True)
class VersionRef:
    """A version and the digest its pods must serve."""

    name: str
    digest: str = ""

    @property
    def number(self) -> int:
        """The N of vN: versions only move forward."""
        return int(self.name.removeprefix("v"))


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of exposure: a weight (percent), the active time it must survive, and whether a person must wave it on."""

    weight: int
    hold: timedelta = timedelta(0)
    pause: bool = False


@dataclass(frozen=True, slots=True)
class Blindness:
    """Policy for one kind of not seeing; `deadline` counts from the first blind look."""

    policy: BlindPolicy = BlindPolicy.HOLD
    deadline: timedelta = timedelta(minutes=15)
    then: Then = Then.PAUSE


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a pod may trouble us before its version is judged by it."""

    deploy: timedelta = timedelta(minutes=10)
    """From the first apply until every pod is ready and verified."""
    unschedulable: timedelta = timedelta(minutes=5)
    """A pod that no node takes: the PreRunning timeout."""
    unready: timedelta = timedelta(seconds=30)
    """A pod that was ready and is not any more."""
    restarts: int = 3
    """Crashes of a pod that has never been ready (a store may be down for a moment); afterwards one is enough."""
    leave: timedelta = timedelta(seconds=60)
    """A deleted rollout waits this long for a gateway to confirm that stable has its traffic back."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a traffic router can do, asked before a step that needs it is accepted."""

    by_pods: bool = False
    """The share of ready pods is the weight: scaling is how weight moves, and every pod of the model is an endpoint."""
    max_weight: int = FULL
    """Largest weight below 100 that it can hold; 100 (a switch) is always possible."""
    mirror: bool = False
    headers: bool = False
    per_request: bool = True
    """Each request is routed by weight. False: connections are, and a client may keep one for hours."""
    lag: timedelta = timedelta(seconds=1)
    """Known worst delay between an accepted route and traffic that follows it (references/gateway.md)."""


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """The wish, resolved: every default filled in, durations parsed. `problems` names fields that are refused."""

    steps: tuple[Step, ...] = (Step(5, timedelta(minutes=10)),)
    replicas: int = 1
    warm_up: timedelta = timedelta(seconds=60)
    deadline: timedelta = timedelta(hours=24)
    on_deadline: Then = Then.PAUSE
    manual_promotion: bool = False
    bake: timedelta | None = None
    analysed: bool = True
    """False when the spec names no SLI: then wall time is the clock."""
    interval: timedelta = timedelta(seconds=30)
    on_no_data: Blindness = Blindness()
    on_source_down: Blindness = Blindness(deadline=timedelta(hours=1))
    on_inconclusive: Then = Then.PAUSE
    quarantine: bool = True
    keep_canary: timedelta = timedelta(minutes=10)
    keep_previous: timedelta = timedelta(minutes=30)
    paused: bool = False
    supersede: bool = False
    delete_serving: bool = False
    """deletionPolicy: Delete. Otherwise stable outlives the rollout object."""
    capabilities: Capabilities = Capabilities()
    patience: Patience = Patience()
    problems: tuple[str, ...] = ()
    """Refused fields, each as `spec.path: why and what to do`; a rollout with problems starts and raises nothing."""
    generation: int = 1


@dataclass(frozen=True, slots=True)
class Crash:
    """A container that ended badly. `reason` is Kubernetes' word (OOMKilled, Error), `detail` the pod's own last words."""

    reason: str
    exit_code: int
    at: datetime
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Pod:
    """One serving pod as the watch cache has it."""

    name: str
    version: str
    ready: bool
    created: datetime
    changed: datetime
    """When its Ready condition last flipped."""
    was_ready: bool = False
    leaving: bool = False
    """Being deleted, evicted or on a lost node: the cluster's doing, not the version's."""
    restarts: int = 0
    crash: Crash | None = None
    waiting: str = ""
    """Why its container does not run: ImagePullBackOff, CrashLoopBackOff, …"""
    unschedulable: str = ""
    """The scheduler's message when no node takes it."""
    mounting: str = ""
    """What must exist before it can start (a Secret, say), when it waits for that."""
    digest: str | None = None
    """What GET /v2/models/<m> says it serves; None when not asked yet or unanswered."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A version's Deployment and Service as they exist."""

    version: str
    replicas: int
    service: bool = True


@dataclass(frozen=True, slots=True)
class Mark:
    """A rollback's verdict, written in the same request as weight 0, so that no crash of the operator can forget it.

    `started` names the attempt (the moment the canary was started): a retried version is not condemned by its past.
    """

    version: str
    started: str
    outcome: str
    reason: str
    message: str
    at: datetime
    sli: str = ""
    evidence: float | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """The route as the cluster has it: what is written, and whether traffic can be taken to follow it."""

    weights: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Percent by version; empty when there is no route yet. Versions at weight 0 that the route still names are in it."""
    settled: bool = False
    """Accepted by every parent at the present generation, and the router's known lag has passed since."""
    accepted_at: datetime | None = None
    mark: Mark | None = None
    problem: str = ""
    """Why the gateway refuses it, in its own words."""
    note: str = ""
    """What a person should know: rounding, or how the weight was observed."""
    share: int | None = None
    """The canary's real percent where the router rounds; None where weights are exact."""
    resource_version: str = ""
    route: str = ""
    """Names this state of the route: what was observed of another one proves nothing."""

    def weight(self, version: VersionRef | None) -> int:
        """Percent of `version`, 0 when the route does not name it."""
        return self.weights.get(version.name, 0) if version else 0


@dataclass(frozen=True, slots=True)
class BlockCount:
    """Requests that the versions' own counters saw in one block."""

    end: datetime
    canary: int
    total: int
    """Of canary and stable together."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Blocks that lie wholly after the route was accepted, its lag, and one scrape; oldest first."""

    blocks: tuple[BlockCount, ...] = ()
    down: str = ""
    """Why the source does not answer now."""
    patience: timedelta = timedelta(minutes=2)
    """After it the known lag is all the proof there will be."""


@dataclass(frozen=True, slots=True)
class Span:
    """A judged stretch of time; `counts` is False when nothing was seen in it, and then it is not active time."""

    start: datetime
    end: datetime
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Reading:
    """One SLI after its latest block: enough for a decision, and `status` verbatim for people and restarts."""

    name: str
    state: SampleState
    verdict: VerdictKind = VerdictKind.CONTINUE
    requests: float = 0.0
    """Canary requests judged so far in this rollout."""
    min_requests: int = 0
    dry_run: bool = False
    evidence: float | None = None
    sentence: str = ""
    last_block_end: datetime | None = None
    status: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Request:
    """A person's wish: `espalier.dev/request: <verb>@<id>`."""

    verb: str
    id: str
    by: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """The observed world of one rollout in one pass."""

    candidates: tuple[VersionRef, ...] = ()
    champion: VersionRef | None = None
    """Whom the model (or S3) names as champion; only looked at while the rollout itself knows none."""
    pods: tuple[Pod, ...] = ()
    workloads: tuple[Workload, ...] = ()
    traffic: Traffic = Traffic()
    readings: tuple[Reading, ...] = ()
    spans: tuple[Span, ...] = ()
    """Newly judged stretches since the clock's `as_of`, oldest first."""
    backlog: bool = False
    """Blocks are due that were not judged yet (an outage, a restart): no step may end before they are."""
    counted: Counted | None = None
    """Requests by version; None where no source counts them."""
    request: Request | None = None
    deleting_since: datetime | None = None

    def ready(self, version: VersionRef | None) -> int:
        """Ready pods of a version that are not on their way out."""
        return sum(1 for pod in self.of(version) if pod.ready)

    def of(self, version: VersionRef | None) -> tuple[Pod, ...]:
        """Pods of a version that are not on their way out."""
        return tuple(p for p in self.pods if version and p.version == version.name and not p.leaving)
