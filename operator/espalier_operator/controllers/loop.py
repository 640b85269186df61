"""One loop per object: waits for a reason to look, lets its controller look, backs off when that failed.

A loop wakes on a change of its object, of a child, of another of our objects about the same model, and on its own
timer. Wake-ups coalesce; nothing is lost because a pass always looks at everything (level-triggered). All loops of
one model share a topic, so that a rollout wakes when its model's versions change and the model when its rollout's
aliases do.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from espalier_api.names import KIND_MODEL
from espalier_operator import telemetry
from espalier_operator.adapters.kube import ConflictError, KubeError, NamespaceTerminatingError, NotFoundError, Object
from espalier_operator.adapters.watches import Caches, is_own, model_of
from espalier_operator.decisions.references import models_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from espalier_operator.adapters.resources import Resource
    from espalier_operator.controllers.execute import Executor

LOG = logging.getLogger(__name__)

FIRST_DELAY = 1.0
LONGEST_DELAY = 60.0
CONFLICT_DELAY = 0.05
"""Seconds after a write that somebody overtook: the watch brings the newer object within milliseconds."""
PASSES_AT_ONCE = 32
"""Of one kind. After a restart a whole fleet wants its first pass: waiting here costs nothing, while a pass that waits for the store or
the API server is on its timeout. Kinds do not share slots: models that wait for S3 never delay a rollback."""
IDLE = timedelta(minutes=10)
"""A loop without a timer looks this often anyway: a belt to the braces of the watches."""


@dataclass(frozen=True, slots=True)
class Key:
    """One of our objects."""

    kind: str
    namespace: str
    name: str


class Controller(Protocol):
    """What a kind brings: how to look and act once, and how to say goodbye."""

    resource: Resource

    def holds(self, obj: Object) -> bool:
        """True when deletion must wait for `finalize` (then our finalizer is put on the object before anything
        else).
        """

    async def reconcile(self, key: Key) -> timedelta | None:
        """Observe, decide, apply once. Returns when to look again at the latest; None leaves it to wake-ups."""

    async def finalize(self, key: Key) -> bool:
        """The object is being deleted and carries our finalizer: do what must be done before it goes. True releases
        it.
        """

    def forget(self, key: Key) -> None:
        """The object is gone: drop its metric series and memory."""


class Loops:
    """The running loops of all kinds."""

    def __init__(
        self,
        caches: Caches,
        executor: Executor,
        *,
        reconcile_timeout: timedelta,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._caches = caches
        self._executor = executor
        self._timeout = reconcile_timeout.total_seconds()
        self._clock = clock
        self._controllers: dict[str, Controller] = {}
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._loops: dict[Key, asyncio.Task[None]] = {}
        self._wakes: dict[Key, _Wake] = {}
        self._topics: dict[tuple[str, str], set[Key]] = defaultdict(set)
        self._topic_of: dict[Key, tuple[str, str]] = {}
        self._referrers: dict[tuple[str, str], set[Key]] = defaultdict(set)
        self._refers_to: dict[Key, frozenset[str]] = {}
        self._due: dict[Key, float] = {}

    def register(self, controller: Controller) -> None:
        """Make `controller` responsible for its kind."""
        self._controllers[controller.resource.kind] = controller
        self._slots[controller.resource.kind] = asyncio.Semaphore(PASSES_AT_ONCE)

    def changed(self, obj: Object) -> None:
        """A watched object changed (the caches' `on_change`): start its loop if it is ours, and wake all loops of its
        model.
        """
        namespace = obj["metadata"].get("namespace", "")
        if is_own(obj):
            key = Key(obj["kind"], namespace, obj["metadata"]["name"])
            self.ensure(key)
            self._wake(key)
        for key in tuple(self._topics.get((namespace, model_of(obj)), ())):
            self._wake(key)
        self.written(obj)

    def written(self, obj: Object) -> None:
        """We wrote an object ourselves: its own loops know, but models that refer to its model must look."""
        for key in tuple(self._referrers.get((obj["metadata"].get("namespace", ""), model_of(obj)), ())):
            self._wake(key)

    def ensure(self, key: Key) -> None:
        """Start the loop of an object if it is not running and its kind has a controller."""
        if key.kind not in self._controllers or key in self._loops:
            return
        self._wakes[key] = _Wake(self._clock())
        self._loops[key] = asyncio.create_task(self._run(key), name=f"{key.kind} {key.namespace}/{key.name}")
        telemetry.OBJECTS.labels(key.kind).set(sum(other.kind == key.kind for other in self._loops))

    def overdue(self) -> tuple[float, Key | None]:
        """Seconds by which the latest loop missed its next pass or the end of its present one, and which; (0, None)
        when all are in time.
        """
        if not self._due:
            return 0.0, None
        key = min(self._due, key=self._due.__getitem__)
        late = self._clock() - self._due[key]
        return (late, key) if late > 0 else (0.0, None)

    async def stop(self) -> None:
        """Cancel all loops and wait for them; nothing is lost, every pass is repeatable."""
        tasks = list(self._loops.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _wake(self, key: Key) -> None:
        if (wake := self._wakes.get(key)) is not None:
            wake.set(self._clock())

    async def _run(self, key: Key) -> None:
        controller = self._controllers[key.kind]
        failures = 0
        await self._caches.wait_synced()
        try:
            while True:
                self._due.pop(key, None)  # nobody is late while others have the slots
                async with self._slots[key.kind]:
                    obj = self._caches.of(controller.resource).get(key.namespace, key.name)
                    if obj is None:
                        return
                    self._subscribe(key, obj)
                    delay, failures = await self._pass(controller, key, obj, failures)
                await self._sleep(key, delay, patient=failures > 0)
        finally:
            self._leave(key, controller)

    async def _pass(self, controller: Controller, key: Key, obj: Object, failures: int) -> tuple[float, int]:
        """One pass; returns seconds to sleep and the number of failures in a row."""
        started = self._clock()
        woken = self._wakes[key].take()
        if woken is not None:
            telemetry.RECONCILE_QUEUE_AGE.labels(key.kind).observe(max(0.0, started - woken))
        self._due[key] = started + self._timeout
        outcome = "error"
        try:
            async with asyncio.timeout(self._timeout):
                delay = await self._act(controller, key, obj)
            outcome, failures = "ok", 0
            return (IDLE if delay is None else delay).total_seconds(), failures
        except ConflictError as error:
            outcome = "conflict"
            LOG.info("%s %s/%s: %s; observing again", key.kind, key.namespace, key.name, error)
            return CONFLICT_DELAY if failures == 0 else backoff(failures), failures + 1
        except NotFoundError as error:
            LOG.info("%s %s/%s: %s", key.kind, key.namespace, key.name, error)
            return backoff(failures + 1), failures + 1
        except (KubeError, TimeoutError) as error:
            outcome = "unavailable"
            LOG.warning("%s %s/%s: %s: %s", key.kind, key.namespace, key.name, type(error).__name__, error)
            wait = getattr(error, "retry_after", None) or 0.0
            return max(wait, backoff(failures + 1)), failures + 1
        except (
            Exception
        ):  # the boundary: a bug in one object's pass must not stop the others; it is counted and backed off
            LOG.exception("%s %s/%s: the pass failed", key.kind, key.namespace, key.name)
            return backoff(failures + 1), failures + 1
        finally:
            telemetry.RECONCILE_DURATION.labels(key.kind, outcome).observe(self._clock() - started)
            telemetry.RECONCILE_HEARTBEAT.labels(key.kind).set_to_current_time()

    async def _act(self, controller: Controller, key: Key, obj: Object) -> timedelta | None:
        if obj["metadata"].get("deletionTimestamp") is None:
            if controller.holds(obj):
                await self._executor.hold(obj)
            return await controller.reconcile(key)
        if not await self._finalized(controller, key):
            return timedelta(seconds=FIRST_DELAY)
        latest = self._caches.of(controller.resource).get(key.namespace, key.name)
        if latest is not None:
            await self._executor.release(latest)
        return None

    async def _finalized(self, controller: Controller, key: Key) -> bool:
        """What must be done before the object goes; in a namespace that is going as well, nothing can and need be done."""
        try:
            return await controller.finalize(key)
        except NamespaceTerminatingError as error:
            LOG.info("%s %s/%s: let go with its namespace: %s", key.kind, key.namespace, key.name, error)
            return True

    async def _sleep(self, key: Key, delay: float, *, patient: bool) -> None:
        """Wait for a wake-up or `delay` seconds; after a failure (`patient`) at least a second, so that wake-ups
        cannot drive a hot loop.
        """
        self._due[key] = self._clock() + delay
        pause = min(delay, FIRST_DELAY) if patient else 0.0
        await asyncio.sleep(pause)
        await self._wakes[key].wait(delay - pause)

    def _subscribe(self, key: Key, obj: Object) -> None:
        topic = (key.namespace, model_of(obj))
        if (before := self._topic_of.get(key)) != topic:
            if before is not None:
                self._topics[before].discard(key)
            self._topics[topic].add(key)
            self._topic_of[key] = topic
        self._refer(key, models_of(obj) if obj["kind"] == KIND_MODEL else frozenset())

    def _refer(self, key: Key, models: frozenset[str]) -> None:
        """Keep who is to be woken when a model that `key` refers to has news."""
        before = self._refers_to.pop(key, frozenset())
        for model in before - models:
            topic = (key.namespace, model)
            self._referrers[topic].discard(key)
            if not self._referrers[topic]:
                del self._referrers[topic]
        for model in models - before:
            self._referrers[key.namespace, model].add(key)
        if models:
            self._refers_to[key] = models

    def _leave(self, key: Key, controller: Controller) -> None:
        """Forget everything about the loop first: should the controller fail to, a new loop can still start."""
        self._topics[self._topic_of.pop(key, ("", ""))].discard(key)
        self._refer(key, frozenset())
        for held in (self._loops, self._wakes, self._due):
            held.pop(key, None)
        telemetry.OBJECTS.labels(key.kind).set(sum(other.kind == key.kind for other in self._loops))
        controller.forget(key)


class _Wake:
    """An event that remembers when it was first set, for the queue-age metric."""

    def __init__(self, now: float) -> None:
        self._event = asyncio.Event()
        self._since: float | None = None
        self.set(now)

    def set(self, now: float) -> None:
        if self._since is None:
            self._since = now
        self._event.set()

    def take(self) -> float | None:
        """When the oldest wake-up that this pass answers came in; None when it was the timer."""
        since, self._since = self._since, None
        self._event.clear()
        return since

    async def wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return


def backoff(failures: int) -> float:
    """Seconds before the next try: 1, 2, 4 ... 60, times a random 0.5 to 1 so that objects do not come in step."""
    return float(min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter is no secret
