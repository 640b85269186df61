"""Caches: own writes are visible at once, older news never wins, deletions are never missed, blindness is noticed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from espalier_operator.adapters.kube import GoneError, NotFoundError, UnavailableError
from espalier_operator.adapters.resources import CHILDREN, HTTP_ROUTES, JOBS, MODELS, OWN
from espalier_operator.adapters.watches import Cache, Caches
from espalier_operator.decisions.plan import ObjectRef
from espalier_operator.settings import Settings
from tests.unit.operator.fakes import FakeKube
from tests.unit.operator.samples import model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import pytest

SETTINGS = Settings("trainer", "server")


def job(name: str, version: int, model_name: str = "digits") -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "espalier", "espalier.dev/model": model_name}
    metadata = {
        "name": name,
        "namespace": "vision",
        "labels": labels,
        "resourceVersion": str(version),
        "managedFields": [{}],
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "data": {"big": "x"}}


def cache() -> tuple[Cache, list[str]]:
    woken: list[str] = []
    return Cache(JOBS, lambda obj: woken.append(obj["metadata"]["name"])), woken


def test_news_wakes_and_own_writes_do_not() -> None:
    jobs, woken = cache()
    jobs.put(job("a", 1))
    jobs.assume(job("a", 2))
    jobs.put(job("a", 2))  # the watch brings our own write back
    assert woken == ["a"]
    jobs.put(job("a", 3))
    assert woken == ["a", "a"]


def test_older_news_never_wins() -> None:
    jobs, _ = cache()
    jobs.assume(job("a", 5))
    jobs.put(job("a", 4))
    held = jobs.get("vision", "a")
    assert held is not None
    assert held["metadata"]["resourceVersion"] == "5"


def test_a_deletion_older_than_a_new_creation_is_ignored() -> None:
    jobs, _ = cache()
    jobs.assume(job("a", 7))
    jobs.remove(job("a", 6))
    assert jobs.get("vision", "a") is not None


def test_the_answer_to_a_write_does_not_revive_a_deleted_object() -> None:
    jobs, _ = cache()
    jobs.put(job("a", 1))
    jobs.remove(job("a", 9))
    jobs.assume(job("a", 8))
    assert jobs.get("vision", "a") is None


def test_a_list_removes_what_is_gone_and_keeps_newer_writes() -> None:
    jobs, woken = cache()
    jobs.put(job("gone", 1))
    jobs.assume(job("mine", 20))
    woken.clear()
    jobs.replace("", [job("new", 9)], "10")
    assert sorted(each["metadata"]["name"] for each in jobs) == ["mine", "new"]
    assert sorted(woken) == ["gone", "new"]


def test_a_list_of_one_namespace_leaves_others_alone() -> None:
    jobs, _ = cache()
    jobs.put(job("a", 1))
    jobs.replace("elsewhere", [], "10")
    assert len(jobs) == 1


def test_the_index_follows() -> None:
    jobs, _ = cache()
    jobs.put(job("a", 1))
    jobs.put(job("a", 2, "letters"))
    assert jobs.by_model("vision", "digits") == []
    assert [each["metadata"]["name"] for each in jobs.by_model("vision", "letters")] == ["a"]
    jobs.remove(job("a", 3, "letters"))
    assert jobs.by_model("vision", "letters") == []


def test_payloads_are_not_kept() -> None:
    jobs, _ = cache()
    jobs.put(job("a", 1))
    held = jobs.get("vision", "a")
    assert held is not None
    assert "data" not in held
    assert "managedFields" not in held["metadata"]


# --- feeding -----------------------------------------------------------------------------------------------------------
@asynccontextmanager
async def fed(kube: FakeKube, settings: Settings = SETTINGS) -> AsyncIterator[tuple[Caches, list[str]]]:
    woken: list[str] = []
    caches = Caches(kube, settings, lambda obj: woken.append(f"{obj['kind']} {obj['metadata']['name']}"))
    task = asyncio.create_task(caches.run())
    try:
        await asyncio.wait_for(caches.wait_synced(), 5)
        yield caches, woken
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def eventually(check: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not check():  # noqa: ASYNC110 - yields to the tasks under test, without time
            await asyncio.sleep(0)


async def test_changes_and_deletions_arrive() -> None:
    kube = FakeKube()
    async with fed(kube) as (caches, woken):
        kube.put(model())
        await eventually(lambda: len(caches.of(MODELS)) == 1)
        await kube.delete(ObjectRef("espalier.dev/v1alpha1", "RegularizedModel", "vision", "digits"))
        await eventually(lambda: len(caches.of(MODELS)) == 0)
    assert woken == ["RegularizedModel digits"] * 2


async def test_strangers_children_are_not_watched() -> None:
    kube = FakeKube()
    kube.put({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "theirs", "namespace": "vision"}})
    async with fed(kube) as (caches, _):
        assert len(caches.of(JOBS)) == 0


async def test_after_a_gap_deletions_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch that is too old starts over by a list; what was deleted meanwhile goes."""
    monkeypatch.setattr("espalier_operator.adapters.watches._delay", lambda _: 0.0)
    for error in (GoneError(410, "too old"), UnavailableError(0, "silence")):
        kube = FakeKube()
        kube.put(model())
        async with fed(kube) as (caches, _):
            await eventually(partial(_all_watched, kube))
            del kube.objects[ObjectRef("espalier.dev/v1alpha1", "RegularizedModel", "vision", "digits")]
            kube.break_watches(error)
            await eventually(partial(_is_empty, caches))


def _all_watched(kube: FakeKube) -> bool:
    return all(kube._watchers[resource.api_version, resource.kind] for resource in (*OWN, *CHILDREN))


def _is_empty(caches: Caches) -> bool:
    return len(caches.of(MODELS)) == 0


async def test_a_missing_optional_kind_is_no_blindness() -> None:
    class WithoutGateways(FakeKube):
        async def list(self, resource: Any, namespace: str = "", selector: str = "") -> Any:
            if resource == HTTP_ROUTES:
                raise NotFoundError(404, "no such kind")
            return await super().list(resource, namespace, selector)

    async with fed(WithoutGateways()) as (caches, _):
        assert caches.synced
        assert caches.unsynced_for(1e9) == 0


async def test_blindness_is_measured() -> None:
    class Down(FakeKube):
        async def list(self, resource: Any, namespace: str = "", selector: str = "") -> Any:
            raise UnavailableError(503, "down")

    caches = Caches(Down(), SETTINGS, lambda _: None)
    task = asyncio.create_task(caches.run())
    await eventually(lambda: caches._unsynced_since)
    assert not caches.synced
    assert caches.unsynced_for(max(caches._unsynced_since.values()) + 100) >= 100
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_synced_needs_every_namespace() -> None:
    settings = replace(SETTINGS, namespaces=("a", "b"))
    caches = Caches(FakeKube(), settings, lambda _: None)
    caches._mark_synced((JOBS, "a"))
    assert not caches.of(JOBS).synced
    caches._mark_synced((JOBS, "b"))
    assert caches.of(JOBS).synced
