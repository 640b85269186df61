"""Loops wake, back off and finalize; plans are executed in their order, and only where something changes."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from espalier_operator.adapters.events import Recorder
from espalier_operator.adapters.kube import ConflictError, NamespaceTerminatingError, UnavailableError
from espalier_operator.adapters.objectstore import StoreDownError
from espalier_operator.adapters.resources import MODELS
from espalier_operator.adapters.watches import Caches
from espalier_operator.controllers.execute import Executor
from espalier_operator.controllers.health import Health
from espalier_operator.controllers.loop import LONGEST_DELAY, Key, Loops, backoff
from espalier_operator.decisions.plan import Event, ObjectRef, Plan
from espalier_operator.settings import Settings
from tests.unit.operator.fakes import FakeKube, FakeStore, unavailable
from tests.unit.operator.samples import model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KEY = Key("RegularizedModel", "vision", "digits")
REF = ObjectRef("espalier.dev/v1alpha1", "RegularizedModel", "vision", "digits")


class Recorded:
    """A controller that records what it is asked for."""

    resource = MODELS

    def __init__(self, *, holds: bool = False) -> None:
        self.passes = 0
        self.finalized = 0
        self.forgotten: list[Key] = []
        self.raises: list[Exception] = []
        self._holds = holds

    def holds(self, obj: Any) -> bool:
        return self._holds

    async def reconcile(self, key: Key) -> timedelta | None:
        self.passes += 1
        if self.raises:
            raise self.raises.pop(0)
        return None

    async def finalize(self, key: Key) -> bool:
        self.finalized += 1
        return True

    def forget(self, key: Key) -> None:
        self.forgotten.append(key)


@asynccontextmanager
async def running(kube: FakeKube, controller: Recorded) -> AsyncIterator[tuple[Loops, Caches]]:
    knot: list[Loops] = []
    caches = Caches(kube, Settings("t", "s"), lambda obj: knot[0].changed(obj))  # noqa: PLW0108 - knot is empty here
    knot.append(Loops(caches, Executor(kube, caches, Recorder(kube)), reconcile_timeout=timedelta(seconds=5)))
    knot[0].register(controller)
    task = asyncio.create_task(caches.run())
    try:
        yield knot[0], caches
    finally:
        await knot[0].stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def eventually(check: Any) -> None:
    async with asyncio.timeout(5):
        while not check():  # noqa: ASYNC110 - looks at what tasks did, without events of theirs
            await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backoffs without time: their lengths have a test of their own."""
    monkeypatch.setattr("espalier_operator.controllers.loop.FIRST_DELAY", 0.001)
    monkeypatch.setattr("espalier_operator.controllers.loop.LONGEST_DELAY", 0.002)


async def test_a_loop_starts_with_its_object_and_wakes_for_children() -> None:
    kube, controller = FakeKube(), Recorded()
    async with running(kube, controller):
        kube.put(model())
        await eventually(lambda: controller.passes == 1)
        labels = {"app.kubernetes.io/managed-by": "espalier", "espalier.dev/model": "digits"}
        kube.put(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "vision", "labels": labels}}
        )
        await eventually(lambda: controller.passes == 2)
        rollout = {
            "apiVersion": "espalier.dev/v1alpha1",
            "kind": "CanaryRollout",
            "spec": {"modelRef": {"name": "digits"}},
        }
        kube.put({**rollout, "metadata": {"name": "other-name", "namespace": "vision"}})
        await eventually(lambda: controller.passes == 3)
        kube.put({**rollout, "metadata": {"name": "digits", "namespace": "elsewhere"}})
        await asyncio.sleep(0.02)
        assert controller.passes == 3


@pytest.mark.parametrize("error", [unavailable(), ConflictError(409, "x"), ValueError("a bug"), TimeoutError()])
async def test_a_failed_pass_is_repeated(error: Exception) -> None:
    kube, controller = FakeKube(), Recorded()
    controller.raises = [error, error]
    async with running(kube, controller):
        kube.put(model())
        await eventually(lambda: controller.passes == 3)


async def test_deletion_without_our_finalizer_just_ends_the_loop() -> None:
    kube, controller = FakeKube(), Recorded()
    async with running(kube, controller):
        kube.put(model())
        await eventually(lambda: controller.passes == 1)
        await kube.delete(REF)
        await eventually(lambda: controller.forgotten == [KEY])
    assert controller.finalized == 0
    assert "finalizers RegularizedModel digits" not in kube.requests


async def test_a_held_object_is_finalized_and_released() -> None:
    kube, controller = FakeKube(), Recorded(holds=True)
    async with running(kube, controller):
        kube.put(model())
        await eventually(lambda: controller.passes == 1)
        assert kube.objects[REF]["metadata"]["finalizers"] == ["espalier.dev/finalizer"]
        await kube.delete(REF)
        await eventually(lambda: REF not in kube.objects)
        await eventually(lambda: controller.forgotten == [KEY])
    assert controller.finalized == 1


async def test_an_object_deleted_while_the_operator_was_down_is_still_finalized() -> None:
    """The reason why this is not a kopf daemon: kopf would release it without asking."""
    kube, controller = FakeKube(), Recorded(holds=True)
    deleting = model()
    deleting["metadata"] |= {"finalizers": ["espalier.dev/finalizer"], "deletionTimestamp": "2026-11-22T12:00:00Z"}
    kube.put(deleting)
    async with running(kube, controller):
        await eventually(lambda: REF not in kube.objects)
    assert (controller.finalized, controller.passes) == (1, 0)


async def test_a_namespace_that_is_going_is_not_held_up() -> None:
    """Seen on a real cluster: the route was gone with its namespace, could not be made again, and the finalizer hung for ever."""

    class CannotCreate(Recorded):
        async def finalize(self, key: Key) -> bool:
            self.finalized += 1
            raise NamespaceTerminatingError(403, "unable to create new content in namespace vision")

    kube, controller = FakeKube(), CannotCreate(holds=True)
    async with running(kube, controller):
        kube.put(model())
        await eventually(lambda: controller.passes == 1)
        await kube.delete(REF)
        await eventually(lambda: REF not in kube.objects)
    assert controller.finalized == 1


async def test_a_stuck_pass_is_cut_off_and_a_late_loop_is_noticed() -> None:
    class Stuck(Recorded):
        async def reconcile(self, key: Key) -> timedelta | None:
            self.passes += 1
            await asyncio.Event().wait()
            return None

    kube, controller = FakeKube(), Stuck()
    clock = [0.0]
    caches = Caches(kube, Settings("t", "s"), lambda obj: loops.changed(obj))  # noqa: PLW0108 - tied late
    loops = Loops(
        caches,
        Executor(kube, caches, Recorder(kube)),
        reconcile_timeout=timedelta(seconds=0.01),
        clock=lambda: clock[0],
    )
    loops.register(controller)
    task = asyncio.create_task(caches.run())
    kube.put(model())
    await eventually(lambda: controller.passes >= 2)
    health = Health(caches, loops, 60, clock=lambda: clock[0])
    assert health.trouble() is None
    clock[0] = 1000.0
    await loops.stop()
    loops._due[KEY] = 0.0
    assert "vision/digits is 1000 s late" in str(health.trouble())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_backoff_grows_with_jitter_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("espalier_operator.controllers.loop.FIRST_DELAY", 1.0)
    monkeypatch.setattr("espalier_operator.controllers.loop.LONGEST_DELAY", LONGEST_DELAY)
    for failures in range(1, 100):
        ideal = min(60.0, 2.0 ** (failures - 1))
        assert ideal / 2 <= backoff(failures) <= ideal


# --- execute ---------------------------------------------------------------------------------------------------------------
def config_map(name: str = "digits-v1-a1") -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "espalier", "espalier.dev/model": "digits"}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "vision", "labels": labels},
        "data": {},
    }


def parts() -> tuple[FakeKube, FakeStore, Caches, Executor]:
    kube, store = FakeKube(), FakeStore()
    caches = Caches(kube, Settings("t", "s"), lambda _: None)
    return kube, store, caches, Executor(kube, caches, Recorder(kube), store)


FULL = Plan(
    apply=(config_map(),),
    delete=(ObjectRef("batch/v1", "Job", "vision", "old"),),
    status={"phase": "Training"},
    events=(Event.normal("Training", "v1"),),
    purge=("s3://models/vision/digits/v0/",),
    release_finalizer=True,
)


async def test_the_order_is_status_events_applies_deletes_finalizer() -> None:
    kube, store, _, executor = parts()
    owner = kube.put(
        {**model(), "metadata": {**model()["metadata"], "finalizers": ["espalier.dev/finalizer", "theirs"]}}
    )
    store.objects["s3://models/vision/digits/v0/model.onnx"] = b""
    await executor.execute(FULL, owner)
    assert [request.split()[0] for request in kube.requests] == ["status", "create", "apply", "delete", "finalizers"]
    assert store.objects == {}
    assert kube.objects[REF]["metadata"]["finalizers"] == ["theirs"]


async def test_a_stale_operator_writes_nothing() -> None:
    """The status precondition is the fence: somebody else wrote, so nothing of this plan happens."""
    kube, _, _, executor = parts()
    owner = kube.put(model())
    kube.put({**model(), "spec": {"changed": True}})
    kube.requests.clear()
    with pytest.raises(ConflictError):
        await executor.execute(FULL, owner)
    assert kube.requests == ["status RegularizedModel digits"]
    assert kube.events == []


async def test_an_equal_plan_costs_no_request() -> None:
    kube, _, caches, executor = parts()
    owner = kube.put(model())
    plan = Plan(apply=(config_map(),), status={"phase": "Training"})
    await executor.execute(plan, owner)
    again = caches.get(REF)
    assert again is not None
    kube.requests.clear()
    await executor.execute(plan, again)
    assert kube.requests == []


async def test_what_somebody_else_changed_is_applied_again() -> None:
    kube, _, caches, executor = parts()
    owner = kube.put(model())
    plan = Plan(apply=(config_map(),))
    await executor.execute(plan, owner)
    caches.assume(kube.put({**config_map(), "data": {"job.json": "edited"}}))
    kube.requests.clear()
    await executor.execute(plan, owner)
    assert kube.requests == ["apply ConfigMap digits-v1-a1"]


async def test_events_are_sent_once_and_never_fail_a_pass() -> None:
    kube, _, _, executor = parts()
    owner = kube.put(model())
    plan = Plan(events=(Event.warning("Diverged", "NaN"),))
    kube.fail = [unavailable()]
    await executor.execute(plan, owner)
    assert kube.events == []
    await executor.execute(plan, owner)
    await executor.execute(plan, owner)
    assert len(kube.events) == 1
    assert kube.events[0]["involvedObject"]["uid"] == owner["metadata"]["uid"]


async def test_a_failure_in_the_middle_is_repeatable() -> None:
    kube, _, caches, executor = parts()
    owner = kube.put(model())
    plan = Plan(apply=(config_map("a"), config_map("b")), status={"phase": "Training"})
    calls = 0
    original = kube.apply

    async def flaky(manifest: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise UnavailableError(503, "x")
        return await original(manifest)

    kube.apply = flaky  # type: ignore[method-assign]
    with pytest.raises(UnavailableError):
        await executor.execute(plan, owner)
    again = caches.get(REF)
    assert again is not None
    await executor.execute(plan, again)
    assert {each["metadata"]["name"] for each in kube.of_kind("ConfigMap")} == {"a", "b"}


async def test_a_purge_waits_for_the_store_and_fails_nothing() -> None:
    kube, store, _, executor = parts()
    owner = kube.put(model())
    store.objects["s3://models/vision/digits/v0/model.onnx"] = b""
    store.down = StoreDownError("timeout")
    await executor.execute(Plan(purge=("s3://models/vision/digits/v0/",)), owner)
    assert store.objects
    store.down = None
    await executor.execute(Plan(), owner)
    assert store.objects == {}
