"""The CanaryRollout controller: observe, look, decide, apply in an order that may be interrupted anywhere.

The only writer of CanaryRollout.status, of a version's serving objects and of the route.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from espalier_api import names
from espalier_api.rollout import CanaryRolloutSpec, CanaryRolloutStatus
from espalier_operator.adapters.analysis import Canary
from espalier_operator.adapters.kube import ForbiddenError
from espalier_operator.adapters.objectstore import ObjectStore, StoreDownError, StoreError
from espalier_operator.adapters.resources import CONFIG_MAPS, DEPLOYMENTS, HTTP_ROUTES, ROLLOUTS, SERVICES
from espalier_operator.adapters.traffic import Router, Target
from espalier_operator.controllers.rollout import looking, observe
from espalier_operator.controllers.rollout.counting import Ask, Counting, patience_of
from espalier_operator.controllers.rollout.gauges import RolloutGauges
from espalier_operator.controllers.rollout.looking import Looking
from espalier_operator.controllers.rollout.manifests import Serving, stable_service, version_children
from espalier_operator.controllers.rollout.records import Records
from espalier_operator.decisions.judge import Arms, SourceTiming, compile_slis
from espalier_operator.decisions.judge import problems as sli_problems
from espalier_operator.decisions.plan import Event, ObjectRef, Plan, parse_time
from espalier_operator.decisions.rollout.leftovers import own_route_is_left
from espalier_operator.decisions.rollout.memory import remembered
from espalier_operator.decisions.rollout.progress import ANALYSING, Progress, State
from espalier_operator.decisions.rollout.report import Picture, status_of
from espalier_operator.decisions.rollout.resolve import resolve
from espalier_operator.decisions.rollout.world import Capabilities, Counted, RolloutSpec, Seen
from espalier_operator.decisions.rollouts import Effect, RolloutPlan, decide, effects

if TYPE_CHECKING:
    from espalier_operator.adapters.kube import Object
    from espalier_operator.adapters.prometheus import MetricSource
    from espalier_operator.adapters.served import ServedDigests
    from espalier_operator.adapters.watches import Caches
    from espalier_operator.controllers.execute import Executor
    from espalier_operator.controllers.loop import Key
    from espalier_operator.controllers.rollout.observe import ModelSeen
    from espalier_operator.decisions.judge.sli import Sli

LOG = logging.getLogger(__name__)

STORE_RETRY: Final = timedelta(seconds=5)
"""A re-created rollout waits for the store to tell its former champion, rather than start from nothing."""

FORBIDDEN_PATIENCE: Final = timedelta(minutes=2)
"""How long a deletion waits for rights that were taken away, before it lets the object go."""

COUNTED: Final = ANALYSING | {State.PROMOTING, State.ROLLING_BACK}
"""States in which it matters whether traffic follows the route."""

Entries = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Pass:
    """Everything that one pass knows."""

    key: Key
    obj: Object
    api: CanaryRolloutSpec
    spec: RolloutSpec
    target: Target
    model: ModelSeen | None
    seen: Seen
    progress: Progress
    entries: Entries
    now: datetime
    rival: str | None = None
    """Another rollout that was there first and owns the model's traffic."""


def _newborn(current: Pass) -> bool:
    """Without memory, and about to begin something: this may be a second life."""
    progress, model = current.progress, current.model
    blank = progress.stable is None and progress.canary is None and not progress.history
    return (
        blank and model is not None and bool(model.candidates or model.status.champion or current.seen.traffic.weights)
    )


class RolloutController:
    """Controller for CanaryRollout."""

    resource = ROLLOUTS

    def __init__(  # noqa: PLR0913 - one argument per outside thing
        self,
        *,
        caches: Caches,
        executor: Executor,
        routers: Mapping[str, Router],
        sources: Mapping[str, MetricSource],
        digests: ServedDigests,
        store: ObjectStore,
        server_image: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._caches = caches
        self._executor = executor
        self._routers = routers
        self._sources = sources
        self._digests = digests
        self._records = Records(store)
        self._server_image = server_image
        self._clock = clock
        self._looking = Looking()
        self._counting = Counting()
        self._gauges = RolloutGauges()

    def holds(self, obj: Object) -> bool:
        """Always: traffic returns to stable before the object goes."""
        return True

    async def reconcile(self, key: Key) -> timedelta | None:
        """See Controller."""
        plan = await self._pass(key)
        return None if plan is None else self._next(key, plan)

    async def finalize(self, key: Key) -> bool:
        """See Controller. A finalizer never hangs: not in a namespace that is going itself, and not for want of rights."""
        try:
            plan = await self._pass(key)
        except ForbiddenError as error:
            obj = self._caches.of(ROLLOUTS).get(key.namespace, key.name)
            since = parse_time(obj["metadata"]["deletionTimestamp"]) if obj is not None else self._clock()
            going = "is being terminated" in str(error)  # the API server's words; it gives no other sign of it
            if not going and self._clock() < since + FORBIDDEN_PATIENCE:
                raise
            LOG.warning("%s/%s: left without giving traffic back: %s", key.namespace, key.name, error)
            return True
        return plan is None or plan.release

    def forget(self, key: Key) -> None:
        """See Controller."""
        self._looking.forget(key)
        self._counting.forget(key)
        self._gauges.forget(key)
        self._records.forget(key)
        for router in self._routers.values():
            router.forget((key.namespace, key.name))

    def _next(self, key: Key, plan: RolloutPlan) -> timedelta | None:
        look = self._looking.next_look(key, self._clock()) if plan.progress.state in ANALYSING else None
        count = self._counting.next_look(key, self._clock())
        return min((moment for moment in (plan.requeue_after, look, count) if moment is not None), default=None)

    async def _pass(self, key: Key) -> RolloutPlan | None:
        """One pass; None when there is nothing to do it with."""
        obj = self._caches.of(ROLLOUTS).get(key.namespace, key.name)
        if obj is None:
            return None
        try:
            api = CanaryRolloutSpec.model_validate(obj.get("spec") or {})
        except ValidationError as error:
            LOG.error("CanaryRollout %s/%s: the spec cannot be read: %s", key.namespace, key.name, error)  # noqa: TRY400 - words of the API
            return None
        current = await self._observe(key, obj, api)
        if current.rival is not None:
            return await self._stand_back(current)
        if _newborn(current):
            recalled = await self._recall(current)
            if recalled is None:
                return RolloutPlan(current.progress, None, requeue_after=STORE_RETRY)
            current = recalled
        current = replace(await self._look(await self._count(current)), now=self._clock())
        plan = decide(current.spec, current.seen, current.progress, current.now)
        await self._carry_out(plan, current)
        return plan

    # --- observing -------------------------------------------------------------------------------------------------
    async def _observe(self, key: Key, obj: Object, api: CanaryRolloutSpec) -> Pass:
        now = self._clock()
        metadata = obj["metadata"]
        status = CanaryRolloutStatus.model_validate(obj.get("status") or {})
        progress = remembered(status, parse_time(metadata["creationTimestamp"]))
        name = api.model_ref.name
        target = Target(key.namespace, name, key.name, api, progress)
        router = self._router(api)
        model = observe.observe_model(self._caches, key.namespace, name)
        pods = observe.serving_pods(self._caches, key.namespace, name)
        deleting = metadata.get("deletionTimestamp")
        seen = Seen(
            candidates=model.candidates if model is not None else (),
            champion=None,
            pods=observe.observe_pods(pods, await self._served(name, pods, progress), now),
            workloads=observe.observe_workloads(self._caches, key.namespace, name),
            request=observe.observe_request(obj),
            deleting_since=parse_time(deleting) if deleting else None,
        )
        if router is not None:
            seen = replace(seen, traffic=await router.observed(target))
        spec = self._resolve(obj, api, router.capabilities(target) if router else Capabilities(), model)
        entries = {entry["name"]: entry for entry in (obj.get("status") or {}).get("slis") or ()}
        rival = observe.rival(self._caches, obj, name)
        return Pass(key, obj, api, spec, target, model, seen, progress, entries, now, rival)

    async def _stand_back(self, current: Pass) -> RolloutPlan:
        """Two rollouts of one model would fight over one route: the younger one does nothing and says why."""
        plan = RolloutPlan(current.progress, None, release=current.seen.deleting_since is not None)
        await self._write_status(plan, current)
        return plan

    def _router(self, api: CanaryRolloutSpec) -> Router | None:
        """The router that the spec asks for; None for one that this release does not have (then the spec is refused)."""
        gateway = api.traffic.gateway_api
        adopted = gateway is not None and gateway.existing_route is not None
        return self._routers.get("existingRoute" if adopted else api.traffic.router)

    async def _served(self, model: str, pods: list[Object], progress: Progress) -> dict[str, str | None]:
        """Digests of the canary's pods; stable was verified when it was the canary."""
        canary = progress.canary.name if progress.canary else None
        asked = [p for p in pods if (p["metadata"].get("labels") or {}).get(names.LABEL_VERSION) == canary]
        return await self._digests.of(model, asked)

    def _resolve(
        self, obj: Object, api: CanaryRolloutSpec, capabilities: Capabilities, model: ModelSeen | None
    ) -> RolloutSpec:
        spec = resolve(
            api,
            replicas=model.spec.serving.replicas if model is not None and model.spec is not None else 1,
            capabilities=capabilities,
            sources=self._sources.keys(),
            generation=int(obj["metadata"].get("generation", 0)),
        )
        problems = list(spec.problems)
        if (other := observe.rival(self._caches, obj, api.model_ref.name)) is not None:
            problems.append(
                f"spec.modelRef: CanaryRollout {other} already rolls out {api.model_ref.name}; delete one of them"
            )
        if model is None or model.spec is None:
            problems.append(f"spec.modelRef: RegularizedModel {api.model_ref.name} does not exist or cannot be read")
        return replace(spec, problems=tuple(problems))

    async def _recall(self, current: Pass) -> Pass | None:
        """With what a former life left: a route that gives a version traffic, aliases in the store. None: ask again later."""
        model = current.model
        if model is None or model.spec is None:
            return current
        prefix = names.model_prefix(model.spec.artifacts.uri, current.key.namespace, model.meta.name)
        try:
            champion, quarantined = await self._records.recall(prefix)
        except StoreDownError as error:
            LOG.warning("%s/%s: %s; waiting for it", current.key.namespace, current.key.name, error)
            return None
        except StoreError as error:
            LOG.warning("%s/%s: %s; going on without former aliases", current.key.namespace, current.key.name, error)
            champion, quarantined = None, ()
        known = model.status.champion.version if model.status.champion else None
        found = (observe.serving_version(current.seen.traffic), champion, known)
        ref = next((ref for version in found if (ref := model.ref(version)) is not None), None)
        progress = replace(current.progress, quarantined=current.progress.quarantined or quarantined)
        return replace(current, progress=progress, seen=replace(current.seen, champion=ref))

    # --- counting ----------------------------------------------------------------------------------------------------
    async def _count(self, current: Pass) -> Pass:
        """With what the versions' counters saw since the route was accepted; never waits for it."""
        progress, source = current.progress, self._sources.get(current.api.analysis.source)
        seen, canary, stable = progress.observation, progress.canary, progress.stable
        if source is None or canary is None or stable is None or progress.state not in COUNTED:
            self._counting.forget(current.key)
            return current
        if seen is None or seen.route != current.seen.traffic.route:
            patience = Counted(patience=patience_of(source, current.spec.interval))
            return replace(current, seen=replace(current.seen, counted=patience))
        pods = observe.serving_pods(self._caches, current.key.namespace, current.target.model)
        arms = Arms(current.key.namespace, current.target.model, canary.name, stable.name)
        ask = Ask(arms, seen.route, seen.since, current.spec.interval, observe.process_starts(pods))
        counted = await self._counting.counted(current.key, ask, source, current.now)
        return replace(current, seen=replace(current.seen, counted=counted))

    # --- looking ---------------------------------------------------------------------------------------------------
    async def _look(self, current: Pass) -> Pass:
        """With readings: of a look that has finished, else as status remembers them."""
        progress = current.progress
        source = self._sources.get(current.api.analysis.source)
        judged = progress.state in ANALYSING | {State.PROMOTING} and progress.evidence_from is not None
        if not judged or source is None or sli_problems(current.api.analysis):
            return current
        if progress.canary is None or progress.stable is None:
            return current
        slis = self._slis(current.api, source)
        started = progress.evidence_from - current.spec.warm_up if progress.evidence_from else current.now
        result = None
        if progress.state in ANALYSING:
            pods = observe.serving_pods(self._caches, current.key.namespace, current.target.model)
            arms = Arms(current.key.namespace, current.target.model, progress.canary.name, progress.stable.name)
            canary = Canary(arms, started, observe.process_starts(pods))
            result = await self._looking.look(
                current.key, progress.attempt, slis, current.entries, source, canary, current.now
            )
        if result is None:
            readings = looking.remembered(slis, current.entries)
            backlog = any(
                sli.schedule.due(started, reading.last_block_end, current.now, 1)
                for sli, reading in zip(slis, readings, strict=True)
                if not sli.dry_run
            )
            return replace(current, seen=replace(current.seen, readings=readings, backlog=backlog))
        seen = replace(current.seen, readings=result.readings(), spans=result.spans(), backlog=result.backlog)
        return replace(current, seen=seen, entries=result.entries())

    def _slis(self, api: CanaryRolloutSpec, source: MetricSource) -> tuple[Sli, ...]:
        timing = SourceTiming(source.scrape_interval, source.lag)
        strategy = api.strategy
        return compile_slis(api.analysis, timing, warm_up=strategy.warm_up, require_evidence=strategy.require_evidence)

    # --- applying --------------------------------------------------------------------------------------------------
    async def _carry_out(self, plan: RolloutPlan, current: Pass) -> None:
        """Every effect of the plan, in the order of `effects`."""
        act = {
            Effect.ROUTE: self._write_route,
            Effect.SERVE: self._serve,
            Effect.STATUS: self._write_status,
            Effect.EVENTS: self._tell,
            Effect.REMOVE: self._remove,
        }
        for effect in effects(plan, current.seen):
            if effect in act:
                await act[effect](plan, current)
        self._gauges.count(current.key, current.target.model, current.progress, plan.progress, current.now)
        self._gauges.show(current.key, current.target.model, plan, current.entries, current.seen.pods)
        if current.model is not None and current.model.spec is not None and current.seen.deleting_since is None:
            root = current.model.spec.artifacts.uri
            prefix = names.model_prefix(root, current.key.namespace, current.target.model)
            self._records.keep(current.key, prefix, plan.progress, current.now)

    async def _write_route(self, plan: RolloutPlan, current: Pass) -> None:
        router = self._router(current.api)
        if router is not None and plan.split is not None:
            await router.apply(replace(current.target, progress=plan.progress), plan.split, current.seen.traffic)

    async def _serve(self, plan: RolloutPlan, current: Pass) -> None:
        model = current.model
        if model is None or model.spec is None:
            return  # what serves goes on serving
        serving = Serving(model.meta, model.spec, current.api, self._server_image)
        manifests = [manifest for serve in plan.serve for manifest in version_children(serving, serve)]
        if not current.spec.capabilities.by_pods and plan.progress.stable is not None and not plan.remove_all:
            manifests.append(stable_service(serving, plan.progress.stable.name))
        await self._executor.execute(Plan(apply=tuple(manifests)), current.obj)

    async def _write_status(self, plan: RolloutPlan, current: Pass) -> None:
        kept = plan.progress.attempt == current.progress.attempt
        picture = Picture(
            spec=current.spec,
            seen=current.seen,
            progress=plan.progress,
            looks=current.entries if kept else {},
            model_found=current.model is not None,
            now=current.now,
        )
        status = status_of(picture, current.obj.get("status") or {})
        await self._executor.execute(Plan(status=status), current.obj)

    async def _tell(self, plan: RolloutPlan, current: Pass) -> None:
        for note in plan.notes:
            LOG.info("%s/%s: %s: %s", current.key.namespace, current.key.name, note.reason, note.message)
        events = tuple(Event("Warning" if n.warning else "Normal", n.reason, n.message) for n in plan.notes)
        await self._executor.execute(Plan(events=events), current.obj)

    def _left_route(self, current: Pass) -> bool:
        """An HTTPRoute of our own from before `spec.traffic` named another router."""
        gateway = current.api.traffic.gateway_api
        adopted = gateway.existing_route if gateway is not None else None
        route = self._caches.of(HTTP_ROUTES).get(current.key.namespace, current.target.model)
        return own_route_is_left(
            owns_routes=gateway is not None and adopted is None,
            adopted=adopted,
            route=None if route is None or route["metadata"].get("deletionTimestamp") else current.target.model,
            traffic=current.seen.traffic,
        )

    async def _remove(self, plan: RolloutPlan, current: Pass) -> None:
        namespace, model = current.key.namespace, current.target.model
        if plan.remove_all:
            router = self._router(current.api)
            if router is not None:
                await router.remove(current.target)
            refs = [ObjectRef(SERVICES.api_version, SERVICES.kind, namespace, model)]
            await self._executor.execute(Plan(delete=tuple(refs)), current.obj)
        if self._left_route(current):
            await self._routers["gatewayAPI"].remove(current.target)
        for version in plan.remove:
            name = names.workload_name(model, version)
            refs = [ObjectRef(r.api_version, r.kind, namespace, name) for r in (DEPLOYMENTS, SERVICES, CONFIG_MAPS)]
            await self._executor.execute(Plan(delete=tuple(refs)), current.obj)
