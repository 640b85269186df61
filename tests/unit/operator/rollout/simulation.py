"""A small world for a rollout to live in: pods, a route with a gateway behind it, a metrics source, and an operator that can die.

Nothing here knows the rules. The world keeps a second set of books (`Truth`) about what really happened, against which invariants
are checked; the operator only ever sees `Seen`, possibly old.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from espalier_operator.decisions.judge.verdict import SampleState, VerdictKind
from espalier_operator.decisions.rollout.machine import RULES, decide
from espalier_operator.decisions.rollout.plan import Effect, RolloutPlan, effects
from espalier_operator.decisions.rollout.progress import Outcome, Progress, State
from espalier_operator.decisions.rollout.world import (
    BlockCount,
    Capabilities,
    Counted,
    Mark,
    Pod,
    Reading,
    Request,
    RolloutSpec,
    Seen,
    Span,
    Traffic,
    VersionRef,
    Workload,
)
from tests.unit.operator.rollout.simulated_audit import unproven
from tests.unit.operator.rollout.simulated_parts import (
    INTERVAL,
    LAG,
    PATIENCE,
    START,
    ConflictError,
    DataPlane,
    SimPod,
    SimRoute,
    Stored,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from espalier_operator.decisions.rollout.view import Rule

START_UP = timedelta(seconds=20)
SETTLES = timedelta(seconds=1)
BLOCKS_TO_CONVICT = 2
REQUESTS_PER_BLOCK = 100


@dataclass
class Truth:
    """What really happened, for invariants."""

    bad: set[str] = field(default_factory=set)
    troubled: set[str] = field(default_factory=set)
    """Versions whose pods crashed, lied or went unready."""
    condemned: dict[str, str] = field(default_factory=dict)
    """Version -> attempt that got a Fail which reached the cluster."""
    retried: set[str] = field(default_factory=set)
    champions: list[str] = field(default_factory=list)
    seen_data: dict[tuple[str, int], timedelta] = field(default_factory=dict)
    """(attempt, stage) -> judged time with data while the weight was on."""
    waved_on: set[tuple[str, int]] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)


class World:
    """The cluster, the gateway and the metrics source."""

    def __init__(self, spec: RolloutSpec) -> None:
        self.now = START
        self.spec = spec
        self.candidates: list[VersionRef] = []
        self.replicas: dict[str, int] = {}
        self.pods: list[SimPod] = []
        self.route = SimRoute()
        self.stored = Stored()
        self.truth = Truth()
        self.request: Request | None = None
        self.gateway_up = True
        self.moves = True
        """The data plane follows what the gateway accepted; otherwise it goes on with what it has."""
        self.plane = DataPlane()
        self.source_up = True
        self.traffic_flows = True
        self.nodes_full = False
        self.deleting: datetime | None = None
        self.released = False
        self.liars: set[str] = set()
        self._serial = 0

    # --- time ------------------------------------------------------------------------------------------------------
    def pass_time(self, by: timedelta) -> None:
        """Pods start, the gateway follows."""
        up = {pod.version for pod in self.pods if pod.ready} if self.traffic_flows else set()
        self.plane.serve(self.now, by, up)
        self.now += by
        for pod in self.pods:
            up = not pod.ready and not pod.unschedulable and pod.crash is None and self.now >= pod.created + START_UP
            if up:
                pod.ready, pod.was_ready, pod.changed = True, True, self.now
            if pod.unschedulable and not self.nodes_full:
                pod.unschedulable = False
        self._reconcile_pods()
        if self.gateway_up and self.route.weights and self.route.accepted_at is None:
            self.route.accepted_at = self.now
        if self.moves and self.gateway_up:
            self.plane.carried = dict(self.route.weights)

    def _reconcile_pods(self) -> None:
        for version, wanted in self.replicas.items():
            mine = [p for p in self.pods if p.version == version]
            for _ in range(wanted - len(mine)):
                self._serial += 1
                digest = "sha256:lie" if version in self.liars else f"sha256:{version}"
                self.pods.append(
                    SimPod(
                        f"{version}-{self._serial}",
                        version,
                        self.now,
                        changed=self.now,
                        digest=digest,
                        unschedulable=self.nodes_full,
                    )
                )
            for extra in mine[wanted:]:
                self.pods.remove(extra)
        self.pods = [p for p in self.pods if p.version in self.replicas]

    # --- writes of the operator ------------------------------------------------------------------------------------
    def write_route(
        self, weights: dict[str, int], mark: Mark | None, based_on: int, ready_seen: set[str], stable: str | None
    ) -> None:
        """Server-side apply with a precondition; every rise of weight is checked against what the operator could know."""
        if based_on != self.route.version:
            raise ConflictError("route")
        if weights == self.route.weights and mark == self.route.mark:
            return
        if sum(weights.values()) != 100:
            self.complain(f"weights {weights}")
        for version, weight in weights.items():
            rises = weight > self.route.weights.get(version, 0)
            if rises and version not in ready_seen and version != stable:
                self.complain(f"{version} rises to {weight} without a ready pod")
            if rises and version != stable and version in self.truth.condemned and version not in self.truth.retried:
                self.complain(f"{version} was condemned and rises to {weight}")
            if weight and version not in self.replicas:
                self.complain(f"{version} gets weight without a Service")
        self.route = SimRoute(dict(weights), mark, self.route.version + 1)

    def write_status(self, stored: Stored, based_on: int, gained: tuple[str, int, timedelta]) -> None:
        """Status patch with a precondition."""
        if based_on != self.stored.version:
            raise ConflictError("status")
        before, after = self.stored.progress, stored.progress
        if stored == replace(self.stored, version=stored.version, attempt=stored.attempt):
            return
        attempt, stage, time = gained
        self.truth.seen_data[attempt, stage] = self.truth.seen_data.get((attempt, stage), timedelta(0)) + time
        self._audit(before, after)
        self.truth.complaints += unproven(self, before, after)
        self.stored = replace(stored, version=self.stored.version + 1)

    def _audit(self, before: Progress, after: Progress) -> None:
        if after.stable != before.stable and after.stable is not None:
            self.truth.champions.append(after.stable.name)
            if after.stable.name in self.truth.condemned and after.stable.name not in self.truth.retried:
                self.complain(f"condemned {after.stable.name} became champion")
        if before.stable is not None and after.stable is None:
            self.complain("the champion was forgotten")
        failed = self.stored.verdict is VerdictKind.FAIL and self.stored.attempt == after.attempt
        if failed and (
            after.stage > before.stage or (after.state is State.PROMOTING and before.state is not after.state)
        ):
            self.complain(f"{after.canary} went on after a Fail")
        moved_on = (
            after.attempt == before.attempt
            and (after.stage > before.stage or after.state is State.PROMOTING)
            and before.state is State.STEPPING
        )
        asked = after.answer != before.answer
        if moved_on and not asked and after.state is not State.ROLLING_BACK:
            seen = self.truth.seen_data.get((before.attempt, before.stage), timedelta(0))
            hold = self.spec.steps[min(before.stage, len(self.spec.steps) - 1)].hold
            if self.spec.analysed and seen < hold:
                self.complain(f"stage {before.stage} of {before.canary} ended after {seen} of data, hold is {hold}")
        for ended in after.history:
            breached = ended.version in self.truth.bad | self.truth.troubled
            if ended not in before.history and ended.outcome is Outcome.ROLLED_BACK and not breached:
                self.complain(f"{ended.version} was rolled back without a breach: {ended.reason}")

    def complain(self, about: str) -> None:
        """Remember a broken invariant; the test fails on it."""
        self.truth.complaints.append(f"{self.now:%H:%M:%S} {about}")

    def check_after_a_fresh_pass(self) -> None:
        """Whoever has just seen everything leaves no weight on a canary without a ready pod."""
        progress = self.stored.progress
        canary = progress.canary.name if progress.canary and progress.stable else None
        weight = self.route.weights.get(canary or "", 0)
        if weight and not any(pod.ready for pod in self.pods if pod.version == canary):
            self.complain(f"{canary} keeps weight {weight} without a ready pod")

    def scale(self, version: str, replicas: int) -> None:
        """Apply a Deployment and its Service."""
        if replicas == 0 and self.route.weights.get(version, 0):
            self.complain(f"{version} scaled to 0 with weight {self.route.weights[version]}")
        self.replicas[version] = replicas
        self._reconcile_pods()

    def remove(self, version: str) -> None:
        """Delete a Deployment and its Service."""
        if self.route.weights.get(version, 0) and not (self.deleting and not self.gateway_up):
            self.complain(f"{version} removed with weight {self.route.weights[version]}")
        self.replicas.pop(version, None)
        self._reconcile_pods()

    # --- observation -----------------------------------------------------------------------------------------------
    def observe(self) -> Seen:
        """Everything but the evidence, as a fresh cache has it."""
        accepted = self.route.accepted_at
        return Seen(
            candidates=tuple(self.candidates),
            pods=tuple(
                Pod(
                    p.name, p.version, p.ready, p.created, p.changed, p.was_ready, restarts=p.restarts, crash=p.crash,
                    unschedulable="0/3 nodes are available" if p.unschedulable else "", digest=p.digest if p.ready else None,
                )
                for p in self.pods
            ),
            workloads=tuple(Workload(version, n) for version, n in self.replicas.items()),
            traffic=Traffic(
                weights=dict(self.route.weights),
                settled=accepted is not None and self.now >= accepted + SETTLES,
                accepted_at=accepted,
                mark=self.route.mark,
                resource_version=str(self.route.version),
                route=str(self.route.version),
            ),
            request=self.request,
            deleting_since=self.deleting,
        )  # fmt: skip


class Operator:
    """Observes, decides and applies; may see old pods and routes, may die between any two effects."""

    def __init__(self, world: World, rules: Sequence[Rule] = RULES) -> None:
        self.world = world
        self.rules = rules
        self.stored = replace(world.stored)
        self.cache: Seen = world.observe()
        self.read_until = START
        """Blocks that ended later were never read: the source was down. A new process reads them again."""

    def refresh(self) -> None:
        """The watch caught up."""
        self.cache = self.world.observe()
        self.stored = replace(self.world.stored)

    def run(self, survive: int | None = None) -> RolloutPlan:
        """One pass; with `survive`, the process dies after that many effects. A released object has no more passes."""
        world = self.world
        if world.released:
            survive = 0
        seen, stored, gained = self._analyse(replace(self.cache, request=world.request, deleting_since=world.deleting))
        seen = replace(seen, counted=self._count(seen))
        plan = decide(world.spec, seen, stored.progress, world.now, self.rules)
        stored = replace(stored, progress=plan.progress)
        for done, effect in enumerate(effects(plan, seen)):
            if survive is not None and done >= survive:
                return plan
            try:
                self._apply(effect, plan, seen, stored, gained)
            except ConflictError:
                self.refresh()
                return plan
            self._account(effect, plan)
        return plan

    def _apply(
        self, effect: Effect, plan: RolloutPlan, seen: Seen, stored: Stored, gained: tuple[str, int, timedelta]
    ) -> None:
        world = self.world
        if effect is Effect.ROUTE and plan.split is not None:
            ready = {p.version for p in seen.pods if p.ready}
            stable = plan.progress.stable.name if plan.progress.stable else None
            world.write_route(plan.split.weights, plan.split.mark, int(seen.traffic.resource_version), ready, stable)
            self.cache = replace(self.cache, traffic=world.observe().traffic)  # own writes are seen at once
        elif effect is Effect.SERVE:
            for serve in plan.serve:
                if world.replicas.get(serve.version.name) != serve.replicas:
                    world.scale(serve.version.name, serve.replicas)
        elif effect is Effect.STATUS:
            world.write_status(stored, self.stored.version, gained)
            self.stored = replace(world.stored)
        elif effect is Effect.REMOVE:
            if plan.remove_all:
                world.route = SimRoute(version=world.route.version + 1)
            for version in plan.remove:
                world.remove(version)
        elif effect is Effect.RELEASE:
            world.released = True

    def _account(self, effect: Effect, plan: RolloutPlan) -> None:
        """The second set of books."""
        truth, progress = self.world.truth, plan.progress
        wrote = effect in {Effect.ROUTE, Effect.STATUS}
        failure = progress.failure
        judged = failure is not None and failure.outcome is Outcome.ROLLED_BACK
        if wrote and judged and progress.state is State.ROLLING_BACK and progress.canary is not None:
            truth.condemned[progress.canary.name] = progress.attempt
            truth.retried.discard(progress.canary.name)
        if (
            effect is Effect.STATUS
            and any(note.reason == "Retried" for note in plan.notes)
            and progress.canary is not None
        ):
            truth.retried.add(progress.canary.name)

    def _analyse(self, seen: Seen) -> tuple[Seen, Stored, tuple[str, int, timedelta]]:
        """Due blocks since the last one in status: what the real controller does with Prometheus and the judge."""
        world, stored = self.world, self.stored
        progress = stored.progress
        if stored.attempt != progress.attempt:
            stored = Stored(progress, stored.version, attempt=progress.attempt)
        judged = progress.state in {State.STEPPING, State.BAKING} and progress.evidence_from is not None
        spans: list[Span] = []
        if judged and world.source_up and progress.evidence_from is not None:
            for end in self._due(stored, progress.evidence_from):
                stored, span = self._judge(stored, end)
                spans.append(span)
        if judged and progress.evidence_from is not None:
            backlog = bool(self._due(stored, progress.evidence_from))
            if backlog and not world.source_up:
                stored = replace(stored, state=SampleState.SOURCE_DOWN)
        else:
            backlog = False
        reading = Reading(
            "errors", stored.state, stored.verdict, requests=len(stored.data_blocks) * REQUESTS_PER_BLOCK, min_requests=20,
            sentence="errors: worse", last_block_end=stored.blocks[-1] if stored.blocks else None,
        )  # fmt: skip
        seen = replace(seen, readings=(reading,) if judged else (), spans=tuple(spans), backlog=backlog)
        since = progress.clock.counts_from
        time = sum(
            (max(timedelta(0), s.end - max(s.start, since)) for s in spans if s.counts and since), start=timedelta(0)
        )
        return seen, stored, (progress.attempt, progress.stage, time)

    def _count(self, seen: Seen) -> Counted | None:
        """Blocks after the route was accepted, as the source has them; what was read stays read in an outage."""
        world, progress = self.world, self.stored.progress
        known, canary, stable = progress.observation, progress.canary, progress.stable
        if canary is None or stable is None:
            return None
        down = "" if world.source_up else "Refused"
        if known is None or known.route != seen.traffic.route:
            return Counted(down=down, patience=PATIENCE)
        if world.source_up:
            self.read_until = world.now
        blocks, end = [], START + (known.since - START) // INTERVAL * INTERVAL + 2 * INTERVAL
        while end + LAG <= min(world.now, self.read_until):
            mine, other = (world.plane.requests(v.name, end - INTERVAL, end) for v in (canary, stable))
            blocks.append(BlockCount(end, mine, mine + other))
            end += INTERVAL
        return Counted(tuple(blocks[-20:]), down, PATIENCE)

    def _due(self, stored: Stored, evidence_from: datetime) -> list[datetime]:
        blocks, at = [], START
        while at + LAG <= self.world.now:
            if at - INTERVAL >= evidence_from and (not stored.blocks or at > stored.blocks[-1]):
                blocks.append(at)
            at += INTERVAL
        return blocks[:20]

    def _judge(self, stored: Stored, end: datetime) -> tuple[Stored, Span]:
        """The source remembers: whether a block had traffic is a fact of the world at that time; here, of now."""
        world = self.world
        canary = stored.progress.canary
        if end in stored.blocks:
            world.complain(f"block {end} judged twice")
        has_data = world.traffic_flows and canary is not None and world.route.weights.get(canary.name, 0) > 0
        data = (*stored.data_blocks, end) if has_data else stored.data_blocks
        guilty = has_data and canary is not None and canary.name in world.truth.bad and len(data) >= BLOCKS_TO_CONVICT
        verdict = VerdictKind.FAIL if guilty else stored.verdict
        state = (SampleState.BREACH if guilty else SampleState.PASS) if has_data else SampleState.NO_DATA
        judged = replace(stored, blocks=(*stored.blocks, end), data_blocks=data, verdict=verdict, state=state)
        return judged, Span(end - INTERVAL, end, counts=has_data)


BY_PODS = Capabilities(by_pods=True, max_weight=50, per_request=False)
